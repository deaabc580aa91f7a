"""The kernel's own device, in a namespace of the test's own."""

import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP

from kracauer.tun import DeviceLostError, TunDevice, open_device
from kracauer.wire import vnet_hdr
from kracauer.wire.buffer import PACKET_START, VNET_START, Frame

pytestmark = pytest.mark.lab

Ip = Callable[[str], str]
NO_OFFLOAD = bytes(10)


@pytest.fixture(params=[True, False], ids=["offloads", "plain"])
def device(request: pytest.FixtureRequest, own_netns: Ip) -> Iterator[TunDevice]:
    opened = open_device("kracauer0", has_offloads=request.param)
    Path("/proc/sys/net/ipv6/conf/kracauer0/disable_ipv6").write_text("1", encoding="ascii")
    own_netns("link set kracauer0 up")
    own_netns("address add 192.0.2.1/24 dev kracauer0")
    yield opened
    opened.close()


def datagram(payload: bytes = b"hello") -> bytes:
    return bytes(IP(src="192.0.2.2", dst="192.0.2.1") / UDP(sport=7, dport=7) / payload)


def read(device: TunDevice) -> Frame:
    frame = Frame()
    assert select.select([device], [], [], 5)[0]
    assert device.read_into(frame)
    return frame


def test_an_empty_device_has_nothing_and_does_not_wait(device: TunDevice) -> None:
    assert device.read_into(Frame()) is False


def test_a_packet_of_the_kernel_arrives_behind_its_vnet_header(device: TunDevice, own_netns: Ip) -> None:
    own_netns("route add 203.0.113.9 dev kracauer0")
    send_datagram("203.0.113.9", b"payload")
    frame = Frame()
    frame.buffer[VNET_START:PACKET_START] = b"\xff" * 10  # what the engine may have left there

    assert device.read_into(frame)

    header = vnet_hdr.parse(frame.buffer, VNET_START)
    packet = IP(bytes(frame.buffer[PACKET_START : frame.end]))
    assert packet[UDP].load == b"payload"
    assert header.gso_type == vnet_hdr.GSO_NONE
    assert header.needs_csum == device.has_offloads


def test_a_packet_written_reaches_the_kernel(device: TunDevice) -> None:
    device.write(NO_OFFLOAD + datagram())

    reply = IP(bytes(read(device).buffer[PACKET_START : PACKET_START + 28]))
    assert (reply.src, reply.dst, reply.proto) == ("192.0.2.1", "192.0.2.2", 1)  # nobody listens: port unreachable
    assert device.refused == {}


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_written(device: TunDevice, kind: Callable[[bytes], bytes]) -> None:
    device.write(kind(NO_OFFLOAD + datagram()))

    assert read(device).end > PACKET_START


def test_a_packet_that_the_kernel_refuses_is_counted(device: TunDevice) -> None:
    for garbage in (b"", b"\x99" * 40):
        device.write(NO_OFFLOAD + garbage)

    assert device.refused == {"EINVAL": 2}


def test_a_vnet_header_that_the_kernel_refuses_is_counted(own_netns: Ip) -> None:
    device = open_device("kracauer0")
    try:
        own_netns("link set kracauer0 up")
        device.write(struct.pack("=BBHHHH", 1, 1, 0, 0, 0xFFFF, 0xFFFF) + datagram())
        assert device.refused == {"EINVAL": 1}
    finally:
        device.close()


def test_a_link_that_is_down_refuses_and_goes_on_when_it_is_up_again(device: TunDevice, own_netns: Ip) -> None:
    own_netns("link set kracauer0 down")
    device.write(NO_OFFLOAD + datagram())
    assert device.read_into(Frame()) is False
    assert device.refused == {"EIO": 1}

    own_netns("link set kracauer0 up")
    device.write(NO_OFFLOAD + datagram())
    assert read(device).end > PACKET_START


def test_a_deleted_device_wakes_its_reader_and_says_so(device: TunDevice, own_netns: Ip) -> None:
    poll = select.epoll()
    poll.register(device.fileno(), select.EPOLLIN)

    own_netns("link del kracauer0")

    assert poll.poll(5)
    poll.close()
    with pytest.raises(DeviceLostError, match="kracauer0 has gone away") as caught:
        device.read_into(Frame())
    assert "ip monitor link" in caught.value.remedy
    with pytest.raises(DeviceLostError):
        device.write(NO_OFFLOAD + datagram())


def test_a_renamed_device_still_works(device: TunDevice, own_netns: Ip) -> None:
    own_netns("link set kracauer0 name other0")

    device.write(NO_OFFLOAD + datagram())

    assert read(device).end > PACKET_START


def test_a_closed_device_is_gone_and_can_be_closed_twice(device: TunDevice, own_netns: Ip) -> None:
    device.close()
    device.close()

    assert "kracauer0" not in own_netns("link show")
    with pytest.raises(DeviceLostError):
        device.read_into(Frame())


def test_each_frame_is_filled_even_when_they_alternate(device: TunDevice) -> None:
    first, second = Frame(), Frame()
    for frame in (first, second, first):
        device.write(NO_OFFLOAD + datagram())
        assert select.select([device], [], [], 5)[0]
        assert device.read_into(frame)
        assert frame.buffer[PACKET_START] == 0x45


def test_super_packets_cross_whole(own_netns: Ip) -> None:
    """A GSO packet written with its vnet header is one packet to the kernel; here it is sent on to a closed port."""
    device = open_device("kracauer0")
    try:
        assert device.has_offloads
        own_netns("link set kracauer0 up")
        own_netns("address add 192.0.2.1/24 dev kracauer0")
        segment = bytes(IP(src="192.0.2.2", dst="192.0.2.1") / TCP(sport=7, dport=7, flags="A") / bytes(30_000))
        header = vnet_hdr.VnetHeader(
            flags=vnet_hdr.NEEDS_CSUM, gso_type=vnet_hdr.GSO_TCPV4, hdr_len=40, gso_size=1400, csum_start=20, csum_offset=16
        )
        device.write(vnet_hdr.build(header) + segment)
        assert device.refused == {}
    finally:
        device.close()


def send_datagram(address: str, payload: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(payload, (address, 9))
