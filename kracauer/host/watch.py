"""Word from the kernel about our link, routes and rules (RFC 3549 §3.1, Linux's include/uapi/linux/rtnetlink.h).

A host may see a million routes change at a time. A socket filter has the kernel keep back all that is not about ours.
"""

import ctypes
import errno
import fcntl
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Final

from kracauer.host.kernel import IFF_UP
from kracauer.host.pause import Pause
from kracauer.host.routes import ATTRIBUTE, NLMSG_HEADER, RTMSG, messages, parse
from kracauer.host.setup import HostSetup
from kracauer.host.steps import ROUTE_PROTOCOL

_RTMGRP_LINK: Final = 0x001
_RTMGRP_IPV4_ROUTE: Final = 0x040
_RTMGRP_IPV4_RULE: Final = 0x080
_RTMGRP_IPV6_ROUTE: Final = 0x400
_RTM_NEWLINK: Final = 16
_RTM_DELROUTE: Final = 25
_RTM_DELRULE: Final = 33
_IFLA_MTU: Final = 4
_IFINFO: Final = struct.Struct("=BxHiII")
_MTU: Final = struct.Struct("=I")
_SO_ATTACH_FILTER: Final = 26
_SIOCGIFFLAGS: Final = 0x8913
_FLAGS: Final = struct.Struct("=16sH22x")

_LEAST_INTERVAL_S: Final = 1.0

CAME_UP: Final = "the link was down and came up again"
ROUTE_REMOVED: Final = "a route of ours was removed"
RULE_REMOVED: Final = "a rule of ours was removed"
MTU_CHANGED: Final = "the MTU of the link was changed"
WORD_LOST: Final = "the kernel had more to say than could be heard"


class HostWatch:
    """Tells when what `setup` has set on the host has been taken away and can be restored: at most once a second.

    Routes that `setup` itself removes are no news, nor is a link that is down: its routes are lost when it comes up.
    """

    def __init__(self, device: str, setup: HostSetup) -> None:
        self._setup = setup
        self._index = socket.if_nametoindex(device)
        self._is_up = _is_link_up(self._index)
        self._cause: str | None = None
        self._last_report = float("-inf")
        self._pause = Pause()
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        _attach_filter(self._socket, self._index)
        self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV4_RULE | _RTMGRP_IPV6_ROUTE))
        self._poll = select.epoll()
        for source in (self._socket, self._pause):
            self._poll.register(source.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when there is word from the kernel, or when it is time to pass it on."""
        return self._poll.fileno()

    def has_lost_routes(self) -> str | None:
        """Read all that has arrived; why `setup.restore_routes` should be called now, if it should."""
        for cause in self._causes():
            self._cause = self._cause or cause
        self._pause.clear()
        if self._cause is None:
            return None
        now = time.monotonic()
        wait_s = self._last_report + _LEAST_INTERVAL_S - now
        if wait_s > 0:  # somebody takes away what we set again, and again
            self._pause.begin(wait_s)
            return None
        cause, self._cause, self._last_report = self._cause, None, now
        return cause

    def close(self) -> None:
        """Stop listening."""
        self._poll.close()
        self._socket.close()
        self._pause.close()

    def _causes(self) -> Iterator[str]:
        while True:
            try:
                datagram = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._is_up = _is_link_up(self._index)
                yield WORD_LOST  # restoring what was not lost harms nobody
                continue
            for offset, kind, end in messages(datagram, len(datagram)):
                if kind == _RTM_NEWLINK and offset + _IFINFO.size <= end:
                    yield from self._link_causes(datagram, offset, end)
                elif kind == _RTM_DELROUTE and offset + RTMSG.size <= end:
                    yield from self._route_causes(datagram, offset, end)
                elif kind == _RTM_DELRULE and not self._setup.has_rules_in_place():
                    yield RULE_REMOVED

    def _link_causes(self, datagram: bytes, offset: int, end: int) -> Iterator[str]:
        _, _, index, flags, _ = _IFINFO.unpack_from(datagram, offset)
        if index != self._index:
            return
        was_up, self._is_up = self._is_up, bool(flags & IFF_UP)
        if self._is_up and not was_up:
            yield CAME_UP
            return
        mtu, wanted = _mtu(datagram, offset + _IFINFO.size, end), self._setup.mtu
        if self._is_up and None not in (mtu, wanted) and mtu != wanted:
            yield MTU_CHANGED

    def _route_causes(self, datagram: bytes, offset: int, end: int) -> Iterator[str]:
        if RTMSG.unpack_from(datagram, offset)[5] != ROUTE_PROTOCOL:
            return
        route = parse(datagram, offset, end)
        is_dead_end = route.kind == "unreachable"
        is_here = is_dead_end or (route.oif == self._index and self._is_up)
        if is_here and self._setup.wants(route.destination, route.table):
            yield ROUTE_REMOVED


def _is_link_up(index: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            reply = fcntl.ioctl(channel, _SIOCGIFFLAGS, _FLAGS.pack(socket.if_indextoname(index).encode(), 0))
        except OSError:  # the link is gone
            return False
    return bool(_FLAGS.unpack(reply)[1] & IFF_UP)


def _mtu(datagram: bytes, offset: int, end: int) -> int | None:
    while offset + ATTRIBUTE.size <= end:
        size, kind = ATTRIBUTE.unpack_from(datagram, offset)
        if kind == _IFLA_MTU:
            return int(_MTU.unpack_from(datagram, offset + ATTRIBUTE.size)[0])
        offset += max((size + 3) & ~3, ATTRIBUTE.size)
    return None


# Classic BPF (Linux's include/uapi/linux/filter.h): code, jump if true, jump if false, operand. Loads are in network order.
_INSTRUCTION: Final = struct.Struct("=HBBI")
_PROGRAM: Final = struct.Struct("@HP")
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06
_TYPE_OFFSET: Final = 4
_PROTOCOL_OFFSET: Final = NLMSG_HEADER.size + 5
_INDEX_OFFSET: Final = NLMSG_HEADER.size + 4


def _attach_filter(listener: socket.socket, index: int) -> None:
    """Let pass what tells of link `index`, of the removal of rules, and of that of routes that bear our mark.

    Each has a datagram of its own.
    """
    program = (
        (_LOAD_HALF, 0, 0, _TYPE_OFFSET),
        (_JUMP_EQUAL, 6, 0, socket.htons(_RTM_DELRULE)),
        (_JUMP_EQUAL, 0, 2, socket.htons(_RTM_NEWLINK)),
        (_LOAD_WORD, 0, 0, _INDEX_OFFSET),
        (_JUMP_EQUAL, 3, 4, socket.htonl(index)),
        (_JUMP_EQUAL, 0, 3, socket.htons(_RTM_DELROUTE)),
        (_LOAD_BYTE, 0, 0, _PROTOCOL_OFFSET),
        (_JUMP_EQUAL, 0, 1, ROUTE_PROTOCOL),
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_RETURN, 0, 0, 0),
    )
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*instruction) for instruction in program))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(program), ctypes.addressof(code)))
