"""Waiting that a stop cuts short: what every loop of the standing checks does between two rounds."""

import asyncio


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Return once the event is set or the time is over; whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
