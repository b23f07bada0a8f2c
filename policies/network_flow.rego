# network.flow: one connection, seen from the agent's host.
# Fields: source_ip, destination_ip. Optional: destination_port, protocol, bytes_out, bytes_in.
package fg.kinds["network.flow"]

import data.fg.lists
import data.fg.shapes
import data.fg.tenant

flow := payload if {
	payload := input.event.payload
	shapes.is_address(payload.source_ip)
	shapes.is_address(payload.destination_ip)
	shapes.is_count(object.get(payload, "destination_port", 0))
	shapes.is_name(object.get(payload, "protocol", ""))
	shapes.is_count(object.get(payload, "bytes_out", 0))
	shapes.is_count(object.get(payload, "bytes_in", 0))
}

comes_from_inside if shapes.in_ranges(flow.source_ip, lists.internal_ranges)

# An agent that was told no source writes the address of nobody: it is its own host.
comes_from_inside if shapes.in_ranges(flow.source_ip, ["0.0.0.0/8", "::/128"])

leaves_the_house if {
	comes_from_inside
	not shapes.in_ranges(flow.destination_ip, lists.internal_ranges)
}

denials contains "network.malformed" if not flow

# A port nobody told is not among the allowed ones.
denials contains "network.private_to_public" if {
	not object.get(flow, "destination_port", 0) in lists.allowed_egress_ports
	leaves_the_house
}

denials contains "network.denied_port" if {
	flow.destination_port in lists.denied_egress_ports
	leaves_the_house
}

denials contains "network.denied_port" if {
	flow.destination_port in tenant.list("denied_egress_ports")
	leaves_the_house
}

denials contains "network.denied_range" if shapes.in_ranges(flow.destination_ip, lists.denied_ranges)

denials contains "network.denied_range" if shapes.in_ranges(flow.destination_ip, tenant.list("denied_ranges"))

denials contains "network.large_egress" if {
	flow.bytes_out > tenant.limit("egress_bytes")
	leaves_the_house
}
