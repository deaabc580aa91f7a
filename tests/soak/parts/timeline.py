"""What happened when, a line of JSON each, and what should not have happened with all that may explain it."""

import contextlib
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

LAST: Final = 60  # actions that are shown with a violation
MOST_EXPLAINED: Final = 20


class Timeline:
    """Writes `timeline.jsonl`, and a file for each of the first violations; for any thread to use."""

    def __init__(self, directory: Path, explain: Callable[[], dict[str, Any]]) -> None:
        self.directory = directory
        self.path = directory / "timeline.jsonl"
        self.violations: list[str] = []
        self.excused: Counter[str] = Counter()
        self._explain = explain
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._last: deque[dict[str, Any]] = deque(maxlen=LAST)
        self._file = self.path.open("w", encoding="utf-8")

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()

    @property
    def elapsed_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    def note(self, actor: str, what: str, **fields: object) -> None:
        """One thing that somebody did or saw."""
        line = {"t": round(self.elapsed_s, 3), "actor": actor, "what": what, **fields}
        with self._lock:
            if "excuse" in fields:
                self.excused[f"{what}: {fields['excuse']}"] += 1
            self._last.append(line)
            self._file.write(json.dumps(line, default=str) + "\n")
            self._file.flush()

    def violate(self, actor: str, what: str, **fields: object) -> None:
        """One thing that must not be; it goes on all the same."""
        self.note(actor, "VIOLATION", of=what, **fields)
        with self._lock:
            self.violations.append(f"{self.elapsed_s:.1f} s, {actor}: {what} {fields}")
            number, last = len(self.violations), list(self._last)
        if number <= MOST_EXPLAINED:
            found = {"what": what, "actor": actor, **fields, "last": last, **self._explain()}
            path = self.directory / f"violation-{number}.json"
            path.write_text(json.dumps(found, indent=1, default=str), encoding="utf-8")


# What may be troubled, and for how long after the trouble is over whoever suffers from it is still excused
GRACE_S: Final = {
    "daemon": 1.0,
    "routes": 2.0,
    "second": 1.0,
    "origin1": 1.5,
    "origin2": 1.5,
    "link of origin1": 1.5,
    "link of origin2": 1.5,
}
OPENING_S: Final = 2.0  # how long a connection is new, of which a link that fails may cost the backend's SYN-ACK


class Troubles:
    """What is out of order at the moment, or was when somebody met with a failure."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: dict[str, list[list[float]]] = {kind: [] for kind in GRACE_S}

    @contextlib.contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """Mark the time of the block."""
        span = [time.monotonic(), float("inf")]
        with self._lock:
            self._spans[kind].append(span)
        try:
            yield
        finally:
            span[1] = time.monotonic()

    def begun_since(self, start: float, *kinds: str) -> list[str]:
        """Those of `kinds` that have begun since `start`."""
        with self._lock:
            return [kind for kind in kinds if any(begin >= start for begin, _ in self._spans[kind])]

    def at(self, start: float, *kinds: str) -> list[str]:
        """Those of `kinds` that there were while a connection that was begun at `start` was new."""
        with self._lock:
            return [
                kind
                for kind in kinds
                if any(begin - OPENING_S <= start <= end + GRACE_S[kind] for begin, end in self._spans[kind])
            ]

    def between(self, start: float, *kinds: str) -> list[str]:
        """Those of `kinds` that there were at any moment from `start` until now, or just before."""
        with self._lock:
            return [kind for kind in kinds if any(end + GRACE_S[kind] >= start for _, end in self._spans[kind])]
