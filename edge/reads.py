"""What a sender may ask: the life of an event, its limits, and whether this edge serves."""

from typing import Annotated
from urllib.parse import unquote_to_bytes

import msgspec

from edge.gate import Gate
from edge.ports import EdgePorts
from edge.problem import finding
from edge.refusals import not_found, refusal
from edge.settings import EdgeSettings
from edge.transport import JSON, Request, Response
from schemas.answers import NoAnswer
from schemas.ids import is_event_id
from schemas.principal import Principal, Scope

EVENTS_PREFIX = b"/v1/events/"


class Limits(msgspec.Struct, frozen=True):
    """The limits in force for the sender's tenant. Ages are of `created_at`, bytes of the body as sent."""

    tenant_id: str
    plan_tier: str
    body_bytes_max: int
    payload_bytes_max: int
    batch_bytes_max: int
    batch_lines_max: int
    json_depth_max: int
    json_nodes_max: int
    event_age_ms_max: int
    created_at_future_ms_max: int
    queue_depth_hardstop: Annotated[int, msgspec.Meta(description="Unsettled events of the tenant in one queue")]
    integrity_required: bool
    schema_versions: tuple[str, ...]


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

    async def event(self, request: Request) -> Response:
        """The whole life of one event. Foreign, unknown and impossible ids are answered alike."""
        sender = await self._gate.sender(request, Scope.EVENTS_READ)
        if not isinstance(sender, Principal):
            return refusal(request, sender)
        event_id = unquote_to_bytes(request.path[len(EVENTS_PREFIX) :]).decode("latin-1")
        if not is_event_id(event_id):
            return not_found(request)
        try:
            life = await self._ports.lives.life_of(sender.tenant_id, event_id)
        except NoAnswer as failure:
            return refusal(request, finding(failure.code))
        return not_found(request) if life is None else Response(200, JSON, life)

    async def limits(self, request: Request) -> Response:
        """What the sender's tenant may send."""
        sender = await self._gate.sender(request, None)
        if not isinstance(sender, Principal):
            return refusal(request, sender)
        settings = self._settings
        limits = Limits(
            tenant_id=sender.tenant_id,
            plan_tier=sender.plan_tier,
            body_bytes_max=settings.body_bytes_max,
            payload_bytes_max=settings.payload_bytes_max,
            batch_bytes_max=settings.batch_bytes_max,
            batch_lines_max=settings.batch_lines_max,
            json_depth_max=settings.json_depth_max,
            json_nodes_max=settings.json_nodes_max,
            event_age_ms_max=settings.event_age_ms_max,
            created_at_future_ms_max=settings.created_at_future_ms_max,
            queue_depth_hardstop=self._ports.queue_depth_hardstop,
            integrity_required=settings.integrity_required,
            schema_versions=settings.schema_versions,
        )
        return Response(200, JSON, _encode(limits))

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
