import gc
import random
import struct
import tracemalloc
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icmp_quotes import BACKEND6, MAPPED6, SERVICE4, packed, segment_from_backend, segment_from_client
from scapy_oracle import IPv6, IPv6ExtHdrFragment, Raw

from kracauer.errors import Dropped, DropReason, ParseError
from kracauer.translate import fragments
from kracauer.translate.assembly import MAX_PIECES
from kracauer.translate.fragmenting import fragment_v4, fragment_v6
from kracauer.translate.fragments import Expired, Reassembler
from kracauer.wire import ipv4
from kracauer.wire.ipv4 import IPv4Header

MIB = 1 << 20


def piece(offset: int = 0, data: bytes = bytes(64), *, more: bool = True, source: int = 7, identification: int = 1) -> bytes:
    """An IPv4 fragment of a UDP datagram from 192.0.2.`source`."""
    header = IPv4Header(
        tos=0,
        total_length=20 + len(data),
        identification=identification,
        dont_fragment=False,
        more_fragments=more,
        fragment_offset=offset // 8,
        ttl=64,
        protocol=17,
        src=(IPv4Address("192.0.2.0") + source).packed,
        dst=packed(SERVICE4),
    )
    return ipv4.build(header) + data


def last_piece(source: int = 7, identification: int = 1) -> bytes:
    """What makes the datagram that `piece` begins whole."""
    return piece(64, b"last", more=False, source=source, identification=identification)


def reason_to_drop(reassembler: Reassembler, packet: bytes, now: float = 0.0) -> DropReason:
    with pytest.raises(Dropped) as dropped:
        reassembler.add_v4(packet, now)
    return dropped.value.reason


def completes(reassembler: Reassembler, source: int = 7, identification: int = 1, now: float = 0.0) -> bool:
    """Whether the first piece of this datagram is still there, so that the last one makes it whole."""
    return reassembler.add_v4(last_piece(source, identification), now) is not None


# Whole packets.


def test_a_whole_packet_is_its_own_datagram() -> None:
    packet = segment_from_client(seq=1, ack=2, flags="DF", id=9)
    reassembler = Reassembler()
    assert reassembler.add_v4(packet + b"padding", 0.0) == (packet, 9, 40, True)
    packet = segment_from_backend(seq=1, ack=2)
    assert reassembler.add_v6(packet + b"padding", 0.0) == (packet, 0, 60, False)
    assert len(reassembler) == 0


def test_an_atomic_fragment_is_its_own_datagram_and_is_joined_to_no_other() -> None:
    reassembler = Reassembler()
    first = bytes(IPv6(src=BACKEND6, dst=MAPPED6) / IPv6ExtHdrFragment(m=1, id=5, nh=17) / Raw(bytes(64)))
    atomic = bytes(IPv6(src=BACKEND6, dst=MAPPED6) / IPv6ExtHdrFragment(id=5, nh=17) / Raw(b"x" * 64))
    assert reassembler.add_v6(first, 0.0) is None
    assert reassembler.add_v6(atomic, 0.0) == (atomic, 5, len(atomic), False)
    assert len(reassembler) == 1


# Fragments.


def test_the_last_missing_fragment_completes_the_datagram() -> None:
    reassembler = Reassembler()
    assert reassembler.add_v4(last_piece(), 0.0) is None
    datagram = reassembler.add_v4(piece(), 0.0)
    assert datagram is not None
    assert datagram.packet[20:] == bytes(64) + b"last"


def test_a_complete_datagram_leaves_nothing_behind() -> None:
    reassembler = Reassembler()
    reassembler.add_v4(piece(), 0.0)
    reassembler.add_v4(last_piece(), 0.0)
    assert (len(reassembler), reassembler.held_bytes, reassembler.next_deadline()) == (0, 0, None)


def test_fragments_of_different_datagrams_are_not_joined() -> None:
    reassembler = Reassembler()
    reassembler.add_v4(piece(identification=1), 0.0)
    assert not completes(reassembler, identification=2)
    assert not completes(reassembler, source=8, identification=1)
    assert completes(reassembler, identification=1)


def test_a_borrowed_buffer_is_copied() -> None:
    reassembler = Reassembler()
    buffer = bytearray(piece(data=b"8 bytes."))
    reassembler.add_v4(memoryview(buffer), 0.0)
    buffer[:] = bytes(len(buffer))
    datagram = reassembler.add_v4(piece(8, b"last", more=False), 0.0)
    assert datagram is not None
    assert datagram.packet[20:] == b"8 bytes.last"


def test_a_malformed_packet_is_refused_and_nothing_is_kept() -> None:
    reassembler = Reassembler()
    with pytest.raises(ParseError):
        reassembler.add_v4(piece()[:-1], 0.0)
    with pytest.raises(ParseError):
        reassembler.add_v6(segment_from_backend(seq=1, ack=2)[:-1], 0.0)
    assert len(reassembler) == 0


def test_an_overlap_ends_the_datagram_and_all_its_later_fragments() -> None:
    reassembler = Reassembler()
    reassembler.add_v4(piece(), 0.0)
    assert reason_to_drop(reassembler, piece(data=b"x" * 64)) is DropReason.FRAGMENT_OVERLAP
    assert reason_to_drop(reassembler, piece(), 1.0) is DropReason.FRAGMENT_OVERLAP
    assert reason_to_drop(reassembler, last_piece(), 2.0) is DropReason.FRAGMENT_OVERLAP


def test_later_fragments_of_what_was_given_up_have_its_reason() -> None:
    reassembler = Reassembler()
    reassembler.add_v4(last_piece(), 0.0)
    assert reason_to_drop(reassembler, piece(128)) is DropReason.FRAGMENT_INCONSISTENT
    assert reason_to_drop(reassembler, piece()) is DropReason.FRAGMENT_INCONSISTENT


def test_the_data_of_what_was_given_up_is_let_go() -> None:
    reassembler = Reassembler()
    reassembler.add_v4(piece(data=bytes(8000)), 0.0)
    full = reassembler.held_bytes
    reason_to_drop(reassembler, piece(data=b"x" * 8000))
    assert full - reassembler.held_bytes == 8000 + fragments.PIECE_OVERHEAD


def test_what_was_given_up_does_not_count_against_its_source() -> None:
    reassembler = Reassembler(max_bytes=MIB)
    for identification in range(3):
        reassembler.add_v4(piece(data=bytes(60_000), identification=identification), 0.0)
        reason_to_drop(reassembler, piece(data=b"x" * 8, identification=identification))
    reassembler.add_v4(piece(data=bytes(60_000), identification=3), 0.0)
    assert reassembler.add_v4(piece(60_000, bytes(8), more=False, identification=3), 0.0) is not None
    assert len(reassembler) == 3


def test_a_tiny_fragment_is_dropped_alone() -> None:
    reassembler = Reassembler()
    pieces = fragment_v4(segment_from_client(seq=1, ack=2, payload=bytes(100), id=3), 68)
    reassembler.add_v4(pieces[1], 0.0)
    tiny = bytearray(pieces[1])
    tiny[6:8] = (0x2000 | 1).to_bytes(2, "big")
    tiny[10:12] = bytes(2)
    tiny[10:12] = (-sum(struct.unpack("!10H", tiny[:20])) % 0xFFFF).to_bytes(2, "big")
    assert reason_to_drop(reassembler, bytes(tiny)) is DropReason.FRAGMENT_TINY
    *_, datagram = [reassembler.add_v4(other, 0.0) for other in (pieces[0], *pieces[2:])]
    assert datagram is not None


# Time.


def test_a_datagram_is_given_fifteen_seconds_from_its_first_fragment_on() -> None:
    reassembler = Reassembler()
    reassembler.add_v4(piece(), 100.0)
    reassembler.add_v4(piece(128), 110.0)
    assert reassembler.next_deadline() == 115.0
    assert reassembler.expire(114.9) == []
    assert reassembler.expire(115.0) == [Expired(piece())]
    assert (len(reassembler), reassembler.held_bytes, reassembler.next_deadline()) == (0, 0, None)


def test_the_first_fragment_of_an_expired_ipv6_datagram_is_told_as_it_came() -> None:
    first = fragment_v6(segment_from_backend(seq=1, ack=2, payload=bytes(1400)), 1280, 5)[0]
    reassembler = Reassembler(timeout_s=60)
    reassembler.add_v6(first, 0.0)
    assert reassembler.expire(60.0) == [Expired(first)]


def test_without_its_first_fragment_an_expired_datagram_is_not_answered() -> None:
    reassembler = Reassembler()
    reassembler.add_v4(last_piece(), 0.0)
    assert reassembler.expire(15.0) == [Expired(None)]


def test_datagrams_expire_each_in_its_time() -> None:
    reassembler = Reassembler()
    for identification in range(3):
        reassembler.add_v4(piece(identification=identification), float(identification))
    assert len(reassembler.expire(16.0)) == 2
    assert reassembler.next_deadline() == 17.0


def test_what_was_given_up_is_forgotten_in_its_time_and_not_told_again() -> None:
    reassembler = Reassembler()
    reassembler.add_v4(piece(), 0.0)
    reason_to_drop(reassembler, piece(data=b"x" * 64))
    assert reassembler.expire(15.0) == []
    assert len(reassembler) == 0
    assert reassembler.add_v4(piece(), 15.0) is None
    assert completes(reassembler, now=15.0)


def test_a_fragment_that_comes_too_late_is_not_joined_even_before_anyone_looked() -> None:
    reassembler = Reassembler()
    reassembler.add_v4(piece(), 0.0)
    assert not completes(reassembler, now=15.0)
    assert reassembler.next_deadline() == 30.0


# Bounds.


def test_too_small_a_bound_is_refused() -> None:
    with pytest.raises(ValueError, match=f"at least {MIB} bytes"):
        Reassembler(max_bytes=MIB - 1)


def test_there_are_never_more_datagrams_than_allowed() -> None:
    reassembler = Reassembler(max_datagrams=16)
    for source in range(100):
        reassembler.add_v4(piece(source=source), 0.0)
    assert len(reassembler) == 16
    assert reassembler.take_evicted() == 84


def test_evictions_are_told_once() -> None:
    reassembler = Reassembler(max_datagrams=8)
    for source in range(9):
        reassembler.add_v4(piece(source=source), 0.0)
    assert reassembler.take_evicted() == 1
    assert reassembler.take_evicted() == 0


def test_when_all_is_full_the_oldest_gives_way() -> None:
    reassembler = Reassembler(max_datagrams=16)
    for source in range(17):
        reassembler.add_v4(piece(source=source), 0.0)
    assert completes(reassembler, source=1)
    assert not completes(reassembler, source=0)


def test_a_source_has_no_more_than_an_eighth_and_loses_its_own_oldest() -> None:
    reassembler = Reassembler(max_datagrams=64)
    for identification in range(100):
        reassembler.add_v4(piece(identification=identification), 0.0)
    assert len(reassembler) == 8
    assert completes(reassembler, identification=92)
    assert not completes(reassembler, identification=91)


def test_a_flood_from_one_source_costs_no_other_its_datagrams() -> None:
    reassembler = Reassembler(max_datagrams=64, max_bytes=MIB)
    for source in range(20):
        reassembler.add_v4(piece(source=source), 0.0)
    for identification in range(5000):
        reassembler.add_v4(piece(data=bytes(1480), source=99, identification=identification), 0.0)
    assert all(completes(reassembler, source=source) for source in range(20))


def test_when_all_is_full_a_source_with_more_than_its_share_loses_its_own() -> None:
    reassembler = Reassembler(max_datagrams=16)
    for source in range(15):
        reassembler.add_v4(piece(source=source), 0.0)
    reassembler.add_v4(piece(source=99, identification=1), 0.0)
    reassembler.add_v4(piece(source=99, identification=2), 0.0)  # one each: nobody had more than a share; the oldest went
    reassembler.add_v4(piece(source=99, identification=3), 0.0)  # two of sixteen now, of fifteen sources
    assert not completes(reassembler, source=99, identification=1)
    assert completes(reassembler, source=99, identification=3)
    assert completes(reassembler, source=1)


def test_there_are_never_more_bytes_than_allowed() -> None:
    reassembler = Reassembler(max_bytes=MIB)
    for source in range(100):
        for part in range(8):
            reassembler.add_v4(piece(8000 * part, bytes(8000), source=source), 0.0)
            assert reassembler.held_bytes <= MIB
    assert reassembler.take_evicted() > 80
    assert reassembler.held_bytes > MIB - 66_000 - fragments.DATAGRAM_OVERHEAD


def test_a_source_has_no_more_than_an_eighth_of_the_bytes() -> None:
    reassembler = Reassembler(max_bytes=MIB)
    for identification in range(10):
        for part in range(8):
            reassembler.add_v4(piece(8000 * part, bytes(8000), identification=identification), 0.0)
    assert reassembler.held_bytes <= MIB // 8
    assert completes_after(reassembler, 9)


def completes_after(reassembler: Reassembler, identification: int) -> bool:
    return reassembler.add_v4(piece(64000, b"last", more=False, identification=identification), 0.0) is not None


def test_when_the_bytes_are_full_a_source_with_more_than_its_share_loses_its_own() -> None:
    reassembler = Reassembler(max_bytes=MIB)
    for source in range(16):
        reassembler.add_v4(piece(data=bytes(56_000), source=source), 0.0)
    for identification in range(3):
        reassembler.add_v4(piece(data=bytes(37_504), source=99, identification=identification), 0.0)
    assert reassembler.add_v4(piece(56_000, b"last", more=False, source=0), 0.0) is not None
    assert reassembler.take_evicted() == 1
    assert reassembler.add_v4(piece(37_504, b"last", more=False, source=99, identification=0), 0.0) is None


def test_when_the_bytes_are_full_a_source_with_a_single_datagram_keeps_it() -> None:
    reassembler = Reassembler(max_bytes=MIB)
    for source in range(36):
        reassembler.add_v4(piece(data=bytes(24_000), source=source), 0.0)
    reassembler.add_v4(piece(data=bytes(64_000), source=99), 0.0)
    for source in range(3):
        reassembler.add_v4(piece(data=bytes(24_000), source=100 + source), 0.0)
    assert reassembler.add_v4(piece(64_000, b"last", more=False, source=99), 0.0) is not None
    assert reassembler.add_v4(piece(24_000, b"last", more=False, source=0), 0.0) is None


def test_the_largest_datagram_in_the_most_pieces_has_room_in_the_smallest_bounds() -> None:
    reassembler = Reassembler(max_bytes=MIB, max_datagrams=1)
    data = bytes(65_515)
    step = -(-len(data) // MAX_PIECES // 8) * 8 + 8
    parts = [piece(at, data[at : at + step], more=at + step < len(data)) for at in range(0, len(data), step)]
    *earlier, datagram = [reassembler.add_v4(part, 0.0) for part in parts]
    assert not any(earlier)
    assert datagram is not None
    assert len(datagram.packet) == 65_535


def test_a_datagram_in_too_many_pieces_is_given_up() -> None:
    reassembler = Reassembler()
    for index in range(MAX_PIECES):
        assert reassembler.add_v4(piece(8 * index, bytes(8)), 0.0) is None
    assert reason_to_drop(reassembler, piece(8 * MAX_PIECES, bytes(8))) is DropReason.FRAGMENTS_FULL


@pytest.mark.parametrize(("count", "data_length"), [(1, 8), (1, 1480), (100, 8), (20, 1480)])
def test_the_bytes_counted_are_no_fewer_than_the_interpreter_takes(count: int, data_length: int) -> None:
    """One datagram a source is the dearest there is: each source has a table of its own."""
    reassembler = Reassembler(max_bytes=64 * MIB, max_datagrams=1000)
    packets = [
        piece(2 * data_length * index, bytes(data_length), source=source) for source in range(200) for index in range(count)
    ]
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for packet in packets:
        reassembler.add_v4(packet, 0.0)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(reassembler) == 200
    assert after - before <= reassembler.held_bytes <= 3 * (after - before)


# Any order, any bytes.


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=30)
def test_interleaved_datagrams_with_duplicates_all_arrive(seed: int, count: int) -> None:
    order = random.Random(seed)
    packets = [segment_from_client(seq=index, ack=2, payload=order.randbytes(3000), id=index, tos=0) for index in range(count)]
    arriving = [fragment for packet in packets for fragment in fragment_v4(packet, 576)]
    order.shuffle(arriving)
    reassembler = Reassembler()
    whole = []
    for index, fragment in enumerate(arriving):
        datagram = reassembler.add_v4(fragment, 0.0)
        if datagram is not None:
            whole.append(datagram.packet)
        elif index % 3 == 0:
            assert reassembler.add_v4(fragment, 0.0) is None
    assert sorted(whole) == sorted(packets)
    assert reassembler.held_bytes == 0


pieces_strategy = st.lists(
    st.builds(
        piece,
        st.integers(0, 12).map(lambda units: units * 8),
        st.integers(1, 4).map(lambda units: bytes(units * 8)),
        more=st.booleans(),
        source=st.integers(0, 3),
        identification=st.integers(0, 2),
    ),
    max_size=60,
)


@given(pieces_strategy, st.integers(1, 6), st.lists(st.floats(0, 20), min_size=60, max_size=60))
def test_whatever_comes_the_counts_are_right(packets: list[bytes], max_datagrams: int, steps: list[float]) -> None:
    reassembler = Reassembler(max_datagrams=max_datagrams)
    now = 0.0
    for packet, step in zip(packets, steps, strict=False):
        now += step
        try:
            reassembler.add_v4(packet, now)
        except Dropped:
            assert len(reassembler) > 0
        assert len(reassembler) <= max_datagrams
        assert reassembler.held_bytes >= fragments.DATAGRAM_OVERHEAD * len(reassembler)
        deadline = reassembler.next_deadline()
        assert (deadline is None) is (len(reassembler) == 0)
    reassembler.expire(now + 15.0)
    assert (len(reassembler), reassembler.held_bytes) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from((b"", b"\x45", b"\x60\0\0\0")), st.binary(max_size=90)), max_size=10))
def test_any_bytes_are_taken_in_or_refused(packets: list[tuple[bytes, bytes]]) -> None:
    reassembler = Reassembler()
    for start, rest in packets:
        for add in (reassembler.add_v4, reassembler.add_v6):
            try:
                add(start + rest, 0.0)
            except (ParseError, Dropped):
                continue


@given(st.lists(st.tuples(st.sampled_from((0, 6, 17, 43, 44, 58, 60)), st.binary(max_size=90)), max_size=10))
def test_ipv6_fragments_of_any_bytes_are_taken_in_or_refused(packets: list[tuple[int, bytes]]) -> None:
    reassembler = Reassembler()
    for next_header, rest in packets:
        packet = bytes(IPv6(src=BACKEND6, dst=MAPPED6, nh=next_header) / Raw(rest))
        try:
            datagram = reassembler.add_v6(packet, 0.0)
        except (ParseError, Dropped):
            continue
        assert datagram is None or IPv6(datagram.packet).plen == len(datagram.packet) - 40


def test_the_client_address_is_the_source_that_is_counted() -> None:
    """Not the destination, which all of a service's clients share."""
    reassembler = Reassembler(max_datagrams=64)
    for source in range(64):
        reassembler.add_v4(piece(source=source), 0.0)
    assert len(reassembler) == 64
