"""Bundles that tenants order: each is built once, by one worker at a time, and one that cannot be says why."""

import asyncio
import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ops import exporter
from ops.clock import SystemClock, new_uuid7
from ops.exporter import Exporter
from ops.settings import load
from schemas.answers import NoAnswer
from schemas.codes import Code
from sinks import bundle_tar
from sinks.bundle_source import Range
from sinks.bundles import Keys
from sinks.exports import ATTEMPTS_MAX, ExportDesk, Exports, Requested
from sinks.pg import Pool
from sinks.segments import EvidenceError
from sinks.worm import DirectoryWorm
from tests.integration.sinks.bundling import lost_round, verdict, written
from tests.integration.sinks.sealed import SECRET, Evidence

_HELD = "SELECT taken_until > now() + interval '1 minute' FROM export_requests WHERE tenant_id = $1"


@pytest.fixture
def evidence(worker: Pool, tmp_path: Path) -> Evidence:
    return Evidence.begin(worker, tmp_path)


class Worker:
    """The worker's exporter over evidence of a test, and what an edge asks of it."""

    def __init__(self, evidence: Evidence, edge: Pool, worm: DirectoryWorm) -> None:
        self.permitted = True
        self.exporter = Exporter(load({}).evidence, evidence.pool, worm, SystemClock(), lambda: self.permitted)
        self.desk = ExportDesk(edge, worm)

    async def order(self, tenant: str) -> str:
        bundle_id = new_uuid7()
        assert await self.desk.order(tenant, bundle_id, ("", "", True), "key") == 0
        return bundle_id

    async def attempt(self, tenant: str, bundle_id: str) -> Any:
        """How the bundle stands once every order there is had a turn."""
        while await self.exporter._next():
            pass
        found = await self.desk.status(tenant, bundle_id)
        assert found is not None
        return msgspec.json.decode(found)


@pytest.fixture
def signing(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter finds its keys, and waits for nothing."""
    monkeypatch.setattr(exporter, "keys_of", lambda _: Keys(evidence.signer, evidence.keyring, SECRET))
    monkeypatch.setattr(exporter, "WAIT_S", 0)


@pytest.mark.usefixtures("signing")
async def test_an_order_that_is_too_large_fails_and_says_what_to_do(
    evidence: Evidence, edge: Pool, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await evidence.keep(tenant, range(5))
    worker = Worker(evidence, edge, evidence.worm)
    monkeypatch.setattr(bundle_tar, "MEMBER_BYTES_MAX", 1_000)
    status = await worker.attempt(tenant, await worker.order(tenant))
    assert status["status"] == "failed"
    assert "choose a shorter time" in status["bundle"]["reason"]


@pytest.mark.usefixtures("signing")
async def test_an_order_that_never_becomes_ready_fails_after_its_attempts(
    evidence: Evidence, edge: Pool, tenant: str, superuser: Any
) -> None:
    await evidence.decide(tenant, range(3))
    worker = Worker(evidence, edge, evidence.worm)
    bundle_id = await worker.order(tenant)
    for _ in range(ATTEMPTS_MAX - 1):
        assert (await worker.attempt(tenant, bundle_id))["status"] == "pending"
        await superuser.execute("UPDATE export_requests SET taken_until = now() WHERE tenant_id = $1", tenant)
    status = await worker.attempt(tenant, bundle_id)
    assert (status["status"], status["bundle"]["reason"]) == (
        "failed",
        "given up after 5 attempts: of 3 entries 0 are sealed and 0 covered by a checkpoint",
    )


@pytest.mark.usefixtures("signing")
@pytest.mark.parametrize(
    "change",
    ["segment_id = 'nonsense'", "segment_id = '../../x'", "segment_offset = -1", "segment_offset = 1::bigint << 40"],
)
async def test_an_index_row_that_was_altered_fails_its_order_and_holds_up_no_other(
    evidence: Evidence, edge: Pool, tenant: str, superuser: Any, change: str
) -> None:
    other = f"{tenant}-other"
    for one in (tenant, other):
        await evidence.keep(one, range(3))
    statement = "UPDATE decision_evidence_artifacts SET CHANGE WHERE tenant_id = $1 AND chain_seq = 2"
    await superuser.execute(statement.replace("CHANGE", change), tenant)
    worker = Worker(evidence, edge, evidence.worm)
    altered, whole = await worker.order(tenant), await worker.order(other)
    status = await worker.attempt(tenant, altered)
    assert (status["status"], status["bundle"]["reason"]) == ("failed", Code.EVIDENCE_UNVERIFIED)
    assert (await worker.attempt(other, whole))["status"] == "ready"
    with pytest.raises(EvidenceError):
        await written(evidence.bundler, Range(tenant, 1, 3))


class Paused(DirectoryWorm):
    """A store whose first object takes as long as a test says."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reached, self.going_on = asyncio.Event(), asyncio.Event()

    async def put(self, key: str, data: bytes, *, retain_days: int) -> None:
        self.reached.set()
        await self.going_on.wait()
        await super().put(key, data, retain_days=retain_days)


@pytest.mark.usefixtures("signing")
async def test_an_order_that_is_being_built_is_taken_by_no_other_worker_however_long_it_takes(
    evidence: Evidence, edge: Pool, tenant: str, superuser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "RENEW_S", 0.01)
    await evidence.keep(tenant, range(3))
    store = Paused(tmp_path)
    worker, other = Worker(evidence, edge, store), Worker(evidence, edge, evidence.worm)
    bundle_id = await worker.order(tenant)
    building = asyncio.create_task(worker.attempt(tenant, bundle_id))
    async with asyncio.timeout(60):
        await store.reached.wait()
        for _ in range(ATTEMPTS_MAX + 1):
            await superuser.execute("UPDATE export_requests SET taken_until = now() WHERE tenant_id = $1", tenant)
            while not await superuser.fetchval(_HELD, tenant):
                continue
            assert not await other.exporter._next()
        store.going_on.set()
        status = await building
    assert (status["status"], status["bundle"]["last_seq"]) == ("ready", 3)


@pytest.mark.usefixtures("signing")
async def test_an_order_that_another_worker_has_taken_over_is_not_given_back_by_the_first(
    evidence: Evidence, edge: Pool, tenant: str, superuser: Any
) -> None:
    await evidence.keep(tenant, range(3))
    worker = Worker(evidence, edge, evidence.worm)
    await worker.order(tenant)
    exports = Exports(evidence.pool)
    first = await exports.take(timedelta(0))
    assert first is not None
    second = await exports.take(timedelta(hours=1))
    assert second is not None
    await exports.give_back(first, timedelta(0))
    assert await superuser.fetchval(_HELD, tenant)
    await exports.give_back(second, timedelta(0))
    assert not await superuser.fetchval(_HELD, tenant)


@pytest.mark.usefixtures("signing")
async def test_no_order_is_taken_and_none_signed_while_nothing_may_be(
    evidence: Evidence, edge: Pool, tenant: str, superuser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await evidence.keep(tenant, range(3))
    worker = Worker(evidence, edge, evidence.worm)
    bundle_id = await worker.order(tenant)
    worker.permitted = False
    assert (await worker.attempt(tenant, bundle_id))["status"] == "pending"
    assert await superuser.fetchval("SELECT attempts FROM export_requests WHERE tenant_id = $1", tenant) == 0

    async def objected(*_waited: object) -> None:
        worker.permitted = False

    worker.permitted = True
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(exporter, "until_ready", objected)
        assert (await worker.attempt(tenant, bundle_id))["status"] == "pending"
    assert not (tmp_path / "exports").exists()
    worker.permitted = True
    await superuser.execute("UPDATE export_requests SET taken_until = now() WHERE tenant_id = $1", tenant)
    assert (await worker.attempt(tenant, bundle_id))["status"] == "ready"


class Renewing(Exports):
    """Every renewal of an order is under way until it is called off, or breaks in a way that nobody foresaw."""

    def __init__(self, pool: Pool, *, breaks: bool) -> None:
        super().__init__(pool)
        self.breaks = breaks
        self.begun, self.under_way, self.at_return = asyncio.Event(), 0, -1

    async def hold(self, taken: Requested, lease: timedelta) -> None:
        if lease != exporter.LEASE:
            await super().hold(taken, lease)
            return
        self.begun.set()
        self.under_way += 1
        try:
            if self.breaks:
                raise RuntimeError("unforeseen")
            await asyncio.Event().wait()
        finally:
            self.under_way -= 1

    async def give_back(self, taken: Requested, pause: timedelta) -> None:
        self.at_return = self.under_way
        await super().give_back(taken, pause)


@pytest.mark.usefixtures("signing")
async def test_an_order_is_given_back_once_nothing_renews_it_any_more(
    evidence: Evidence, edge: Pool, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "RENEW_S", 0)
    await evidence.keep(tenant, range(3))
    exports = Renewing(evidence.pool, breaks=False)
    worker = Worker(evidence, edge, GoingAway(tmp_path, exports.begun))
    worker.exporter._exports = exports
    assert (await worker.attempt(tenant, await worker.order(tenant)))["status"] == "pending"
    assert exports.begun.is_set()
    assert exports.at_return == 0


@pytest.mark.usefixtures("signing")
async def test_what_ends_the_renewals_of_an_order_ends_its_building_at_once(
    evidence: Evidence, edge: Pool, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "RENEW_S", 0)
    await evidence.keep(tenant, range(3))
    worker = Worker(evidence, edge, Paused(tmp_path))
    worker.exporter._exports = Renewing(evidence.pool, breaks=True)
    await worker.order(tenant)
    async with asyncio.timeout(60):
        with pytest.raises(RuntimeError, match="unforeseen"):
            await worker.exporter._next()


class Halting(DirectoryWorm):
    """A store that goes away after so many objects."""

    left = 0

    async def put(self, key: str, data: bytes, *, retain_days: int) -> None:
        if not self.left:
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        self.left -= 1
        await super().put(key, data, retain_days=retain_days)


class GoingAway(Halting):
    """A store that goes away at its first object, once something has happened."""

    def __init__(self, root: Path, until: asyncio.Event) -> None:
        super().__init__(root)
        self.until = until

    async def put(self, key: str, data: bytes, *, retain_days: int) -> None:
        await self.until.wait()
        await super().put(key, data, retain_days=retain_days)


@pytest.mark.usefixtures("signing")
async def test_attempts_at_one_order_share_its_pieces(
    evidence: Evidence, edge: Pool, tenant: str, superuser: Any, tmp_path: Path
) -> None:
    """Evidence that was committed between them changes nothing of what they build."""
    await evidence.keep(tenant, range(1_200))
    store = Halting(tmp_path)
    worker = Worker(evidence, edge, store)
    bundle_id = await worker.order(tenant)
    store.left = 2
    assert (await worker.attempt(tenant, bundle_id))["status"] == "pending"
    await evidence.keep(tenant, range(1_200, 1_300))
    await superuser.execute("UPDATE export_requests SET taken_until = now() WHERE tenant_id = $1", tenant)
    store.left = 100
    status = await worker.attempt(tenant, bundle_id)
    assert (status["status"], status["bundle"]["last_seq"]) == ("ready", 1_200)
    content = await worker.desk.content(tenant, bundle_id)
    assert content is not None
    file = io.BytesIO(b"".join([piece async for piece in content[1]]))
    assert verdict(file, evidence) == (0, "the bundle is whole")
    stored = [path.stat().st_size for path in (tmp_path / "exports").rglob("*") if path.is_file()]
    assert sum(stored) == status["bytes"] == len(file.getvalue())


@pytest.mark.usefixtures("signing")
async def test_an_order_on_a_database_that_is_older_than_its_store_fails(
    evidence: Evidence, edge: Pool, tenant: str
) -> None:
    await evidence.keep(tenant, range(3))
    await lost_round(evidence, tenant)
    worker = Worker(evidence, edge, evidence.worm)
    status = await worker.attempt(tenant, await worker.order(tenant))
    assert (status["status"], status["bundle"]["reason"]) == ("failed", Code.EVIDENCE_UNVERIFIED)
