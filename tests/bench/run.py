"""Measure Kracauer beside plain forwarding and the proxies that Debian packages, and write down what came of it.

    python tests/bench/run.py
    python tests/bench/run.py --only connections,round-trips --seconds 3 --rounds 5 --out /tmp/figures
    python tests/bench/run.py --peers haproxy --only bulk

Writes tables (README.md), all figures (results.json) and pictures (SVG, with matplotlib) into docs/benchmarks or `--out`. Parts
that are measured again replace what is there of them, the others stay, unless they come from another machine. Peers that are
not installed are left out, and named with their packages.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "suite"))

import alone
import crowding
import machine
import naming
import page
import plots
import results
import tables
import traffic
from peers import PEERS
from results import Part, Results
from rounds import Pace
from stage import MeasureError

from kracauer.errors import LabError
from kracauer.lab import privileges, usage
from kracauer.lab.interrupts import Interrupted, interruptible

Measure = Callable[[Part, Pace, Sequence[str]], None]
PARTS: Final[dict[str, Measure]] = {
    "bulk": traffic.measure_bulk,
    "bulk-links": traffic.measure_bulk_links,
    "connections": traffic.measure_connections,
    "tls": traffic.measure_tls,
    "round-trips": traffic.measure_round_trips,
    "memory": crowding.measure_memory,
    "flows": lambda part, pace, _: crowding.measure_flows(part, pace),
    "growth": lambda part, pace, _: alone.measure_growth(part, pace),
    "names": naming.measure_names,
    "engine": lambda part, pace, _: alone.measure_engine(part, pace),
}
OUT: Final = machine.ROOT / "docs" / "benchmarks"


def chosen(kind: str, known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a reader of options that are some of `known`, commas between."""

    def read(text: str) -> list[str]:
        wanted = [word for word in text.split(",") if word]
        if unknown := [word for word in wanted if word not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no {kind}; there are {', '.join(known)}")
        return [word for word in known if word in wanted]

    return read


def measure(name: str, pace: Pace, peers: Sequence[str]) -> Part:
    """Measure one part, and note under which circumstances."""
    part = Part(
        name, measured=f"{datetime.now(UTC):%Y-%m-%d}", commit=machine.commit(), seconds=pace.seconds, rounds=pace.rounds
    )
    part.busy = machine.busy_share()
    pace.tell(f"--- {name}")
    if part.busy > machine.QUIET:
        pace.tell(f"{part.busy:.0%} of this machine are in use by others: figures will be noisy")
    began, stolen = time.monotonic(), usage.machine_stolen_s()
    PARTS[name](part, pace, peers)
    part.took_s = round(time.monotonic() - began, 1)
    part.stolen = (usage.machine_stolen_s() - stolen) / part.took_s / machine.processors() if part.took_s else 0.0
    return part


def run(names: Sequence[str], pace: Pace, peers: Sequence[str], directory: Path) -> int:
    """Measure parts one after the other, keep each as soon as it is there, and write the page; returns how many failed."""
    here = machine.describe()
    found = results.load(directory)
    if found is None or found.machine != here:
        if found is not None:
            pace.tell(f"what is in {directory} was measured elsewhere, or with other versions, and goes")
        found = Results(here)
    failed = 0
    for name in names:
        try:
            found.parts[name] = measure(name, pace, peers)
        except (LabError, MeasureError) as error:
            pace.tell(f"{name} could not be measured: {error}")
            failed += 1
            continue
        found.parts = {each: found.parts[each] for each in PARTS if each in found.parts}
        found.save(directory)
    write(found, directory, pace.tell)
    return failed


def write(found: Results, directory: Path, tell: Callable[[str], None]) -> None:
    """Write pictures and page, and show the bars."""
    directory.mkdir(parents=True, exist_ok=True)
    if not plots.is_possible():
        tell(plots.REMEDY)
    pictures = plots.draw(found, directory)
    (directory / page.FILE).write_text(page.render(found, pictures), encoding="utf-8")
    tell("")
    tell(tables.bars(found))
    if missing := tables.left_out(found):
        tell(f"\nleft out:\n{missing}")
    tell(f"\nwritten to {directory}")


def main() -> int:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts, peers = list(PARTS), list(PEERS)
    parser.add_argument("--only", type=chosen("part", parts), default=parts, metavar="PART,…", help=f"of {', '.join(parts)}")
    parser.add_argument(
        "--peers", type=chosen("peer", peers), default=peers, metavar="PEER,…", help=f"of {', '.join(peers)}; '' for none"
    )
    parser.add_argument("--seconds", type=float, default=Pace().seconds, help="length of each measurement (%(default)s)")
    parser.add_argument("--rounds", type=int, default=Pace().rounds, help="how often each is repeated (%(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIRECTORY", help="where it is written (docs/benchmarks)")
    parser.add_argument("--render", action="store_true", help="measure nothing: write the page and the pictures anew")
    options = parser.parse_args()
    if options.seconds <= 0 or options.rounds < 1:
        parser.error("--seconds has to be more than 0, and --rounds at least 1")
    pace = Pace(options.seconds, options.rounds, tell=lambda line: print(line, flush=True))
    if options.render:
        found = results.load(options.out)
        if found is None:
            parser.error(f"there are no results in {options.out}")
        write(found, options.out, pace.tell)
        return 0
    try:
        privileges.prepare()
        with interruptible():
            return 1 if run(options.only, pace, options.peers, options.out) else 0
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    except Interrupted as error:
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
