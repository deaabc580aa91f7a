"""The other end of the control socket: what a command asks of a running service."""

import errno
import json
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

from kracauer.daemon.lock import AlreadyRunningError, ServiceLock
from kracauer.daemon.runtime import runtime_file
from kracauer.errors import RemediableError

TIMEOUT_S: Final = 90.0  # a reload may wait for another, and each for a slow disk
_POLL_S: Final = 0.02


class ControlError(RemediableError):
    """A running service could not be asked, or did not answer."""


class NotRunningError(ControlError):
    """There is no service with this device."""


class NotPermittedError(ControlError):
    """This user may not ask."""


def ask(device: str, command: str, *, timeout_s: float = TIMEOUT_S, **arguments: object) -> Mapping[str, Any]:
    """The reply of the service that runs with `device`. Raises ControlError, or one of its kinds."""
    path = runtime_file(device, "sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps({"command": command} | arguments).encode() + b"\n")
            reply = json.loads(_read(connection))
        except TimeoutError:
            raise ControlError(
                f"the service with the device {device} has not answered within {timeout_s:g} s",
                "look at its log; `kill -9` ends it and loses no connection",
            ) from None
        except OSError as error:
            raise _explain(device, str(path), error) from None
        except ValueError:
            raise ControlError(f"the service with the device {device} ended without an answer", "look at its log") from None
    if "error" in reply:
        kind = NotPermittedError if "may ask" in reply["error"] else ControlError
        raise kind(str(reply["error"]), "run this as root")
    return dict(reply)


def await_end(device: str, timeout_s: float) -> bool:
    """Whether the service with `device` has gone, as its lock tells, within that time."""
    deadline = time.monotonic() + timeout_s
    while True:
        lock = ServiceLock(device)
        if not lock.path.exists():  # the service manager has cleared up already
            return True
        try:
            lock.acquire()
        except AlreadyRunningError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        except OSError:
            return True  # no lock can be had here, by nobody
        else:
            lock.release()
            return True


def _read(connection: socket.socket) -> bytes:
    content = b""
    while chunk := connection.recv(65536):
        content += chunk
    return content


def _explain(device: str, path: str, error: OSError) -> ControlError:
    match error.errno:
        case errno.ENOENT | errno.ECONNREFUSED | errno.ENOTDIR:
            return NotRunningError(
                f"no service runs with the device {device} (nobody answers at {path})",
                "name the configuration with -c FILE or the device with --device NAME; "
                "RUNTIME_DIRECTORY must be what the service has",
            )
        case errno.EACCES | errno.EPERM:
            return NotPermittedError(f"{path} may not be used by this user", "run this as root")
    return ControlError(f"{path}: {error.strerror or error}", "look at the service's log")
