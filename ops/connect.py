"""Reaching a broker that may not be there yet."""

import asyncio
import logging

from schemas.answers import NoAnswer
from streams.jetstream import JetStream

log = logging.getLogger("ops")

RETRY_S = 1.0


async def connected(url: str, role: str) -> JetStream:
    """Return a connection, however long that takes; a process without its broker is alive and not ready."""
    while True:
        try:
            return await JetStream.connect(url, role)
        except NoAnswer as failure:
            log.warning("the broker does not answer; trying again", extra={"error_code": failure.code.value})
            await asyncio.sleep(RETRY_S)
