"""Which worker a packet is for: the same for all that belongs to one flow, in Python and in the kernel's program."""

import os
from collections import Counter
from collections.abc import Iterator

import icmp_quotes as quotes
import program_runs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_packets import cut_v4, cut_v6, edit_v4, extend_v6

from kracauer.offload import steering
from kracauer.offload.bpf import OffloadError
from kracauer.steering import Share, find_worker, is_fragment, is_plain, worker_of
from kracauer.wire.buffer import Frame

CLIENT = quotes.packed(quotes.CLIENT4)
WORKERS = 5
FROM_CLIENT = quotes.segment_from_client(seq=1, ack=2, payload=b"x" * 64)
FROM_BACKEND = quotes.segment_from_backend(seq=1, ack=2, payload=b"x" * 64)
TO_CLIENT = quotes.segment_to_client(seq=1, ack=2)
TO_BACKEND = quotes.segment_to_backend(seq=1, ack=2)
OWNER = worker_of(CLIENT, quotes.CLIENT_PORT, WORKERS)
OF_ADDRESS = worker_of(CLIENT, 0, WORKERS)
HOP_BY_HOP = bytes((6, 0, 1, 4, 0, 0, 0, 0))

# What the program and Python find alike, and of whom it is.
USUAL = {
    "from the client": (FROM_CLIENT, OWNER),
    "from the backend": (FROM_BACKEND, OWNER),
    "an error about what went to the client": (quotes.error_v4(3, 4, TO_CLIENT), OWNER),
    "the least that is quoted": (quotes.error_v4(11, 0, TO_CLIENT[:28]), OWNER),
    "an error about what went to the backend": (quotes.error_v6(2, 0, TO_BACKEND), OWNER),
    "with IP options": (edit_v4(FROM_CLIENT, options=b"\x01\x01\x01\x01"), OWNER),
    "an error that quotes IP options": (quotes.error_v4(3, 1, edit_v4(TO_CLIENT, options=b"\x01\x01\x01\x01")), OWNER),
    "a first fragment": (cut_v4(FROM_CLIENT, 24)[0], OF_ADDRESS),
    "a later fragment": (cut_v4(FROM_CLIENT, 24)[1], OF_ADDRESS),
    "a fragment of IPv6": (cut_v6(FROM_BACKEND, 24)[1], OF_ADDRESS),
    "an echo request": (quotes.error_v4(8, 0, b"ping", src=quotes.CLIENT4), OF_ADDRESS),
}
# What the program sends elsewhere, and a worker hands on.
UNUSUAL = {
    "behind an extension header": (extend_v6(FROM_BACKEND, 0, HOP_BY_HOP), OWNER),
}
packets = pytest.mark.parametrize(("packet", "worker"), (USUAL | UNUSUAL).values(), ids=(USUAL | UNUSUAL).keys())


@pytest.fixture
def program() -> Iterator[int]:
    try:
        fd = steering.load(WORKERS)
    except OffloadError as error:
        pytest.skip(f"the kernel takes no program here: {error.cause}")
    yield fd
    os.close(fd)


@packets
def test_all_of_a_flow_is_for_one_worker(packet: bytes, worker: int) -> None:
    assert find_worker(packet, WORKERS) == worker


@pytest.mark.lab
@pytest.mark.parametrize(("packet", "worker"), USUAL.values(), ids=USUAL.keys())
def test_the_program_finds_the_same_worker(program: int, packet: bytes, worker: int) -> None:
    assert program_runs.run(program, ethernet(packet)).verdict == worker


@pytest.mark.lab
def test_the_program_agrees_about_every_client(program: int) -> None:
    for number in range(300):
        client, port = (number * 0x01234567 + 1) & 0xDFFFFFFF | 1, number * 211 + 1
        packet = bytearray(FROM_CLIENT)
        packet[12:16], packet[20:22] = client.to_bytes(4, "big"), port.to_bytes(2, "big")
        expected = worker_of(bytes(packet[12:16]), port, WORKERS)
        assert program_runs.run(program, ethernet(bytes(packet))).verdict == expected


@pytest.mark.lab
@given(st.binary(min_size=20, max_size=120))
def test_the_program_makes_something_of_everything(data: bytes) -> None:
    try:
        fd = steering.load(WORKERS)
    except OffloadError as error:
        pytest.skip(f"the kernel takes no program here: {error.cause}")
    try:
        assert 0 <= program_runs.run(fd, b"\0" * 12 + b"\x08\x00" + data).verdict < WORKERS
    finally:
        os.close(fd)


def ethernet(packet: bytes) -> bytes:
    """With the header that a test run wants to take off again."""
    return bytes(12) + (b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00") + packet


@given(st.binary(max_size=120), st.integers(1, 64))
def test_every_packet_has_a_worker(data: bytes, workers: int) -> None:
    assert 0 <= find_worker(data, workers) < workers


@pytest.mark.parametrize("cut", [0, 10, 19])
def test_what_ends_before_its_ports_is_for_the_first_worker(cut: int) -> None:
    assert find_worker(FROM_CLIENT[:cut], WORKERS) == 0


@packets
def test_only_what_has_its_ports_in_their_usual_place_is_plain(packet: bytes, worker: int) -> None:
    frame = Frame(packet)
    assert is_plain(frame) is (packet in (FROM_CLIENT, FROM_BACKEND))
    assert worker == find_worker(packet, WORKERS)


@pytest.mark.parametrize("packet", [*cut_v4(FROM_CLIENT, 24), *cut_v6(FROM_BACKEND, 24)])
def test_fragments_are_told_from_whole_packets(packet: bytes) -> None:
    assert is_fragment(Frame(packet))
    assert not is_fragment(Frame(FROM_CLIENT))
    assert not is_fragment(Frame(FROM_BACKEND))


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_clients_and_ports_are_spread_evenly(workers: int) -> None:
    by_port = Counter(worker_of(CLIENT, port, workers) for port in range(32768, 36768))
    by_client = Counter(worker_of(bytes((192, 0, 2, last)), 50000, workers) for last in range(256))
    assert min(by_port.values()) > 0.8 * 4000 / workers
    assert min(by_client.values()) > 0.5 * 256 / workers


def test_a_share_is_what_its_worker_has() -> None:
    shares = [Share(index, WORKERS) for index in range(WORKERS)]
    assert [share.owns(CLIENT, quotes.CLIENT_PORT) for share in shares] == [index == OWNER for index in range(WORKERS)]
    assert Share().owns(CLIENT, quotes.CLIENT_PORT)
