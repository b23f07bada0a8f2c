"""The depth gates: what a tenant whose queue is long is told, and when it may try again. Pure."""

import math

from edge.ports import Depth
from edge.problem import Findings, finding
from edge.settings import QueueSettings
from schemas.codes import Code

DRAINING_S_MAX = 30.0
GROWING_S_MAX = 300.0
MS_PER_S = 1_000


def refusal(depth: Depth | None, queues: QueueSettings) -> Findings | None:
    """Why an event of this depth's tenant may not be enqueued, None when it may.

    An unknown depth refuses. The broker is read directly where Redis is away, so what is unknown is
    unknown because the stream does not answer.
    """
    if depth is None:
        return finding(Code.STREAM_UNAVAILABLE)
    if depth.messages < queues.depth_shed:
        return None
    code = Code.INGEST_BACKPRESSURE_SHED
    if depth.messages >= queues.depth_hardstop:
        code = Code.INGEST_BACKPRESSURE_HARDSTOP
    return finding(code, retry_after_ms=retry_after_s(depth, queues) * MS_PER_S)


def retry_after_s(depth: Depth, queues: QueueSettings) -> int:
    """Whole seconds from 1 to 300; more for a deeper queue and for one that grows faster.

    A shrinking queue: until it will have come down to WARN, at most 30 s. Another one: from 30 s up
    to 300 s, for a queue that would go from SHED to HARDSTOP within a second.
    """
    if depth.slope_per_s < 0:
        wait_s = min(DRAINING_S_MAX, (depth.messages - queues.depth_warn) / -depth.slope_per_s)
    else:
        filled = depth.slope_per_s / (queues.depth_hardstop - queues.depth_shed)
        wait_s = DRAINING_S_MAX + (GROWING_S_MAX - DRAINING_S_MAX) * min(1.0, filled)
    return max(1, math.ceil(wait_s))
