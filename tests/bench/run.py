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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "suite"))

import machine
import results
from peers import PEERS
from programme import PARTS, run, write
from rounds import Pace

from kracauer.errors import LabError
from kracauer.lab import privileges
from kracauer.lab.interrupts import Interrupted, interruptible

OUT: Final = machine.ROOT / "docs" / "benchmarks"


def chosen(kind: str, known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a reader of options that are some of `known`, commas between."""

    def read(text: str) -> list[str]:
        wanted = [word for word in text.split(",") if word]
        if unknown := [word for word in wanted if word not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no {kind}; there are {', '.join(known)}")
        return [word for word in known if word in wanted]

    return read


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
    parser.add_argument("--patience", type=float, default=0, metavar="SECONDS", help="wait so long for a quiet machine")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIRECTORY", help="where it is written (docs/benchmarks)")
    parser.add_argument("--render", action="store_true", help="measure nothing: write the page and the pictures anew")
    options = parser.parse_args()
    if options.seconds <= 0 or options.rounds < 1:
        parser.error("--seconds has to be more than 0, and --rounds at least 1")
    pace = Pace(options.seconds, options.rounds, options.patience, tell=lambda line: print(line, flush=True))
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
        print(f"ended by {error}: parts that were done are in {options.out}, and --render writes their page", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
