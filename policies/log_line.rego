# log.line: one line of a log file, shipped as it stands.
# Field: line. Optional: path, offset.
package fg.kinds["log.line"]

import data.fg.patterns
import data.fg.shapes

entry := payload if {
	payload := input.event.payload
	is_string(payload.line)
	is_string(object.get(payload, "path", ""))
	shapes.is_count(object.get(payload, "offset", 0))
}

# `not` asks a rule, never an expression over a field: of an absent field OPA finds even `not is_string(field)` undefined.
denials contains "log.malformed" if not entry

denials contains concat(".", ["log", name]) if {
	some name, pattern in patterns.suspicious_lines
	regex.match(pattern, entry.line)
}
