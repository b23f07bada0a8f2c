"""The admin port of `frostgate up`: what the whole stack says about itself."""

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus

import msgspec

from ops import openmetrics
from ops.admin_http import AdminServer, Answer, Route, fetch

HOST = "127.0.0.1"
"""Where the services' own admin ports are."""
ASK_S_MAX = 2.0
_JSON = "application/json"


class Health(msgspec.Struct):
    """What a service's `/readyz` says; whatever else it says is passed on as it is."""

    ready: bool
    reasons: list[str]


class StackHealth(msgspec.Struct):
    """The whole stack's, with each service's own words."""

    ready: bool
    reasons: list[str]
    services: dict[str, msgspec.Raw]


class Overview:
    """Asks the services on their admin ports whenever it is asked itself.

    `servers_down` names the servers that have ended. Services that measure the same are told apart
    by a `label` on every series, whose value is the service's name.
    """

    def __init__(self, ports: Mapping[str, int], servers_down: Callable[[], list[str]], label: str = "") -> None:
        self._ports = ports
        self._servers_down = servers_down
        self._label = label

    def server(self, host: str, port: int) -> AdminServer:
        routes: dict[str, Route] = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        return AdminServer(host, port, routes)

    async def health(self) -> StackHealth:
        """The stack is ready when every server runs and both services say that they are."""
        answers = await asyncio.gather(*(self._health_of(port) for port in self._ports.values()))
        services = dict(zip(self._ports, answers, strict=True))
        reasons = [f"{name} has ended" for name in self._servers_down()]
        reasons += [f"{name}: {reason}" for name, (health, _) in services.items() for reason in health.reasons]
        ready = not reasons and all(health.ready for health, _ in services.values())
        return StackHealth(ready, reasons, {name: document for name, (_, document) in services.items()})

    async def _health_of(self, port: int) -> tuple[Health, msgspec.Raw]:
        """What the service says of itself, and its own words."""
        try:
            answer = await fetch(HOST, port, "/readyz", ASK_S_MAX)
            return msgspec.json.decode(answer.body, type=Health), msgspec.Raw(answer.body)
        except (OSError, msgspec.DecodeError):
            silent = Health(ready=False, reasons=["does not answer"])
            return silent, msgspec.Raw(msgspec.json.encode(silent))

    async def _livez(self) -> Answer:
        return Answer(HTTPStatus.OK, _JSON, b'{"live":true}')

    async def _readyz(self) -> Answer:
        health = await self.health()
        status = HTTPStatus.OK if health.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(status, _JSON, msgspec.json.encode(health))

    async def _metrics(self) -> Answer:
        """What can be had: a service that does not answer has no series, which is how its absence shows."""
        answers = await asyncio.gather(*(self._metrics_of(name, port) for name, port in self._ports.items()))
        return Answer(HTTPStatus.OK, openmetrics.CONTENT_TYPE, openmetrics.joined(answers))

    async def _metrics_of(self, name: str, port: int) -> bytes:
        try:
            answer = await fetch(HOST, port, "/metrics", ASK_S_MAX)
        except OSError:
            return b""
        if answer.status != HTTPStatus.OK:
            return b""
        return openmetrics.labelled(answer.body, self._label, name) if self._label else answer.body
