"""The bucket, on a real S3 server with Object Lock: nothing that was stored can be taken back, hidden or passed off."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]  # publishes no types
import msgspec
import pytest
from botocore.config import Config  # type: ignore[import-untyped]  # as above
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]  # as above
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ops.clock import SystemClock
from ops.worm_watch import WormWatch
from schemas.answers import NoAnswer, Refusal
from schemas.canonical import sha256_hex
from schemas.codes import DeadReason
from schemas.evidence import EvidenceEvent
from sinks.artifacts import ArtifactIndex
from sinks.evidence import EvidenceKeeper
from sinks.ledger import DecisionLedger
from sinks.pg import Pool
from sinks.retention_plans import RetentionPlans
from sinks.segments import EvidenceError, SealedInput, read_artifact, seal, segment_key, verify_segment
from sinks.settings import ObjectStore
from sinks.signing import Signer
from sinks.tenants import Tenants
from sinks.worm_s3 import S3Worm
from tests.integration.sinks import make
from tests.integration.sinks.changing_proxy import Change, ChangingProxy

KEY = "segments/free/2026-01-01/p07/a.dsse"
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
STARTED_S = 60.0
_PORTS = ("s3", "s3.port.grpc", "master", "master.port.grpc", "volume", "volume.port.grpc", "filer", "filer.port.grpc")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def client_of(store: ObjectStore) -> Any:
    parts = urlsplit(store.url)
    return boto3.session.Session().client(
        "s3",
        endpoint_url=f"{parts.scheme}://{parts.netloc}",
        region_name=store.region,
        aws_access_key_id=store.access_key_id,
        aws_secret_access_key=store.secret_access_key,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A bucket with Object Lock on a server of our own, with the credentials of its owner."""
    directory = tmp_path_factory.mktemp("s3")
    credentials = [{"accessKey": "owner", "secretKey": "owners-secret"}]
    identities = {"identities": [{"name": "owner", "credentials": credentials, "actions": ["Admin"]}]}
    (directory / "s3.json").write_text(json.dumps(identities))
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    listening = [f"-{name if '.' in name else f'{name}.port'}={port}" for name, port in ports.items()]
    program = [str(Path(sys.executable).with_name("weed")), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    options = [f"-dir={directory}", f"-s3.config={directory / 's3.json'}", "-volume.max=20"]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen([*program, *options, *listening], stdout=log, stderr=log)
    try:
        found = ObjectStore(
            url=f"http://127.0.0.1:{ports['s3']}/evidence",
            region="us-east-1",
            access_key_id="owner",
            secret_access_key="owners-secret",
        )
        _make_bucket(found, server)
        yield found
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _make_bucket(store: ObjectStore, server: "subprocess.Popen[bytes]") -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=STARTED_S)
    while True:
        try:
            client_of(store).create_bucket(Bucket=store.bucket, ObjectLockEnabledForBucket=True)
        except (BotoCoreError, ClientError):
            assert server.poll() is None
            assert datetime.now(UTC) < deadline
        else:
            return


@pytest.fixture
def worm(store: ObjectStore) -> S3Worm:
    return S3Worm(store, SystemClock())


@pytest.fixture
def owner(store: ObjectStore) -> Any:
    """Somebody who has every right there is."""
    return client_of(store)


@pytest.fixture
def key() -> str:
    return f"{KEY}-{make.tenant_id()}"


def _versions(owner: Any, store: ObjectStore, key: str) -> list[str]:
    found = owner.list_object_versions(Bucket=store.bucket, Prefix=key).get("Versions", ())
    return [version["VersionId"] for version in found if version["Key"] == key]


def _lock(owner: Any, store: ObjectStore, key: str) -> tuple[str, datetime]:
    *_, first = _versions(owner, store, key)
    seen = owner.head_object(Bucket=store.bucket, Key=key, VersionId=first)
    return seen["ObjectLockMode"], seen["ObjectLockRetainUntilDate"]


async def test_what_was_put_is_read_back_whole_and_in_part(worm: S3Worm, key: str) -> None:
    assert (await worm.get(key), await worm.get_range(key, 0, 1)) == (None, None)
    await worm.put(key + "-longer", b"another", retain_days=1)
    await worm.put(key, b"evidence", retain_days=1)
    assert await worm.get(key) == b"evidence"
    assert [await worm.get_range(key, *span) for span in ((2, 3), (6, 100), (8, 1), (0, 0))] == [
        b"ide",
        b"ce",
        b"",
        b"",
    ]
    for wrong in ("", "../a", "a//b", "a b"):
        with pytest.raises(ValueError, match="not a key"):
            await worm.put(wrong, b"x", retain_days=1)


async def test_the_same_bytes_again_are_no_error_and_other_bytes_are_refused(worm: S3Worm, key: str) -> None:
    await asyncio.gather(*(worm.put(key, b"evidence", retain_days=1) for _ in range(4)))
    for other in (b"Evidence", b"evidence and more", b""):
        with pytest.raises(Refusal) as refused:
            await worm.put(key, other, retain_days=1)
        assert refused.value.reason is DeadReason.STORE_REFUSED
    assert await worm.get(key) == b"evidence"


@pytest.mark.parametrize("days", [1, 365])
async def test_an_object_is_locked_for_its_plans_time_and_a_longer_lock_can_only_follow(
    worm: S3Worm, owner: Any, store: ObjectStore, key: str, days: int
) -> None:
    before = datetime.now(UTC)
    await worm.put(key, b"evidence", retain_days=days)
    mode, until = _lock(owner, store, key)
    assert mode == "COMPLIANCE"
    assert before + timedelta(days=days) <= until <= datetime.now(UTC) + timedelta(days=days, seconds=2)
    await worm.put(key, b"evidence", retain_days=days + 10)
    assert _lock(owner, store, key)[1] >= before + timedelta(days=days + 10)
    await worm.put(key, b"evidence", retain_days=1)
    assert _lock(owner, store, key)[1] >= before + timedelta(days=days + 10), "never shorter"


async def test_not_even_the_owner_of_the_bucket_can_take_back_shorten_or_downgrade(
    worm: S3Worm, owner: Any, store: ObjectStore, key: str
) -> None:
    await worm.put(key, b"evidence", retain_days=30)
    [version] = _versions(owner, store, key)
    _, until = _lock(owner, store, key)
    named = {"Bucket": store.bucket, "Key": key, "VersionId": version}
    shorter = {"Mode": "COMPLIANCE", "RetainUntilDate": until - timedelta(days=29)}
    weaker = {"Mode": "GOVERNANCE", "RetainUntilDate": until}
    unversioned = {"Bucket": store.bucket, "VersioningConfiguration": {"Status": "Suspended"}}
    for attack, request in (
        (owner.delete_object, named),
        (owner.delete_object, named | {"BypassGovernanceRetention": True}),
        (owner.put_object_retention, named | {"Retention": shorter}),
        (owner.put_object_retention, named | {"Retention": weaker, "BypassGovernanceRetention": True}),
        (owner.put_bucket_versioning, unversioned),
        (owner.delete_bucket, {"Bucket": store.bucket}),
    ):
        with pytest.raises(ClientError):
            attack(**request)
    assert _lock(owner, store, key) == ("COMPLIANCE", until)
    assert await worm.get(key) == b"evidence"


async def test_an_object_put_over_it_or_a_marker_that_hides_it_changes_nothing(
    worm: S3Worm, owner: Any, store: ObjectStore, key: str
) -> None:
    await worm.put(key, b"evidence", retain_days=30)
    owner.put_object(Bucket=store.bucket, Key=key, Body=b"forged")
    assert await worm.get(key) == b"evidence"
    owner.delete_object(Bucket=store.bucket, Key=key)
    assert await worm.get(key) == b"evidence"
    assert await worm.get_range(key, 0, 4) == b"evid"
    await worm.put(key, b"evidence", retain_days=30)
    with pytest.raises(Refusal):
        await worm.put(key, b"forged", retain_days=30)
    assert await worm.get(key) == b"evidence"


async def test_what_somebody_else_put_there_first_is_never_taken_for_ours(
    worm: S3Worm, owner: Any, store: ObjectStore, key: str
) -> None:
    owner.put_object(Bucket=store.bucket, Key=key, Body=b"forged")
    owner.delete_object(Bucket=store.bucket, Key=key)
    with pytest.raises(Refusal):
        await worm.put(key, b"evidence", retain_days=30)
    owner.put_object(Bucket=store.bucket, Key=key + "-same", Body=b"evidence")
    await worm.put(key + "-same", b"evidence", retain_days=30)
    assert _lock(owner, store, key + "-same")[0] == "COMPLIANCE"


async def test_a_bucket_that_does_not_lock_is_named_and_takes_no_evidence(
    worm: S3Worm, owner: Any, store: ObjectStore, key: str
) -> None:
    assert (await worm.faults(), await worm.ping()) == ([], True)
    assert (await worm.faults(), await worm.ping()) == ([], True), "the second time the probe is there"
    owner.create_bucket(Bucket=f"plain-{key[-6:]}")
    plain = replace(store, url=store.url.replace("/evidence", f"/plain-{key[-6:]}"))
    for wrong, told in (
        (plain, "keeps no versions"),
        (replace(store, url=store.url.replace("/evidence", "/nowhere")), "answers 404"),
        (replace(store, secret_access_key="another"), "answers 403"),
        (replace(store, url="http://127.0.0.1:1/evidence"), "does not answer"),
    ):
        other = S3Worm(wrong, SystemClock())
        [found] = await other.faults()
        assert told in found
        assert store.secret_access_key not in found
        assert not await other.ping()
        watching = WormWatch(other)
        await watching.check()
        assert watching.findings == [found]
        with pytest.raises(NoAnswer):
            await other.put(key, b"evidence", retain_days=1)


@pytest.fixture
async def proxy(store: ObjectStore) -> AsyncIterator[ChangingProxy]:
    opened = await ChangingProxy.open(urlsplit(store.url).port or 0)
    yield opened
    await opened.close()


@pytest.mark.parametrize("change", [Change.ALTER, Change.SHORTEN, Change.CUT])
async def test_bytes_changed_on_their_way_are_never_served(
    worm: S3Worm, store: ObjectStore, proxy: ChangingProxy, change: Change
) -> None:
    record = b'{"marker":"%s","verdict":"deny"}' % make.tenant_id().encode()
    segment = seal(
        SIGNER,
        7,
        "free",
        [SealedInput("acme", "e-1", "decision", 1, record, sha256_hex(record))],
        SystemClock().now_ms(),
    )
    await worm.put(segment.key, segment.data, retain_days=1)
    behind = S3Worm(replace(store, url=f"http://127.0.0.1:{proxy.port}/evidence"), SystemClock())
    [placed] = segment.placements
    place = (segment.segment_id, placed.offset, placed.length, placed.artifact_sha256)
    assert await read_artifact(behind, *place) == record
    proxy.change(change, b'"verdict"')
    with pytest.raises(NoAnswer if change is Change.CUT else EvidenceError):
        await read_artifact(behind, *place)
    if change is not Change.CUT:
        whole = await behind.get(segment.key)
        assert whole is not None
        with pytest.raises(EvidenceError):
            verify_segment(whole, {SIGNER.key_id: SIGNER.public_key})
    proxy.change(None, b"")
    assert await read_artifact(behind, *place) == record


async def test_each_tenants_evidence_is_locked_as_long_as_its_plan_says(
    worm: S3Worm, owner: Any, store: ObjectStore, worker: Pool, operator: Pool, superuser: Any
) -> None:
    plans = RetentionPlans(worker, {"free": 7, "pro": 90, "enterprise": 365})
    keeper = EvidenceKeeper(worm, ArtifactIndex(worker), plans, SIGNER, SystemClock())
    tenants = {plan: make.tenant_id() for plan in ("free", "enterprise")}
    for plan, tenant in tenants.items():
        await Tenants(operator).add(tenant, plan)
    unlisted = make.tenant_id()
    everyone = [*tenants.values(), unlisted]
    await DecisionLedger(worker).record([make.record(tenant, "e1") for tenant in everyone])
    waiting = await superuser.fetch(
        "SELECT tenant_id, seq, kind, event_id, chain_hash, entry, record FROM evidence_outbox "
        "WHERE tenant_id = ANY ($1) ORDER BY tenant_id", everyone,
    )  # fmt: skip
    events = [
        EvidenceEvent(
            tenant, seq, kind, event_id, chain_hash, msgspec.Raw(entry.encode()), msgspec.Raw(record.encode())
        )
        for tenant, seq, kind, event_id, chain_hash, entry, record in waiting
    ]
    for _ in range(2):
        await keeper.keep(3, events)
    rows = await superuser.fetch(
        "SELECT tenant_id, segment_id FROM decision_evidence_artifacts WHERE tenant_id = ANY ($1)", everyone
    )
    segments = dict(rows)
    assert segments[tenants["enterprise"]] == segments[unlisted], "who is not listed is kept longest"
    for tenant, days in ((tenants["free"], 7), (tenants["enterprise"], 365)):
        mode, until = _lock(owner, store, segment_key(segments[tenant]))
        assert mode == "COMPLIANCE"
        assert abs(until - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=5)
