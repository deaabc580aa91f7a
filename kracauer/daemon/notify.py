"""Tell the service manager how it goes (sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names)."""

import contextlib
import os
import socket


def notify(state: str) -> bool:
    """Send `state`, such as "READY=1"; whether there was somebody to take it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux's abstract namespace
    with (
        contextlib.suppress(OSError),  # a service manager that does not listen is no reason to stop
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
    ):
        channel.sendto(state.encode(), address)
        return True
    return False
