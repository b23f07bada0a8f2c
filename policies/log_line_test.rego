package fg_test.log_line

import data.fg.decision.decision

reasons(line) := found if {
	found := decision.reasons with input as {"event": {"payload": {"kind": "log.line", "line": line}}}
}

test_a_calm_line_is_allowed if reasons("GET /health 200 1ms") == []

test_a_lookup_is_denied if reasons("GET /?q=${jndi:ldap://x} 400") == ["log.jndi_lookup"]

test_a_line_may_be_wrong_twice if {
	reasons("../../../ cat /etc/shadow") == ["log.path_traversal", "log.shadow_file_read"]
}

test_a_line_that_is_none_is_malformed if reasons(null) == ["log.malformed"]
