import icmp_quotes as quotes
import pytest
from raw_packets import cut_v4, cut_v6

from kracauer.steering import FragmentSteering, worker_of
from kracauer.steering.fragments import MAX_BYTES, MAX_DATAGRAMS, TIMEOUT_S, Directed

WORKERS = 7
PAYLOAD = bytes(range(200))
FROM_CLIENT = quotes.segment_from_client(seq=1, ack=2, payload=PAYLOAD)
FROM_BACKEND = quotes.segment_from_backend(seq=1, ack=2, payload=PAYLOAD)
OWNER = worker_of(quotes.packed(quotes.CLIENT4), quotes.CLIENT_PORT, WORKERS)
SIDES = {"IPv4": cut_v4(FROM_CLIENT, 24, 96), "IPv6": cut_v6(FROM_BACKEND, 24, 96)}
sides = pytest.mark.parametrize("fragments", SIDES.values(), ids=SIDES.keys())


def directed(*fragments: bytes) -> list[Directed]:
    return [Directed(OWNER, fragment) for fragment in fragments]


@sides
def test_the_first_one_tells_where_all_go(fragments: list[bytes]) -> None:
    steering = FragmentSteering(WORKERS)
    for fragment in fragments:
        assert steering.receive(fragment, 0.0) == directed(fragment)


@sides
def test_what_comes_before_the_first_one_waits_for_it(fragments: list[bytes]) -> None:
    first, second, third = fragments
    steering = FragmentSteering(WORKERS)
    assert steering.receive(third, 0.0) == []
    assert steering.receive(second, 0.1) == []
    assert steering.receive(first, 0.2) == directed(third, second, first)
    assert steering.receive(second, 0.3) == directed(second)
    assert steering.lost == 0


@sides
def test_what_lies_before_a_packet_stays_there(fragments: list[bytes]) -> None:
    steering = FragmentSteering(WORKERS)
    assert steering.receive(fragments[1], 0.0, behind=b"v") == []
    assert steering.receive(fragments[0], 0.0, behind=b"w") == directed(b"v" + fragments[1], b"w" + fragments[0])


def test_datagrams_are_told_apart_by_their_identification() -> None:
    steering = FragmentSteering(WORKERS)
    assert steering.receive(cut_v4(FROM_CLIENT, 24, identification=1)[0], 0.0)
    assert steering.receive(cut_v4(FROM_CLIENT, 24, identification=2)[1], 0.0) == []


@sides
def test_a_first_one_that_never_comes_is_not_waited_for_for_ever(fragments: list[bytes]) -> None:
    steering = FragmentSteering(WORKERS)
    assert steering.receive(fragments[1], 0.0) == []
    assert steering.receive(fragments[0], TIMEOUT_S + 0.1) == directed(fragments[0])
    assert steering.lost == 1


def test_a_flood_takes_the_place_of_the_oldest() -> None:
    steering = FragmentSteering(WORKERS)
    for identification in range(MAX_DATAGRAMS + 5):
        assert steering.receive(cut_v4(FROM_CLIENT, 24, identification=identification)[1], 0.0) == []
    assert steering.lost == 5


def test_a_flood_does_not_take_more_than_its_bytes() -> None:
    steering = FragmentSteering(WORKERS)
    large = quotes.segment_from_client(seq=1, ack=2, payload=bytes(60_000))
    for identification in range(40):
        assert steering.receive(cut_v4(large, 24, identification=identification)[1], 0.0) == []
    assert steering.lost == 40 - MAX_BYTES // 60_000


@pytest.mark.parametrize("packet", [b"", b"\x60" * 50, FROM_BACKEND, FROM_CLIENT[:19]])
def test_what_is_no_fragment_is_for_the_first_worker(packet: bytes) -> None:
    assert FragmentSteering(WORKERS).receive(packet, 0.0) == [Directed(0, packet)]
