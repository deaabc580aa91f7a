"""Network namespaces with names, and things done inside them (network_namespaces(7), ip-netns(8)).

Whatever happens inside a namespace happens in a thread that has moved there: a socket or a child process made by that thread
belongs to the namespace for good, while the rest of this process stays where it was. Nothing is forked to get in.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from kracauer.lab import syscalls

DIRECTORY: Final = Path("/run/netns")  # where ip-netns(8) looks for them too
HOSTS_FILE: Final = Path("/etc/hosts")
BPFFS: Final = Path("/sys/fs/bpf")
PACKAGE_ROOT: Final = Path(__file__).resolve().parent.parent.parent

_T = TypeVar("_T")


class _Errand(threading.Thread, Generic[_T]):
    """One function run in a thread of its own; its result or its exception is brought back."""

    def __init__(self, function: Callable[[], _T]) -> None:
        super().__init__(name="kracauer-lab-errand", daemon=True)
        self._function = function
        self._results: list[_T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run the function once."""
        try:
            self._results.append(self._function())
        except BaseException as error:  # raised again in the thread that asked
            self._error = error

    def fetch(self) -> _T:
        """Start, wait, and return what the function returned or raise what it raised."""
        self.start()
        self.join()
        if self._error is not None:
            raise self._error
        return self._results[0]


def in_thread(function: Callable[[], _T]) -> _T:
    """Return `function()` as computed in a thread that ends afterwards, with whatever namespaces it moved to."""
    return _Errand(function).fetch()


class NetworkNamespace:
    """One network namespace, kept alive by a name under `directory`.

    For processes inside, `hosts` replaces /etc/hosts, and `bpffs`, which has to be one, is seen at /sys/fs/bpf.
    """

    def __init__(self, name: str, directory: Path = DIRECTORY, *, hosts: Path | None = None, bpffs: Path | None = None) -> None:
        self.name = name
        self.path = directory / name
        self.hosts = hosts
        self.bpffs = bpffs

    def __repr__(self) -> str:
        return f"<NetworkNamespace {self.path}>"

    def create(self) -> None:
        """Make the namespace, with its loopback interface still down; OSError when it cannot be."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        syscalls.share_mounts(self.path.parent)
        self.path.touch(exist_ok=False)
        try:
            in_thread(self._bind_new)
        except OSError:
            self.path.unlink()
            raise

    def _bind_new(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        syscalls.bind_mount(Path("/proc/thread-self/ns/net"), self.path)

    def remove(self) -> None:
        """Kill what still runs inside and take the name away; the kernel then frees devices and routes. Idempotent."""
        self.kill_processes()
        with contextlib.suppress(OSError):
            syscalls.detach_mount(self.path)
        self.path.unlink(missing_ok=True)

    def call(self, function: Callable[[], _T]) -> _T:
        """Return `function()` as run by a thread inside the namespace."""

        def enter_and_call() -> _T:
            syscalls.enter_network_namespace(self.path)
            return function()

        return in_thread(enter_and_call)

    def open_socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        """Return a socket that lives in the namespace, for any thread of this process to use."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def popen(
        self,
        args: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program inside, in a session of its own so that a terminal's Ctrl-C reaches only the lab's owner."""
        environment = child_environment() | dict(env or {})

        def spawn() -> subprocess.Popen[bytes]:
            wanted = ((self.hosts, HOSTS_FILE), (self.bpffs, BPFFS))
            binds = [(source, target) for source, target in wanted if source is not None and target.exists()]
            if binds:
                syscalls.unshare(syscalls.CLONE_NEWNS)
                syscalls.make_mounts_private()
                for source, target in binds:
                    syscalls.bind_mount(source, target)
            return subprocess.Popen(
                list(args), env=environment, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
            )

        return self.call(spawn)

    def run(
        self,
        args: Sequence[str | Path],
        *,
        stdin: bytes = b"",
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program inside to its end, its output captured; `subprocess.TimeoutExpired` after killing it."""
        pipe = subprocess.PIPE
        with self.popen(args, env=env, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def sysctl(self, key: str, value: str | int | None = None) -> str:
        """Return the namespace's `net.…` setting, after writing `value` when one is given; dots separate, as in sysctl(8)."""
        path = Path("/proc/sys", *key.split("."))

        def access() -> str:
            if value is not None:
                path.write_text(f"{value}\n", encoding="ascii")
            return path.read_text(encoding="ascii").strip()

        return self.call(access)

    def pids(self) -> list[int]:
        """Return the processes that run inside, this one never among them."""
        try:
            wanted = self.path.stat()
        except OSError:
            return []
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                stat = (entry / "ns" / "net").stat()
                if (stat.st_dev, stat.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(int(entry.name))
        return found

    def kill_processes(self, timeout_s: float = 3) -> None:
        """Kill every process inside and wait until they are gone; those that were not our children vanish on their own."""
        deadline = time.monotonic() + timeout_s
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def child_environment() -> dict[str, str]:
    """Return this process's environment for a program in the lab: our package importable, no web proxy in the way."""
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    search_path = [str(PACKAGE_ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(part for part in search_path if part)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def python_module(module: str, *args: str | Path) -> list[str | Path]:
    """Return the command that runs `module` with this very interpreter."""
    return [sys.executable, "-m", module, *args]
