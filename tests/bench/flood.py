"""Honest connections through a flood of SYNs with forged sources: how many a second, and how long each takes.

    python tests/bench/flood.py --rates 0 5000 10000 20000 40000 --seconds 5
    python tests/bench/flood.py --offload off

Prints a row for each rate, with ratios to the first one of the same run. Attacker, visitors and servers share the
machine's cores with the daemon, so some of what is lost is lost to them.
"""

import argparse
import os
import platform
import random
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from kracauer.lab import attacks, configuration, crowd, flood, privileges
from kracauer.lab.crowd import Visits
from kracauer.lab.topology import ORIGIN_1, ORIGIN_2, SERVICE, Lab, Topology

HOSTS: Final = {"www.example.com": ORIGIN_1, "shop.example.net": ORIGIN_2}
DISTINCT: Final = 100_000
SETTLE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured at one rate; `processor` is the daemon's share of a core."""

    wanted: float
    sent: float
    visits: Visits
    processor: float
    grown_kib: int


def measure(lab: Lab, packets: list[bytes], rate: float, options: argparse.Namespace) -> Row:
    """Have a crowd visit during a flood of `rate` SYNs a second."""
    assert lab.daemon is not None
    memory, busy, started = memory_kib(lab.daemon.pid), busy_s(lab.daemon.pid), time.monotonic()
    attack = flood.launch(lab, packets, rate, options.seconds + SETTLE_S) if rate else None
    visitors = crowd.launch(lab, [*HOSTS], options.seconds, visitors=options.visitors, pause_s=options.pause)
    visitors.prefer()
    visits = crowd.outcome(visitors, options.seconds + 60)
    share = (busy_s(lab.daemon.pid) - busy) / (time.monotonic() - started)
    sent = flood.outcome(attack).per_second if attack else 0.0
    time.sleep(SETTLE_S)
    return Row(rate, sent, visits, share, memory_kib(lab.daemon.pid) - memory)


def busy_s(pid: int) -> float:
    """How long a process has run (the kernel's scheduler/sched-stats)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def memory_kib(pid: int) -> int:
    """The memory that a process has resident (proc_pid_statm(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def render(rows: list[Row]) -> str:
    """Return the figures as a table."""
    first = rows[0].visits
    head = (
        f"{'SYN/s':>7} {'sent/s':>7} {'visits/s':>9} {'ratio':>6} {'median ms':>10} {'ratio':>6} {'99 % ms':>8} {'slowest':>8}"
    )
    lines = [f"{head} {'over 1 s':>8} {'failed':>6} {'processor':>9} {'KiB':>6}"]
    for row in rows:
        visits = row.visits
        median = visits.quantile(0.5)
        lines.append(
            f"{row.wanted:>7.0f} {row.sent:>7.0f} {visits.per_second:>9.0f} {visits.per_second / first.per_second:>6.2f}"
            f" {median * 1e3:>10.1f} {median / first.quantile(0.5):>6.2f} {visits.quantile(0.99) * 1e3:>8.0f}"
            f" {visits.quantile(1) * 1e3:>8.0f} {sum(latency > 1 for latency in visits.latencies_s):>8}"
            f" {visits.failures.total():>6} {row.processor:>9.2f} {row.grown_kib:>+6}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[0, 5000, 10_000, 20_000, 40_000], help="SYNs a second")
    parser.add_argument("--seconds", type=float, default=5, help="length of each measurement")
    parser.add_argument("--visitors", type=int, default=8)
    parser.add_argument("--offload", choices=("auto", "off", "require"), default="auto", help="whether the kernel may answer")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two visits of one visitor")
    options = parser.parse_args()
    privileges.prepare()
    generator = random.Random(1)
    ends = attacks.spoofed(generator, DISTINCT, socket.inet_aton(SERVICE), 80)
    packets = list(attacks.syns(generator, ends))
    with Lab(Topology(has_attacker=True)) as lab:
        for process in (
            lab.start_origin("origin1"),
            lab.start_origin("origin2"),
            lab.start_daemon(configuration.render(HOSTS, network={"offload": options.offload})),
        ):
            process.prefer()
        crowd.outcome(crowd.launch(lab, [*HOSTS], 1, visitors=options.visitors))
        rows = [measure(lab, packets, rate, options) for rate in options.rates]
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()};", end=" ")
    print(f"{options.visitors} visitors, {options.seconds:g} s a rate, offload {options.offload}")
    print(render(rows))


if __name__ == "__main__":
    main()
