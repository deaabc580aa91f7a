"""What idle connections cost: memory, and what they do to those that are not idle."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import idle
from results import Figures, Part, Series
from rounds import Pace, Reading, describe, in_turns
from stage import KRACAUER, ROUTES, Instance, MeasureError, Stage, Way
from traffic import lane, open_many, ping, stand_beside_each_other

from kracauer.errors import LabError
from kracauer.lab import calls, flood, links, usage
from kracauer.lab.topology import ORIGIN_1

HELD: Final = 7000
SIZES: Final = (1, 10, 100, 1000, 10_000, 100_000)
RATE: Final = 20_000  # packets a second, of idle connections picked at random
_AT_ONCE: Final = 32
_SETTLE_S: Final = 1.0
_SHARE: Final = 0.6  # of the time for each of the three that are measured in one go
_OPENING_S: Final = 60.0
_DRAIN_S: Final = 0.05


def measure_memory(part: Part, pace: Pace, peers: Sequence[str], count: int = HELD) -> None:
    """What each way needs for a connection on which nothing is said, in its processes and in the kernel; once each.

    Once, because a process that has had so many connections keeps what it needed for them.
    """
    with Stage() as stage:
        ways = stand_beside_each_other(stage, peers)
        part.left_out |= stage.left_out
        with contextlib.suppress(MeasureError, LabError):
            hold(stage, ways[0], count, Counter())  # the kernel gives back less than it took: nobody is to be the first
        for way in ways:
            series = Series({"connections": count}, way.key)
            try:
                series.rounds.append(hold(stage, way, count, series.failures))
            except (MeasureError, LabError) as error:
                series.failures[str(error).partition("\n")[0]] += 1
                series.rounds.append(None)
            part.series.append(series)
            pace.tell(describe(series))


def hold(stage: Stage, way: Way, count: int, failures: Counter[str]) -> Figures:
    """Return how much there is more of everything, for each connection, while so many are held."""
    time.sleep(_SETTLE_S)
    before = _usage(stage, way)
    command = stage.command("calls", "hold", way, "ping", "--tls", "--count", str(count))
    holder = stage.lab.start(f"holder-{way.key}", stage.lab.client, command)
    try:
        holder.wait_for(calls.HELD, _OPENING_S)
        time.sleep(_SETTLE_S)
        after = _usage(stage, way)
    finally:
        holder.stop(_OPENING_S)
    became = holder.events[-1]
    failures.update(became["failures"])
    if became["answered"] != count:
        failures["gone in the meantime"] += count - became["answered"] - sum(became["failures"].values())
    return {name: (after[name] - before[name]) / count for name in after}


def _usage(stage: Stage, way: Way) -> Figures:
    return {
        "daemon_bytes": float(usage.memory_bytes(way.pids())),
        "kernel_bytes": float(usage.slab_bytes()),
        "router_sockets": float(stage.router_sockets()),
    }


def measure_flows(part: Part, pace: Pace, sizes: Sequence[int] = SIZES) -> None:
    """A Kracauer for each number of idle connections, side by side: new connections, round trips, scattered packets."""
    with Stage() as stage:
        links.add_route((stage.lab.router, "origin1"), "2001:db8:1:b::/64", ORIGIN_1)  # where idle.NOWHERE is
        ways = [_add_crowded(stage, number, size) for number, size in enumerate(sizes, 1)]
        points = zip(ways, sizes, strict=True)
        lanes = [replace(lane({"flows": size}, stage, way, _try_all), key=KRACAUER) for way, size in points]
        part.series += in_turns(lanes, pace.shortened(_SHARE))
        for way, size in zip(ways, sizes, strict=True):
            if (count := stage.count_established(way)) < size:
                raise MeasureError(f"of {size} idle connections {count} are left")


def _packets(stage: Stage, device: str) -> Path:
    return stage.lab.directory / f"{device}.idle"


def _add_crowded(stage: Stage, number: int, size: int) -> Way:
    instance = Instance(number, ROUTES, {"limits": {"flows": 1_000_000}})
    run = stage.lab.directory / "run"
    path, packets = run / f"{instance.device}.flows", _packets(stage, instance.device)
    script = Path(idle.__file__)
    where: list[str | Path] = ["--packets", packets, "--prefix", instance.prefix, "--service", instance.service]
    result = stage.lab.router.run([sys.executable, script, path, str(size), *where], timeout_s=120)
    if result.returncode:
        raise MeasureError(f"{size} idle connections: {result.stderr.decode().strip()}")
    way = stage.add_kracauer(instance, key=f"kracauer-{size}", timeout_s=120)
    if (count := stage.count_established(way)) != size:
        raise MeasureError(f"of {size} idle connections {count} were adopted")
    return way


def _try_all(stage: Stage, way: Way, seconds: float) -> Reading:
    opened, pinged = open_many(stage, way, seconds, _AT_ONCE), ping(stage, way, seconds)
    figures = {f"open_{name}": value for name, value in opened.figures.items()}
    figures |= {f"ping_{name}": value for name, value in pinged.figures.items()}
    figures["packet_us"] = _scatter(stage, way, seconds)
    figures["daemon_bytes"] = float(usage.memory_bytes(way.pids()))
    return Reading(figures, opened.failures + pinged.failures)


def _scatter(stage: Stage, way: Way, seconds: float) -> float:
    """Send packets of idle connections, and return the daemon's processor time for each, in microseconds."""
    lab, pids, device = stage.lab, way.pids(), str(way.device)
    packets = idle.read_packets(_packets(stage, device))
    seen, busy_s = stage.device_packets(device), usage.busy_s(pids)
    process = flood.launch(lab, packets, RATE, seconds, start=(lab.client, "eth0"), gateway=(lab.router, "client0"))
    sent = flood.outcome(process)
    time.sleep(_DRAIN_S)
    seen, busy_s = stage.device_packets(device) - seen, usage.busy_s(pids) - busy_s
    if seen < sent.sent * 0.95:
        raise MeasureError(f"of {sent.sent} packets {seen} came to the device")
    return busy_s / seen * 1e6
