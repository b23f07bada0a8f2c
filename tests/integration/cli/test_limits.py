"""`frostgate limits` changes what a running edge admits."""

import json
from urllib.request import Request, urlopen

from tests.integration.cli.commands import Shell
from tests.integration.cli.conftest import Tenant
from tests.integration.test_up import until


def test_limits_are_set_shown_kept_and_cleared(operator: Shell, tenant: Tenant) -> None:
    name = tenant.tenant_id
    assert operator.run("limits", "show", name, "--json").document["rps"] is None
    assert operator.run("limits", "set", name, "--rps", "500", "--burst", "900", "--by", "ann").status == 0
    shown = operator.run("limits", "show", name, "--json").document
    assert (shown["rps"], shown["burst"], shown["events_per_month_max"]) == (500, 900, "tier")
    assert (shown["updated_by"], shown["plan_tier"], shown["events_this_month"]) == ("ann", "free", 0)
    for quota, told in (("7", 7), ("none", "none")):
        changed = operator.run("limits", "set", name, "--rps", "1", "--burst", "2", "--events-per-month", quota)
        assert changed.status == 0
        assert operator.run("limits", "set", name, "--rps", "3", "--burst", "4").status == 0
        assert operator.run("limits", "show", name, "--json").document["events_per_month_max"] == told, "kept"
    everyone = operator.run("limits", "show", "--json").document
    assert next(one for one in everyone if one["tenant_id"] == name)["rps"] == 3
    assert f"{name:<24} rps 3  burst 4" in operator.run("limits", "show").stdout
    assert operator.run("limits", "clear", name).status == 0
    assert operator.run("limits", "clear", name).status == 1
    assert operator.run("limits", "show", name).status == 0
    history = tenant.rows("SELECT operator, action FROM operator_actions WHERE tenant_id = $1 ORDER BY done_at")
    assert tuple(history[0]) == ("ann", "limits.set")
    assert [row["action"] for row in history][-1] == "limits.clear"


def test_a_running_edge_follows(tenant: Tenant, operator: Shell) -> None:
    assert operator.run("limits", "set", tenant.tenant_id, "--rps", "1000", "--burst", "1234").status == 0

    def told() -> bool:
        asked = Request(f"{tenant.stack.url}/v1/limits", headers={"Authorization": f"Bearer {tenant.api_key}"})  # noqa: S310  (loopback)
        with urlopen(asked) as answer:  # noqa: S310  (as above)
            return bool(json.load(answer)["burst"] == 1234)

    until("the new burst", told)


def test_what_cannot_be_set_is_said_in_words(operator: Shell, tenant: Tenant) -> None:
    unknown = operator.run("limits", "set", "nobody", "--rps", "1", "--burst", "1")
    assert (unknown.status, "there is no tenant nobody" in unknown.stderr) == (1, True)
    assert operator.run("limits", "show", "nobody").status == 1
    for wrong in (["--rps", "0", "--burst", "1"], ["--rps", "1", "--burst", "1", "--events-per-month", "many"]):
        assert operator.run("limits", "set", tenant.tenant_id, *wrong).status == 2
