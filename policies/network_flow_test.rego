package fg_test.network_flow

import data.fg.decision.decision

reasons(flow) := reasons_for(flow, {})

reasons_for(flow, tenant) := found if {
	told := {"kind": "network.flow", "source_ip": "10.0.0.1", "destination_ip": "203.0.113.9", "destination_port": 443}
	payload := object.union(told, flow)
	found := decision.reasons with input as {"event": {"payload": payload}, "tenant": tenant}
}

test_the_web_may_be_asked if reasons({}) == []

test_a_port_that_is_not_allowed_does_not_leave if {
	reasons({"destination_port": 6881}) == ["network.private_to_public"]
}

test_a_port_nobody_told_does_not_leave if {
	payload := {"kind": "network.flow", "source_ip": "10.0.0.1", "destination_ip": "203.0.113.9"}
	decision.reasons == ["network.private_to_public"] with input as {"event": {"payload": payload}}
}

test_any_port_may_be_asked_inside if reasons({"destination_ip": "192.168.7.7", "destination_port": 445}) == []

test_any_port_may_be_asked_from_outside if reasons({"source_ip": "203.0.113.8", "destination_port": 6881}) == []

test_a_remote_access_port_is_named if {
	reasons({"destination_port": 3389}) == ["network.denied_port", "network.private_to_public"]
}

test_a_gibibyte_may_leave if reasons({"bytes_out": 1073741824}) == []

test_more_than_a_gibibyte_may_not if reasons({"bytes_out": 1073741825}) == ["network.large_egress"]

test_a_denied_range_is_denied if reasons({"destination_ip": "198.51.100.7"}) == ["network.denied_range"]

test_ipv6_leaves_as_ipv4_does if {
	flow := {"source_ip": "fd00::1", "destination_ip": "2001:4860::1", "destination_port": 6881}
	reasons(flow) == ["network.private_to_public"]
}

test_ipv4_inside_ipv6_is_malformed if reasons({"destination_ip": "::ffff:203.0.113.9"}) == ["network.malformed"]

test_a_tenant_adds_ranges if {
	reasons_for({}, {"denied_ranges": ["203.0.113.0/24"]}) == ["network.denied_range"]
}

test_a_tenant_adds_ports if reasons_for({}, {"denied_egress_ports": [443]}) == ["network.denied_port"]

test_a_tenant_allows_no_port if {
	tenant := {"allowed_egress_ports": [6881], "internal_ranges": ["203.0.113.0/24"]}
	reasons_for({"destination_port": 6881}, tenant) == ["network.private_to_public"]
}

test_a_tenant_may_let_less_leave if {
	reasons_for({"bytes_out": 1000}, {"limits": {"egress_bytes": 999}}) == ["network.large_egress"]
}
