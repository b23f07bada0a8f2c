"""How the tenant stands, as headers (draft-ietf-httpapi-ratelimit-headers)."""

import math

from edge.admission import Standing


def standing_headers(standing: Standing) -> list[tuple[bytes, bytes]]:
    """`RateLimit-Policy` with the burst and the time to fill it, `RateLimit` with what is left of it.

    Under an emergency override nothing is counted, so nothing is claimed.
    """
    if standing.break_glass:
        return []
    rate_per_s, burst = standing.budget
    remaining = standing.admission.remaining
    window_s = math.ceil(burst / rate_per_s)
    refill_s = math.ceil((burst - remaining) / rate_per_s)
    return [
        (b"ratelimit-policy", b'"tenant";q=%d;w=%d' % (burst, window_s)),
        (b"ratelimit", b'"tenant";r=%d;t=%d' % (remaining, refill_s)),
    ]
