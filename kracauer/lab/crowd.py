"""Honest visitors, many at a time, a connection for each request: `python -m kracauer.lab.crowd ADDRESS NAME… --visitors 8`.

Prints a JSON object: how long each visit took, from the SYN to the end of the stream, and what went wrong how often. A visit
that was answered on behalf of another caller or name is a failure, too.
"""

import argparse
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from kracauer.lab.namespaces import python_module
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import SERVICE, Lab

TIMEOUT_S: Final = 10.0
PIECE: Final = 65_536
READY: Final = "crowd begins"


@dataclass(slots=True)
class Visits:
    """What became of a crowd's visits; `latencies_s` are those of the visits that were answered as they should be."""

    latencies_s: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Answered visits a second."""
        return len(self.latencies_s) / self.seconds if self.seconds else 0.0

    def quantile(self, share: float) -> float:
        """The time within which this share of the answered visits was over; infinite where none was answered."""
        ordered = sorted(self.latencies_s)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("inf")


class Crowd:
    """So many visitors, each of whom makes one visit after the other with a pause between."""

    def __init__(self, address: str, port: int, names: Sequence[str], pause_s: float) -> None:
        self._destination = (address, port)
        self._names = names
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self.visits = Visits()

    def run(self, visitors: int, seconds: float) -> Visits:
        """Visit for so long; what has begun by then is brought to its end."""
        started = time.monotonic()
        names = [self._names[number % len(self._names)] for number in range(visitors)]
        threads = [threading.Thread(target=self._stay, args=(name, started + seconds)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.visits.seconds = time.monotonic() - started
        return self.visits

    def _stay(self, name: str, until: float) -> None:
        while time.monotonic() < until:
            before = time.monotonic()
            try:
                failure = self._visit(name)
            except OSError as error:
                failure = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            with self._lock:
                if failure is None:
                    self.visits.latencies_s.append(round(time.monotonic() - before, 6))
                else:
                    self.visits.failures[failure] += 1
            time.sleep(self._pause_s)

    def _visit(self, name: str) -> str | None:
        """Make one visit; returns what was wrong with the answer."""
        with socket.create_connection(self._destination, timeout=TIMEOUT_S) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode("ascii"))
            answer = b""
            while piece := connection.recv(PIECE):
                answer += piece
            client, port = connection.getsockname()
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            return f"answered {head[:40]!r}"
        seen = json.loads(body)
        if (seen["client"], seen["port"], seen["host"]) != (client, port, name):
            return "an answer to somebody else"
        return None


def launch(
    lab: Lab, names: Sequence[str], seconds: float, *, visitors: int = 8, pause_s: float = 0.02, address: str = SERVICE
) -> BackgroundProcess:
    """Send a crowd from the lab's client and return its process; `outcome` waits for its end."""
    options = ("--visitors", str(visitors), "--pause", str(pause_s), "--seconds", str(seconds))
    process = lab.start("crowd", lab.client, python_module("kracauer.lab.crowd", address, *names, *options))
    process.wait_for(READY)
    return process


def outcome(process: BackgroundProcess, timeout_s: float = 30) -> Visits:
    """Return what became of the crowd of `launch`, once it is over."""
    process.wait(timeout_s)
    fields = process.events[-1]
    return Visits(fields["latencies_s"], Counter(fields["failures"]), fields["seconds"])


def main() -> None:
    """Visit, and print what became of it."""
    parser = argparse.ArgumentParser(prog="kracauer.lab.crowd", description=__doc__.partition("\n")[0])
    parser.add_argument("address")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--visitors", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two visits of one visitor")
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    crowd = Crowd(options.address, options.port, options.names, options.pause)
    print(READY, flush=True)
    visits = crowd.run(options.visitors, options.seconds)
    shown = {"latencies_s": visits.latencies_s, "failures": dict(visits.failures), "seconds": visits.seconds}
    print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
