"""Which asks share a call to the coordination store."""

from hypothesis import given
from hypothesis import strategies as st

from edge.coordination import IDS_PER_CALL_MAX, _shares
from edge.ports import Ask, Budget


@given(st.lists(st.integers(0, IDS_PER_CALL_MAX), min_size=1, max_size=20))
def test_shares_keep_the_order_lose_nothing_and_stay_small(sizes: list[int]) -> None:
    asks = [Ask("tenant", ["evt"] * size, Budget(1, 1)) for size in sizes]
    shares = list(_shares(asks))
    assert [ask for share in shares for ask in share] == asks
    assert all(share for share in shares)
    assert all(sum(len(ask.event_ids) for ask in share) <= IDS_PER_CALL_MAX for share in shares)


def test_small_asks_share_one_call() -> None:
    asks = [Ask(f"tenant-{number}", ["evt"], Budget(1, 1)) for number in range(64)]
    assert list(_shares(asks)) == [asks]
