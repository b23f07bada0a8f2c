"""The variables of signed requests, TLS and the emergency override."""

from ops.settings_types import Service, Variable, choice, path, text

_UP, _EDGE, _WORKER, _MIGRATE, _CLIENT = Service

EDGE_SECURITY = (
    Variable(
        name="FG_DP_SIGNATURE_MODE",
        parse=choice("verify", "required"),
        default="verify",
        description="`verify` checks a signature whenever there is one; `required` also refuses its absence.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_TLS_CERT_FILE",
        parse=path,
        default=None,
        default_note="plain HTTP, on loopback only",
        description="PEM certificate chain the edge shows.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_TLS_KEY_FILE",
        parse=path,
        default=None,
        default_note="none",
        description="PEM private key of that certificate.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_TLS_CLIENT_CA_FILE",
        parse=path,
        default=None,
        default_note="no client certificates",
        description="PEM certificates of the authorities whose clients may connect; every client must show one then.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_TLS_TRUST_DOMAIN",
        parse=text,
        default=None,
        default_note="none",
        description="Trust domain of client certificates: `spiffe://<domain>/tenant/<tenant>/agent/<agent>`.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_BREAK_GLASS_FILE",
        parse=path,
        default=None,
        default_note="`break-glass.json` in `FG_DATA_DIR`",
        description="Where an armed emergency override is kept; a file, because it is for the loss of Redis.",
        services=(_EDGE, _CLIENT),
    ),
    Variable(
        name="FG_BREAK_GLASS_PUBLIC_KEY_FILE",
        parse=path,
        default=None,
        default_note="none: nothing can be armed",
        description="Ed25519 public key (PEM) of whoever may sign an emergency override.",
        services=(_EDGE, _CLIENT),
    ),
    Variable(
        name="FG_CA_FILE",
        parse=path,
        default=None,
        default_note="the authorities of the system",
        description="PEM certificates that client commands trust the edge by.",
        services=(_CLIENT,),
    ),
    Variable(
        name="FG_CLIENT_CERT_FILE",
        parse=path,
        default=None,
        default_note="none",
        description="PEM client certificate chain of client commands, its private key included.",
        services=(_CLIENT,),
    ),
    Variable(
        name="FG_AGENT_KEY_FILE",
        parse=path,
        default=None,
        default_note="none: requests are not signed",
        description="Agent key that signs the requests of client commands (`frostgate keys issue --ed25519`).",
        services=(_CLIENT,),
    ),
)
