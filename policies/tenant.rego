# What a tenant adds to the lists and limits of data.json, as `input.tenant`: {} for most.
#
# It can only add denials. Lists here are lists of what is denied or protected and are asked beside
# the shipped ones; a limit is the lower of two. There is no way to name an exception.
package fg.tenant

import data.fg.limits
import data.fg.shapes

texts := {"denied_program_directories", "denied_programs", "protected_directories", "protected_files"}

sent := object.get(input, "tenant", {})

default given := {}

given := sent if is_object(sent)

default own_limits := {}

own_limits := given.limits if is_object(given.limits)

# Undefined where the tenant gave something else, or more than an evaluation has time for.
list(name) := value if {
	value := object.get(given, name, [])
	is_array(value)
	count(value) <= 250
}

spelled(name) := {shapes.spelled(text) |
	some text in list(name)
	is_string(text)
}

has_any_of(name, candidates) if count(spelled(name) & candidates) > 0

# An entry without a slash at its end denies everything that begins alike.
has_prefix_of(name, paths) if strings.any_prefix_match(paths, spelled(name))

limit(name) := min({limits[name], object.get(own_limits, name, limits[name])})

# Data that cannot be meant denies everything: whoever set it meant to deny something.
faults contains "tenant.malformed_data" if {
	sent != {}
	not is_well_formed
}

is_well_formed if {
	is_object(sent)
	every name in texts {
		shapes.is_list_of_text(list(name))
		not "" in list(name)
	}
	every port in list("denied_egress_ports") {
		shapes.is_count(port)
	}
	shapes.is_list_of_text(list("denied_ranges"))
	every range in list("denied_ranges") {
		net.cidr_is_valid(range)
	}
	is_object(object.get(sent, "limits", {}))
	object.keys(own_limits) - object.keys(limits) == set()
	every value in own_limits {
		shapes.is_count(value)
	}
}
