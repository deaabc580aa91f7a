"""A descriptor that turns readable after a while (timerfd_create(2))."""

import contextlib
import ctypes
import os
import struct
import time
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_TIMES: Final = struct.Struct("@llll")  # interval and first expiry, each in seconds and nanoseconds


class Pause:
    """One alarm at a time."""

    def __init__(self) -> None:
        self._fd: int = _LIBC.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def fileno(self) -> int:
        """Readable once the pause is over, until it is cleared."""
        return self._fd

    def begin(self, seconds: float) -> None:
        """Become readable in so many seconds, whatever was to be before."""
        nanoseconds = max(int(seconds * 1e9), 1)
        times = _TIMES.pack(0, 0, nanoseconds // 1_000_000_000, nanoseconds % 1_000_000_000)
        if _LIBC.timerfd_settime(self._fd, 0, times, None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def clear(self) -> None:
        """Be no longer readable."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)

    def close(self) -> None:
        """Let go of the descriptor. Closing twice is no error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
