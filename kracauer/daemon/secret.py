"""The key behind the SYN cookies, kept in the runtime directory so that a restart does not forget handshakes under way.

The directory lives as long as the machine runs, and so does the clock that the cookies count with (RFC 4987 §3.6).
"""

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from structlog.typing import FilteringBoundLogger

from kracauer.daemon.runtime import runtime_directory, runtime_file

__all__ = ["LENGTH", "load_secret", "runtime_directory"]

LENGTH: Final = 32


def load_secret(device: str, log: FilteringBoundLogger) -> bytes:
    """Read the secret of `device`, or make one; where it cannot be kept, warn once and use it just for this run."""
    path = runtime_file(device, "secret")
    try:
        return _read(path) or _write(path)
    except OSError as error:
        log.warning(
            "secret_not_kept",
            path=str(path),
            cause=error.strerror,
            remedy="make that directory writable; until then a restart breaks handshakes under way",
        )
        return secrets.token_bytes(LENGTH)


def _read(path: Path) -> bytes | None:
    """The secret, or None when there is none that can be trusted: of the right length, ours, and nobody else's to read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        is_private = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
        content = file.read(LENGTH + 1) if is_private else b""
    return content if len(content) == LENGTH else None


def _write(path: Path) -> bytes:
    """Make a secret and put it in place in one step, so that no reader ever finds half of it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = secrets.token_bytes(LENGTH)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
        draft.replace(path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return secret
