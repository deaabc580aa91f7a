import pytest
from flow_samples import from_backend
from hypothesis import given
from hypothesis import strategies as st
from scapy_oracle import checksums_hold
from splice_twin import split_v6

from kracauer.tcp import sequence
from kracauer.tcp.delivery import GIVE_UP_S, BackendSender, Delivery
from kracauer.wire import tcp

TO_BACKEND = from_backend().reversed
START = 0xFFFFFFFD  # what is delivered here crosses the wrap
NOW = 50.0
RESET = b"the client's reset"


def sender(*, mss: int = 100, timestamps: tuple[int, int] | None = None) -> BackendSender:
    return BackendSender(endpoints=TO_BACKEND, ack=7000, window=512, timestamps=timestamps, mss=mss)


def delivery(data: bytes, *, has_fin: bool = False, mss: int = 100) -> Delivery:
    return Delivery(data, START, sender(mss=mss), has_fin=has_fin, client_reset=RESET, now=NOW)


def seen(packet: bytes) -> tuple[int, int, bytes]:
    """A packet's distance from START, flags and payload; its checksums and what all share are checked on the way."""
    assert packet[:10] == bytes(10)
    assert checksums_hold(packet[10:])
    ip, header, payload = split_v6(packet[10:])
    assert (ip.src, ip.dst, header.src_port, header.dst_port) == TO_BACKEND
    assert (header.ack, header.window) == (7000, 512)
    return sequence.distance(START, header.seq), header.flags, payload


@given(st.binary(max_size=300), st.integers(1, 120), st.booleans(), st.booleans())
def test_the_segments_make_up_the_data_none_above_the_mss(data: bytes, room: int, has_fin: bool, has_timestamps: bool) -> None:
    option_length = 12 if has_timestamps else 0
    made = sender(mss=room + option_length, timestamps=(1, 2) if has_timestamps else None)
    at, flags = 0, 0
    for packet in made.segments(START, data, has_fin=has_fin):
        assert not flags & (tcp.FIN | tcp.PSH), "a segment behind the last one"
        distance, flags, payload = seen(packet)
        assert (distance, payload) == (at, data[at : at + len(payload)])
        assert len(payload) <= room
        at += len(payload)
    assert at == len(data)
    assert bool(flags & tcp.FIN) == has_fin
    assert bool(flags & tcp.PSH) == bool(data)


def test_no_data_and_no_fin_make_no_segment() -> None:
    assert sender().segments(START, b"", has_fin=False) == []


def test_each_segment_carries_the_timestamps() -> None:
    for packet in sender(mss=20, timestamps=(11, 22)).segments(START, b"twenty bytes and more", has_fin=True):
        assert tcp.parse_options(split_v6(packet[10:])[1].options).timestamps == (11, 22)


def test_an_acknowledgment_is_bare() -> None:
    assert seen(sender().acknowledgment(START)) == (0, tcp.ACK, b"")


def test_a_bare_fin_is_no_push() -> None:
    assert [seen(packet) for packet in sender().segments(START, b"", has_fin=True)] == [(0, tcp.ACK | tcp.FIN, b"")]


def test_a_delivery_gives_up_after_a_minute() -> None:
    assert (delivery(b"data").deadline, delivery(b"data").give_up_at) == (NOW + 1, NOW + GIVE_UP_S)


def test_repeats_come_at_doubled_intervals_of_sixteen_seconds_at_most() -> None:
    owed = delivery(b"data")
    times = []
    while owed.deadline < owed.give_up_at:
        times.append(owed.deadline - NOW)
        assert seen(owed.repeat(owed.deadline, 1440)) == (0, tcp.ACK | tcp.PSH, b"data")
    assert times == [1.0, 3.0, 7.0, 15.0, 31.0, 47.0]


def test_just_the_first_segment_is_repeated() -> None:
    assert seen(delivery(b"abcdef", has_fin=True, mss=4).repeat(NOW + 1, 1440)) == (0, tcp.ACK, b"abcd")


def test_progress_leaves_the_rest_and_starts_the_timer_afresh() -> None:
    owed = delivery(b"abcdef")
    owed.repeat(NOW + 1, 1440)
    owed.repeat(NOW + 3, 1440)
    owed.acknowledge(sequence.add(START, 4), NOW + 5)
    assert owed.deadline == NOW + 6
    assert seen(owed.repeat(NOW + 6, 1440)) == (4, tcp.ACK | tcp.PSH, b"ef")
    assert owed.deadline == NOW + 8


@pytest.mark.parametrize("distance", [0, -1, -1000])
def test_an_acknowledgment_of_nothing_new_changes_nothing(distance: int) -> None:
    owed = delivery(b"abcdef")
    owed.acknowledge(sequence.add(START, distance), NOW + 0.5)
    assert (owed.data, owed.start, owed.deadline, owed.is_done) == (b"abcdef", START, NOW + 1, False)


def test_it_is_done_when_all_is_acknowledged() -> None:
    owed = delivery(b"abcdef")
    owed.acknowledge(sequence.add(START, 6), NOW + 0.5)
    assert owed.is_done


def test_bytes_acknowledged_behind_ours_mean_that_ours_arrived() -> None:
    owed = delivery(b"abcdef", has_fin=False)
    owed.acknowledge(sequence.add(START, 900), NOW + 0.5)
    assert owed.is_done


def test_the_fin_is_owed_until_it_is_acknowledged_too() -> None:
    owed = delivery(b"abcdef", has_fin=True)
    owed.acknowledge(sequence.add(START, 6), NOW + 0.5)
    assert not owed.is_done
    assert seen(owed.repeat(NOW + 2, 1440)) == (6, tcp.ACK | tcp.FIN, b"")
    owed.acknowledge(sequence.add(START, 7), NOW + 3)
    assert owed.is_done


def test_data_and_fin_may_be_acknowledged_at_once() -> None:
    owed = delivery(b"abcdef", has_fin=True)
    owed.acknowledge(sequence.add(START, 7), NOW + 0.5)
    assert owed.is_done
