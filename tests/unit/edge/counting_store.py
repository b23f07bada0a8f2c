"""The store of probes as a value a test can turn: what `probes.lua` answers, on the test's own clock."""

from typing import Any

from redis.exceptions import ConnectionError as NoConnectionError

from edge.probes import LOCAL, Became, LocalProbes
from edge.settings import BreakerSettings
from schemas.units import Clock


class CountingStore:
    """Stands where Redis stands. All breakers of one store are edges of one cluster."""

    def __init__(self, settings: BreakerSettings, clock: Clock) -> None:
        self._probes = LocalProbes(settings, clock)
        self.answers = True
        self.asked = 0

    async def execute_command(self, *command: Any) -> list[bytes | int]:
        self.asked += 1
        if not self.answers:
            raise NoConnectionError
        _, _, _, name, word, _, _, _, last = command
        if word == "ask":
            answer = await self._probes.ask(name, last)
        else:
            answer = await self._probes.report(name, LOCAL + last, Became(word))
        return [answer.word.value.encode(), answer.ms, answer.round.removeprefix(LOCAL).encode()]
