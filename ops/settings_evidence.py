"""The variables of evidence: where it goes, who signs it and who watches."""

from urllib.parse import urlsplit

from ops.settings_types import SecretText, Service, Variable, path, secret, text, url
from ops.tls import is_loopback


def _witness_url(raw: str) -> SecretText:
    """What a witness objects is not signed, and stops every decision: nobody on the way may say it in its place."""
    parsed = url("http", "https")(raw)
    if urlsplit(raw).scheme == "http" and not is_loopback(urlsplit(raw).hostname or ""):
        raise ValueError("must begin with https:// for a witness on another host; http:// is for loopback only")
    return parsed


_UP, _EDGE, _WORKER, _MIGRATE, _CLIENT = Service

EVIDENCE = (
    Variable(
        name="FG_WORM_DIR",
        parse=path,
        default=None,
        default_note="`worm` in `FG_DATA_DIR`",
        description="Write-once directory of the sealed evidence; an object store (`FG_WORM_S3_URL`) takes its place.",
        services=(_EDGE, _WORKER, _CLIENT),
    ),
    Variable(
        name="FG_WORM_S3_URL",
        parse=url("http", "https"),
        default=None,
        default_note="the directory",
        description="Bucket with Object Lock for the sealed evidence: `https://HOST[:PORT]/BUCKET`.",
        services=(_EDGE, _WORKER, _CLIENT),
    ),
    Variable(
        name="FG_WORM_S3_REGION",
        parse=text,
        default="us-east-1",
        description="Region of that bucket.",
        services=(_EDGE, _WORKER, _CLIENT),
    ),
    Variable(
        name="FG_WORM_S3_ACCESS_KEY_ID",
        parse=text,
        default=None,
        default_note="none",
        description="Access key of that bucket.",
        services=(_EDGE, _WORKER, _CLIENT),
    ),
    Variable(
        name="FG_WORM_S3_SECRET_ACCESS_KEY",
        parse=secret,
        default=None,
        default_note="none",
        description="Its secret.",
        services=(_EDGE, _WORKER, _CLIENT),
        secret=True,
    ),
    Variable(
        name="FG_SIGNING_KEY_FILE",
        parse=path,
        default=None,
        default_note="`signing-key.pem` in `FG_DATA_DIR`",
        description="Ed25519 key that signs evidence.",
        services=(_WORKER, _CLIENT),
    ),
    Variable(
        name="FG_KEYRING_FILE",
        parse=path,
        default=None,
        default_note="`keyring.json` in `FG_DATA_DIR`",
        description="The public keys of evidence, signed by the offline root key.",
        services=(_EDGE, _WORKER, _CLIENT),
    ),
    Variable(
        name="FG_CHECKPOINT_SECRET_FILE",
        parse=path,
        default=None,
        default_note="`checkpoint-secret` in `FG_DATA_DIR`",
        description="32 random bytes that hide the tenants' names in checkpoints. Never replaced.",
        services=(_EDGE, _WORKER, _CLIENT),
    ),
    Variable(
        name="FG_WITNESS_URL",
        parse=_witness_url,
        default=None,
        default_note="no witness",
        description="The witness that countersigns checkpoints: `frostgate witness`, run by somebody else. "
        "`https`; `http` on loopback only.",
        services=(_WORKER,),
    ),
    Variable(
        name="FG_WITNESS_PUBLIC_KEY_FILE",
        parse=path,
        default=None,
        default_note="none",
        description="PEM public key of that witness.",
        services=(_WORKER,),
    ),
    Variable(
        name="FG_REPORTS_DIR",
        parse=path,
        default="artifacts/reports/data_plane",
        description="Directory of the worker's signed reports, as `rls_attestation.txt`.",
        services=(_UP, _WORKER),
    ),
)
