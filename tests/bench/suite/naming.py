"""What many hostnames cost: the look-up of a route alone, and a new connection through a table of so many names."""

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Final

from peers import HAPROXY, NGINX, SNIPROXY
from results import Figures, Part, Series
from rounds import Lane, Pace, describe, in_turns
from stage import KRACAUER, SERVERS, Instance, MeasureError, Stage, Way
from traffic import lane, open_many

from kracauer.lab.topology import ORIGIN_1
from kracauer.routes import WILDCARD, Backend, Route, RouteTable

SIZES: Final = (1, 10, 100, 1000, 10_000)
EXACT, WILDCARDS = "exact", "wildcard"
ENGINE: Final = "engine"
KINDS: Final = (EXACT, WILDCARDS)
_PEERS: Final = (HAPROXY, NGINX, SNIPROXY)
_FIRST_ADDRESS: Final = {HAPROXY.way: 21, NGINX.way: 31, SNIPROXY.way: 41}  # of 198.51.100.0/24
_ASKED: Final = 20_000
_READY_S: Final = 60.0
_SHARE: Final = 0.5  # of the time for each: they are many, and one after the other is steady


def pattern(number: int, kind: str) -> str:
    """Return the key of a table that takes a name."""
    return f"{WILDCARD if kind == WILDCARDS else ''}host{number}.example.org"


def name(number: int, kind: str) -> str:
    """Return a name that this key, and no other, takes."""
    return pattern(number, kind).replace("*", "www")


def middle(size: int, kind: str) -> str:
    """Return the name in the middle of a table: tables that are searched from the top have done half their work by then."""
    return name(size // 2, kind)


def measure_names(part: Part, pace: Pace, peers: Sequence[str], sizes: Sequence[int] = SIZES) -> None:
    """A Kracauer for each number of names, exact ones and wildcards, and the proxies with exact ones, all side by side."""
    part.series += measure_lookups(pace, sizes)
    with Stage() as stage:
        lanes: list[Lane] = []
        for kind in KINDS:
            for size in sizes:
                names = {pattern(number, kind): SERVERS["open"] for number in range(size)}
                way = stage.add_kracauer(Instance(len(lanes) + 1, names), timeout_s=_READY_S)
                lanes.append(_lane(stage, way, KRACAUER, size, kind))
        for peer in _PEERS:
            for index, size in enumerate(sizes if peer.way in peers else ()):
                names = {pattern(number, EXACT): SERVERS["open"] for number in range(size)}
                address = f"198.51.100.{_FIRST_ADDRESS[peer.way] + index}"
                way_or_none = stage.add_peer(peer, names, address=address)
                if way_or_none is not None:
                    lanes.append(_lane(stage, way_or_none, peer.way, size, EXACT))
        part.left_out |= stage.left_out
        part.series += in_turns([each for each in lanes if _await(each, part)], pace.shortened(_SHARE))


def _lane(stage: Stage, way: Way, key: str, size: int, kind: str) -> Lane:
    return replace(lane({"names": size, "kind": kind}, stage, way, open_many, 1, middle(size, kind)), key=key)


def _await(each: Lane, part: Part) -> bool:
    """Tell whether a way answers, as soon as it does; else note what it said."""
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            reading = each.measure(0.02)
        except MeasureError as error:
            why = str(error)
        else:
            if reading.figures:
                return True
            why = ", ".join(reading.failures)
        if time.monotonic() > deadline:
            part.left_out[f"{each.name}, {each.point['names']} names"] = f"does not answer: {why}"
            return False
        time.sleep(0.2)


def measure_lookups(pace: Pace, sizes: Sequence[int] = SIZES) -> list[Series]:
    """The look-up alone, of names picked at random, in turns; `lookup_us` is for one."""
    chance = random.Random(1)
    tables: list[tuple[Series, RouteTable, list[str]]] = []
    for kind in KINDS:
        for size in sizes:
            backend = (Backend(IPv6Address(ORIGIN_1)),)
            table = RouteTable(Route(pattern(number, kind), backend) for number in range(size))
            asked = [name(chance.randrange(size), kind) for _ in range(_ASKED)]
            tables.append((Series({"names": size, "kind": kind}, ENGINE), table, asked))
    for _ in range(pace.rounds):
        for series, table, asked in tables:
            series.rounds.append(_time_lookups(table, asked, pace.seconds / 20))
    for series, _, _ in tables:
        pace.tell(describe(series))
    return [series for series, _, _ in tables]


def _time_lookups(table: RouteTable, asked: Sequence[str], seconds: float) -> Figures:
    """The best of some runs: what disturbs them only ever adds."""
    lookup, best, until = table.lookup, float("inf"), time.perf_counter() + seconds
    while True:
        began = time.perf_counter()
        for each in asked:
            lookup(each)
        now = time.perf_counter()
        best = min(best, now - began)
        if now > until:
            return {"lookup_us": best / len(asked) * 1e6}
