package fg_test.file_change

import data.fg.decision.decision

sha256 := "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

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
	reasons({"path": "/usr/bin/ls", "sha256_before": sha256, "sha256_after": sha256}) == []
}

test_one_hash_proves_nothing if {
	reasons({"path": "/usr/bin/ls", "sha256_after": sha256}) == ["file.tampered_system_file"]
}

test_equal_words_that_are_no_hashes_prove_nothing if {
	every word in ["", "-", "unknown", substring(sha256, 1, -1)] {
		change := {"path": "/etc/passwd", "sha256_before": word, "sha256_after": word}
		reasons(change) == ["file.tampered_system_file"]
	}
}

test_no_spelling_of_a_protected_place_is_another if {
	every path in ["/etc/passwd/", "/ETC/Passwd", "/usr/bin", "/usr/bin/", `C:\Windows\System32`, `c:\WINDOWS\System32. \a`] {
		reasons({"path": path}) == ["file.tampered_system_file"]
	}
}

test_a_path_that_does_not_mean_what_it_says_is_malformed if {
	every path in ["", "etc/passwd", "passwd", `\Windows\System32\a`, "/etc/. /passwd", "/proc/1/root/etc/passwd", "/etc//x"] {
		reasons({"path": path}) == ["file.malformed"]
	}
}

test_known_fields_of_another_type_are_malformed if {
	every change in [{"action": 5}, {"actor": []}, {"sha256_before": null}, {"sha256_after": 0}] {
		reasons(object.union({"path": "/srv/x"}, change)) == ["file.malformed"]
	}
}

test_a_path_that_is_a_list_is_malformed if reasons({"path": ["/etc/shadow"]}) == ["file.malformed"]

test_a_tenant_protects_more if {
	tenant := {"protected_files": ["/srv/app/key.pem"], "protected_directories": ["/srv/ledger/"]}
	reasons_for({"path": "/srv/app/key.pem"}, tenant) == ["file.tampered_system_file"]
	reasons_for({"path": "/srv/ledger/2026"}, tenant) == ["file.tampered_system_file"]
	reasons_for({"path": "/srv/app/other"}, tenant) == []
}

test_no_spelling_of_what_a_tenant_protects_is_another if {
	tenant := {"protected_files": [`D:\Keys\a.pem`, "/srv/keys/"], "protected_directories": ["/srv/ledger/", "/srv/a./"]}
	every path in ["d:/keys/A.pem", "d:/keys/a.pem.", "/srv/keys", "/srv/ledger", "/srv/a./x"] {
		reasons_for({"path": path}, tenant) == ["file.tampered_system_file"]
	}
}

test_a_tenant_trusts_no_actor_of_its_own if {
	change := {"path": "/etc/passwd", "actor": "/usr/bin/vim"}
	reasons_for(change, {"package_managers": ["/usr/bin/vim"]}) == ["file.tampered_system_file"]
}
