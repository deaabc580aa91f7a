"""How far this process's monotonic clock is ahead of the kernel's own, which programs read (time_namespaces(7))."""

from functools import cache
from pathlib import Path
from typing import Final

_OFFSETS: Final = Path("/proc/self/timens_offsets")
_NANOSECONDS: Final = 1_000_000_000


@cache
def ahead_ns() -> int:
    """In nanoseconds; 0 outside of a time namespace, and where there are none."""
    try:
        lines = _OFFSETS.read_text(encoding="ascii").splitlines()
        seconds, nanoseconds = next(line.split()[1:] for line in lines if line.startswith("monotonic"))
        return int(seconds) * _NANOSECONDS + int(nanoseconds)
    except (OSError, ValueError, StopIteration):
        return 0
