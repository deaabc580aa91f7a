"""What is checked all the time: the daemon's log, its memory, its descriptors; and what must be left of it all at the end.

Resident memory is sampled every second in each life of the daemon. Its slope is the median of the slopes between every two
samples that are far apart (Theil 1950), in the second half of a life: the first attack of each kind takes memory that the
interpreter keeps. What that adds comes in steps, so it is judged in lives of ten minutes or more, and only told of those of
three. In any life it may grow by MOST_GROWN_BYTES.
Descriptors are counted without the flow file's, one for each of its pages; in ten samples in a row one has to be as it was.
"""

import contextlib
import json
import os
import statistics
from collections import Counter
from pathlib import Path
from typing import Any, Final

from scene import DEVICE, Scene

from kracauer.errors import DropReason
from kracauer.logs import LINES_AT_ONCE, LINES_PER_S

MIB: Final = 1 << 20
TOLD_LIFE_S: Final = 180.0
JUDGED_LIFE_S: Final = 600.0
MOST_SLOPE_BYTES_PER_S: Final = 8 << 10  # half a MiB a minute
MOST_GROWN_BYTES: Final = 64 * MIB
DESCRIPTOR_SAMPLES: Final = 10
KINDS_OF_LINES: Final = 6  # events that strangers bring about, each with lines of its own
ERRORS_EXPECTED: Final = frozenset({"device_lost"})


def resident_bytes(pid: int) -> int:
    """The memory that a process has resident (proc_pid_statm(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> list[str]:
    """What a process has open but for the flow file, as proc_pid_fd(5) names it."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(path.readlink()))
    return sorted(name for name in found if not name.endswith(f"/{DEVICE}.flows"))


def slope(samples: list[tuple[float, int]]) -> float:
    """Bytes a second, by the median of the slopes between samples that are far apart."""
    least_s = (samples[-1][0] - samples[0][0]) / 3
    thinned = samples[:: max(len(samples) // 200, 1)]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a in thinned for b in thinned if b[0] - a[0] >= least_s]
    return statistics.median(slopes) if slopes else 0.0


class Life:
    """One process of the daemon, as seen from outside."""

    def __init__(self, pid: int, now: float) -> None:
        self.pid = pid
        self.began = now
        self.memory: list[tuple[float, int]] = []
        self.first_descriptors: list[str] | None = None
        self.recent: list[list[str]] = []

    @property
    def length_s(self) -> float:
        """How long it has been watched."""
        return self.memory[-1][0] - self.began if self.memory else 0.0

    @property
    def slope(self) -> float | None:
        """How its memory grows, in bytes a second; None where it has not lived long enough."""
        warm = [(at, size) for at, size in self.memory if at - self.began > self.length_s / 2]
        return slope(warm) if self.length_s > TOLD_LIFE_S else None


class Watch:
    """Looks once a second."""

    def __init__(self, scene: Scene) -> None:
        self.actor = "watch"
        self.lives: list[Life] = []
        self.lines: Counter[str] = Counter()
        self._scene = scene
        self._offset = 0
        self._rest = b""

    def run(self) -> None:
        """Look until it is over."""
        ticks = 0
        while not self._scene.stop.wait(1):
            ticks += 1
            self.look()
            if ticks % 5 == 0 and self._scene.operating.acquire(timeout=0):
                try:
                    self._ask()
                finally:
                    self._scene.operating.release()

    def look(self) -> None:
        """Look once."""
        self.read_log()
        scene = self._scene
        if scene.operating.acquire(timeout=0):
            try:
                if scene.daemon.is_running:
                    self._look_at(scene.daemon.pid)
                else:
                    scene.timeline.violate(self.actor, "the daemon has ended by itself", status=scene.daemon.returncode)
                    scene.start_daemon()
            finally:
                scene.operating.release()

    def _ask(self) -> None:
        status = self._scene.status()
        if status is None:
            self._scene.timeline.violate(self.actor, "the daemon does not answer")
            return
        memory = self.lives[-1].memory[-1][1] if self.lives and self.lives[-1].memory else 0
        self._scene.timeline.note(
            self.actor, "status", flows=status["flows"], **status["holdings"], kept=status["flows_kept"], resident=memory
        )
        if status["counters"]["internal_errors"]:
            self._scene.timeline.violate(self.actor, "internal errors", count=status["counters"]["internal_errors"])

    def _look_at(self, pid: int) -> None:
        now = self._scene.timeline.elapsed_s
        if not self.lives or self.lives[-1].pid != pid:
            self.lives.append(Life(pid, now))
        life = self.lives[-1]
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            life.memory.append((now, resident_bytes(pid)))
            life.recent = [*life.recent, descriptors(pid)][-DESCRIPTOR_SAMPLES:]
        if len(life.recent) == DESCRIPTOR_SAMPLES:
            least = min(life.recent, key=len)
            if life.first_descriptors is None:
                life.first_descriptors = least
            elif len(least) > len(life.first_descriptors):
                self._scene.timeline.violate(
                    self.actor, "more descriptors than before", before=life.first_descriptors, now=least
                )
                life.first_descriptors = least
        grown = life.memory[-1][1] - life.memory[0][1] if life.memory else 0
        if grown > MOST_GROWN_BYTES:
            self._scene.timeline.violate(self.actor, "memory has grown", by_bytes=grown, since_s=life.length_s)
            life.memory = life.memory[-1:]

    def read_log(self) -> None:
        """Take in the lines that are new."""
        with self._scene.daemon.log_path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        self._offset += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                # A process that is killed may leave half a line, and its successor goes on behind it.
                self._scene.timeline.note(self.actor, "line", text=line.decode(errors="replace"))
                if b"Traceback" in line:
                    self._scene.timeline.violate(self.actor, "a traceback in the log", line=line.decode(errors="replace"))
                continue
            self._note(event)

    def _note(self, event: dict[str, Any]) -> None:
        name, level = event["event"], event["level"]
        self.lines[name] += 1
        is_wrong = level in ("error", "critical") and name not in ERRORS_EXPECTED
        if is_wrong or name in ("internal_error", "undo_incomplete") or event.get("discarded"):
            self._scene.timeline.violate(self.actor, f"the daemon logs {name}", line=event)
        elif level == "warning" and name != "backend_failed":
            self._scene.timeline.note(self.actor, "warning", line=event)

    def check_lines(self, connections: int) -> None:
        """At the end: there are so many lines as honest connections bring about, and what strangers may cause."""
        lives, elapsed_s = max(len(self.lives), 1), self._scene.timeline.elapsed_s
        strangers = KINDS_OF_LINES * (lives * LINES_AT_ONCE + elapsed_s * LINES_PER_S)
        dropped = 2 * len(DropReason) * (elapsed_s / 10 + lives)
        most = strangers + dropped + 4 * connections + 100 * lives
        if (total := self.lines.total()) > most:
            self._scene.timeline.violate(self.actor, "too many lines in the log", lines=total, most=most, kinds=self.lines)

    def check_memory(self) -> None:
        """At the end: no long life's memory has grown with time."""
        for life in self.lives:
            if life.length_s > JUDGED_LIFE_S and life.slope is not None and life.slope > MOST_SLOPE_BYTES_PER_S:
                self._scene.timeline.violate(
                    self.actor, "memory grows", bytes_per_s=round(life.slope), life_s=round(life.length_s), pid=life.pid
                )


def check_drained(scene: Scene) -> None:
    """After all clients have gone: nothing is held, once what takes its time has had it."""
    status: dict[str, Any] = {}

    def is_empty() -> bool:
        status.clear()
        status.update(scene.status() or {"flows": {"unknown": 1}, "holdings": {}})
        # What is kept of incomplete datagrams goes by a timeout of its own, which a soak need not wait for.
        held = {name: count for name, count in status["holdings"].items() if name != "fragment_bytes"}
        return not status["flows"] and not any(held.values()) and scene.used_records() == 0

    began = scene.timeline.elapsed_s
    if not scene.wait_until(is_empty, scene.pace.drain_s):
        scene.timeline.violate(
            "watch", "something is left", flows=status["flows"], holdings=status["holdings"], records=scene.used_records()
        )
    scene.timeline.note("watch", "drained", seconds=round(scene.timeline.elapsed_s - began, 1), **status.get("holdings", {}))


def check_forgotten(scene: Scene) -> None:
    """After `stop --forget`: the router is as it was found, and the secret is left of the files, and the lock's."""
    result = scene.command("stop", "--forget")
    if result.returncode != 0:
        scene.timeline.violate("watch", "stop --forget failed", status=result.returncode, said=result.stderr.decode())
    left = sorted(path.name for path in scene.run_directory.iterdir())
    if left != [f"{DEVICE}.lock", f"{DEVICE}.secret"]:
        scene.timeline.violate("watch", "files are left", files=left)
    found, now = scene.found, scene.host_state()
    for key in found:
        if found[key] != now[key]:
            scene.timeline.violate("watch", f"the host's {key} are not as they were", before=found[key], now=now[key])
