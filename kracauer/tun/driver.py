"""Which driver stands behind an interface (ETHTOOL_GDRVINFO of Linux's include/uapi/linux/ethtool.h).

Asked by ioctl and not through /sys, which shows the namespace it was mounted in and not the one we are in.
"""

import ctypes
import errno
import fcntl
import socket
from typing import Final

_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GDRVINFO: Final = 0x03


class _DriverInfo(ctypes.Structure):
    _fields_ = (("cmd", ctypes.c_uint32), ("driver", ctypes.c_char * 32), ("rest", ctypes.c_char * 160))


class _InterfaceRequest(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char * 16), ("data", ctypes.c_void_p), ("rest", ctypes.c_char * 16))


def interface_driver(name: str) -> str | None:
    """The driver of interface `name`, "unknown" if it does not tell; None when there is no such interface."""
    info = _DriverInfo(cmd=_ETHTOOL_GDRVINFO)
    request = _InterfaceRequest(name=name.encode(), data=ctypes.addressof(info))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            fcntl.ioctl(channel, _SIOCETHTOOL, request)
        except OSError as error:
            return None if error.errno == errno.ENODEV else "unknown"
    return info.driver.decode(errors="replace") or "unknown"
