"""The kernel's TUN device: one system call a packet, straight into and out of the caller's buffer."""

import errno
import fcntl
import os
from contextlib import suppress
from typing import Final, NoReturn, Protocol

from pytun_pmd3 import TunTapDevice

from kracauer.tun.contract import DeviceLostError
from kracauer.wire.buffer import PACKET_START, VNET_START, Buffer, Frame

TUNSETPERSIST: Final = 0x400454CB  # Linux's include/uapi/linux/if_tun.h

_NO_VNET_HEADER: Final = bytes(PACKET_START - VNET_START)

# What read and write say once the interface behind the descriptor is gone (EBADFD in today's kernels).
_GONE: Final = frozenset({errno.EBADFD, errno.EBADF, errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN})


class Descriptor(Protocol):
    """What holds an open device: a TunTapDevice, or what another process has handed down."""

    @property
    def name(self) -> str:
        """The interface's name."""

    def fileno(self) -> int:
        """Its descriptor."""

    def close(self) -> None:
        """Close it."""


class InheritedQueue:
    """A queue of the device `name` that another process has opened: its descriptor is ours to close."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self._descriptor = descriptor

    def fileno(self) -> int:
        """As it was handed down; -1 once closed."""
        return self._descriptor

    def close(self) -> None:
        """Close it; closing twice is no error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class TunDevice:
    """An open TUN device, or one queue of it; `fallback` says why it has no offloads: empty where it has, or none were wanted.

    `is_found` tells that it was left by an earlier process and taken over, not created, `is_replaced` that one was left which
    had to be made anew.
    """

    def __init__(
        self, device: TunTapDevice | Descriptor, *, has_vnet_header: bool, has_offloads: bool, fallback: str = ""
    ) -> None:
        self._device = device
        self._fd: int = device.fileno()
        self.has_vnet_header = has_vnet_header
        self._frame: Frame | None = None
        self._target: list[memoryview] = []
        self.name: str = device.name
        self.has_offloads = has_offloads
        self.fallback = fallback
        self.is_found = False
        self.is_replaced = False
        self.refused: dict[str, int] = {}
        os.set_blocking(self._fd, False)

    def fileno(self) -> int:
        """The descriptor of the device; epoll reports EPOLLERR on it once the interface is deleted."""
        return self._fd

    def read_into(self, frame: Frame) -> bool:
        """Read one packet to its place in `frame`; False when none is waiting. Raises DeviceLostError."""
        if frame is not self._frame:  # the usual caller reuses one frame: cut the view into it just once
            self._frame = frame
            self._target = [frame.view[VNET_START if self.has_vnet_header else PACKET_START :]]
        try:
            length = os.readv(self._fd, self._target)
        except BlockingIOError:
            return False
        except OSError as error:
            self._raise_lost(error)
        if self.has_vnet_header:
            frame.end = VNET_START + length
        else:
            frame.buffer[VNET_START:PACKET_START] = _NO_VNET_HEADER
            frame.end = PACKET_START + length
        return True

    def write(self, packet: Buffer) -> None:
        """Write one packet; one that the kernel refuses is counted in `refused`. Raises DeviceLostError."""
        try:
            os.write(self._fd, packet if self.has_vnet_header else memoryview(packet)[len(_NO_VNET_HEADER) :])
        except OSError as error:
            # EINVAL: a packet or vnet header the kernel does not like. EIO: the link is down, and may come up again.
            # EAGAIN, ENOBUFS, ENOMEM: no room now. None of them is a reason to stop serving the others.
            if error.errno in _GONE:
                self._raise_lost(error)
            name = errno.errorcode.get(error.errno or 0, "unknown")
            self.refused[name] = self.refused.get(name, 0) + 1

    def close(self) -> None:
        """Close the descriptor; the kernel then removes the interface with all its routes, unless it is persistent."""
        self._device.close()
        self._fd = -1

    def remove(self) -> None:
        """Close the device for good: it goes even if it was persistent. No error when it is gone already."""
        if self._fd >= 0:
            with suppress(OSError):
                fcntl.ioctl(self._fd, TUNSETPERSIST, 0)
        self.close()

    def _raise_lost(self, error: OSError) -> NoReturn:
        raise DeviceLostError(
            f"the device {self.name} has gone away ({error.strerror})",
            "find out who deleted it (`ip monitor link`), then start Kracauer again",
        ) from error
