from hypothesis import given
from hypothesis import strategies as st

from kracauer.tcp import sequence

numbers = st.integers(0, 2**32 - 1)
distances = st.integers(-(2**31), 2**31 - 1)


@given(numbers, distances)
def test_a_number_moved_by_a_distance_lies_that_far_away(number: int, distance: int) -> None:
    assert sequence.distance(number, sequence.add(number, distance)) == distance


@given(numbers, numbers)
def test_the_distance_leads_from_one_number_to_the_other(start: int, end: int) -> None:
    distance = sequence.distance(start, end)
    assert -(2**31) <= distance < 2**31
    assert sequence.add(start, distance) == end


def test_the_order_wraps() -> None:
    assert sequence.distance(0xFFFFFFFF, 0) == 1
    assert sequence.distance(0, 0xFFFFFFFF) == -1
    assert sequence.add(0xFFFFFFFF, 2) == 1
    assert sequence.add(1, -2) == 0xFFFFFFFF


def test_half_the_space_away_is_before() -> None:
    assert sequence.distance(0, 0x7FFFFFFF) == 0x7FFFFFFF
    assert sequence.distance(0, 0x80000000) == -0x80000000
