# What a well-formed value looks like. Comparing a value of the wrong type is undefined or plainly
# wrong in Rego, so each kind refuses a malformed payload before it judges one.
package fg.shapes

is_count(value) if {
	is_number(value)
	value >= 0
	value < 9007199254740992
	floor(value) == value
}

is_list_of_text(value) if {
	is_array(value)
	every item in value {
		is_string(item)
	}
}

# Plain IPv4 or IPv6. IPv4 written inside IPv6 would slip past the IPv4 ranges, so it does not count.
is_address(value) if {
	is_string(value)
	not contains(value, ":")
	net.cidr_is_valid(concat("", [value, "/32"]))
}

is_address(value) if {
	is_string(value)
	contains(value, ":")
	not regex.match(`\.|^[0:]*:[fF]{4}:`, value)
	net.cidr_is_valid(concat("", [value, "/128"]))
}

in_ranges(address, ranges) if {
	some range in ranges
	net.cidr_contains(range, address)
}

# A path that means what it says: nothing in it climbs, stands still or is doubled.
is_plain_path(value) if {
	is_string(value)
	value != ""
	not regex.match(`(^|[/\\])\.{1,2}([/\\]|$)|[/\\]{2}|\x00`, value)
}

# One spelling for both families of systems, for comparison with the lists.
comparable(path) := lower(replace(path, `\`, "/"))
