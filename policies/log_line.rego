# log.line: one line of a log file, shipped as it stands.
# Field: line. Optional: path, offset.
package fg.kinds["log.line"]

import data.fg.patterns

line := input.event.payload.line if is_string(input.event.payload.line)

# `not` asks a rule, never an expression over a field: of an absent field OPA finds even `not is_string(field)` undefined.
denials contains "log.malformed" if not line

denials contains concat(".", ["log", name]) if {
	some name, pattern in patterns.suspicious_lines
	regex.match(pattern, line)
}
