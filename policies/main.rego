# The one question the data plane asks: data.fg.decision.decision.
#
# Each kind of event has a package of its own, data.fg.kinds[kind], whose `denials` are the names of
# the rules that object. A kind without a package leaves `decision` undefined, and undefined means
# deny. Lists, limits and patterns are in data.json; what a tenant adds to them is in tenant.rego.
package fg.decision

decision := {"allow": count(denials) == 0, "reasons": sort(denials)} if {
	denials := data.fg.kinds[input.event.payload.kind].denials | data.fg.tenant.faults
}
