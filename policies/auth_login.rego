# auth.login: one login attempt, with what the agent counted for the same user in the last `window_s` seconds.
# Field: user. Optional: outcome, source_ip, window_s, failed_count, login_count, countries.
package fg.kinds["auth.login"]

import data.fg.shapes
import data.fg.tenant

login := payload if {
	payload := input.event.payload
	is_string(payload.user)
	object.get(payload, "outcome", "success") in {"success", "failure"}
	shapes.is_address(object.get(payload, "source_ip", "127.0.0.1"))
	shapes.is_count(object.get(payload, "failed_count", 0))
	shapes.is_count(object.get(payload, "login_count", 0))
	shapes.is_count(object.get(payload, "window_s", 60))
	shapes.is_list_of_text(object.get(payload, "countries", []))
}

denials contains "auth.malformed" if not login

denials contains "auth.failed_login_burst" if login.failed_count >= tenant.limit("failed_logins")

denials contains "auth.impossible_login_rate" if {
	window_s := max([object.get(login, "window_s", 60), 1])
	login.login_count * 60 > tenant.limit("logins_per_minute") * window_s
}

denials contains "auth.several_countries" if count({country | some country in login.countries}) > 1
