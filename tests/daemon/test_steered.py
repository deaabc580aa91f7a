"""Packets out of the wrong queue get to the right worker, fragments among them, and those of the right one stay."""

import socket
from collections.abc import Iterator

import icmp_quotes as quotes
import pytest
from raw_packets import cut_v4, cut_v6, edit_v4

from kracauer.daemon.steered import Neighbours, SteeredDevice, SteeredSource
from kracauer.steering import Share, find_worker, worker_of
from kracauer.tun import MemoryDevice
from kracauer.wire.buffer import PACKET_START, VNET_START, Frame

WORKERS = 3
VNET = bytes(range(10))
FROM_CLIENT = quotes.segment_from_client(seq=1, ack=2, payload=bytes(range(200)))
FROM_BACKEND = quotes.segment_from_backend(seq=1, ack=2, payload=bytes(range(200)))
OWNER = worker_of(quotes.packed(quotes.CLIENT4), quotes.CLIENT_PORT, WORKERS)
OTHERS = [number for number in range(WORKERS) if number != OWNER]


class Worker:
    """A worker's queue and ways, and what of both comes to its engine."""

    def __init__(self, number: int, ways: list[tuple[socket.socket, socket.socket]], *, is_steered: bool) -> None:
        outgoing = [None if other == number else way[1] for other, way in enumerate(ways)]
        self.queue = MemoryDevice()
        self.neighbours = Neighbours(Share(number, WORKERS), ways[number][0], outgoing)
        self.device = SteeredDevice(self.queue, self.neighbours, is_steered=is_steered)

    def read(self) -> list[bytes]:
        """All that comes, vnet headers included."""
        found, frame = [], Frame()
        for source in (self.device, self.neighbours):
            while source.read_into(frame):
                found.append(bytes(frame.view[VNET_START : frame.end]))
        return found


@pytest.fixture(params=[True, False], ids=["steered", "unsteered"])
def workers(request: pytest.FixtureRequest) -> Iterator[list[Worker]]:
    ways = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(WORKERS)]
    made = [Worker(number, ways, is_steered=request.param) for number in range(WORKERS)]
    yield made
    for way in ways:
        for end in way:
            end.close()


def settle(workers: list[Worker]) -> dict[int, list[bytes]]:
    """Have all read until nothing more comes; what each has read."""
    found: dict[int, list[bytes]] = {number: [] for number in range(WORKERS)}
    for _ in range(2 * WORKERS):
        for number, worker in enumerate(workers):
            found[number] += worker.read()
    return {number: packets for number, packets in found.items() if packets}


def inject(worker: Worker, packet: bytes) -> None:
    worker.queue.inject(packet, VNET)


@pytest.mark.parametrize("packet", [FROM_CLIENT, FROM_BACKEND, edit_v4(FROM_CLIENT, options=b"\x01\x01\x01\x01")])
def test_what_is_a_workers_own_stays(workers: list[Worker], packet: bytes) -> None:
    inject(workers[OWNER], packet)
    assert settle(workers) == {OWNER: [VNET + packet]}
    assert all(worker.neighbours.handed_over == 0 for worker in workers)


@pytest.mark.parametrize("first", OTHERS)
@pytest.mark.parametrize(
    "packet",
    [
        edit_v4(FROM_CLIENT, options=b"\x01\x01\x01\x01"),
        quotes.error_v4(3, 4, quotes.segment_to_client(seq=1, ack=2)),
        quotes.error_v6(2, 0, quotes.segment_to_backend(seq=1, ack=2)),
    ],
)
def test_what_the_kernel_cannot_know_is_handed_over_as_it_came(workers: list[Worker], packet: bytes, first: int) -> None:
    inject(workers[first], packet)
    assert settle(workers) == {OWNER: [VNET + packet]}
    assert workers[first].neighbours.handed_over == 1


def test_what_was_in_the_queue_before_it_was_steered_belongs_to_anybody(workers: list[Worker]) -> None:
    """A worker that took it for its own would reset the connection of another one."""
    first = OTHERS[0]
    for packet in (FROM_CLIENT, FROM_BACKEND):
        inject(workers[first], packet)
    assert settle(workers) == {OWNER: [VNET + FROM_CLIENT, VNET + FROM_BACKEND]}


def test_plain_packets_are_looked_at_only_where_the_kernel_does_not_steer(workers: list[Worker]) -> None:
    first = OTHERS[0]
    assert workers[first].read() == []
    inject(workers[first], FROM_CLIENT)
    is_steered = workers[first].device._is_steered
    assert settle(workers) == {(first if is_steered else OWNER): [VNET + FROM_CLIENT]}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("fragments", [cut_v4(FROM_CLIENT, 24, 96), cut_v6(FROM_BACKEND, 24, 96)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("entries", [(0, 0, 0), (0, 1, 2), (2, 2, 1)])
def test_all_fragments_of_a_datagram_meet_where_its_flow_is(
    workers: list[Worker], fragments: list[bytes], order: tuple[int, ...], entries: tuple[int, ...]
) -> None:
    found: list[bytes] = []
    for index, entry in zip(order, entries, strict=True):
        inject(workers[entry], fragments[index])
        for number, packets in settle(workers).items():
            assert number == OWNER
            found += packets
    assert sorted(found) == sorted(VNET + fragment for fragment in fragments)


def test_what_has_no_room_is_lost_and_counted(workers: list[Worker]) -> None:
    first = OTHERS[0]
    packet = edit_v4(FROM_CLIENT, options=b"\x01\x01\x01\x01")
    for _ in range(5000):
        inject(workers[first], packet)
    workers[first].read()
    refused = workers[first].device.refused
    assert list(refused) == ["EAGAIN"]
    assert len(settle(workers)[OWNER]) + refused["EAGAIN"] == 5000
    refused.clear()
    assert workers[first].device.refused == {}


def test_a_neighbour_that_has_gone_costs_what_was_for_it(workers: list[Worker]) -> None:
    first = OTHERS[0]
    workers[OWNER].neighbours._incoming.close()
    inject(workers[first], edit_v4(FROM_CLIENT, options=b"\x01\x01\x01\x01"))
    inject(workers[first], FROM_BACKEND)
    workers[first].read()
    assert "ECONNREFUSED" in workers[first].device.refused


def test_garbage_from_a_neighbour_is_no_packet(workers: list[Worker]) -> None:
    way = workers[OTHERS[0]].neighbours._outgoing[OWNER]
    assert way is not None
    for garbage in (b"", b"\1", b"\1" + VNET[:5], b"\0" + VNET, b"\0" + VNET + b"\x45"):
        way.send(garbage)
    assert all(len(packet) <= len(VNET) + 1 for packet in settle(workers).get(OWNER, []))


def test_errors_for_the_host_itself_are_handed_on(workers: list[Worker]) -> None:
    errors = MemoryDevice()
    source = SteeredSource(errors, workers[OTHERS[0]].neighbours)
    own = next(
        error
        for port in range(1024, 2048)
        if find_worker(error := quotes.error_v4(3, 4, to_client(port)), WORKERS) == OTHERS[0]
    )
    errors.inject(quotes.error_v4(3, 4, to_client(quotes.CLIENT_PORT)))
    errors.inject(own)
    frame = Frame()
    assert source.read_into(frame)
    assert bytes(frame.view[PACKET_START : frame.end]) == own
    assert not source.read_into(frame)
    assert list(settle(workers)) == [OWNER]


def to_client(port: int) -> bytes:
    packet = bytearray(quotes.segment_to_client(seq=1, ack=2))
    packet[22:24] = port.to_bytes(2, "big")
    return bytes(packet)
