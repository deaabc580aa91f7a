"""The device in memory keeps the contract."""

import select
from collections.abc import Iterator

import pytest

from kracauer.tun import Device, DeviceLostError, MemoryDevice
from kracauer.wire.buffer import PACKET_START, VNET_START, Frame


@pytest.fixture
def device() -> Iterator[MemoryDevice]:
    opened = MemoryDevice()
    yield opened
    opened.close()


def is_readable(device: Device) -> bool:
    return bool(select.select([device], [], [], 0)[0])


def test_what_is_injected_is_read_in_order(device: MemoryDevice) -> None:
    frame = Frame()
    device.inject(b"one", b"\x01" * 10)
    device.inject(b"two")

    assert device.read_into(frame)
    assert frame.buffer[VNET_START : frame.end] == b"\x01" * 10 + b"one"
    assert device.read_into(frame)
    assert frame.buffer[PACKET_START : frame.end] == b"two"
    assert not device.read_into(frame)


def test_it_is_readable_just_as_long_as_packets_wait(device: MemoryDevice) -> None:
    assert not is_readable(device)
    device.inject(b"one")
    device.inject(b"two")
    for _ in range(2):
        assert is_readable(device)
        device.read_into(Frame())
    assert not is_readable(device)


def test_what_is_written_is_kept_as_a_copy(device: MemoryDevice) -> None:
    packet = bytearray(b"0123456789packet")
    device.write(memoryview(packet))
    packet[:] = bytes(len(packet))

    assert list(device.outgoing) == [b"0123456789packet"]


def test_a_lost_device_is_readable_and_says_so(device: MemoryDevice) -> None:
    device.lose()

    assert is_readable(device)
    with pytest.raises(DeviceLostError):
        device.read_into(Frame())
    with pytest.raises(DeviceLostError):
        device.write(b"0123456789packet")
