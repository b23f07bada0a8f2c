"""Making bundles of evidence: what the operator's command and the worker share."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from ops.evidence_files import CheckpointSecretError, read_checkpoint_secret
from ops.evidence_parts import worm_of
from schemas.answers import NoAnswer, Refusal
from schemas.codes import Code
from schemas.units import Clock
from sinks import keyring
from sinks.bundle_range import NothingToExportError, RangeWatch, Standing, ask_for_checkpoint, range_of
from sinks.bundle_source import Range
from sinks.bundle_tar import TooLargeError
from sinks.bundles import BundleError, Bundler, Keys, Wanted, Written
from sinks.exports import ATTEMPTS_MAX, Exports, Pieces, Requested
from sinks.keyring import KeyringError
from sinks.pg import Pool
from sinks.segments import EvidenceError
from sinks.settings import EvidenceSettings
from sinks.signing import KeyFileError, Signer
from sinks.worm import Worm

log = logging.getLogger("ops")

LOOK_S = 0.5
POLL_S = 1.0
WAIT_S = 20.0
"""So long a bundle waits for its entries to be sealed and covered before another one gets its turn."""
LEASE = timedelta(minutes=15)
"""After this an order that a worker took and no longer holds is another worker's."""
RENEW_S = LEASE.total_seconds() / 5
"""A worker says so often that it is still at an order, however long it builds."""
PAUSE = timedelta(minutes=1)
"""Between two attempts at one order."""


class NotReadyError(Exception):
    """The entries were not all sealed and covered in time."""

    def __init__(self, standing: Standing) -> None:
        super().__init__(
            f"of {standing.entries} entries {standing.sealed} are sealed and {standing.covered} covered by a checkpoint"
        )
        self.standing = standing


class Patience(NamedTuple):
    """How long to wait for a worker, and who is told how it goes."""

    wait_s: float
    told: Callable[[Standing], None]


def keys_of(settings: EvidenceSettings) -> Keys:
    """What bundles are signed with. Raises KeyFileError, KeyringError and CheckpointSecretError."""
    return Keys(
        Signer.load(settings.signing_key_file),
        keyring.load(settings.keyring_file),
        read_checkpoint_secret(settings.checkpoint_secret_file),
    )


def bundler_of(settings: EvidenceSettings, pool: Pool, clock: Clock) -> Bundler:
    """Raises as `keys_of` and `worm_of`."""
    return Bundler(pool, worm_of(settings), keys_of(settings), clock)


async def until_ready(pool: Pool, wanted: Range, patience: Patience) -> None:
    """Return once the worker has sealed and covered every entry of the range.

    Raises NotReadyError when it has not after the time to wait, and NoAnswer.
    """
    watch = RangeWatch(pool, wanted)
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + patience.wait_s
    standing = await watch.look()
    if not standing.ready:
        await ask_for_checkpoint(pool, wanted.tenant_id)
    while not standing.ready:
        patience.told(standing)
        if loop.time() >= deadline_s:
            raise NotReadyError(standing)
        await asyncio.sleep(LOOK_S)
        standing = await watch.look()
        if standing.sealed == standing.entries > standing.covered:
            await ask_for_checkpoint(pool, wanted.tenant_id)


class Exporter:
    """Builds the bundles that tenants ask for over HTTP, one at a time."""

    def __init__(
        self, settings: EvidenceSettings, pool: Pool, worm: Worm, clock: Clock, permitted: Callable[[], bool]
    ) -> None:
        """`permitted`: whether anything may be signed now."""
        self._permitted = permitted
        self._settings = settings
        self._pool = pool
        self._worm = worm
        self._clock = clock
        self._exports = Exports(pool)

    async def run(self, stopping: asyncio.Event) -> None:
        """Build until `stopping` is set; a bundle in the making is then left for the next worker."""
        building = asyncio.create_task(self._build())
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({building, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            building.cancel()
            stopped.cancel()
            await asyncio.gather(building, stopped, return_exceptions=True)
        if not building.cancelled():
            building.result()

    async def _build(self) -> None:
        while True:
            if not await self._next():
                await asyncio.sleep(POLL_S)

    async def _next(self) -> bool:
        """Whether there was an order to work on. One that could not be worked on now waits for its next turn.

        While nothing may be signed none is taken: an order has so many attempts, and this would be none.
        """
        if not self._permitted():
            return False
        try:
            taken = await self._exports.take(LEASE)
            if taken is None:
                return False
            await self._one(taken)
        except NoAnswer as failure:
            log.warning("a bundle of evidence has to wait: %s", failure.code)
            return False
        return True

    async def _held(self, taken: Requested, pieces: Pieces) -> Written:
        """The bundle; while it is built its order is nobody else's: built twice, the first would give it up.

        When this ends nothing renews the order any more, so that it can be given back. Raises what building raises,
        and at once what ends the holding.
        """
        building = asyncio.create_task(self._built(taken, pieces))
        holding = asyncio.create_task(self._hold(taken))
        try:
            await asyncio.wait({building, holding}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            building.cancel()
            holding.cancel()
            await asyncio.gather(building, holding, return_exceptions=True)
        if not holding.cancelled():
            holding.result()
        return building.result()

    async def _hold(self, taken: Requested) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._exports.hold(taken, LEASE)
            except NoAnswer as failure:  # the lease outlasts some of these
                log.warning("an order of evidence cannot be held for now: %s", failure.code)

    async def _one(self, taken: Requested) -> None:
        pieces = Pieces(self._worm, f"exports/{taken.tenant_id}/{taken.bundle_id}")
        try:
            written = await self._held(taken, pieces)
        except (NotReadyError, NoAnswer) as problem:
            await self._again(taken, problem)
        except NothingToExportError:
            await self._exports.failed(taken, "there is no evidence of that time")
        except TooLargeError as problem:
            await self._exports.failed(taken, str(problem))
        except (EvidenceError, Refusal) as problem:
            log.error("a bundle of evidence cannot be made: %s", problem)  # noqa: TRY400  (the sentence is all there is)
            await self._exports.failed(taken, Code.EVIDENCE_UNVERIFIED)
        except (BundleError, KeyFileError, KeyringError, CheckpointSecretError) as problem:
            log.error("a bundle of evidence cannot be signed: %s", problem)  # noqa: TRY400  (as above)
            await self._exports.failed(taken, "evidence cannot be signed here")
        else:
            await self._exports.done(taken, written, pieces)

    async def _built(self, taken: Requested, pieces: Pieces) -> Written:
        keys = keys_of(self._settings)
        wanted = await self._range(taken)
        await until_ready(self._pool, wanted, Patience(WAIT_S, lambda _: None))
        if not self._permitted():  # an objection may have come while it was waited
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        bundler = Bundler(self._pool, self._worm, keys, self._clock)
        bundle = Wanted(taken.bundle_id, wanted, taken.order.include_trace)
        written = await bundler.write(bundle, pieces.write, lambda *_: None)
        await pieces.close()
        return written

    async def _range(self, taken: Requested) -> Range:
        """Chosen by an order's first attempt: the later ones then build the same pieces, and not one more copy."""
        if taken.range is not None:
            return taken.range
        order = taken.order
        found = await range_of(self._pool, taken.tenant_id, order.ingested_from, order.ingested_to)
        await self._exports.chosen(taken, found)
        return found

    async def _again(self, taken: Requested, problem: NotReadyError | NoAnswer) -> None:
        """The order waits for its next attempt, or has had its last one."""
        log.warning("a bundle of evidence has to wait: %s", problem)
        if taken.attempt < ATTEMPTS_MAX:
            await self._exports.give_back(taken, PAUSE)
        else:
            await self._exports.failed(taken, f"given up after {taken.attempt} attempts: {problem}")
