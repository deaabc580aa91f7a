"""A device that lives in memory: what tests inject is read, what is written can be looked at."""

import os
from collections import deque

from kracauer.tun.contract import DeviceLostError
from kracauer.wire.buffer import PACKET_START, VNET_START, Buffer, Frame


class MemoryDevice:
    """Two queues and a descriptor that is readable while `incoming` holds packets, as an event loop needs it."""

    def __init__(self, name: str = "memory0", *, has_offloads: bool = True) -> None:
        self.name = name
        self.has_offloads = has_offloads
        self.refused: dict[str, int] = {}
        self.incoming: deque[bytes] = deque()
        self.outgoing: deque[bytes] = deque()
        self._is_lost = False
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC | os.EFD_SEMAPHORE)

    def inject(self, packet: Buffer, vnet_header: bytes = bytes(10)) -> None:
        """Queue `packet` to be read behind `vnet_header`."""
        self.incoming.append(vnet_header + bytes(packet))
        os.eventfd_write(self._fd, 1)

    def lose(self) -> None:
        """Behave from now on like a device that was deleted."""
        self._is_lost = True
        os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        """The eventfd that counts the waiting packets."""
        return self._fd

    def read_into(self, frame: Frame) -> bool:
        """Copy the next injected packet into `frame`; False when none is left."""
        self._check()
        if not self.incoming:
            return False
        os.eventfd_read(self._fd)
        packet = self.incoming.popleft()
        frame.load(packet[PACKET_START - VNET_START :], packet[: PACKET_START - VNET_START])
        return True

    def write(self, packet: Buffer) -> None:
        """Append a copy of `packet`, vnet header included, to `outgoing`."""
        self._check()
        self.outgoing.append(bytes(packet))

    def close(self) -> None:
        """Close the eventfd."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check(self) -> None:
        if self._is_lost:
            raise DeviceLostError(f"the device {self.name} has gone away", "it was told to")
