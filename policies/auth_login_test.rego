package fg_test.auth_login

import data.fg.decision.decision

reasons(login) := reasons_for(login, {})

reasons_for(login, tenant) := found if {
	payload := object.union({"kind": "auth.login", "user": "ana"}, login)
	found := decision.reasons with input as {"event": {"payload": payload}, "tenant": tenant}
}

test_a_plain_login_is_allowed if reasons({}) == []

test_30_logins_a_minute_are_possible if reasons({"login_count": 30}) == []

test_31_logins_a_minute_are_impossible if reasons({"login_count": 31}) == ["auth.impossible_login_rate"]

test_the_rate_is_by_the_window if reasons({"login_count": 31, "window_s": 120}) == []

test_a_window_of_nothing_counts_as_a_second if {
	reasons({"login_count": 1, "window_s": 0}) == ["auth.impossible_login_rate"]
}

test_9_failures_may_be_a_bad_day if reasons({"failed_count": 9}) == []

test_10_failures_are_a_burst if reasons({"failed_count": 10}) == ["auth.failed_login_burst"]

test_one_country_told_twice_is_one if reasons({"countries": ["DE", "DE"]}) == []

test_two_countries_at_once_are_denied if reasons({"countries": ["DE", "VN"]}) == ["auth.several_countries"]

test_a_count_that_is_text_is_malformed if reasons({"login_count": "many"}) == ["auth.malformed"]

test_known_fields_of_another_type_are_malformed if {
	every login in [
		{"user": null},
		{"outcome": "FAILURE"},
		{"outcome": ""},
		{"source_ip": ""},
		{"source_ip": "::ffff:10.0.0.1"},
		{"window_s": -1},
		{"window_s": null},
		{"failed_count": 10.5},
		{"failed_count": -10},
		{"failed_count": 9007199254740992},
		{"countries": "DE"},
		{"countries": {"a": "DE"}},
		{"countries": ["DE", null]},
	] {
		reasons(login) == ["auth.malformed"]
	}
}

test_a_tenant_may_allow_fewer_logins if {
	reasons_for({"login_count": 6}, {"limits": {"logins_per_minute": 5}}) == ["auth.impossible_login_rate"]
}

test_a_tenant_may_not_allow_more_logins if {
	reasons_for({"login_count": 31}, {"limits": {"logins_per_minute": 500}}) == ["auth.impossible_login_rate"]
}
