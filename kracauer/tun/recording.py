"""A device that keeps a pcapng file of all that passes, for Wireshark and tcpdump to read.

Blocks are those of draft-ietf-opsawg-pcapng §4.1 (section header), §4.2 (interface description) and §4.3 (enhanced
packet); the link type is LINKTYPE_RAW: a packet begins with its IPv4 or IPv6 header.
"""

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kracauer.tun.contract import Device
from kracauer.wire.buffer import PACKET_START, VNET_START, Buffer, Frame

_LINKTYPE_RAW: Final = 101
_SECTION_HEADER: Final = 0x0A0D0D0A
_INTERFACE_DESCRIPTION: Final = 1
_ENHANCED_PACKET: Final = 6
_OPTION_NAME: Final = 2
_OPTION_RESOLUTION: Final = 9
_OPTION_FLAGS: Final = 2
_INBOUND: Final = 1
_OUTBOUND: Final = 2
_VNET_LENGTH: Final = PACKET_START - VNET_START


class RecordingDevice:
    """`device`, with every packet read (inbound) and written (outbound) appended to the file at `path`.

    A file that can no longer be written ends the recording and calls `on_failure`; the device itself goes on.
    Raises OSError when the file cannot be opened.
    """

    def __init__(self, device: Device, path: Path, *, on_failure: Callable[[OSError], None] | None = None) -> None:
        self._device = device
        self._on_failure = on_failure
        self._file = path.open("wb", buffering=0)
        self._is_recording = True
        self.name = device.name
        self.has_offloads = device.has_offloads
        self.refused = device.refused
        self._append(_section(device.name))

    def fileno(self) -> int:
        """The descriptor of the device itself."""
        return self._device.fileno()

    def read_into(self, frame: Frame) -> bool:
        """Read as the device does, and record the packet before anybody rewrites it."""
        if not self._device.read_into(frame):
            return False
        self._record(frame.view[PACKET_START : frame.end], _INBOUND)
        return True

    def write(self, packet: Buffer) -> None:
        """Record the packet, then write it."""
        self._record(memoryview(packet)[_VNET_LENGTH:], _OUTBOUND)
        self._device.write(packet)

    def close(self) -> None:
        """Close the file and the device."""
        self._file.close()
        self._is_recording = False
        self._device.close()

    def _record(self, packet: memoryview, direction: int) -> None:
        if self._is_recording:
            self._append(_packet(packet, direction, time.time_ns()))

    def _append(self, block: bytes) -> None:
        try:
            self._file.write(block)
        except OSError as error:  # a full disk must not stop the traffic
            self._is_recording = False
            if self._on_failure is not None:
                self._on_failure(error)


def _section(name: str) -> bytes:
    nanoseconds = _option(_OPTION_RESOLUTION, b"\x09") + _option(_OPTION_NAME, name.encode()) + _option(0, b"")
    return _block(_SECTION_HEADER, struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1)) + _block(
        _INTERFACE_DESCRIPTION, struct.pack("=HHI", _LINKTYPE_RAW, 0, 0) + nanoseconds
    )


def _packet(packet: memoryview, direction: int, time_ns: int) -> bytes:
    length = len(packet)
    fixed = struct.pack("=IIIII", 0, time_ns >> 32, time_ns & 0xFFFFFFFF, length, length)
    flags = _option(_OPTION_FLAGS, struct.pack("=I", direction)) + _option(0, b"")
    return _block(_ENHANCED_PACKET, fixed + _pad(bytes(packet)) + flags)


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("=II", kind, length) + body + struct.pack("=I", length)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + _pad(value)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
