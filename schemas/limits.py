"""A tenant's own limits as an operator set them, and what it used: what the sinks read and the edge follows."""

from typing import NamedTuple

NO_QUOTA = 2**53 - 1
"""As a tenant's `events_per_month_max`: more than a month can bring, so that no quota is a number an operator set."""


class OwnLimits(NamedTuple):
    """What an operator set for one tenant. `events_per_month_max` None leaves the quota to the tenant's tier."""

    rps: int
    burst: int
    events_per_month_max: int | None


class TenantUse(NamedTuple):
    """`own` is None where no operator set anything. `events_this_month`: decided since the UTC month began."""

    own: OwnLimits | None
    events_this_month: int
