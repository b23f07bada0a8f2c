"""The store of evidence for a process that only serves from it."""

from ops.evidence_parts import worm_of
from schemas.answers import NoAnswer
from schemas.codes import Code
from sinks.settings import EvidenceSettings
from sinks.worm import Worm


class LateWorm:
    """A `Worm` that is opened when it is first asked: an edge serves events, with or without a store of evidence."""

    def __init__(self, settings: EvidenceSettings) -> None:
        self._settings = settings
        self._worm: Worm | None = None

    async def put(self, key: str, data: bytes, *, retain_days: int) -> None:
        await self._opened().put(key, data, retain_days=retain_days)

    async def get(self, key: str) -> bytes | None:
        return await self._opened().get(key)

    async def get_range(self, key: str, offset: int, length: int) -> bytes | None:
        return await self._opened().get_range(key, offset, length)

    async def ping(self) -> bool:
        try:
            return await self._opened().ping()
        except NoAnswer:
            return False

    async def faults(self) -> list[str]:
        try:
            return await self._opened().faults()
        except NoAnswer:
            return ["the WORM store is not there"]

    def _opened(self) -> Worm:
        """Raises NoAnswer while the store is not there."""
        if self._worm is None:
            try:
                self._worm = worm_of(self._settings)
            except NotADirectoryError:
                raise NoAnswer(Code.STORE_UNAVAILABLE) from None
        return self._worm
