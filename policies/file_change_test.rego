package fg_test.file_change

import data.fg.decision.decision

reasons(change) := reasons_for(change, {})

reasons_for(change, tenant) := found if {
	payload := object.union({"kind": "file.change"}, change)
	found := decision.reasons with input as {"event": {"payload": payload}, "tenant": tenant}
}

test_a_file_of_a_program_may_change if reasons({"path": "/srv/app/config.toml"}) == []

test_a_changed_account_file_is_tampered_with if reasons({"path": "/etc/passwd"}) == ["file.tampered_system_file"]

test_a_changed_system_program_is_tampered_with if {
	reasons({"path": "/usr/bin/sshd", "actor": "/tmp/dpkg"}) == ["file.tampered_system_file"]
}

test_a_package_manager_may_change_it if reasons({"path": "/usr/bin/sshd", "actor": "/usr/bin/dpkg"}) == []

test_equal_hashes_prove_that_nothing_changed if {
	reasons({"path": "/usr/bin/ls", "sha256_before": "a", "sha256_after": "a"}) == []
}

test_one_hash_proves_nothing if {
	reasons({"path": "/usr/bin/ls", "sha256_after": "a"}) == ["file.tampered_system_file"]
}

test_a_path_that_is_a_list_is_malformed if reasons({"path": ["/etc/shadow"]}) == ["file.malformed"]

test_a_tenant_protects_more if {
	tenant := {"protected_files": ["/srv/app/key.pem"], "protected_directories": ["/srv/ledger/"]}
	reasons_for({"path": "/srv/app/key.pem"}, tenant) == ["file.tampered_system_file"]
	reasons_for({"path": "/srv/ledger/2026"}, tenant) == ["file.tampered_system_file"]
	reasons_for({"path": "/srv/app/other"}, tenant) == []
}

test_a_tenant_trusts_no_actor_of_its_own if {
	change := {"path": "/etc/passwd", "actor": "/usr/bin/vim"}
	reasons_for(change, {"package_managers": ["/usr/bin/vim"]}) == ["file.tampered_system_file"]
}
