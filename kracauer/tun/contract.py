"""What the service expects of a device: packets in and out, each behind a vnet header, and never a wait."""

from typing import Protocol

from kracauer.errors import DeviceError
from kracauer.wire.buffer import Buffer, Frame


class DeviceLostError(DeviceError):
    """The device was there and is no longer: deleted under the service, or taken away with its namespace."""


class Device(Protocol):
    """A layer-3 device. Nothing here blocks, and a packet that the kernel refuses is counted, never raised."""

    @property
    def name(self) -> str:
        """The interface's name."""

    @property
    def has_offloads(self) -> bool:
        """Whether the other side may hand over super-packets and packets whose checksum is not complete."""

    @property
    def refused(self) -> dict[str, int]:
        """Packets that could not be written, by the name of the errno. The reader may clear it."""

    def fileno(self) -> int:
        """A descriptor that turns readable when `read_into` has something to say, the loss of the device included."""

    def read_into(self, frame: Frame) -> bool:
        """Fill `frame` from VNET_START and set its end; False when nothing is there now. Raises DeviceLostError."""

    def write(self, packet: Buffer) -> None:
        """Hand over one packet, ten bytes of vnet header first. Raises DeviceLostError."""

    def close(self) -> None:
        """Let go of the device. Closing twice is no error."""
