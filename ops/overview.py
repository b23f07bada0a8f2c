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


class _StackHealth(msgspec.Struct):
    ready: bool
    reasons: list[str]
    services: dict[str, msgspec.Raw]


class Overview:
    """Asks the services on their admin ports whenever it is asked itself.

    `servers_down` names the servers that have ended.
    """

    def __init__(self, ports: Mapping[str, int], servers_down: Callable[[], list[str]]) -> None:
        self._ports = ports
        self._servers_down = servers_down

    def server(self, host: str, port: int) -> AdminServer:
        routes: dict[str, Route] = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        return AdminServer(host, port, routes)

    async def reasons(self) -> list[str]:
        """Why the stack is not ready; empty when it is."""
        return (await self._health()).reasons

    async def _health(self) -> _StackHealth:
        reports = await asyncio.gather(*(self._health_of(port) for port in self._ports.values()))
        reasons = [f"{name} has ended" for name in self._servers_down()]
        for name, (health, _document) in zip(self._ports, reports, strict=True):
            reasons += [f"{name}: {reason}" for reason in health.reasons]
            if not health.ready and not health.reasons:
                reasons.append(f"{name}: not ready")
        documents = {name: document for name, (_health, document) in zip(self._ports, reports, strict=True)}
        return _StackHealth(not reasons, reasons, documents)

    async def _health_of(self, port: int) -> tuple[Health, msgspec.Raw]:
        try:
            answer = await fetch(HOST, port, "/readyz", ASK_S_MAX)
            health = msgspec.json.decode(answer.body, type=Health)
        except (OSError, msgspec.DecodeError):
            silent = Health(ready=False, reasons=["does not answer"])
            return silent, msgspec.Raw(msgspec.json.encode(silent))
        if health.ready and answer.status == HTTPStatus.OK:
            return Health(ready=True, reasons=[]), msgspec.Raw(answer.body)
        return Health(ready=False, reasons=health.reasons), msgspec.Raw(answer.body)

    async def _livez(self) -> Answer:
        return Answer(HTTPStatus.OK, _JSON, b'{"live":true}')

    async def _readyz(self) -> Answer:
        health = await self._health()
        status = HTTPStatus.OK if health.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(status, _JSON, msgspec.json.encode(health))

    async def _metrics(self) -> Answer:
        """What can be had: a service that does not answer has no series, which is how its absence shows."""
        answers = await asyncio.gather(*(self._metrics_of(port) for port in self._ports.values()))
        return Answer(HTTPStatus.OK, openmetrics.CONTENT_TYPE, openmetrics.joined(answers))

    async def _metrics_of(self, port: int) -> bytes:
        try:
            answer = await fetch(HOST, port, "/metrics", ASK_S_MAX)
        except OSError:
            return b""
        return answer.body if answer.status == HTTPStatus.OK else b""
