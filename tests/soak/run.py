"""Mix honest traffic with attacks, reloads, kills and accidents, for as long as one likes, and check that nobody notices.

    python tests/soak/run.py --minutes 10
    python tests/soak/run.py --minutes 60 --seed 7 --only visit,transfer,idle,attack,kill

Everything happens in one lab. Who does what is chosen by the seed; when it happens depends on the machine as well. At the end a
directory is named with the timeline (a JSON object a line), the daemon's log, and for each violation a file that says what was
done last, with the log's end and the daemon's status. The exit status is 1 where there was a violation.

Groups for `--only`: visit, transfer, idle, slow (hellos in pieces); attack; reload, restart (or kill: stops and kills), host
(routes, link and device are taken away); outage (origins die, halt, are cut off); weather (loss, reordering, delay).

What must hold, all the time: no visit, transfer or idle connection fails and no hash is wrong, but where its own origin was
killed or cut off, or the routes were gone while it connected (grace times: tests/soak/parts/timeline.py); the daemon never
ends by itself, never logs an error of its own; its memory and its descriptors do not grow with time (how that is told:
tests/soak/parts/watch.py); its log stays within the bounds. And at the end: no flow, no record, nothing held, once the timeouts
are over; after `kracauer stop --forget` the router is as it was found, and of the files the secret and the lock's are left.
"""

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "parts"))

from soak import GROUPS, WORDS, soak

from kracauer.lab import privileges
from kracauer.lab.interrupts import Interrupted, interruptible


def groups(text: str) -> frozenset[str]:
    """Read the value of `--only`."""
    chosen = frozenset(WORDS.get(word, word) for word in text.split(","))
    if unknown := chosen - set(GROUPS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(GROUPS)}")
    return chosen


def main() -> int:
    """Soak, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, help="without: another one each time, which is printed")
    parser.add_argument("--only", type=groups, default=frozenset(GROUPS), metavar="GROUP,…", help="without: all groups")
    options = parser.parse_args()
    seed = random.randrange(1 << 16) if options.seed is None else options.seed
    privileges.prepare()
    print(f"seed {seed}, {options.minutes:g} minutes", flush=True)
    try:
        with interruptible():
            outcome = soak(options.minutes * 60, seed, only=options.only)
    except Interrupted as error:
        return error.exit_code
    print(json.dumps(outcome.summary, indent=1))
    for violation in outcome.violations:
        print(f"VIOLATION {violation}")
    print(f"{len(outcome.violations)} violations; timeline and logs: {outcome.directory}")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
