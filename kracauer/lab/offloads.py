"""Segmentation and receive offloads of an interface, switched by SIOCETHTOOL (ethtool -K for those without ethtool)."""

import array
import fcntl
import socket
import struct
from typing import Final

SIOCETHTOOL: Final = 0x8946

# ETHTOOL_G… to read; the command to set is the next number
TCP_SEGMENTATION: Final = 0x1E
GENERIC_SEGMENTATION: Final = 0x23
GENERIC_RECEIVE: Final = 0x2B
_VALUE: Final = struct.Struct("=II")  # struct ethtool_value
_REQUEST: Final = struct.Struct("@16sP16x")  # struct ifreq, its union holding a pointer


def _ethtool(interface: str, command: int, value: int = 0) -> int:
    memory = array.array("B", _VALUE.pack(command, value))
    request = _REQUEST.pack(interface.encode("ascii"), memory.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control.fileno(), SIOCETHTOOL, request)
    result: int = _VALUE.unpack(memory)[1]
    return result


def set_segmentation(interface: str, is_on: bool) -> None:
    """Switch TSO, GSO and GRO of an interface in the calling thread's network namespace."""
    for feature in (TCP_SEGMENTATION, GENERIC_SEGMENTATION, GENERIC_RECEIVE):
        _ethtool(interface, feature + 1, int(is_on))


def has_segmentation(interface: str) -> bool:
    """Tell whether super-packets may leave by the interface."""
    return bool(_ethtool(interface, TCP_SEGMENTATION))
