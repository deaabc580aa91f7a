"""The alias of an interface, by which a device that an earlier process has left is known (rtnetlink(7), IFLA_IFALIAS).

Asked by netlink and not through /sys, which shows the namespace it was mounted in and not the one we are in.
"""

import errno
import os
import socket
import struct
from typing import Final

# What our devices bear. kracauer.host looks for the same.
ALIAS: Final = "kracauer"

_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 1
_NLM_F_ACK: Final = 4
_RTM_GETLINK: Final = 18
_RTM_SETLINK: Final = 19
_IFLA_IFNAME: Final = 3
_IFLA_IFALIAS: Final = 20

_NLMSG_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFO: Final = struct.Struct("=BxHiII")
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_ERROR: Final = struct.Struct("=i")


def read_alias(name: str) -> str | None:
    """The alias of interface `name`, empty if it has none; None when there is no such interface."""
    try:
        reply = _ask(_RTM_GETLINK, 0, _attribute(_IFLA_IFNAME, name))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    offset = _NLMSG_HEADER.size + _IFINFO.size
    while offset + _ATTRIBUTE.size <= len(reply):
        length, kind = _ATTRIBUTE.unpack_from(reply, offset)
        if kind == _IFLA_IFALIAS:
            return reply[offset + _ATTRIBUTE.size : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += max((length + 3) & ~3, _ATTRIBUTE.size)
    return ""


def set_alias(name: str) -> None:
    """Mark interface `name` as ours. Raises OSError."""
    _ask(_RTM_SETLINK, _NLM_F_ACK, _attribute(_IFLA_IFNAME, name) + _attribute(_IFLA_IFALIAS, ALIAS))


def _ask(kind: int, flags: int, attributes: bytes) -> bytes:
    """One request about one link and the one message that answers it; raises OSError with the kernel's errno."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attributes
    header = _NLMSG_HEADER.pack(_NLMSG_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as channel:
        channel.sendto(header + body, (0, 0))
        reply = channel.recv(65536)
    if _NLMSG_HEADER.unpack_from(reply)[1] == _NLMSG_ERROR:
        (code,) = _ERROR.unpack_from(reply, _NLMSG_HEADER.size)
        if code:
            raise OSError(-code, os.strerror(-code))
    return reply


def _attribute(kind: int, text: str) -> bytes:
    value = text.encode() + b"\0"
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
