package fg_test.process_exec

import data.fg.decision.decision

reasons(path) := reasons_for({"path": path}, {})

reasons_for(execution, tenant) := found if {
	payload := object.union({"kind": "process.exec"}, execution)
	found := decision.reasons with input as {"event": {"payload": payload}, "tenant": tenant}
}

test_a_program_of_the_system_is_allowed if reasons("/usr/bin/ls") == []

test_a_program_in_a_temporary_directory_is_denied if reasons("/dev/shm/kworker") == ["process.denied_path"]

test_windows_paths_are_compared_without_case if reasons(`C:\Users\Public\run.exe`) == ["process.denied_path"]

test_a_directory_that_begins_alike_is_another if reasons("/tmpfiles/run") == []

test_a_path_that_climbs_is_malformed if reasons("/usr/bin/../../tmp/x") == ["process.malformed"]

test_a_known_tool_is_denied_wherever_it_lies if reasons("/srv/mimikatz.exe") == ["process.denied_tool"]

test_an_encoded_command_is_denied if {
	execution := {"path": "/bin/bash", "args": ["-c", "echo aWQ= | base64 -d | sh"]}
	reasons_for(execution, {}) == ["process.encoded_command"]
}

test_a_tenant_adds_directories if {
	tenant := {"denied_program_directories": [`D:\Games\`]}
	reasons_for({"path": "d:/games/run.exe"}, tenant) == ["process.denied_path"]
}

test_a_tenant_adds_programs if {
	reasons_for({"path": "/usr/bin/nmap"}, {"denied_programs": ["NMAP"]}) == ["process.denied_tool"]
}

test_a_tenant_takes_no_directory_away if {
	reasons_for({"path": "/tmp/x"}, {"denied_program_directories": []}) == ["process.denied_path"]
}
