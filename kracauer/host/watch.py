"""Word from the kernel about one interface's link (RFC 3549 §3.1.1, Linux's include/uapi/linux/rtnetlink.h)."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Final

_RTMGRP_LINK: Final = 1
_RTM_NEWLINK: Final = 16
_IFF_UP: Final = 1
_NLMSG_HEADER: Final = struct.Struct("=IHHII")
_IFINFO: Final = struct.Struct("=BxHiII")


class LinkWatch:
    """Tells when the interface comes up again after having been down: the kernel has dropped its routes by then."""

    def __init__(self, device: str) -> None:
        self._index = socket.if_nametoindex(device)
        self._is_up = True
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _RTMGRP_LINK))

    def fileno(self) -> int:
        """Readable when there is word from the kernel."""
        return self._socket.fileno()

    def has_come_up(self) -> bool:
        """Read all that has arrived; whether the link went down and is up again since the last call."""
        has_come_up = False
        for is_up in self._changes():
            has_come_up = has_come_up or (is_up and not self._is_up)
            self._is_up = is_up
        return has_come_up and self._is_up

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def _changes(self) -> Iterator[bool]:
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    datagram = self._socket.recv(65536)
                except OSError as error:
                    if isinstance(error, BlockingIOError):
                        raise
                    # ENOBUFS: word was lost. As good as a link that went down and up: restoring routes harms nobody.
                    yield from (False, True)
                    continue
                yield from _link_states(datagram, self._index)


def _link_states(datagram: bytes, index: int) -> Iterator[bool]:
    offset = 0
    while offset + _NLMSG_HEADER.size + _IFINFO.size <= len(datagram):
        length, kind, *_ = _NLMSG_HEADER.unpack_from(datagram, offset)
        _, _, message_index, flags, _ = _IFINFO.unpack_from(datagram, offset + _NLMSG_HEADER.size)
        if kind == _RTM_NEWLINK and message_index == index:
            yield bool(flags & _IFF_UP)
        offset += max((length + 3) & ~3, _NLMSG_HEADER.size)
