"""The addresses that this machine answers ARP for in the place of others (Linux's include/uapi/linux/neighbour.h)."""

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Final

from kracauer.host.routes import ATTRIBUTE, NLMSG_HEADER, SEQUENCE, messages

_RTM_NEWNEIGH: Final = 28
_RTM_GETNEIGH: Final = 30
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NTF_PROXY: Final = 8
_NDA_DST: Final = 1
_NDMSG: Final = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_TIMEOUT_S: Final = 2.0


def proxied_addresses() -> Iterator[IPv4Address]:
    """Each IPv4 address with an entry of `ip neighbour add proxy`. Raises OSError."""
    body = _NDMSG.pack(socket.AF_INET, 0, 0, _NTF_PROXY, 0)
    header = NLMSG_HEADER.pack(NLMSG_HEADER.size + len(body), _RTM_GETNEIGH, _NLM_F_REQUEST_DUMP, SEQUENCE, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as channel:
        channel.settimeout(_TIMEOUT_S)
        channel.sendto(header + body, (0, 0))
        while True:
            datagram = channel.recv(65536)
            for offset, kind, end in messages(datagram, len(datagram)):
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return
                if kind == _RTM_NEWNEIGH and _NDMSG.unpack_from(datagram, offset)[3] & _NTF_PROXY:
                    yield from _destination(datagram, offset + _NDMSG.size, end)


def _destination(datagram: bytes, offset: int, end: int) -> Iterator[IPv4Address]:
    while offset + ATTRIBUTE.size <= end:
        size, kind = ATTRIBUTE.unpack_from(datagram, offset)
        if kind == _NDA_DST and size == ATTRIBUTE.size + 4:
            yield IPv4Address(datagram[offset + ATTRIBUTE.size : offset + size])
        offset += max((size + 3) & ~3, ATTRIBUTE.size)
