"""The usual way: FastAPI validates the event, FastStream publishes it, the acknowledgement is awaited one by one.

It checks no credential, no duplicate and no integrity. Needs the dependency group `bench`.

    python -m ops.bench.framework_edge config.json
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import uvicorn
from fastapi import FastAPI
from faststream.nats import NatsBroker

from ops.bench.reference import STREAM, SUBJECT, ReferenceConfig, listener, read_config


@dataclass
class Event:
    """The envelope; FastAPI makes a pydantic model of it."""

    tenant_id: str
    event_id: str
    trace_id: UUID
    agent_id: str
    schema_version: str
    created_at: datetime
    source: str
    payload: dict[str, Any]


def make_app(config: ReferenceConfig) -> FastAPI:
    broker = NatsBroker(config.nats_url)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with broker:
            yield

    async def ingest(event: Event) -> dict[str, str]:
        await broker.publish(
            event,
            SUBJECT,
            stream=STREAM,
            headers={"Nats-Msg-Id": f"{event.tenant_id}/{event.event_id}"},
        )
        return {"status": "accepted", "tenant_id": event.tenant_id, "event_id": event.event_id}

    app = FastAPI(lifespan=lifespan)
    app.add_api_route("/ingest", ingest, methods=["POST"], status_code=202)
    return app


def main() -> None:
    """Serve until told to stop."""
    config = read_config()
    server = uvicorn.Server(uvicorn.Config(make_app(config), log_level="warning", access_log=False))
    server.run(sockets=[listener(config.port)])


if __name__ == "__main__":
    main()
