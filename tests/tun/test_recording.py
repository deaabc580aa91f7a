"""Recordings are read back with scapy's pcapng reader."""

from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.utils import RawPcapNgReader

from kracauer.tun import MemoryDevice, RecordingDevice
from kracauer.wire.buffer import PACKET_START, Frame

PACKET4 = bytes(IP(src="192.0.2.7", dst="198.51.100.1") / UDP() / b"odd")
PACKET6 = bytes(IPv6(src="2001:db8:46::c000:207", dst="2001:db8:1::2") / UDP() / bytes(60_000))


def record(path: Path, traffic: Callable[[MemoryDevice, RecordingDevice], None]) -> list[bytes]:
    memory = MemoryDevice()
    device = RecordingDevice(memory, path)
    traffic(memory, device)
    device.close()
    reader = RawPcapNgReader(str(path))
    try:
        return [bytes(packet) for packet, _ in reader]
    finally:
        reader.close()


def test_packets_of_both_directions_are_recorded_without_vnet_header(tmp_path: Path) -> None:
    def traffic(memory: MemoryDevice, device: RecordingDevice) -> None:
        memory.inject(PACKET4)
        assert device.read_into(Frame())
        device.write(bytes(10) + PACKET6)
        assert not device.read_into(Frame())

    assert record(tmp_path / "all.pcapng", traffic) == [PACKET4, PACKET6]


def test_a_packet_is_recorded_as_it_was_read_and_not_as_it_was_rewritten(tmp_path: Path) -> None:
    def traffic(memory: MemoryDevice, device: RecordingDevice) -> None:
        frame = Frame()
        memory.inject(PACKET4)
        device.read_into(frame)
        frame.buffer[PACKET_START : frame.end] = bytes(len(PACKET4))

    assert record(tmp_path / "all.pcapng", traffic) == [PACKET4]


def test_the_device_behind_the_recording_sees_all_traffic(tmp_path: Path) -> None:
    def traffic(memory: MemoryDevice, device: RecordingDevice) -> None:
        device.write(bytes(10) + PACKET4)
        assert list(memory.outgoing) == [bytes(10) + PACKET4]
        assert device.fileno() == memory.fileno()
        assert device.refused is memory.refused

    record(tmp_path / "all.pcapng", traffic)


def test_a_full_disk_ends_the_recording_and_not_the_traffic() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    failures: list[OSError] = []
    memory = MemoryDevice()
    device = RecordingDevice(memory, Path("/dev/full"), on_failure=failures.append)

    device.write(bytes(10) + PACKET4)
    device.write(bytes(10) + PACKET4)
    device.close()

    assert len(memory.outgoing) == 2
    assert [failure.strerror for failure in failures] == ["No space left on device"]


def test_a_file_that_cannot_be_made_is_an_error_at_once(tmp_path: Path) -> None:
    memory = MemoryDevice()
    try:
        with pytest.raises(FileNotFoundError):
            RecordingDevice(memory, tmp_path / "missing" / "all.pcapng")
    finally:
        memory.close()
