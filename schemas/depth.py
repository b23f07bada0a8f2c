"""How deep a tenant's queue is: what the streams measure and the edge gates by."""

from typing import NamedTuple


class LaneDepth(NamedTuple):
    """Unsettled messages of one tenant in each lane; the fields' names are the lanes' names."""

    ingest: int
    decide: int
    retry: int

    @property
    def messages(self) -> int:
        return self.ingest + self.decide + self.retry


LANES = LaneDepth._fields
