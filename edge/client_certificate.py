"""Whom a client certificate names: `spiffe://<trust-domain>/tenant/<tenant>/agent/<agent>`.

The connection's protocol (`edge/protocol.py`) puts the URIs of a verified certificate under
`scope["extensions"]["frostgate"]["client_uris"]`. They are there for certificates alone that the
TLS layer has verified against `FG_TLS_CLIENT_CA_FILE`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from schemas.ids import AGENT_ID, TENANT_ID

EXTENSION = "frostgate"
CLIENT_URIS = "client_uris"
_SCHEME = "spiffe://"


class Identity(NamedTuple):
    """The agent a certificate was issued to."""

    tenant_id: str
    agent_id: str


def uris_of(peer_certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The URI names of a certificate as `ssl` describes it, none when none was shown or verified."""
    if not peer_certificate:
        return ()
    names: Iterable[tuple[str, str]] = peer_certificate.get("subjectAltName", ())
    return tuple(value for kind, value in names if kind == "URI")


def shown_uris(scope: Mapping[str, Any]) -> tuple[str, ...]:
    """The URIs of the certificate the request's connection was opened with."""
    uris: tuple[str, ...] = scope.get("extensions", {}).get(EXTENSION, {}).get(CLIENT_URIS, ())
    return uris


def identity(uris: Sequence[str], trust_domain: str) -> Identity | None:
    """The agent, None when the certificate does not name exactly one agent of this trust domain.

    Compared byte for byte, as it was issued: no case folding, no percent-decoding. A second SPIFFE
    name, of whatever domain, makes a certificate ambiguous.
    """
    names = [uri for uri in uris if uri[: len(_SCHEME)].lower() == _SCHEME]
    if len(names) != 1 or not trust_domain:
        return None
    path = names[0].removeprefix(f"{_SCHEME}{trust_domain}/")
    match path.split("/"):
        case ["tenant", tenant_id, "agent", agent_id] if path != names[0]:
            named = TENANT_ID.fullmatch(tenant_id) and AGENT_ID.fullmatch(agent_id)
            return Identity(tenant_id, agent_id) if named else None
        case _:
            return None
