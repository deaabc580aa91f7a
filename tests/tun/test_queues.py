"""A device with several queues: opened, left, taken over, made anew; and that each packet comes out of the right one."""

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import icmp_quotes as quotes
import pytest
from raw_packets import cut_v4

from kracauer.errors import DeviceError
from kracauer.offload import steering
from kracauer.offload.bpf import OffloadError
from kracauer.steering import find_worker
from kracauer.tun import InheritedQueue, TunDevice, open_device, open_queue
from kracauer.wire.buffer import PACKET_START, Frame

pytestmark = pytest.mark.lab

Ip = Callable[[str], str]
DEVICE = "kracauer0"
WORKERS = 3


@pytest.fixture
def queues(own_netns: Ip) -> Iterator[list[TunDevice]]:
    first = open_device(DEVICE, has_queues=True)
    opened = [first, *(open_queue(first) for _ in range(WORKERS - 1))]
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", key).write_text("1\n", encoding="ascii")
    Path(f"/proc/sys/net/ipv4/conf/{DEVICE}/rp_filter").write_text("0\n", encoding="ascii")
    own_netns(f"link set {DEVICE} up")
    own_netns(f"route add 192.0.0.0/8 dev {DEVICE}")
    own_netns(f"route add 198.51.100.1/32 dev {DEVICE}")
    own_netns(f"-6 route add 2001:db8::/32 dev {DEVICE}")
    yield opened
    for queue in opened:
        queue.close()


def where_it_comes_out(queues: list[TunDevice], packet: bytes) -> int:
    """Write `packet` to a queue, from where the host routes it back into the device; the number of the queue it is in then."""
    queues[0].write(bytes(10) + packet)
    frame = Frame()
    wanted = destination(packet)
    for _ in range(50):
        ready = select.select(queues, [], [], 2)[0]
        assert ready, "it does not come back"
        for queue in ready:
            while queue.read_into(frame):
                found = bytes(frame.view[PACKET_START : frame.end])
                if destination(found) == wanted:  # besides, there is the kernel's own chatter on the link
                    return queues.index(queue)
    raise AssertionError("it does not come back")


def destination(packet: bytes) -> bytes:
    return packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]


PACKETS = [
    *(
        quotes.segment_from_client(seq=port, ack=2)[:20]
        + port.to_bytes(2, "big")
        + quotes.segment_from_client(seq=1, ack=2)[22:]
        for port in range(40000, 40020)
    ),
    quotes.segment_from_backend(seq=1, ack=2),
    quotes.error_v4(3, 4, quotes.segment_to_client(seq=1, ack=2)),
    quotes.error_v6(2, 0, quotes.segment_to_backend(seq=1, ack=2)),
    *cut_v4(quotes.segment_from_client(seq=1, ack=2, payload=bytes(100)), 24),
]


def test_each_packet_comes_out_of_the_queue_of_its_worker(queues: list[TunDevice]) -> None:
    try:
        steering.steer(queues[0].fileno(), WORKERS)
    except OffloadError as error:
        pytest.skip(f"the kernel takes no program here: {error.cause}")
    found = [where_it_comes_out(queues, packet) for packet in PACKETS]
    assert found == [find_worker(packet, WORKERS) for packet in PACKETS]
    assert set(found) == set(range(WORKERS))


def test_what_is_steered_is_asked_of_the_kernel_in_its_own_words(queues: list[TunDevice]) -> None:
    steering.steer(queues[-1].fileno(), WORKERS)  # by any queue
    with pytest.raises(OffloadError, match="steer packets to queues"), Path("/dev/null").open("rb") as file:
        steering.steer(file.fileno(), WORKERS)


@pytest.mark.usefixtures("own_netns")
def test_a_device_without_queues_has_room_for_one_alone() -> None:
    device = open_device(DEVICE)
    with pytest.raises(DeviceError):
        open_queue(device)
    device.close()


@pytest.mark.usefixtures("own_netns")
@pytest.mark.parametrize("has_queues", [False, True])
def test_a_device_that_was_left_is_made_anew_where_it_is_of_the_other_kind(has_queues: bool) -> None:
    open_device(DEVICE, is_persistent=True, has_queues=not has_queues).close()
    with pytest.raises(DeviceError):
        open_device(DEVICE, is_persistent=True, has_queues=has_queues)

    device = open_device(DEVICE, is_persistent=True, has_queues=has_queues, may_replace=True)
    assert (device.is_replaced, device.is_found) == (True, False)
    device.close()
    again = open_device(DEVICE, is_persistent=True, has_queues=has_queues, may_replace=True)
    assert (again.is_replaced, again.is_found) == (False, True)
    again.remove()


def test_a_device_of_somebody_else_is_never_made_anew(own_netns: Ip) -> None:
    own_netns(f"tuntap add dev {DEVICE} mode tun multi_queue")
    with pytest.raises(DeviceError):
        open_device(DEVICE, is_persistent=True, may_replace=True)
    assert DEVICE in own_netns("link show")


def test_a_queue_that_is_handed_down_is_as_good(queues: list[TunDevice]) -> None:
    descriptor = os.dup(queues[1].fileno())
    inherited = TunDevice(InheritedQueue(descriptor, DEVICE), has_vnet_header=True, has_offloads=True)
    inherited.write(bytes(10) + PACKETS[0])
    assert inherited.refused == {}
    inherited.close()
    inherited.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("has_queues", [False, True])
def test_a_device_that_the_operator_has_made_otherwise_is_explained(own_netns: Ip, has_queues: bool) -> None:
    own_netns(f"tuntap add dev {DEVICE} mode tun{'' if has_queues else ' multi_queue'}")
    with pytest.raises(DeviceError, match="was made for a single queue" if has_queues else "was made for several") as caught:
        open_device(DEVICE, is_adopting=True, has_queues=has_queues)
    assert "network.workers" in caught.value.remedy
    assert DEVICE in own_netns("link show")


def test_a_device_that_the_operator_has_made_for_queues_is_used(own_netns: Ip) -> None:
    own_netns(f"tuntap add dev {DEVICE} mode tun multi_queue")
    device = open_device(DEVICE, is_adopting=True, has_queues=True)
    second = open_queue(device)
    second.close()
    device.close()
    assert DEVICE in own_netns("link show")
