package fg_test.main

import data.fg.decision.decision

allowed := {"kind": "log.line", "line": "calm"}

test_a_kind_without_rules_is_not_decided if {
	not decision with input as {"event": {"payload": {"kind": "usb.inserted"}}}
}

test_an_event_without_a_kind_is_not_decided if not decision with input as {"event": {"payload": {}}}

test_what_nothing_objects_to_is_allowed if {
	decision == {"allow": true, "reasons": []} with input as {"event": {"payload": allowed}, "tenant": {}}
}

malformed := [
	[],
	{"denied_programs": "nmap"},
	{"denied_programs": [1]},
	{"protected_directories": [""]},
	{"denied_egress_ports": ["22"]},
	{"denied_egress_ports": {"22": 22}},
	{"denied_ranges": ["the internet"]},
	{"limits": {"egress_bytes": "none"}},
	{"limits": {"egress_bytes": -1}},
	{"limits": {"nobody_knows": 1}},
	{"limits": []},
	{"denied_egress_ports": numbers.range(1, 251)},
]

test_data_of_a_tenant_that_cannot_be_meant_denies_everything if {
	every tenant in malformed {
		denied := {"allow": false, "reasons": ["tenant.malformed_data"]}
		decision == denied with input as {"event": {"payload": allowed}, "tenant": tenant}
	}
}

test_names_no_rule_asks_for_are_ignored if {
	decision.allow with input as {"event": {"payload": allowed}, "tenant": {"contact": "ana"}}
}
