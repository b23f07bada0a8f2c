"""The checker reads the artifacts themselves: an index row alone proves nothing."""

from pathlib import Path
from typing import Any

import pytest

from chaos import stores
from chaos.stores import unsealed
from ops.embedded import EmbeddedServers
from sinks.pg import Pool
from tests.integration.sinks.sealed import Evidence

COUNT = 7


@pytest.fixture
async def evidence(worker: Pool, tenant: str, tmp_path: Path) -> Evidence:
    made = Evidence.begin(worker, tmp_path)
    await made.decide(tenant, range(COUNT - 2))
    await made.seal(tenant)
    await made.decide(tenant, range(COUNT - 2, COUNT))
    await made.seal(tenant)
    return made


def _segments(directory: Path) -> list[Path]:
    """The smaller one first."""
    return sorted(directory.rglob("*.dsse"), key=lambda file: file.stat().st_size)


async def test_evidence_that_lies_where_the_index_says_is_no_finding(
    servers: EmbeddedServers, evidence: Evidence, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever number of pages it takes."""
    for at_once in (1, 3, COUNT, 100):
        monkeypatch.setattr(stores, "ARTIFACTS_AT_ONCE", at_once)
        assert await unsealed(servers.postgres_dsn("admin"), tenant, evidence.worm) == []


async def test_each_artifact_of_a_segment_that_is_gone_is_named_whatever_page_it_is_on(
    servers: EmbeddedServers, evidence: Evidence, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "ARTIFACTS_AT_ONCE", 3)
    for lost, known in zip(_segments(tmp_path), (2, COUNT), strict=True):
        lost.unlink()
        found = await unsealed(servers.postgres_dsn("admin"), tenant, evidence.worm)
        assert len({words.partition(" ")[0] for words in found}) == len(found) == known
        assert {words.partition(": ")[2] for words in found} == {"the segment is gone"}


async def test_an_artifact_with_a_changed_byte_is_named_and_its_neighbours_are_not(
    servers: EmbeddedServers, evidence: Evidence, tenant: str, tmp_path: Path
) -> None:
    file = _segments(tmp_path)[0]
    data = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(data[:-3] + b"!" + data[-2:])
    (words,) = await unsealed(servers.postgres_dsn("admin"), tenant, evidence.worm)
    assert words.endswith("the artifact does not match its hash")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("artifact_sha256 = repeat('a', 64)", "the index names another artifact than the chain"),
        ("artifact_bytes = artifact_bytes - 1", "the index names another artifact than the chain"),
        ("artifact_class = 'dead_letter'", "an artifact of nothing in the chain"),
        ("segment_id = 'nowhere'", "an artifact is indexed in what is no segment"),
        ("segment_offset = segment_offset + 1", "the artifact does not match its hash"),
    ],
)
async def test_an_index_row_that_is_not_the_chains_is_named(
    servers: EmbeddedServers, superuser: Any, evidence: Evidence, tenant: str, change: str, fault: str
) -> None:
    await superuser.execute("SET session_replication_role = replica")  # rows are never changed otherwise
    await superuser.execute(
        f"UPDATE decision_evidence_artifacts SET {change} WHERE tenant_id = $1"  # noqa: S608  (a case of this test)
        " AND event_id = (SELECT min(event_id) FROM decision_evidence_artifacts WHERE tenant_id = $1)",
        tenant,
    )
    (words,) = await unsealed(servers.postgres_dsn("admin"), tenant, evidence.worm)
    assert words.endswith(f": {fault}")
