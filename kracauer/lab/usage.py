"""What processes and the machine use, as the kernel counts it (proc_stat(5), proc_pid_smaps(5), scheduler/sched-stats)."""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
_BUSY: Final = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq; neither idle nor what the host gave to other machines
_STOLEN: Final = 7


def _ticks() -> list[int]:
    return [int(word) for word in (PROC / "stat").read_text(encoding="ascii").partition("\n")[0].split()[1:]]


def machine_busy_s() -> float:
    """Processor seconds that all programs and the kernel have had so far, over all processors."""
    ticks = _ticks()
    return sum(ticks[column] for column in _BUSY) / os.sysconf("SC_CLK_TCK")


def machine_stolen_s() -> float:
    """Processor seconds that this machine wanted and its host gave to others."""
    return _ticks()[_STOLEN] / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                parent = int(stat.rpartition(")")[2].split()[1])  # the name before it may hold anything
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def busy_s(pids: Iterable[int]) -> float:
    """Processor seconds that these processes' living threads have had so far, the kernel's work on their behalf included."""
    total = 0
    for pid in pids:
        for thread in (PROC / str(pid) / "task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # it has just ended
                total += int(thread.read_text(encoding="ascii").split()[0])
    return total / 1e9


def memory_bytes(pids: Iterable[int]) -> int:
    """What these processes have in memory, each page that they share with others counted in proportion (PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            rollup = (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii", errors="replace")
            match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
            total += int(match[1]) * 1024 if match else 0
    return total


def slab_bytes() -> int:
    """What the kernel has in memory of small objects of its own, sockets among them."""
    match = re.search(r"^Slab:\s+(\d+) kB", (PROC / "meminfo").read_text(encoding="ascii"), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
