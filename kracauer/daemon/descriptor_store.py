"""The service manager's descriptor store: holds the fast path where there is no bpffs (sd_pid_notify_with_fds(3)).

    kracauer-DEVICE/link
    kracauer-DEVICE/v1_7_client_flows    as in the bpffs; other than letters and digits, %2D

The manager hands a process what the ones before have given it, and says nothing when it is given something: without
FileDescriptorStoreMax=, or when that is reached, it closes it. So what is given is followed by the end of a pipe. A manager
that holds this one has held all before it; else the pipe is seen to be closed.
"""

import os
import urllib.parse
from collections.abc import Sequence
from typing import Final

from kracauer.daemon.inherited import take_inherited
from kracauer.daemon.notify import has_manager, is_let_go, notify, wait_for_manager
from kracauer.offload import bpf
from kracauer.offload.keepers import UnkeptError

# Three maps of each process, the link and the pipe; and the maps of processes that were killed while they took over.
MOST: Final = 16
_TIMEOUT_S: Final = 5.0  # of one that has to deal with all the machine's units first
# systemd may close what it does not hold in a process of its own, and so a moment after it has said that it is through.
_GRACE_S: Final = 0.05


class DescriptorStore:
    """What the store has of one device's; to be made once in a process, for what was handed over is to be had once."""

    kind = "descriptor store"
    where = "the service manager's descriptor store"

    def __init__(self, device: str) -> None:
        name = f"kracauer-{urllib.parse.quote(os.fsencode(device), safe='')}"
        self._prefix = f"{name}/"  # which no interface has in its name
        self._trial_name = f"{name}.trial"
        self._trial = -1
        self._timeout_s = _TIMEOUT_S
        self._held: dict[str, int] = {}
        descriptors, self.problem = take_inherited()
        self._take(descriptors)

    def names(self) -> list[str]:
        """What earlier processes have left there."""
        return sorted(self._held)

    def open(self, name: str) -> int:
        """As the protocol has it."""
        try:
            return os.dup(self._held[name])
        except KeyError:
            raise FileNotFoundError(name) from None

    def keep(self, objects: dict[str, int]) -> None:
        """As the protocol has it."""
        if not has_manager():
            raise UnkeptError("no service manager holds descriptors (NOTIFY_SOCKET names none)", "have systemd run the service")
        is_room_kept = self._end_trial() and len(objects) == 1
        try:
            for name, fd in objects.items():
                self._replace(name, fd)
            if is_room_kept:
                self._wait_or_raise()
            elif not self._try_one_more():
                limit = os.environ.get("FDSTORE", "")
                held = f"holds {limit} descriptors and no more" if limit.isdecimal() else "holds no descriptors, or no more"
                raise UnkeptError(f"the service manager {held}", f"set FileDescriptorStoreMax={MOST} in the service's unit")
        except OSError as error:
            self.drop(list(objects))
            raise UnkeptError(f"nothing can be given to the service manager ({error.strerror})", "see what it logs") from error
        except UnkeptError:
            self.drop(list(objects))
            raise

    def drop(self, names: list[str]) -> None:
        """As the protocol has it. On return the manager has dealt with it: it heeds nothing from a process that has ended."""
        is_told = self._end_trial() or bool(names)
        for name in names:
            self._remove(name)
        if is_told:
            self._wait()

    def _take(self, descriptors: Sequence[tuple[str, int]]) -> None:
        doubled = set()
        for full_name, fd in descriptors:
            name = full_name.removeprefix(self._prefix)
            if full_name == self._trial_name:  # of one that was killed meanwhile
                os.close(fd)
                self._tell(f"FDSTOREREMOVE=1\nFDNAME={full_name}")
            elif name == full_name:
                continue  # somebody else's
            elif name in self._held:
                doubled.add(name)
                older, younger = sorted((self._held[name], fd), key=_number)
                os.close(older)
                self._held[name] = younger
            else:
                self._held[name] = fd
        for name in doubled:  # else a program might stay that nobody knows of
            self._tell(f"FDSTOREREMOVE=1\nFDNAME={self._prefix}{name}")
            self._give(name, self._held[name])

    def _replace(self, name: str, fd: int) -> None:
        """Give the manager `fd`, by this name alone: what it has by another name it would have by that one for ever."""
        wanted = bpf.identify(fd)
        for former, held in list(self._held.items()):
            if former == name or _is(held, wanted):
                self._remove(former)
        if not self._give(name, fd):
            raise UnkeptError("the service manager does not listen", "see what NOTIFY_SOCKET names")

    def _give(self, name: str, fd: int) -> bool:
        # Not to be polled: maps are always in error then, and what is in error is dropped.
        return self._tell(f"FDSTORE=1\nFDNAME={self._prefix}{name}\nFDPOLL=0", fd)

    def _remove(self, name: str) -> None:
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={self._prefix}{name}")
        fd = self._held.pop(name, -1)
        if fd >= 0:
            os.close(fd)

    def _try_one_more(self) -> bool:
        """Whether the manager holds all that it was given: if it takes another one. That keeps room for one until its end."""
        self._trial, writer = os.pipe()
        try:
            self._tell(f"FDSTORE=1\nFDNAME={self._trial_name}", writer)
        finally:
            os.close(writer)
        self._wait_or_raise()
        return not is_let_go(self._trial, _GRACE_S)

    def _end_trial(self) -> bool:
        """Take the pipe back; returns whether there was one."""
        if self._trial < 0:
            return False
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={self._trial_name}")
        os.close(self._trial)
        self._trial = -1
        return True

    def _tell(self, state: str, *descriptors: int) -> bool:
        return self._note(notify(state, descriptors, self._timeout_s))

    def _wait_or_raise(self) -> None:
        if not self._wait():
            raise UnkeptError("the service manager does not answer", "see whether it is well, and restart the service")

    def _wait(self) -> bool:
        return self._note(wait_for_manager(self._timeout_s))

    def _note(self, is_heard: bool) -> bool:
        if not is_heard:
            self._timeout_s = 0.0  # once is enough
        return is_heard


def _is(fd: int, wanted: tuple[int, int]) -> bool:
    try:
        return bpf.identify(fd) == wanted
    except OSError:
        return False


def _number(fd: int) -> int:
    """The higher the later; whatever is not the kernel's program, map or link is below all."""
    try:
        return bpf.identify(fd)[1]
    except OSError:
        return -1
