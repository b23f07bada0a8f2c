"""Which agent a certificate names."""

import pytest

from edge.client_certificate import Identity, identity, shown_uris, uris_of

DOMAIN = "agents.example"
SOUND = "spiffe://agents.example/tenant/t-1/agent/a.b:c_d-1"


def test_the_one_agent_is_named() -> None:
    assert identity([SOUND], DOMAIN) == Identity("t-1", "a.b:c_d-1")
    assert identity(["https://x.example/", SOUND], DOMAIN) == Identity("t-1", "a.b:c_d-1")


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [SOUND, SOUND],
        [SOUND, "spiffe://other.example/x"],
        [SOUND, "SPIFFE://agents.example/tenant/t-2/agent/a"],
        ["spiffe://agents.example/tenant/t.1/agent/a"],
        ["spiffe://agents.example/tenant/t-1/agent/a/b"],
        ["spiffe://agents.example/tenant//agent/a"],
        ["spiffe://agents.example/tenant/t-1/agent/a\n"],
        ["spiffe://agents.example/tenant/t-1/agent/a#b"],
        ["spiffe://agents.example/agent/a/tenant/t-1"],
        ["tenant/t-1/agent/a"],
    ],
)
def test_anything_else_names_nobody(uris: list[str]) -> None:
    assert identity(uris, DOMAIN) is None


def test_without_a_trust_domain_nobody_is_named() -> None:
    assert identity(["spiffe:///tenant/t-1/agent/a"], "") is None


def test_only_uris_of_a_verified_certificate_count() -> None:
    assert uris_of(None) == ()
    assert uris_of({}) == ()
    assert uris_of({"subject": ((("commonName", SOUND),),), "subjectAltName": (("DNS", SOUND),)}) == ()
    assert uris_of({"subjectAltName": (("DNS", "a.example"), ("URI", SOUND))}) == (SOUND,)


def test_a_scope_of_another_server_shows_nothing() -> None:
    assert shown_uris({}) == ()
    assert shown_uris({"extensions": {"frostgate": {"client_uris": (SOUND,)}}}) == (SOUND,)
