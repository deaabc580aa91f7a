"""What clients see of a kill, a stop and a reload: the longest pause on each of many connections; and what adoption takes.

    python tests/bench/survival.py --connections 200 --flows 1000 10000 60000

Each connection downloads in small pieces all the time. Prints the distribution of the longest pause that each has seen, next to
that of the same load with nothing done, and then for each number of flows how long a daemon takes until it has adopted them
and until it serves.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from kracauer.lab import configuration, endurance, privileges
from kracauer.lab.endurance import Outcome, Pace
from kracauer.lab.topology import ORIGIN_1, ORIGIN_2, Lab

NAMES: Final = ("www.example.com", "shop.example.net")
CONFIG: Final = configuration.render(dict(zip(NAMES, (ORIGIN_1, ORIGIN_2), strict=True)), limits={"flows": 1_000_000})
PACE: Final = Pace(length=20_000, rate=10_000, pieces=10)
IDLE: Final = Path(__file__).parent / "suite" / "idle.py"
SETTLE_S: Final = 1.0


def kill(lab: Lab) -> None:
    """Kill the daemon, and start the next one at once."""
    assert lab.daemon is not None
    lab.daemon.kill()
    lab.start_daemon(CONFIG)


def stop(lab: Lab) -> None:
    """Stop the daemon, and start the next one when it has ended."""
    assert lab.daemon is not None
    lab.daemon.stop()
    lab.start_daemon(CONFIG)


def reload(lab: Lab) -> None:
    """Have the daemon read its configuration anew."""
    assert lab.daemon is not None
    lab.daemon.send_signal(signal.SIGHUP)
    lab.daemon.wait_for('"reloaded"')


def leave(_lab: Lab) -> None:
    """Do nothing."""


ACTS: Final[Mapping[str, Callable[[Lab], None]]] = {
    "nothing": leave,
    "reload": reload,
    "SIGTERM, start": stop,
    "SIGKILL, start": kill,
}


def measure(lab: Lab, act: Callable[[Lab], None], connections: int) -> tuple[Outcome, float]:
    """Do it under load; returns what became of the connections, and how long it took."""
    process = endurance.launch(lab, NAMES, connections, pace=PACE)
    time.sleep(SETTLE_S)
    began = time.monotonic()
    act(lab)
    took_s = time.monotonic() - began
    time.sleep(SETTLE_S)
    return endurance.outcome(process), took_s


def render_pauses(rows: Sequence[tuple[str, Outcome, float]]) -> str:
    """Return the pauses as a table, in milliseconds."""
    lines = [f"{'done':<16}{'took':>8}{'median':>8}{'90 %':>8}{'99 %':>8}{'longest':>8}{'lost':>6}"]
    for name, outcome, took_s in rows:
        figures = (took_s, *(outcome.pause(share) for share in (0.5, 0.9, 0.99, 1)))
        lines.append(f"{name:<16}{''.join(f'{figure * 1e3:>8.0f}' for figure in figures)}{outcome.failures.total():>6}")
    return "\n".join(lines)


def adopt(lab: Lab, count: int) -> str:
    """Start a daemon on so many flows, and return the row about it."""
    assert lab.daemon is not None
    lab.daemon.stop()
    path = lab.directory / "run" / "kracauer0.flows"
    subprocess.run([sys.executable, IDLE, path, str(count)], check=True)
    began = time.monotonic()
    lab.start_daemon(CONFIG, timeout_s=60)
    took_s = time.monotonic() - began
    (line,) = [event for event in lab.daemon.events if event["event"] == "flows_adopted"]
    assert (line["flows"], line["discarded"]) == (count, 0), line
    return f"{count:>8}{line['duration_s'] * 1e3:>10.0f}{line['duration_s'] / count * 1e6:>10.1f}{took_s * 1e3:>10.0f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--flows", type=int, nargs="*", default=[1000, 10_000, 60_000])
    options = parser.parse_args()
    privileges.prepare()
    with Lab() as lab:
        lab.start_origin("origin1")
        lab.start_origin("origin2")
        lab.start_daemon(CONFIG)
        rows = [(name, *measure(lab, act, options.connections)) for name, act in ACTS.items()]
        adoptions = [adopt(lab, count) for count in options.flows]
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()};", end=" ")
    print(f"{options.connections} connections, {PACE.pieces} pieces a second on each; milliseconds")
    print(render_pauses(rows))
    print(f"\n{'flows':>8}{'adopted':>10}{'µs each':>10}{'ready':>10}")
    print("\n".join(adoptions))


if __name__ == "__main__":
    main()
