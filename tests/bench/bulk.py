"""One bulk flow through Kracauer and through plain kernel IPv6 forwarding, in the same namespaces, in turns.

    python tests/bench/bulk.py --seconds 5 --rounds 3

Prints the median rate of each way and Kracauer's share of what the kernel alone moves.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from kracauer.lab import bulk, configuration, privileges
from kracauer.lab.namespaces import python_module
from kracauer.lab.topology import ORIGIN_1, SERVICE, Lab, Topology

BULK_PORT: Final = 5201
NAME: Final = "bulk.example.com"
WAYS: Final = {"kernel": (ORIGIN_1, BULK_PORT), "kracauer": (SERVICE, 80)}
DIRECTIONS: Final = ("download", "upload")


def measure(lab: Lab, way: str, direction: str, seconds: float) -> float:
    """Return the rate of one flow in Gbit/s."""
    address, port = WAYS[way]
    command = python_module("kracauer.lab.bulk", direction, address, str(port), NAME, "--seconds", str(seconds))
    result = lab.client.run(command, timeout_s=seconds + 20)
    if result.returncode:
        raise SystemExit(f"{way} {direction}: {result.stderr.decode()}")
    return bulk.Transfer(**json.loads(result.stdout)).gbit_per_s


def run(options: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """Return the rates by way and direction, one for each round."""
    rates: dict[tuple[str, str], list[float]] = {(way, direction): [] for direction in DIRECTIONS for way in WAYS}
    with Lab(Topology(has_offloads=not options.no_offloads)) as lab:
        server = lab.start("bulk", lab.origin1, python_module("kracauer.lab.bulk", "serve", str(BULK_PORT)))
        server.wait_for(bulk.READY)
        hosts = {NAME: f"[{ORIGIN_1}]:{BULK_PORT}"}
        lab.start_daemon(configuration.render(hosts, network={"offloads": not options.no_offloads}))
        for _ in range(options.rounds):
            for (way, direction), measured in rates.items():
                measured.append(measure(lab, way, direction, options.seconds))
    return rates


def render(rates: dict[tuple[str, str], list[float]]) -> str:
    """Return the figures as a table."""
    lines = [f"{'direction':<10} {'way':<9} {'Gbit/s':>7}  {'min':>6}  {'max':>6}  share of kernel"]
    for (way, direction), measured in rates.items():
        median = statistics.median(measured)
        share = median / statistics.median(rates["kernel", direction])
        lines.append(f"{direction:<10} {way:<9} {median:>7.2f}  {min(measured):>6.2f}  {max(measured):>6.2f}  {share:.2f}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="length of each transfer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-offloads", action="store_true", help="single packets only, on the device and on the links")
    options = parser.parse_args()
    privileges.prepare()
    rates = run(options)
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}; one flow,")
    print(f"median of {options.rounds} rounds of {options.seconds:g} s, offloads {'off' if options.no_offloads else 'on'}")
    print(render(rates))


if __name__ == "__main__":
    main()
