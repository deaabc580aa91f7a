"""Tell the service manager how it goes (sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names)."""

import asyncio
import contextlib
import os
import select
import socket
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Final

STATUS_INTERVAL_S: Final = 10.0


def notify(state: str, descriptors: Sequence[int] = (), timeout_s: float = 0.0) -> bool:
    """Send `state`, such as "READY=1", and descriptors with it; whether there was somebody to take it, within that time."""
    address = _address()
    if not address:
        return False
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
    with (
        contextlib.suppress(OSError),  # a service manager that does not listen is no reason to stop
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
    ):
        channel.settimeout(timeout_s)
        channel.sendmsg([state.encode()], rights, 0, address)
        return True
    return False


def has_manager() -> bool:
    """Whether there is a service manager to be told anything."""
    return bool(_address())


def wait_for_manager(timeout_s: float) -> bool:
    """Whether the service manager has dealt with all that it was told, at once or within that time (sd_notify_barrier(3))."""
    reader, writer = os.pipe()
    try:
        try:
            is_sent = notify("BARRIER=1", (writer,), timeout_s)
        finally:
            os.close(writer)
        return is_sent and is_let_go(reader, timeout_s)
    finally:
        os.close(reader)


def is_let_go(reader: int, timeout_s: float) -> bool:
    """Whether nobody has the other end of this pipe any more, now or within that time."""
    poll = select.poll()
    poll.register(reader, 0)
    return bool(poll.poll(timeout_s * 1000))


def _address() -> str:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        return "\0" + address[1:]  # Linux's abstract namespace
    return address if address.startswith("/") else ""


def notify_reloading() -> None:
    """Say that the configuration is being read again; READY=1 has to follow."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval_s() -> float | None:
    """How often the service manager is to hear of us: three times in WATCHDOG_USEC; None where it does not ask for it."""
    try:
        period_us = int(os.environ.get("WATCHDOG_USEC", ""))
        asked = int(os.environ.get("WATCHDOG_PID", "") or os.getpid())
    except ValueError:
        return None
    return period_us / 3e6 if period_us > 0 and asked == os.getpid() else None


class Heartbeat:
    """Has the service manager hear from the event loop: WATCHDOG=1 while it turns, and STATUS= with what `describe` says."""

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe
        self._said = ""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Begin, in the running loop."""
        self._loop = asyncio.get_running_loop()
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            self._repeat("watchdog", interval_s, lambda: notify("WATCHDOG=1"))
        if os.environ.get("NOTIFY_SOCKET"):
            self._repeat("status", STATUS_INTERVAL_S, self._tell_status)

    def stop(self) -> None:
        """End it."""
        for timer in self._timers.values():
            timer.cancel()

    def _repeat(self, name: str, interval_s: float, act: Callable[[], object]) -> None:
        act()
        self._timers[name] = self._loop.call_later(interval_s, self._repeat, name, interval_s, act)

    def _tell_status(self) -> None:
        status = self._describe()
        if status != self._said:
            self._said = status
            notify(f"STATUS={status}")
