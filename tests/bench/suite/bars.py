"""What is asked of Kracauer's speed, and whether it is there: each bar's figure from the results, met or not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from naming import ENGINE, EXACT, WILDCARDS
from results import Part, Results, Series, Spread, Where
from stage import KERNEL, KRACAUER
from traffic import DIRECTIONS, FLOWS, MAIN_BULK

MOST_FLOWS: Final = 100_000
MOST_NAMES: Final = 10_000
_SAME: Final = ("us_any_flow", "us_one_flow")


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit for one figure, from above or from below; `find` takes it out of a part, `unit` follows it where it is shown."""

    title: str
    part: str
    find: Callable[[Part], Spread | None]
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    def measure(self, results: Results) -> Spread | None:
        """Return the figure; None where it was not measured."""
        part = results.parts.get(self.part)
        return self.find(part) if part is not None else None

    def is_met(self, figure: Spread) -> bool:
        """Tell whether the median is on the right side."""
        is_enough = self.at_least is None or figure.median >= self.at_least
        return is_enough and (self.at_most is None or figure.median <= self.at_most)

    @property
    def wanted(self) -> str:
        """The limit in words."""
        return f"≥ {self.at_least:g}{self.unit}" if self.at_least is not None else f"≤ {self.at_most:g}{self.unit}"


def _ratio(figure: str, other: str, where: Where) -> Callable[[Part], Spread | None]:
    return lambda part: _against(part.find(KRACAUER, where), part.find(other, where), figure)


def _against(own: Series | None, other: Series | None, figure: str) -> Spread | None:
    return own.ratios(other, figure) if own is not None and other is not None else None


def _added(part: Part) -> Spread | None:
    own, kernel = part.find(KRACAUER), part.find(KERNEL)
    return own.differences(kernel, "median_us") if own is not None and kernel is not None else None


def _grown(figure: str) -> Callable[[Part], Spread | None]:
    """How much more a figure is with the most connections than with one, in per cent."""

    def find(part: Part) -> Spread | None:
        ratio = _against(_at(part, MOST_FLOWS), _base(part), figure)
        return Spread(*((value - 1) * 100 for value in (ratio.median, ratio.least, ratio.most))) if ratio else None

    return find


def _at(part: Part, flows: int) -> Series | None:
    return next(part.select(where={"flows": flows}), None)


def _base(part: Part) -> Series | None:
    """What there is with one connection. "Any" and "always the same" are then one thing, and the lesser counts for both."""
    one = _at(part, 1)
    if one is None:
        return None
    rounds = []
    for figures in one.rounds:
        same = {name: figures[name] for name in _SAME if name in figures} if figures else {}
        rounds.append(figures and figures | dict.fromkeys(same, min(same.values(), default=0.0)))
    return Series(one.point, one.way, rounds)


def _named(way: str, figure: str, kind: str) -> Callable[[Part], Spread | None]:
    def find(part: Part) -> Spread | None:
        most, one = (part.find(way, {"names": names, "kind": kind}) for names in (MOST_NAMES, 1))
        return _against(most, one, figure)

    return find


def _bulk_bar(direction: str, flows: int) -> Bar:
    where = MAIN_BULK | {"direction": direction, "flows": flows}
    count = "one flow" if flows == 1 else "eight flows"
    title = f"bulk, {count}, {direction}: share of the kernel's rate"
    return Bar(title, "bulk", _ratio("gbit_per_s", KERNEL, where), at_least=0.6)


_CROWD: Final = f"{MOST_FLOWS:,} connections against 1"
BARS: Final = (
    *(_bulk_bar(direction, flows) for flows in FLOWS for direction in DIRECTIONS),
    Bar(
        "set-up of a connection, one at a time: times the kernel's latency",
        "connections",
        _ratio("median_us", KERNEL, {"at once": 1}),
        at_most=2.0,
    ),
    Bar(
        "new connections a second, 32 at once: share of HAProxy's",
        "connections",
        _ratio("per_second", "haproxy", {"at once": 32}),
        at_least=0.55,
    ),
    Bar("a byte there and back: added to the kernel's median", "round-trips", _added, at_most=100, unit=" µs"),
    Bar(
        f"a packet of always the same connection, {_CROWD}: more time in the engine",
        "growth",
        _grown("us_one_flow"),
        at_most=10,
        unit=" %",
    ),
    Bar(
        f"a packet of any connection, {_CROWD}: more time in the engine",
        "growth",
        _grown("us_any_flow"),
        at_most=10,
        unit=" %",
    ),
    Bar(
        f"a packet of any connection, {_CROWD}: more time of the whole process",
        "flows",
        _grown("packet_us"),
        at_most=10,
        unit=" %",
    ),
    Bar(
        "look-up of an exact name, 10,000 names against 1: times as long",
        "names",
        _named(ENGINE, "lookup_us", EXACT),
        at_most=2,
    ),
    Bar(
        "look-up of a name under a wildcard, 10,000 wildcards against 1: times as long",
        "names",
        _named(ENGINE, "lookup_us", WILDCARDS),
        at_most=2,
    ),
    Bar(
        "set-up of a connection, 10,000 names against 1: times the latency",
        "names",
        _named(KRACAUER, "median_us", EXACT),
        at_most=1.1,
    ),
)
