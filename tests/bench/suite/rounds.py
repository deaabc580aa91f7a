"""Measuring in turns: every way once, then every way again, so that what else the machine does hits all of them alike."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from results import Figures, Point, Series
from stage import LABELS, MeasureError, Way

WARM_UP_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Pace:
    """How long each measurement takes, how often it is repeated, and how long one waits for a quiet machine before a part."""

    seconds: float = 1.5
    rounds: int = 3
    patience_s: float = 0.0
    tell: Callable[[str], None] = field(default=lambda _: None)

    @property
    def warm_up_s(self) -> float:
        """How long each way is used before the first round, so that none pays for being first."""
        return min(WARM_UP_S, self.seconds)

    def shortened(self, share: float) -> "Pace":
        """The same with shorter measurements."""
        return replace(self, seconds=self.seconds * share)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one measurement has brought."""

    figures: Figures
    failures: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Lane:
    """One way at one point, and how to measure it for so many seconds."""

    point: Point
    way: Way
    measure: Callable[[float], Reading]
    key: str = ""

    @property
    def name(self) -> str:
        """The way's name in the results."""
        return self.key or self.way.key


def in_turns(lanes: Sequence[Lane], pace: Pace) -> list[Series]:
    """Measure all lanes in rounds, each round beginning with another one, after a short warm-up of each."""
    found = [Series(lane.point, lane.name) for lane in lanes]
    for lane in lanes:
        _read(lane, pace.warm_up_s, Series({}, ""))
    for number in range(pace.rounds):
        for index in _rotated(len(lanes), number):
            found[index].rounds.append(_read(lanes[index], pace.seconds, found[index]))
    for series in found:
        pace.tell(describe(series))
    return found


def _rotated(count: int, by: int) -> Iterator[int]:
    return ((index + by) % count for index in range(count))


def _read(lane: Lane, seconds: float, series: Series) -> Figures | None:
    try:
        reading = lane.measure(seconds)
    except MeasureError as error:
        series.failures[str(error)] += 1
        return None
    series.failures += reading.failures
    return reading.figures or None


def describe(series: Series) -> str:
    """Return a series as one line, for who waits."""
    point = ", ".join(f"{key} {value}" for key, value in series.point.items())
    figures = []
    for name in dict.fromkeys(name for each in series.rounds if each for name in each):
        spread = series.spread(name)
        if spread:
            figures.append(f"{name} {spread.median:.5g} ({spread.least:.5g}–{spread.most:.5g})")
    failures = f"  FAILURES {dict(series.failures)}" if series.failures else ""
    return f"{point:<44} {LABELS.get(series.way, series.way):<18} {', '.join(figures) or 'nothing'}{failures}"
