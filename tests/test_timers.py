"""The timer wheel: nothing early, nothing late by more than a tick, nothing left of what was taken back."""

import math

from hypothesis import given
from hypothesis import strategies as st

from kracauer.timers import TICKS_PER_SECOND, TimerWheel

deadlines = st.floats(0, 1e7) | st.integers(0, 10**8).map(lambda tick: math.nextafter(tick / TICKS_PER_SECOND, math.inf))


class Item:
    """The least that can be scheduled."""

    def __init__(self) -> None:
        self.tick: int | None = None


@given(deadline=deadlines)
def test_nothing_comes_due_early_nor_much_too_late(deadline: float) -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    wheel.schedule(Item(), deadline)
    due = wheel.next_deadline()
    assert due is not None
    assert deadline <= due <= deadline + 1 / TICKS_PER_SECOND + 1e-6


@given(deadline=deadlines)
def test_what_is_due_at_the_next_deadline_is_handed_out_then(deadline: float) -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    item = Item()
    wheel.schedule(item, deadline)
    due = wheel.next_deadline()
    assert due is not None
    assert wheel.pop_due(math.nextafter(due, 0)) == []
    assert wheel.pop_due(due) == [item]
    assert wheel.next_deadline() is None


@given(moves=st.lists(st.tuples(st.integers(0, 4), st.none() | st.floats(0, 100)), max_size=30), now=st.floats(0, 120))
def test_only_the_last_word_on_each_item_counts(moves: list[tuple[int, float | None]], now: float) -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    items = [Item() for _ in range(5)]
    last: dict[int, float] = {}
    for number, deadline in moves:
        if deadline is None:
            wheel.cancel(items[number])
            last.pop(number, None)
        else:
            wheel.schedule(items[number], deadline)
            last[number] = deadline
    due = {items.index(item) for item in wheel.pop_due(now)}
    assert due >= {number for number, deadline in last.items() if deadline + 1 / TICKS_PER_SECOND <= now}
    assert due <= {number for number, deadline in last.items() if deadline <= now}
    remaining = wheel.next_deadline()
    assert (remaining is None) == (due == set(last))
