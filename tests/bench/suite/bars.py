"""What is asked of Kracauer's speed, and whether it is there: each bar's figure from the results, met or not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from naming import ENGINE, EXACT, WILDCARDS
from results import Part, Results, Series, Spread, Where
from stage import KERNEL, KRACAUER, KRACAUER_FAST
from traffic import DIRECTIONS, FLOWS, MAIN_BULK, OTHER_BULK

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


def _ratio(figure: str, other: str, where: Where, way: str = KRACAUER) -> Callable[[Part], Spread | None]:
    return lambda part: _against(part.find(way, where), part.find(other, where), figure)


def _against(own: Series | None, other: Series | None, figure: str) -> Spread | None:
    return own.ratios(other, figure) if own is not None and other is not None else None


def _added(way: str) -> Callable[[Part], Spread | None]:
    def find(part: Part) -> Spread | None:
        own, kernel = part.find(way), part.find(KERNEL)
        return own.differences(kernel, "median_us") if own is not None and kernel is not None else None

    return find


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


def _bulk_bar(direction: str, flows: int, way: str, share: float) -> Bar:
    where = MAIN_BULK | {"direction": direction, "flows": flows}
    count = "one flow" if flows == 1 else "eight flows"
    title = f"bulk, {count}, {direction}: share of the kernel's rate"
    return Bar(_on(way, title), "bulk", _ratio("gbit_per_s", KERNEL, where, way), at_least=share)


def _small_bulk_bar(direction: str) -> Bar:
    where = next(point for point in OTHER_BULK if point["offloads"] == "off" and point["mtu"] == 1500)
    where = where | {"direction": direction, "flows": 1}
    title = f"bulk in packets of 1500 bytes, one flow, {direction}: share of the kernel's rate"
    find = _ratio("gbit_per_s", KERNEL, where, KRACAUER_FAST)
    return Bar(_on(KRACAUER_FAST, title), "bulk-links", find, at_least=0.7)


def _on(way: str, title: str) -> str:
    return f"fast path: {title}" if way == KRACAUER_FAST else title


def _set_up_bar(way: str, times: float) -> Bar:
    title = _on(way, "set-up of a connection, one at a time: times the kernel's latency")
    return Bar(title, "connections", _ratio("median_us", KERNEL, {"at once": 1}, way), at_most=times)


def _rate_bar(way: str, share: float) -> Bar:
    title = _on(way, "new connections a second, 32 at once: share of HAProxy's")
    return Bar(title, "connections", _ratio("per_second", "haproxy", {"at once": 32}, way), at_least=share)


def _round_trip_bar(way: str, microseconds: float) -> Bar:
    title = _on(way, "a byte there and back: added to the kernel's median")
    return Bar(title, "round-trips", _added(way), at_most=microseconds, unit=" µs")


_CROWD: Final = f"{MOST_FLOWS:,} connections against 1"
BARS: Final = (
    *(_bulk_bar(direction, flows, KRACAUER, 0.6) for flows in FLOWS for direction in DIRECTIONS),
    _set_up_bar(KRACAUER, 2.0),
    _rate_bar(KRACAUER, 0.55),
    _round_trip_bar(KRACAUER, 100),
    *(_bulk_bar(direction, flows, KRACAUER_FAST, 0.9) for flows in FLOWS for direction in DIRECTIONS),
    *map(_small_bulk_bar, DIRECTIONS),
    _set_up_bar(KRACAUER_FAST, 1.8),
    _rate_bar(KRACAUER_FAST, 0.8),
    _round_trip_bar(KRACAUER_FAST, 20),
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
