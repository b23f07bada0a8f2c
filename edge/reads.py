"""What a sender may ask: the life of an event, its limits, and whether this edge serves."""

from urllib.parse import unquote_to_bytes

import msgspec

from edge.admission import Admissions, Standing
from edge.gate import Gate
from edge.limits_document import document
from edge.ports import EdgePorts
from edge.problem import finding
from edge.refusals import not_found, refusal
from edge.settings import EdgeSettings
from edge.standing import standing_headers
from edge.transport import JSON, Request, Response
from edge.turns import TenantTurns
from schemas.answers import NoAnswer
from schemas.ids import is_event_id
from schemas.principal import Principal, Scope

EVENTS_PREFIX = b"/v1/events/"
READS_AT_ONCE = 1
"""Of one tenant at one edge."""


class Ready(msgspec.Struct, frozen=True):
    """Why this edge should get no traffic (`reasons`), and what it does without for now (`degraded`)."""

    ready: bool
    reasons: tuple[str, ...]
    degraded: tuple[str, ...]


_encode = msgspec.json.Encoder().encode


class ReadEndpoints:
    """The GET side."""

    def __init__(self, settings: EdgeSettings, ports: EdgePorts, gate: Gate, openapi: bytes) -> None:
        self._settings = settings
        self._ports = ports
        self._gate = gate
        self._openapi = openapi
        self._admissions = Admissions(ports, settings)
        self._turns = TenantTurns(READS_AT_ONCE)

    async def event(self, request: Request) -> Response:
        """The whole life of one event. Foreign, unknown and impossible ids are answered alike."""
        sender = await self._gate.sender(request, Scope.EVENTS_READ)
        if not isinstance(sender, Principal):
            return refusal(request, sender)
        event_id = unquote_to_bytes(request.path[len(EVENTS_PREFIX) :]).decode("latin-1")
        if not is_event_id(event_id):
            return not_found(request)
        try:
            async with self._turns.of(sender.tenant_id).one():
                life = await self._ports.lives.life_of(sender.tenant_id, event_id, sender.agent_id)
        except NoAnswer as failure:
            return refusal(request, finding(failure.code))
        return not_found(request) if life is None else Response(200, JSON, life)

    async def limits(self, request: Request) -> Response:
        """What the sender's tenant may send now. Asking costs nothing of it."""
        sender = await self._gate.sender(request, None)
        if not isinstance(sender, Principal):
            return refusal(request, sender)
        standing = await self._admissions.of(sender, (), None)
        if not isinstance(standing, Standing):
            return refusal(request, standing)
        depth = self._ports.depths.of(sender.tenant_id)
        limits = document(sender, standing, depth, self._settings, self._ports.queues)
        return Response(200, JSON, _encode(limits), standing_headers(standing))

    async def openapi(self, _request: Request) -> Response:
        """The contract as an OpenAPI document."""
        return Response(200, JSON, self._openapi)

    async def livez(self, _request: Request) -> Response:
        """The event loop turns."""
        return Response(200, JSON, b'{"live":true}')

    async def readyz(self, _request: Request) -> Response:
        """200 while this edge should get traffic, else 503 with the reasons."""
        readiness = self._ports.readiness()
        ready = not readiness.reasons
        return Response(200 if ready else 503, JSON, _encode(Ready(ready, readiness.reasons, readiness.degraded)))
