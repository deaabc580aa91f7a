"""What visitors notice: bulk, new connections with and without real cryptography, and the time for a byte there and back."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from results import Part, Point
from rounds import Lane, Pace, Reading, in_turns
from stage import (
    KERNEL,
    KRACAUER,
    KRACAUER_FAST,
    KRACAUER_FAST_WORKERS,
    KRACAUER_LOGGING,
    KRACAUER_WORKERS,
    WORKERS,
    Instance,
    MeasureError,
    Stage,
    Way,
)

from kracauer.errors import LabError
from kracauer.lab import bulk, usage
from kracauer.lab.topology import Topology

AT_ONCE: Final = (1, 8, 32, 128)
TLS_AT_ONCE: Final = (1, 8)
FLOWS: Final = (1, 8)
DIRECTIONS: Final = ("download", "upload")
MAIN_BULK: Final[Point] = {"offloads": "on", "mtu": 1500}
OTHER_BULK: Final[tuple[Point, ...]] = (
    {"offloads": "on", "mtu": 9000},
    {"offloads": "off", "mtu": 1500},
    {"offloads": "off", "mtu": 9000},
)
_OTHER_BULK_SHARE: Final = 0.3  # of the time for each: they are many, and no bar hangs on them
_GRACE_S: Final = 30.0


def _work(way: Way, answer: dict[str, Any], busy_before_s: float, busy_after_s: float, unit: float) -> dict[str, float]:
    """The processor time for a `unit` of what was done: that of the programs in between, and the machine's; in microseconds."""
    figures = {"machine_us": answer["machine_busy_s"] / unit * 1e6}
    if way.process is not None:
        figures["daemon_us"] = (busy_after_s - busy_before_s) / unit * 1e6
    return figures


def call(stage: Stage, way: Way, module: str, role: str, server: str, seconds: float, *options: str, name: str = "") -> Reading:
    """Make calls of one kind, and see that the server has accepted as many as were answered."""
    pids, accepted = way.pids(), stage.accepted()
    before = usage.busy_s(pids)
    options = (*options, "--seconds", str(seconds))
    answer = stage.ask(module, role, way, server, *options, name=name, timeout_s=seconds + _GRACE_S)
    after = usage.busy_s(pids)
    failures = Counter(answer["failures"])
    if not answer["answered"]:
        return Reading({}, failures or Counter({"nothing was answered": 1}))
    if role == "open" and stage.accepted() - accepted < answer["answered"]:
        raise MeasureError("more was answered than has come to the server")
    figures = {name: answer[name] for name in ("per_second", "median_us", "p90_us", "p99_us")}
    return Reading(figures | _work(way, answer, before, after, answer["answered"]), failures)


def open_many(stage: Stage, way: Way, seconds: float, at_once: int, name: str = "") -> Reading:
    """Open connections without cryptography."""
    return call(stage, way, "calls", "open", "open", seconds, "--tls", "--at-once", str(at_once), name=name)


def ping(stage: Stage, way: Way, seconds: float) -> Reading:
    """Send bytes there and back on one connection."""
    return call(stage, way, "calls", "ping", "ping", seconds, "--tls")


def shake_hands(stage: Stage, way: Way, seconds: float, at_once: int) -> Reading:
    """Open connections with real TLS."""
    trust = ("--trust", str(stage.lab.authority.root))
    return call(stage, way, "handshakes", "open", "tls", seconds, *trust, "--at-once", str(at_once))


def move(stage: Stage, way: Way, seconds: float, direction: str, flows: int) -> Reading:
    """Move bytes; the figures are for a gigabit."""
    pids = way.pids()
    before = usage.busy_s(pids)
    options = ("--flows", str(flows), "--tls", "--seconds", str(seconds))
    answer = stage.ask("bulk", direction, way, "bulk", *options, timeout_s=seconds + _GRACE_S)
    after = usage.busy_s(pids)
    gigabits = answer["bytes"] * 8 / 1e9
    if not gigabits:
        raise MeasureError("nothing arrived")
    return Reading({"gbit_per_s": bulk.Transfer(**answer).gbit_per_s} | _work(way, answer, before, after, gigabits))


def stand_beside_each_other(
    stage: Stage, peers: Sequence[str], *, has_logging: bool = False, has_workers: bool = False
) -> list[Way]:
    """Add all ways, those that do not work left out; LabError without the two that it is about."""
    stage.add_kernel()
    several = {"network": {"workers": WORKERS}}
    fast = [Instance(2, key=KRACAUER_FAST, offload="require")]
    if has_workers:
        fast.append(Instance(3, key=KRACAUER_FAST_WORKERS, offload="require", tables=several))
    for instance in fast:
        try:
            stage.add_kracauer(instance)
        except LabError as error:
            stage.left_out[instance.key] = str(error)
    stage.add_kracauer()
    if has_workers:
        stage.add_kracauer(Instance(4, key=KRACAUER_WORKERS, tables=several))
    if has_logging:
        stage.add_kracauer(Instance(1, key=KRACAUER_LOGGING, log_level=None))
    stage.add_peers(peers)
    stage.check()
    for key in (KERNEL, KRACAUER):
        if key not in stage.ways:
            raise MeasureError(stage.left_out[key])
    return list(stage.ways.values())


def measure_connections(part: Part, pace: Pace, peers: Sequence[str]) -> None:
    """New connections a second, and how long each takes, at several numbers at once."""
    with Stage() as stage:
        ways = stand_beside_each_other(stage, peers, has_logging=True, has_workers=True)
        part.left_out |= stage.left_out
        for at_once in AT_ONCE:
            part.series += in_turns([lane({"at once": at_once}, stage, way, open_many, at_once) for way in ways], pace)


def measure_tls(part: Part, pace: Pace, peers: Sequence[str]) -> None:
    """The same with real TLS at both ends."""
    with Stage() as stage:
        ways = stand_beside_each_other(stage, peers, has_workers=True)
        part.left_out |= stage.left_out
        for at_once in TLS_AT_ONCE:
            part.series += in_turns([lane({"at once": at_once}, stage, way, shake_hands, at_once) for way in ways], pace)


def measure_round_trips(part: Part, pace: Pace, peers: Sequence[str]) -> None:
    """The time for a byte there and back on a connection that has been there for a while."""
    with Stage() as stage:
        ways = stand_beside_each_other(stage, peers)
        part.left_out |= stage.left_out
        part.series += in_turns([lane({}, stage, way, ping) for way in ways], pace)


def measure_bulk(part: Part, pace: Pace, peers: Sequence[str]) -> None:
    """One and many flows, both ways, across links as they usually are."""
    _measure_links(part, pace, peers, MAIN_BULK)


def measure_bulk_links(part: Part, pace: Pace, peers: Sequence[str]) -> None:
    """The same in larger packets, and without offloads."""
    for point in OTHER_BULK:
        _measure_links(part, pace.shortened(_OTHER_BULK_SHARE), peers, point)


def _measure_links(part: Part, pace: Pace, peers: Sequence[str], point: Point) -> None:
    mtu, has_offloads = int(point["mtu"]), point["offloads"] == "on"
    with Stage(Topology(client_mtu=mtu, backend_mtu=mtu, has_offloads=has_offloads)) as stage:
        ways = stand_beside_each_other(stage, peers, has_workers=point == MAIN_BULK)
        part.left_out |= {f"offloads {point['offloads']}, MTU {mtu}, {key}": why for key, why in stage.left_out.items()}
        for flows in FLOWS:
            for direction in DIRECTIONS:
                where = point | {"flows": flows, "direction": direction}
                part.series += in_turns([lane(where, stage, way, move, direction, flows) for way in ways], pace)


def lane(point: Point, stage: Stage, way: Way, measure: Callable[..., Reading], *arguments: object) -> Lane:
    """Return a lane in which one of the functions above measures a way."""
    return Lane(point, way, lambda seconds: measure(stage, way, seconds, *arguments))
