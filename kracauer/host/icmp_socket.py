"""ICMP errors that come for this host's own addresses, heard beside the kernel (raw(7), icmp(7)).

They are copies: the kernel does with its own as ever. Pings and all else but errors it keeps to itself.
"""

import socket
import struct
from typing import Final

from kracauer.wire.buffer import PACKET_START, VNET_START, Frame

_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1  # Linux's include/uapi/linux/icmp.h: a set bit keeps messages of that type back
_UNREACHABLE, _TIME_EXCEEDED, _PARAMETER_PROBLEM = 3, 11, 12
_KEPT_BACK: Final = 0xFFFF_FFFF & ~(1 << _UNREACHABLE | 1 << _TIME_EXCEEDED | 1 << _PARAMETER_PROBLEM)
_NO_VNET_HEADER: Final = bytes(PACKET_START - VNET_START)


class IcmpSocket:
    """A raw socket for them. To open it takes CAP_NET_RAW, and OSError is raised without; to read it takes nothing.

    One that another process has opened is given by its `descriptor`, which is the object's from then on.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is not None:
            self._socket = socket.socket(fileno=descriptor)
            self._socket.settimeout(0)
            return
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
        self._socket.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", _KEPT_BACK))

    def fileno(self) -> int:
        """Readable when an error has come."""
        return self._socket.fileno()

    def read_into(self, frame: Frame) -> bool:
        """Fill `frame` with the IPv4 packet that brought the next error; False when none is waiting."""
        try:
            length = self._socket.recv_into(frame.view[PACKET_START:])
        except OSError:  # nothing there, or a word about the socket itself, which there is nothing to do about
            return False
        frame.buffer[VNET_START:PACKET_START] = _NO_VNET_HEADER
        frame.end = PACKET_START + length
        return True

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
