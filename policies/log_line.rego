# log.line: one line of a log file, shipped as it stands.
# Field: line. Optional: path, offset.
package fg.kinds["log.line"]

import data.fg.patterns

line := input.event.payload.line if is_string(input.event.payload.line)

denials contains "log.malformed" if not line

denials contains concat(".", ["log", name]) if {
	some name, pattern in patterns.suspicious_lines
	regex.match(pattern, line)
}
