"""The kernel's routing tables, asked for no more than is wanted (rtnetlink(7), Linux's include/uapi/linux/rtnetlink.h).

A host may carry the whole Internet's routes. Asked strictly, the kernel leaves out what is of another table or protocol; what
lies within a network it has to hand over whole, and there each datagram is searched as it is for the network's first bytes.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import TracebackType
from typing import Final, NamedTuple, Self

_SOL_NETLINK: Final = 270
_NETLINK_GET_STRICT_CHK: Final = 12
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x001
_NLM_F_DUMP_INTR: Final = 0x010
_NLM_F_DUMP: Final = 0x300
_RTM_NEWROUTE: Final = 24
_RTM_GETROUTE: Final = 26
_RTM_F_CLONED: Final = 0x200
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_PRIORITY: Final = 6
_RTA_TABLE: Final = 15

SEQUENCE: Final = 0x4B726163  # of our requests; one that is not found by chance among addresses

NLMSG_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
# family, dst_len, src_len, tos, table, protocol, scope, type, flags
RTMSG: Final = struct.Struct("=BBBBBBBBI")
ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_NUMBER: Final = struct.Struct("=I")
_ERROR: Final = struct.Struct("=i")

TABLE_MAIN: Final = 254
TABLE_LOCAL: Final = 255
ANY_TABLE: Final = 0  # in a question
_KINDS: Final = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_BITS: Final = {int(socket.AF_INET): 32, int(socket.AF_INET6): 128}
# A table that was never used is not there; a kernel without IPv6 does not know the family.
_NOTHING: Final = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})
_ATTEMPTS: Final = 2
_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class RouteFact:
    """One route; `kind` as `ip route` calls it, `device` empty when it has none."""

    destination: IPv4Network | IPv6Network
    kind: str
    device: str
    metric: int
    protocol: int
    is_in_local_table: bool = False
    table: int = TABLE_MAIN

    def __str__(self) -> str:
        device = f" dev {self.device}" if self.device else ""
        table = "" if self.table in (TABLE_MAIN, TABLE_LOCAL) else f" table {self.table}"
        return f"{'' if self.kind == 'unicast' else self.kind + ' '}{self.destination}{device}{table} metric {self.metric}"


class RouteMessage(NamedTuple):
    """A route as the kernel tells of it; `oif` is the index of its interface, 0 when it has none."""

    destination: IPv4Network | IPv6Network
    kind: str
    oif: int
    metric: int
    table: int
    protocol: int


class RouteTables:
    """A channel on which the kernel is asked for routes."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(_TIMEOUT_S)
        self._buffer = bytearray(65536)
        self._names: dict[int, str] = {}
        with contextlib.suppress(OSError):  # before Linux 4.20 everything is handed over; it is sifted here anyhow
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def read(
        self, family: int, table: int, *, protocol: int = 0, within: Iterable[IPv4Network | IPv6Network] = ()
    ) -> tuple[RouteFact, ...]:
        """The routes of a table, or of any; with `protocol` those of that one, with `within` those to a part of these networks.

        Raises OSError.
        """
        wanted = tuple(network for network in within if network.max_prefixlen == _BITS[family])
        if within and not wanted:
            return ()
        for _ in range(_ATTEMPTS):
            found, is_steady = self._dump(_Query(family, table, protocol, wanted))
            if is_steady:
                break  # otherwise the table changed meanwhile; one that never stands still is taken as it is
        return found

    def _dump(self, query: "_Query") -> tuple[tuple[RouteFact, ...], bool]:
        self._socket.sendto(query.build(), (0, 0))
        found: dict[RouteFact, None] = {}
        is_steady = True
        patterns = [_pattern(network) for network in query.within]
        while True:
            length = self._socket.recv_into(self._buffer)
            # Most datagrams of a search hold nothing of interest, and are known by that without looking at each message.
            has_hit = not patterns or any(self._buffer.find(pattern, 0, length) >= 0 for pattern in patterns)
            first = 0 if has_hit else last_message(self._buffer, length)
            is_steady = is_steady and not NLMSG_HEADER.unpack_from(self._buffer)[2] & _NLM_F_DUMP_INTR
            for offset, kind, end in messages(self._buffer, length, first):
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    _raise_error(self._buffer, offset)
                    return tuple(found), is_steady
                if kind == _RTM_NEWROUTE and query.concerns(self._buffer, offset):
                    message = parse(self._buffer, offset, end)
                    if query.admits(message):
                        found[self._fact(message)] = None

    def _fact(self, message: RouteMessage) -> RouteFact:
        return RouteFact(
            destination=message.destination,
            kind=message.kind,
            device=self._name(message.oif),
            metric=message.metric,
            protocol=message.protocol,
            is_in_local_table=message.table == TABLE_LOCAL,
            table=TABLE_MAIN if message.table == TABLE_LOCAL else message.table,
        )

    def _name(self, index: int) -> str:
        if index not in self._names:
            self._names[index] = ""
            with contextlib.suppress(OSError):
                self._names[index] = socket.if_indextoname(index) if index else ""
        return self._names[index]


class _Query(NamedTuple):
    """What is asked of the kernel, and looked for in what it answers."""

    family: int
    table: int
    protocol: int
    within: tuple[IPv4Network | IPv6Network, ...]

    def build(self) -> bytes:
        # A number that does not fit is given as an attribute.
        table = self.table if self.table < 256 else 0
        attribute = b"" if table == self.table else ATTRIBUTE.pack(8, _RTA_TABLE) + _NUMBER.pack(self.table)
        size = NLMSG_HEADER.size + RTMSG.size + len(attribute)
        header = NLMSG_HEADER.pack(size, _RTM_GETROUTE, _NLM_F_REQUEST | _NLM_F_DUMP, SEQUENCE, 0)
        return header + RTMSG.pack(self.family, 0, 0, 0, table, self.protocol, 0, 0, 0) + attribute

    def concerns(self, buffer: bytearray, offset: int) -> bool:
        """Whether the message, by its fixed part, can be one that was asked for."""
        family, _, _, _, _, protocol, _, _, flags = RTMSG.unpack_from(buffer, offset)
        return family == self.family and self.protocol in (0, protocol) and not flags & _RTM_F_CLONED

    def admits(self, message: RouteMessage) -> bool:
        if self.table not in (ANY_TABLE, message.table):
            return False
        return not self.within or any(contains(network, message.destination) for network in self.within)


def messages(buffer: bytes | bytearray, length: int, offset: int = 0) -> Iterator[tuple[int, int, int]]:
    """Each message of a datagram, from `offset` on: where its body begins, its type, and where it ends."""
    while offset + NLMSG_HEADER.size <= length:
        size, kind, _, _, _ = NLMSG_HEADER.unpack_from(buffer, offset)
        end = offset + max(size, NLMSG_HEADER.size)
        if end > length:
            return
        yield offset + NLMSG_HEADER.size, kind, end
        offset = (end + 3) & ~3


def last_message(buffer: bytearray, length: int) -> int:
    """Where the message begins that ends the dump; the end of the datagram if that holds nothing but routes."""
    if NLMSG_HEADER.unpack_from(buffer)[1] != _RTM_NEWROUTE:
        return 0
    offset = length - NLMSG_HEADER.size - _ERROR.size
    size, kind, _, sequence, _ = NLMSG_HEADER.unpack_from(buffer, offset)
    return offset if (size, kind, sequence) == (length - offset, _NLMSG_DONE, SEQUENCE) else length


def parse(buffer: bytes | bytearray, offset: int, end: int) -> RouteMessage:
    """Parse the route whose rtmsg begins at `offset`, of a family that has addresses of 4 or 16 bytes."""
    family, dst_len, _, _, table, protocol, _, kind, _ = RTMSG.unpack_from(buffer, offset)
    address = bytes(_BITS[family] // 8)
    oif = metric = 0
    offset += RTMSG.size
    while offset + ATTRIBUTE.size <= end:
        size, attribute = ATTRIBUTE.unpack_from(buffer, offset)
        start = offset + ATTRIBUTE.size
        if attribute == _RTA_DST:
            address = bytes(buffer[start : offset + size])
        elif attribute == _RTA_OIF:
            (oif,) = _NUMBER.unpack_from(buffer, start)
        elif attribute == _RTA_PRIORITY:
            (metric,) = _NUMBER.unpack_from(buffer, start)
        elif attribute == _RTA_TABLE:
            (table,) = _NUMBER.unpack_from(buffer, start)
        offset += max((size + 3) & ~3, ATTRIBUTE.size)
    return RouteMessage(ip_network((address, dst_len)), _KINDS.get(kind, "other"), oif, metric, table, protocol)


def contains(outer: IPv4Network | IPv6Network, inner: IPv4Network | IPv6Network) -> bool:
    """Whether `inner` is a part of `outer`, or the same; networks of two families have nothing in common."""
    return (
        outer.version == inner.version
        and outer.prefixlen <= inner.prefixlen
        and int(outer.network_address) == int(inner.network_address) & int(outer.netmask)
    )


def _pattern(network: IPv4Network | IPv6Network) -> bytes:
    """The bytes with which the destination of every route to a part of `network` begins."""
    packed = network.network_address.packed
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(packed), _RTA_DST) + packed[: network.prefixlen // 8]


def _raise_error(buffer: bytearray, offset: int) -> None:
    (code,) = _ERROR.unpack_from(buffer, offset)
    if code and -code not in _NOTHING:
        raise OSError(-code, os.strerror(-code))
