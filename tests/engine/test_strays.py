"""Which segments of no connection are answered with a reset: those that keep coming, whatever else comes."""

from collections.abc import Iterator

import pytest

from kracauer.engine.strays import CAPACITY, FORGET_AFTER_S, KEEP_S, STALE_AFTER_S, Strays

CLIENT = b"a client"
FLOOD_PER_SECOND = 10_000


def flood(strays: Strays, start: float, seconds: float) -> Iterator[float]:
    """Other connections' segments, each of another one; yields the time, again and again."""
    for number in range(int(seconds * FLOOD_PER_SECOND)):
        now = start + number / FLOOD_PER_SECOND
        assert not strays.is_stale(b"%f" % now, now)
        yield now


def run(floods: Iterator[float], until: float) -> None:
    for now in floods:
        if now >= until:
            return


@pytest.mark.parametrize("after_s", [0.0, 0.2, STALE_AFTER_S - 0.01])
def test_the_first_one_and_what_comes_soon_after_it_are_not_stale(after_s: float) -> None:
    strays = Strays()
    assert not strays.is_stale(CLIENT, 100.0)
    assert not strays.is_stale(CLIENT, 100.0 + after_s)


@pytest.mark.parametrize("after_s", [STALE_AFTER_S, 75.0, FORGET_AFTER_S])
def test_what_still_comes_later_is_stale_once(after_s: float) -> None:
    strays = Strays()
    strays.is_stale(CLIENT, 100.0)
    assert strays.is_stale(CLIENT, 100.0 + after_s)
    assert not strays.is_stale(CLIENT, 100.0 + after_s)


def test_what_comes_much_later_is_another_connections() -> None:
    strays = Strays()
    strays.is_stale(CLIENT, 100.0)
    assert not strays.is_stale(CLIENT, 100.1 + FORGET_AFTER_S)


@pytest.mark.parametrize("repeats_after_s", [3.0, 4.5, 6.3, KEEP_S - 0.1])
def test_a_flood_does_not_make_a_client_forgotten_before_it_has_repeated_itself(repeats_after_s: float) -> None:
    strays = Strays()
    strays.is_stale(CLIENT, 100.0)
    run(flood(strays, 100.0, 10), 100.0 + repeats_after_s)
    assert strays.is_stale(CLIENT, 100.0 + repeats_after_s)


def test_a_flood_that_lasts_leaves_a_client_its_turn() -> None:
    """Every eight seconds the places are given out anew, to whoever comes first."""
    strays = Strays()
    floods = flood(strays, 100.0, 60)
    answers = []
    for repeat_at in (101.0, 101.2, 101.6, 102.4, 104.0, 107.2, 113.6, 116.5, 119.8, 126.0):
        run(floods, repeat_at)
        answers.append(strays.is_stale(CLIENT, repeat_at))
    assert any(answers)


def test_so_many_are_remembered_and_no_more() -> None:
    strays = Strays()
    run(flood(strays, 100.0, 60), 130.0)
    assert len(strays._first_seen) == CAPACITY


def test_old_ones_make_room() -> None:
    strays = Strays()
    run(flood(strays, 100.0, 10), 105.0)
    assert not strays.is_stale(CLIENT, 105.0 + KEEP_S)
    assert strays.is_stale(CLIENT, 105.0 + KEEP_S + STALE_AFTER_S)
