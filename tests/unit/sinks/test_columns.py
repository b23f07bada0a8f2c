"""Columns of rows in one text each: no row may get another's value."""

import pytest

from schemas.answers import Refusal
from schemas.codes import DeadReason
from sinks.columns import SEPARATOR, column


def test_a_column_is_its_values_in_order() -> None:
    assert column(["a", 2, '{"b":"c,d"}']).split(SEPARATOR) == ["a", "2", '{"b":"c,d"}']


@pytest.mark.parametrize("value", ["", SEPARATOR, f"a{SEPARATOR}b"])
def test_a_value_that_would_shift_the_others_can_never_be_stored(value: str) -> None:
    for values in ([value], ["a", value], [value, "a"]):
        with pytest.raises(Refusal) as refused:
            column(values)
        assert refused.value.reason is DeadReason.STORE_REFUSED
