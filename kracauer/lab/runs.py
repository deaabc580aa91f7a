"""Names by which a run's namespaces and files are known, so that what a killed run left behind can be told and removed.

A run's token is its process id and that process's start time: whether the run still lives can be read off the name. A reaper
process besides (`python -m kracauer.lab.runs TOKEN DIRECTORY`) holds the end of a pipe and tidies up at once when the run dies.
"""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from kracauer.lab import syscalls
from kracauer.lab.namespaces import DIRECTORY, NetworkNamespace, child_environment, python_module

_NAME: Final = re.compile(r"kracauer-(?P<token>(?P<pid>\d+)\.(?P<start>\d+)\.\d+)(-.+)?")
_serial = itertools.count(1)


def new_token() -> str:
    """Return a token that no other run on this machine has."""
    return f"{os.getpid()}.{_start_time(os.getpid())}.{next(_serial)}"


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])  # field 22 of proc(5); the name before it may hold anything


def is_alive(token: str) -> bool:
    """Tell whether the process that made `token` still runs."""
    pid, start, _ = token.split(".")
    return _start_time(int(pid)) == int(start)


def work_directory(token: str) -> Path:
    """Return the directory in which the run keeps its certificates, configuration and logs."""
    return Path(tempfile.gettempdir()) / f"kracauer-{token}"


def bpffs(directory: Path) -> Path:
    """Return where in its work directory a run may have mounted a bpffs of its own."""
    return directory / "bpf"


def remains(token: str | None = None, directory: Path = DIRECTORY) -> list[Path]:
    """Return the namespaces and work directories of run `token`, or of every run that is no longer alive."""
    found = []
    for parent in (directory, Path(tempfile.gettempdir())):
        for path in sorted(parent.glob("kracauer-*")):
            match = _NAME.fullmatch(path.name)
            if match and (match["token"] == token if token else not is_alive(match["token"])):
                found.append(path)
    return found


def remove(token: str | None = None, directory: Path = DIRECTORY) -> list[Path]:
    """Remove what `remains` names, processes inside included, and return it; trying again is harmless."""
    found = remains(token, directory)
    for path in found:
        with contextlib.suppress(OSError):  # another run may be removing the same thing
            if path.parent == directory:
                NetworkNamespace(path.name, directory).remove()
            else:
                with contextlib.suppress(OSError):  # none is there
                    syscalls.detach_mount(bpffs(path))
                shutil.rmtree(path)
    return found


class Reaper:
    """A process that removes run `token` as soon as this one dies, however it dies."""

    def __init__(self, token: str, directory: Path) -> None:
        self._process = subprocess.Popen(
            python_module("kracauer.lab.runs", token, directory),
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that what kills our process group spares it
        )

    def dismiss(self) -> None:
        """Let it go, after it has looked once more that nothing is left."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Wait for the end of standard input, then remove the run named by the arguments."""
    token, directory = sys.argv[1:]
    sys.stdin.buffer.read()
    remove(token, Path(directory))


if __name__ == "__main__":
    main()
