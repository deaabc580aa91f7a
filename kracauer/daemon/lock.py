"""One service a device: a lock on a file in the runtime directory, held for life (flock(2)); that of the dead is free."""

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from structlog.typing import FilteringBoundLogger

from kracauer.daemon.runtime import runtime_file
from kracauer.errors import RemediableError

_LONGEST_PID: Final = 20
_PATIENCE_S: Final = 0.5  # for a process that is ending, or a command that looks whether it has
_PAUSE_S: Final = 0.02


class AlreadyRunningError(RemediableError):
    """Another service holds the lock of this device."""


class ServiceLock:
    """The lock of one device, taken by `acquire`; the file stays, with the process id of whoever held it last."""

    def __init__(self, device: str) -> None:
        self.path: Path = runtime_file(device, "lock")
        self._device = device
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises AlreadyRunningError with the holder's process id, OSError where there can be no such file."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, _LONGEST_PID, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise AlreadyRunningError(
                f"a service with the device {self._device} is running already (process {holder or 'unknown'})",
                "stop it with `kracauer stop`, or give this one another network.device or RUNTIME_DIRECTORY",
            ) from None
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # a full disk, or a file of root's: the lock holds all the same
            owner = self.path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)  # root may have come first, to clear up for the service's user
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    @property
    def descriptor(self) -> int | None:
        """What holds it, as long as anybody has that open; None where it is not held."""
        return self._descriptor

    def release(self) -> None:
        """Let go of it; letting go twice is no error."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_running(device: str) -> bool:
    """Whether a service holds the lock of `device`, as far as that can be told."""
    lock = ServiceLock(device)
    if not lock.path.exists():
        return False
    try:
        lock.acquire()
    except AlreadyRunningError:
        return True
    except OSError:
        return False
    lock.release()
    return False


def hold_lock(device: str, log: FilteringBoundLogger) -> ServiceLock:
    """Take the lock of `device` for good; where there can be none, warn once and go on without. Raises AlreadyRunningError."""
    lock = ServiceLock(device)
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while True:
            try:
                lock.acquire()
            except AlreadyRunningError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                break
    except OSError as error:
        log.warning(
            "lock_not_held",
            path=str(lock.path),
            cause=error.strerror,
            remedy="make that directory writable; until then nothing keeps a second service away from this device",
        )
    return lock
