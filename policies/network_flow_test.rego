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

test_ipv4_inside_ipv6_is_malformed if {
	every address in [
		"::ffff:203.0.113.9",
		"::FFFF:c633:6407",
		"0:0:0:0:0:ffff:c633:6407",
		"::ffff:0:c633:6407",
		"::c633:6407",
		"64:ff9b::c633:6407",
		"64:FF9B:1::c633:6407",
		"2002:c633:6407::1",
		"2001:0:c633:6407::1",
	] {
		reasons({"destination_ip": address}) == ["network.malformed"]
		reasons({"source_ip": address}) == ["network.malformed"]
	}
}

test_what_is_no_address_is_malformed if {
	every address in ["", " 10.0.0.1", "10.0.0.1\n", "010.0.0.1", "10.1", "3325256711", "10.0.0.0/8", "fe80::1%eth0", "host", 7, null] {
		reasons({"destination_ip": address}) == ["network.malformed"]
	}
}

test_the_hosts_own_ipv6_address_is_one if reasons({"source_ip": "::1", "destination_ip": "::1", "destination_port": 6881}) == []

test_a_source_nobody_told_is_the_host_itself if {
	every address in ["0.0.0.0", "0.1.2.3", "::", "0:0:0:0:0:0:0:0"] {
		reasons({"source_ip": address, "destination_port": 6881}) == ["network.private_to_public"]
	}
}

test_a_destination_nobody_told_is_not_inside if {
	every address in ["0.0.0.0", "::"] {
		reasons({"destination_ip": address, "destination_port": 6881}) == ["network.private_to_public"]
	}
}

test_a_host_without_an_address_may_ask_for_one if {
	reasons({"source_ip": "0.0.0.0", "destination_ip": "255.255.255.255", "destination_port": 67}) == []
}

test_known_fields_of_another_type_are_malformed if {
	every flow in [{"protocol": []}, {"bytes_in": "1"}, {"bytes_out": -1}, {"destination_port": "3389"}, {"destination_port": null}] {
		reasons(flow) == ["network.malformed"]
	}
	every protocol in ["TCP", 6] {
		reasons({"protocol": protocol}) == []
	}
}

test_a_tenant_adds_ranges if {
	every range in ["203.0.113.0/24", "203.0.113.77/24", "203.0.113.9/32", "0.0.0.0/0"] {
		reasons_for({}, {"denied_ranges": [range]}) == ["network.denied_range"]
	}
}

test_a_tenant_adds_ports if reasons_for({}, {"denied_egress_ports": [443]}) == ["network.denied_port"]

test_a_tenant_allows_no_port if {
	tenant := {"allowed_egress_ports": [6881], "internal_ranges": ["203.0.113.0/24"]}
	reasons_for({"destination_port": 6881}, tenant) == ["network.private_to_public"]
}

test_a_tenant_may_let_less_leave if {
	reasons_for({"bytes_out": 1000}, {"limits": {"egress_bytes": 999}}) == ["network.large_egress"]
}
