# file.change: a watched file was created, modified or deleted.
# Field: path. Optional: action, actor (the path of the program that did it), sha256_before, sha256_after.
package fg.kinds["file.change"]

import data.fg.lists
import data.fg.shapes
import data.fg.tenant

change := payload if {
	payload := input.event.payload
	shapes.is_plain_path(payload.path)
	is_string(object.get(payload, "action", ""))
	is_string(object.get(payload, "actor", ""))
	is_string(object.get(payload, "sha256_before", ""))
	is_string(object.get(payload, "sha256_after", ""))
}

paths := shapes.spellings(change.path)

in_protected_place if {
	some path in paths
	path in lists.protected_files
}

in_protected_place if tenant.has_any_of("protected_files", paths)

in_protected_place if strings.any_prefix_match(paths, lists.protected_directories)

in_protected_place if tenant.has_prefix_of("protected_directories", paths)

# Only two equal hashes prove that the content stayed. An agent that could not hash writes something else twice.
content_stayed if {
	regex.match(`^[0-9a-fA-F]{64}$`, change.sha256_before)
	change.sha256_before == change.sha256_after
}

by_package_manager if change.actor in lists.package_managers

denials contains "file.malformed" if not change

denials contains "file.tampered_system_file" if {
	in_protected_place
	not content_stayed
	not by_package_manager
}
