"""A minute of traffic while worker, edge, Postgres and NATS are killed at random: every promise is kept.

All events are innocent, so each that was accepted must be decided: a kill may cost it attempts, never its life.

FG_TEST_SEED repeats a run, FG_CHAOS_SECONDS makes it longer.
"""

import asyncio
import os
import random
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from chaos import nemesis
from chaos.checker import canaries_in, check
from chaos.history import events
from chaos.stores import foreign_rows, state_of, unfinished, unsealed
from chaos.traffic import Client, Sender
from ops.bench.stack import RunningStack, running_stack
from schemas.answers import NoAnswer
from sinks.worm import DirectoryWorm

SECONDS = float(os.environ.get("FG_CHAOS_SECONDS", "60"))
CLIENTS = 4
TENANTS = 3
REST_S_MAX = 90.0
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "verify_data_plane_hashchain.py"


async def test_with_every_process_killed_at_random_nothing_is_lost_buried_doubled_or_billed_twice(
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("FG_TEST_SEED", random.randrange(2**32)))
    strikes = nemesis.plan(seed, SECONDS)
    print(f"seed={seed} seconds={SECONDS} strikes={len(strikes)}")
    ledgers = [tmp_path / f"client-{number}.jsonl" for number in range(CLIENTS)]
    async with running_stack(tmp_path / "stack") as running:
        senders = await running.senders(TENANTS)
        clients = _clients(running, [Sender(sender.tenant_id, sender.api_key) for sender in senders], ledgers, seed)
        stack_file = Path(running.stack.data_dir) / "stack.json"
        met = await asyncio.to_thread(nemesis.run, stack_file, strikes, print)
        for client in clients:
            await asyncio.to_thread(client.stop)
        assert met >= len(nemesis.VICTIMS)
        accepted = sum(len(client.accepted) for client in clients)
        assert accepted > 0
        tenant_ids = [sender.tenant_id for sender in senders]
        await _come_to_rest(running, tenant_ids, accepted)

        history = list(events(ledgers))
        dsn = running.stack.postgres_dsn
        states = [await state_of(dsn, tenant_id) for tenant_id in tenant_ids]
        print(f"{len(history)} events, {sum(len(event.requests) for event in history)} requests, {accepted} accepted")
        assert check(history, states) == []
        assert [state.dead for state in states] == [frozenset()] * TENANTS  # none of these events is at fault
        worm = DirectoryWorm(Path(running.stack.data_dir) / "worm")
        assert [await unsealed(dsn, tenant_id, worm) for tenant_id in tenant_ids] == [[]] * TENANTS
        written = [*(Path(running.stack.data_dir) / "logs").iterdir(), _metrics(running, tmp_path)]
        assert canaries_in(written) == []
        for service in ("edge", "worker"):
            service_dsn = await _service_dsn(running, service)
            assert [await foreign_rows(service_dsn, tenant_id) for tenant_id in tenant_ids] == [[]] * TENANTS
        await _strangers_agree(dsn)


def _clients(running: RunningStack, senders: Sequence[Sender], ledgers: Sequence[Path], seed: int) -> list[Client]:
    port = urlsplit(running.stack.url).port
    assert port is not None
    clients = [
        Client(f"client-{number}", port, senders[number % len(senders)], ledger, seed + number)
        for number, ledger in enumerate(ledgers)
    ]
    for client in clients:
        client.start()
    return clients


async def _come_to_rest(running: RunningStack, tenant_ids: Sequence[str], accepted: int) -> None:
    left = ["never asked"]
    try:
        async with asyncio.timeout(REST_S_MAX):
            while left:
                try:
                    left = await unfinished(running.stack.postgres_dsn, tenant_ids, accepted)
                except NoAnswer as away:  # the last strike may have been Postgres
                    left = [str(away)]
                await asyncio.sleep(0.2)
    except TimeoutError:
        log = (Path(running.stack.data_dir) / "logs" / "worker.log").read_text(errors="replace")
        raise AssertionError(f"no rest after {REST_S_MAX} s: {left}\n{log[-2_000:]}") from None


def _metrics(running: RunningStack, home: Path) -> Path:
    file = home / "metrics.txt"
    with urllib.request.urlopen(f"{running.stack.admin_url}/metrics", timeout=5) as answer:  # noqa: S310  (our own)
        file.write_bytes(answer.read())
    return file


async def _service_dsn(running: RunningStack, service: str) -> str:
    """As the service itself has it, once it is there: the last strike may have been its own."""
    async with asyncio.timeout(REST_S_MAX):
        while True:
            pid = nemesis.pids(Path(running.stack.data_dir) / "stack.json")[service]
            with suppress(FileNotFoundError, ProcessLookupError):
                said = Path(f"/proc/{pid}/environ").read_text()
                values = dict(pair.partition("=")[::2] for pair in said.split("\0") if "=" in pair)
                if dsn := values.get("FG_POSTGRES_DSN"):  # one that has just been killed has none left
                    return dsn
            await asyncio.sleep(0.1)


async def _strangers_agree(dsn: str) -> None:
    """The offline verifier, on the live database."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), "--dsn", dsn)
    assert await process.wait() == 0
