# process.exec: a program was started.
# Field: path. Optional: args (a list of strings), user, parent.
package fg.kinds["process.exec"]

import data.fg.lists
import data.fg.patterns
import data.fg.shapes
import data.fg.tenant

execution := payload if {
	payload := input.event.payload
	shapes.is_plain_path(payload.path)
	shapes.is_list_of_text(object.get(payload, "args", []))
	is_string(object.get(payload, "user", ""))
	shapes.is_name(object.get(payload, "parent", ""))
}

paths := shapes.spellings(execution.path)

names := shapes.program_names(execution.path)

denials contains "process.malformed" if not execution

denials contains "process.denied_path" if strings.any_prefix_match(paths, lists.denied_program_directories)

denials contains "process.denied_path" if tenant.has_prefix_of("denied_program_directories", paths)

denials contains "process.denied_tool" if {
	some name in names
	name in lists.denied_programs
}

# A tenant may have written a name, a name with its ending, or a path.
denials contains "process.denied_tool" if {
	with_ending := {concat("", [name, ".exe"]) | some name in names}
	tenant.has_any_of("denied_programs", (names | with_ending) | paths)
}

denials contains "process.encoded_command" if {
	some name in names
	regex.match(patterns.interpreter, name)
	regex.match(patterns.encoded_command, concat(" ", execution.args))
}
