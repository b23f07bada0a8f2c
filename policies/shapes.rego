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

# Text, or a number that stands for it: a protocol, a parent process.
is_name(value) if is_string(value)

is_name(value) if is_count(value)

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
	not embeds_ipv4(value)
}

# Compatible, NAT64, Teredo, 6to4. Mapped ones are told by their spelling above, because engines differ in whether
# such an address is IPv6 at all. The first two of all addresses are nobody and the host itself.
embeds_ipv4(address) if {
	in_ranges(address, ["::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"])
	not in_ranges(address, ["::/127"])
}

in_ranges(address, ranges) if {
	some range in ranges
	net.cidr_contains(range, address)
}

# A path that means what it says: it begins at the root or at a drive, nothing in it climbs, stands still or is
# doubled, and it does not look at the files through another process.
is_plain_path(value) if {
	is_string(value)
	regex.match(`^(/|[A-Za-z]:[/\\])`, value)
	not regex.match(`(^|[/\\])[. ]+([/\\]|$)|[/\\]{2}|\x00|^/proc/[^/]+/(root|cwd)(/|$)`, value)
}

# One spelling for both families of systems.
spelled(path) := lower(replace(path, `\`, "/"))

# The spelling to compare with the lists. Windows does not see dots and spaces at the end of a name.
comparable(path) := trim_right(regex.replace(spelled(path), `[. ]+(/|$)`, "${1}"), "/")

# Every spelling of a path that may stand in a list, those of directories included: a directory lies in itself.
spellings(path) := {spelled(path), comparable(path), concat("", [comparable(path), "/"])}

# What the last part of a path calls a program: without `.exe`, and each name where a stream of a file is named.
program_names(path) := {trim_suffix(name, ".exe") |
	parts := split(comparable(path), "/")
	some name in split(parts[count(parts) - 1], ":")
}
