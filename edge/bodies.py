"""Memory for request bodies: each tenant may take as much of it as it leaves to the others."""

from collections.abc import Iterator
from contextlib import contextmanager

BODIES_BYTES_MAX = 64 * 1024 * 1024


class Bodies:
    """Bodies under way in this process, by the length their heads announce. Not thread-safe: one event loop."""

    def __init__(self) -> None:
        self._bytes = 0
        self._bytes_of: dict[str, int] = {}

    @contextmanager
    def held(self, tenant_id: str, size: int) -> Iterator[bool]:
        """Whether there is room for so many bytes; then they are taken until the block is left.

        What a tenant holds may not exceed what is then left free, so a lone tenant gets half of all,
        and one that holds little finds room while others hold as much as they may.
        """
        own = self._bytes_of.get(tenant_id, 0) + size
        if own > BODIES_BYTES_MAX - self._bytes - size:
            yield False
            return
        self._take(tenant_id, size)
        try:
            yield True
        finally:
            self._take(tenant_id, -size)

    def _take(self, tenant_id: str, size: int) -> None:
        self._bytes += size
        own = self._bytes_of.get(tenant_id, 0) + size
        if own:
            self._bytes_of[tenant_id] = own
        else:
            self._bytes_of.pop(tenant_id, None)
