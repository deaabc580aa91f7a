"""A stand-in of the service manager: holds descriptors for one service, and starts the service with them (sd_notify(3))."""

import array
import ctypes
import fcntl
import os
import platform
import re
import select
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from kracauer.lab import syscalls

ROOT: Final = Path(__file__).parents[2]
_MOST_AT_ONCE: Final = 253  # SCM_MAX_FD
_FAR: Final = 64
_KCMP: Final = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}
_KCMP_FILE: Final = 0
_ABOVE_ALL: Final = 500
_libc = ctypes.CDLL(None, use_errno=True)


class Held(NamedTuple):
    """A descriptor that the store holds."""

    name: str
    fd: int
    is_polled: bool = False


class ServiceManager:
    """Listens at `address` until it is closed; `most` is FileDescriptorStoreMax=.

    As systemd does it: the latest is handed over first; what is held already, the very same file, is not taken again, not even
    by another name; what is in error is dropped, unless it is not to be polled; what there is no room for is closed, `lag_s`
    later, and nobody told. With `is_mute` nothing is read.
    """

    def __init__(self, directory: Path, *, most: int = 16, lag_s: float = 0.0, is_mute: bool = False) -> None:
        self.most = most
        self.lag_s = lag_s
        self.said: list[str] = []
        self.held: list[Held] = []
        self.address = str(directory / "notify")
        self._handing = str(directory / "start")
        self._lock = threading.Lock()
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(self.address)
        self._starts = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._starts.bind(self._handing)
        self._starts.listen()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._hand_over)]
        for thread in self._threads[is_mute:]:
            thread.start()

    @property
    def names(self) -> list[str]:
        """What is held, by name."""
        with self._lock:
            return sorted(each.name for each in self.held)

    def wrap(self, *command: str | Path) -> tuple[str | Path, ...]:
        """The command that starts a service as this manager would, as far as descriptors are concerned.

        It sees no bpffs where there usually is one.
        """
        return (sys.executable, __file__, self._handing, *command)

    def lend(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Have this very process be the service: hand it over what is held, wherever there is room."""
        with self._lock:
            names, fds = [each.name for each in self.held], [os.dup(each.fd) for each in self.held]
        monkeypatch.setenv("NOTIFY_SOCKET", self.address)
        return hand_over(monkeypatch, names, fds)

    def put(self, name: str, fd: int) -> None:
        """Hold `fd` as well, which another part of the service may have given."""
        with self._lock:
            self.held.insert(0, Held(name, fd))

    def close(self) -> None:
        """End it, and with it all that it holds."""
        for channel in (self._channel, self._starts):
            channel.shutdown(socket.SHUT_RDWR)
            channel.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(10)
        self.forget()

    def forget(self) -> None:
        """Let go of all, as when the service is stopped."""
        with self._lock:
            for each in self.held:
                os.close(each.fd)
            self.held.clear()

    def _listen(self) -> None:
        while True:
            try:
                data, rights, _, _ = self._channel.recvmsg(4096, socket.CMSG_SPACE(4 * _MOST_AT_ONCE))
            except OSError:
                return
            if not data:
                return
            fds = array.array("i")
            for level, kind, content in rights:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(content)
            with self._lock:
                self._heed(data.decode().split("\n"), fds)

    def _heed(self, said: Sequence[str], fds: Sequence[int]) -> None:
        self.said.append(" ".join(said))
        named = [word.removeprefix("FDNAME=") for word in said if word.startswith("FDNAME=")]
        if "FDSTOREREMOVE=1" in said:
            for each in [each for each in self.held if each.name in named]:
                self.held.remove(each)
                os.close(each.fd)
        for each in [each for each in self.held if each.is_polled and _is_in_error(each.fd)]:
            self.held.remove(each)
            os.close(each.fd)
        for fd in fds:
            if "FDSTORE=1" in said and len(self.held) < self.most and not any(_is_same(fd, each.fd) for each in self.held):
                name = named[0] if named else "stored"
                assert re.fullmatch(r"[ -9;-~]{1,255}", name), name
                self.held.insert(0, Held(name, fd, "FDPOLL=0" not in said))
            elif "BARRIER=1" in said or not self.lag_s:
                os.close(fd)
            else:
                threading.Timer(self.lag_s, os.close, (fd,)).start()

    def _hand_over(self) -> None:
        while True:
            try:
                service, _ = self._starts.accept()
            except OSError:
                return
            with service, self._lock:
                names = ":".join(each.name for each in self.held)
                fds = array.array("i", [each.fd for each in self.held])
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
                service.sendmsg([f"{self.address}\n{names}".encode()], rights)


def hand_over(monkeypatch: pytest.MonkeyPatch, names: Sequence[str], fds: Sequence[int]) -> list[int]:
    """Have this process be handed `fds`, which are closed, by these names; returns at which numbers they are then.

    A service has them from 3 on, where this process has its own: so they lie where 3 is meant to be, and far enough from all
    others that no thread opens anything there meanwhile.
    """
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", str(len(fds)))
    monkeypatch.setenv("LISTEN_FDNAMES", ":".join(names))
    first = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()) + _FAR
    monkeypatch.setattr("kracauer.daemon.inherited._FIRST", first)
    for number, fd in enumerate(fds, first):
        os.dup2(fd, number)
        os.close(fd)
    return list(range(first, first + len(fds)))


def _is_in_error(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def _is_same(first: int, second: int) -> bool:
    """Whether two descriptors are of one open file (kcmp(2))."""
    number = _KCMP.get(platform.machine())
    assert number is not None, f"the number of kcmp(2) on {platform.machine()} is missing here"
    result: int = _libc.syscall(number, os.getpid(), os.getpid(), _KCMP_FILE, first, second)
    assert result >= 0, os.strerror(ctypes.get_errno())
    return result == 0


def _start(handing: str, *command: str) -> None:
    """Become `command`, with what the manager that listens at `handing` holds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect(handing)
        data, rights, _, _ = channel.recvmsg(1 << 16, socket.CMSG_SPACE(4 * _MOST_AT_ONCE))
    fds = array.array("i")
    for _, _, content in rights:
        fds.frombytes(content)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, _ABOVE_ALL) for fd in fds]
    os.closerange(3, _ABOVE_ALL)
    for number, fd in enumerate(moved, 3):
        os.dup2(fd, number)
        os.close(fd)
    address, names = data.decode().split("\n")
    os.environ["NOTIFY_SOCKET"] = address
    if fds:
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names}
    bpffs = Path("/sys/fs/bpf")
    if bpffs.is_dir():
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.make_mounts_private()
        syscalls.mount_empty(bpffs)
    os.execvp(command[0], command)


if __name__ == "__main__":
    _start(*sys.argv[1:])
