"""Ways are measured in turns, and what fails is told of."""

from collections import Counter

import pytest
from rounds import Lane, Pace, Reading, in_turns
from stage import MeasureError, Way


def lanes(log: list[tuple[str, float]], *names: str) -> list[Lane]:
    def measure(name: str, seconds: float) -> Reading:
        log.append((name, seconds))
        return Reading({"at": float(len(log))})

    return [Lane({}, Way(name, "192.0.2.1"), lambda seconds, name=name: measure(name, seconds)) for name in names]  # type: ignore[misc]


def test_each_round_begins_with_another_way_after_a_warm_up_of_all() -> None:
    log: list[tuple[str, float]] = []
    found = in_turns(lanes(log, "a", "b", "c"), Pace(2.0, 3))
    assert log[:3] == [("a", 0.3), ("b", 0.3), ("c", 0.3)]
    assert [name for name, _ in log[3:]] == [*"abc", *"bca", *"cab"]
    assert {seconds for _, seconds in log[3:]} == {2.0}
    assert [series.way for series in found] == ["a", "b", "c"]
    assert found[0].values("at") == [4, 9, 11]


def test_a_warm_up_is_never_longer_than_a_round() -> None:
    log: list[tuple[str, float]] = []
    in_turns(lanes(log, "a"), Pace(0.1, 1))
    assert log == [("a", 0.1), ("a", 0.1)]


def test_a_round_that_fails_leaves_a_gap_and_its_reason() -> None:
    count = 0

    def measure(_: float) -> Reading:
        nonlocal count
        count += 1
        if count == 1:
            raise MeasureError("this is the warm-up")
        if count == 3:
            raise MeasureError("hung up on")
        return Reading({"x": 1.0}, Counter({"no answer in time": count}))

    (series,) = in_turns([Lane({}, Way("a", "192.0.2.1"), measure)], Pace(0.1, 3))
    assert series.rounds == [{"x": 1.0}, None, {"x": 1.0}]
    assert series.failures == {"hung up on": 1, "no answer in time": 2 + 4}


def test_what_is_measured_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    in_turns(lanes([], "kracauer"), Pace(0.1, 2, tell=print))
    assert "Kracauer, userspace at 2.5 (2–3)" in capsys.readouterr().out
