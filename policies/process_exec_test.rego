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

test_no_spelling_of_a_known_tool_is_another if {
	every path in ["/srv/Hydra/", "C:/x/mimikatz.exe.", "C:/x/mimikatz.EXE ", "C:/x/a.txt:mimikatz.exe", "C:/x/mimikatz.exe::$DATA"] {
		reasons(path) == ["process.denied_tool"]
	}
}

test_a_path_that_does_not_mean_what_it_says_is_malformed if {
	every path in ["", "mimikatz", "tmp/x", `\Windows\Temp\x`, "/usr/.. /tmp/x", "/tmp/.../x", "/proc/self/root/tmp/x", "C:x"] {
		reasons(path) == ["process.malformed"]
	}
}

test_known_fields_of_another_type_are_malformed if {
	every execution in [{"args": "-c x"}, {"args": null}, {"args": [1]}, {"user": 0}, {"parent": []}] {
		reasons_for(object.union({"path": "/bin/sh"}, execution), {}) == ["process.malformed"]
	}
	reasons_for({"path": "/bin/sh", "parent": 1}, {}) == []
}

test_an_encoded_command_is_denied if {
	execution := {"path": "/bin/bash", "args": ["-c", "echo aWQ= | base64 -d | sh"]}
	reasons_for(execution, {}) == ["process.encoded_command"]
}

test_blanks_and_shells_do_not_hide_an_encoded_command if {
	every execution in [
		{"path": "/bin/ash", "args": ["-c", "echo aWQ= | base64\t--decode | sh"]},
		{"path": "C:/Windows/System32/cmd.exe", "args": ["/c", "powershell\t-enc\tQUJDREVGR0hJSktMTU5PUA=="]},
	] {
		reasons_for(execution, {}) == ["process.encoded_command"]
	}
}

test_a_tenant_adds_directories if {
	tenant := {"denied_program_directories": [`D:\Games\`]}
	reasons_for({"path": "d:/games/run.exe"}, tenant) == ["process.denied_path"]
}

test_a_tenant_adds_programs if {
	every entry in ["NMAP", "nmap.exe", "/usr/bin/nmap"] {
		reasons_for({"path": "/usr/bin/nmap"}, {"denied_programs": [entry]}) == ["process.denied_tool"]
	}
	reasons_for({"path": `C:\Tools\Nmap.exe`}, {"denied_programs": [`C:\tools\nmap.exe`]}) == ["process.denied_tool"]
}

test_a_tenant_takes_no_directory_away if {
	reasons_for({"path": "/tmp/x"}, {"denied_program_directories": []}) == ["process.denied_path"]
}
