"""Checksum, segmentation and receive offloads of an interface, switched as `ethtool -K` does it, by SIOCETHTOOL."""

import array
import fcntl
import socket
import struct
from typing import Final

SIOCETHTOOL: Final = 0x8946

# ETHTOOL_G… to read; the command to set is the next number
TRANSMIT_CHECKSUM: Final = 0x16
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


def set_offloads(interface: str, is_on: bool) -> None:
    """Switch TSO, GSO, GRO and transmit checksums of an interface in the calling thread's network namespace.

    TSO needs checksums: they come first when switched on and last when switched off.
    """
    features = (TRANSMIT_CHECKSUM, TCP_SEGMENTATION, GENERIC_SEGMENTATION, GENERIC_RECEIVE)
    for feature in features if is_on else reversed(features):
        _ethtool(interface, feature + 1, int(is_on))


def has_segmentation(interface: str) -> bool:
    """Tell whether super-packets may leave by the interface."""
    return bool(_ethtool(interface, TCP_SEGMENTATION))
