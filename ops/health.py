"""`/livez`, `/readyz` and `/metrics` of one service."""

from collections.abc import Callable
from http import HTTPStatus

import msgspec

from ops.admin_http import AdminServer, Answer
from ops.telemetry import PrometheusMeter
from schemas.readiness import Readiness

JSON = "application/json"


def admin_server(host: str, port: int, readiness: Callable[[], Readiness], meter: PrometheusMeter) -> AdminServer:
    async def livez() -> Answer:
        return Answer(HTTPStatus.OK, JSON, b'{"live":true}')

    async def readyz() -> Answer:
        now = readiness()
        status = HTTPStatus.SERVICE_UNAVAILABLE if now.reasons else HTTPStatus.OK
        return Answer(status, JSON, msgspec.json.encode({"ready": not now.reasons, **now._asdict()}))

    async def metrics() -> Answer:
        text, content_type = meter.exposition()
        return Answer(HTTPStatus.OK, content_type, text)

    return AdminServer(host, port, {"/livez": livez, "/readyz": readyz, "/metrics": metrics})
