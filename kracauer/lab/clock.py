"""A program whose monotonic clock is ahead of everybody's, or behind: `python -m kracauer.lab.clock SECONDS COMMAND…`.

Nothing else differs (time_namespaces(7)). LabError where the kernel has no such namespaces.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kracauer.errors import LabError
from kracauer.lab import syscalls
from kracauer.lab.namespaces import python_module


def shifted(seconds: int) -> list[str]:
    """Return what to put before a command whose clock is to differ by so many seconds."""
    return [str(part) for part in python_module("kracauer.lab.clock", str(seconds))]


def execute(seconds: int, command: Sequence[str]) -> NoReturn:
    """Become `command` in a time namespace of its own; in a process with one thread only."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWTIME)
        offsets = "".join(f"{clock} {seconds} 0\n" for clock in ("monotonic", "boottime"))
        Path("/proc/self/timens_offsets").write_text(offsets, encoding="ascii")
        syscalls.enter_namespace(Path("/proc/self/ns/time_for_children"), syscalls.CLONE_NEWTIME)
    except OSError as error:
        raise LabError(f"the clock cannot be shifted: {error}", "it needs root and a kernel with time namespaces") from error
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    execute(int(sys.argv[1]), sys.argv[2:])
