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
}

path := shapes.comparable(execution.path)

name := trim_suffix(parts[count(parts) - 1], ".exe") if parts := split(path, "/")

denials contains "process.malformed" if not execution

denials contains "process.denied_path" if strings.any_prefix_match(path, lists.denied_program_directories)

denials contains "process.denied_path" if tenant.has_prefix_of("denied_program_directories", path)

denials contains "process.denied_tool" if name in lists.denied_programs

denials contains "process.denied_tool" if name in tenant.comparable("denied_programs")

denials contains "process.encoded_command" if {
	regex.match(patterns.interpreter, name)
	regex.match(patterns.encoded_command, concat(" ", execution.args))
}
