import math

from hypothesis import given, settings
from hypothesis import strategies as st

from kracauer.timers import TICKS_PER_SECOND, TimerWheel

TICK_S = 1 / TICKS_PER_SECOND
ROUNDING_S = 1e-6


class Item:
    def __init__(self, name: int = 0) -> None:
        self.name = name
        self.tick: int | None = None

    def __repr__(self) -> str:
        return f"item {self.name}"


times = st.floats(0, 3, allow_nan=False)
steps = st.one_of(
    st.tuples(st.just("schedule"), st.integers(0, 4), times),
    st.tuples(st.just("cancel"), st.integers(0, 4), st.just(0.0)),
    st.tuples(st.just("pass"), st.just(0), st.floats(0, 1)),
)


@settings(max_examples=500)
@given(st.lists(steps, max_size=30))
def test_items_come_due_like_those_of_a_plain_list(script: list[tuple[str, int, float]]) -> None:
    """Never early, one tick late at most, and just those that were not cancelled or rescheduled."""
    wheel: TimerWheel[Item] = TimerWheel()
    items = [Item(name) for name in range(5)]
    deadlines: dict[Item, float] = {}
    now = 0.0
    for step, which, time in script:
        if step == "schedule":
            wheel.schedule(items[which], now + time - 1)  # some deadlines have passed already
            deadlines[items[which]] = now + time - 1
        elif step == "cancel":
            wheel.cancel(items[which])
            deadlines.pop(items[which], None)
        else:
            now += time
        due = wheel.pop_due(now)
        assert len(due) == len(set(due))
        for item in due:
            assert deadlines.pop(item) <= now + ROUNDING_S, "early"
            assert item.tick is None
        assert all(deadline > now - TICK_S - ROUNDING_S for deadline in deadlines.values()), "late"
        following = wheel.next_deadline()
        assert (following is None) == (not deadlines)
        if following is not None:
            assert now < following
            assert min(deadlines.values()) - ROUNDING_S <= following <= min(deadlines.values()) + TICK_S + ROUNDING_S


@given(times, times)
def test_the_next_deadline_is_when_something_comes_due(first: float, second: float) -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    one, other = Item(), Item()
    wheel.schedule(one, first)
    wheel.schedule(other, second)
    due: list[Item] = []
    while (deadline := wheel.next_deadline()) is not None:
        assert wheel.pop_due(deadline - ROUNDING_S) == []
        due += wheel.pop_due(deadline)
    assert set(due) == {one, other}


def test_an_empty_wheel_has_no_deadline() -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    assert wheel.next_deadline() is None
    assert wheel.pop_due(1e9) == []


def test_a_rescheduled_item_does_not_come_due_at_its_earlier_deadline() -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    item = Item()
    wheel.schedule(item, 1.0)
    wheel.schedule(item, 5.0)
    assert wheel.pop_due(4.9) == []
    assert wheel.pop_due(5.0) == [item]


def test_an_item_comes_due_once() -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    item = Item()
    for _ in range(3):
        wheel.schedule(item, 1.0)
    assert wheel.pop_due(9.0) == [item]
    assert wheel.pop_due(9.0) == []


def test_an_item_can_be_scheduled_again_after_it_came_due() -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    item = Item()
    wheel.schedule(item, 1.0)
    wheel.pop_due(1.0)
    wheel.schedule(item, 1.0)
    assert wheel.pop_due(1.0) == [item]


def test_cancelling_what_has_no_deadline_does_no_harm() -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    wheel.cancel(Item())
    assert wheel.next_deadline() is None


def test_a_cancelled_item_is_not_waited_for() -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    early, late = Item(), Item()
    wheel.schedule(early, 1.0)
    wheel.schedule(late, 2.0)
    wheel.cancel(early)
    assert wheel.next_deadline() == 2.0


def test_items_that_come_due_together_come_in_one_call() -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    items = {Item(number) for number in range(1000)}
    for item in items:
        wheel.schedule(item, 1.0 + item.name / 1000)
    assert set(wheel.pop_due(2.0)) == items


def test_a_deadline_that_has_passed_is_due_at_once() -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    item = Item()
    wheel.schedule(item, -5.0)
    assert wheel.pop_due(0.0) == [item]


@given(st.integers(1, 10**7))
def test_a_deadline_a_hair_past_a_tick_does_not_come_due_at_that_tick(tick: int) -> None:
    """The least number past a tick, times the ticks in a second, can round to the tick itself."""
    wheel: TimerWheel[Item] = TimerWheel()
    deadline = math.nextafter(tick / TICKS_PER_SECOND, math.inf)
    wheel.schedule(Item(), deadline)
    due = wheel.next_deadline()
    assert due is not None
    assert deadline <= due


moments, leeways = st.floats(-100, 1e6), st.floats(0, 100)


@given(moments, leeways)
def test_an_item_comes_no_more_than_its_leeway_early_and_never_late(deadline: float, leeway: float) -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    wheel.schedule(Item(), deadline, leeway)
    due = wheel.next_deadline()
    assert due is not None
    assert deadline - leeway - ROUNDING_S <= due <= deadline + TICK_S + ROUNDING_S


@given(moments)
def test_an_item_without_leeway_is_never_early(deadline: float) -> None:
    wheel: TimerWheel[Item] = TimerWheel()
    wheel.schedule(Item(), deadline, 0.0)
    due = wheel.next_deadline()
    assert due is not None
    assert deadline <= due


@given(moments, st.floats(0.1, 100))
def test_items_with_leeway_share_entries(first: float, leeway: float) -> None:
    """However their deadlines are spread over one leeway: at most two entries instead of one for each tick."""
    wheel: TimerWheel[Item] = TimerWheel()
    items = {Item(number) for number in range(100)}
    for item in items:
        wheel.schedule(item, first + leeway * item.name / 100, leeway)
    batches, due = 0, set()
    while (deadline := wheel.next_deadline()) is not None:
        due |= set(wheel.pop_due(deadline))
        batches += 1
    assert due == items
    # A leeway that is no whole number of ticks counts for the ticks that fit, and a deadline rounded up may lie a tick beyond.
    assert batches <= 3


@given(st.lists(st.tuples(st.integers(0, 4), times, st.sampled_from((0.0, 0.3, 2.0)), st.floats(0, 1)), max_size=20))
def test_items_with_and_without_leeway_come_due_once_each_and_in_time(script: list[tuple[int, float, float, float]]) -> None:
    """Whatever leeway an item was given before."""
    wheel: TimerWheel[Item] = TimerWheel()
    items = [Item(name) for name in range(5)]
    wanted: dict[Item, tuple[float, float]] = {}
    now = 0.0
    for which, time, leeway, passing in script:
        wheel.schedule(items[which], now + time, leeway)
        wanted[items[which]] = (now + time - leeway, now + time)
        now += passing
        for item in wheel.pop_due(now):
            assert wanted.pop(item)[0] <= now + ROUNDING_S, "early"
        assert all(latest > now - TICK_S - ROUNDING_S for _, latest in wanted.values()), "late"
