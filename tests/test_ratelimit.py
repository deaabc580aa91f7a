from hypothesis import given
from hypothesis import strategies as st

from kracauer.ratelimit import TokenBucket


def test_a_burst_goes_through_at_once_and_no_more() -> None:
    bucket = TokenBucket(rate=1, burst=3)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]


def test_tokens_come_back_at_the_rate() -> None:
    bucket = TokenBucket(rate=2, burst=1)
    assert bucket.take(10.0)
    assert not bucket.take(10.4)
    assert bucket.take(10.5)


def test_refused_events_cost_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1)
    bucket.take(0.0)
    assert [bucket.take(at / 4) for at in (1, 2, 3, 4)] == [False, False, False, True]


def test_a_long_pause_saves_up_one_burst() -> None:
    bucket = TokenBucket(rate=100, burst=2)
    bucket.take(0.0)
    assert [bucket.take(1e6) for _ in range(3)] == [True, True, False]


def test_the_first_event_may_come_at_any_time() -> None:
    bucket = TokenBucket(rate=1, burst=1)
    assert bucket.take(1e9)
    assert not bucket.take(1e9)


@given(st.lists(st.floats(0, 2), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_no_stretch_of_time_lets_more_through_than_burst_and_rate(pauses: list[float], rate: int, burst: int) -> None:
    bucket, now = TokenBucket(rate, burst), 0.0
    taken: list[float] = []
    for pause in pauses:
        now += pause
        if bucket.take(now):
            taken.append(now)
    for first, start in enumerate(taken):
        for last, end in enumerate(taken[first:], first):
            assert last - first + 1 <= burst + (end - start) * rate + 1e-6


@given(st.lists(st.floats(1, 2), max_size=20))
def test_events_no_faster_than_the_rate_all_go_through(pauses: list[float]) -> None:
    bucket, now = TokenBucket(rate=1, burst=1), 0.0
    for pause in pauses:
        now += pause + 1e-9
        assert bucket.take(now)
