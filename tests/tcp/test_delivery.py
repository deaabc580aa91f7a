import pytest
from flow_samples import from_backend
from hypothesis import given
from hypothesis import strategies as st
from scapy_oracle import checksums_hold
from splice_twin import split_v6

from kracauer.tcp import sequence
from kracauer.tcp.delivery import BURST_SEGMENTS, GIVE_UP_S, BackendSender, Delivery
from kracauer.wire import tcp

TO_BACKEND = from_backend().reversed
START = 0xFFFFFFFD  # what is delivered here crosses the wrap
NOW = 50.0
RESET = b"the client's reset"


def sender(
    *, mss: int = 100, timestamps: tuple[int, int] | None = None, window_scale: int = 0, traffic_class: int = 0
) -> BackendSender:
    return BackendSender(
        endpoints=TO_BACKEND,
        ack=7000,
        window=512,
        timestamps=timestamps,
        mss=mss,
        window_scale=window_scale,
        traffic_class=traffic_class,
    )


def delivery(
    data: bytes, *, sent_bytes: int | None = None, has_fin: bool = False, mss: int = 100, window_scale: int = 0
) -> Delivery:
    """`data` of which all has gone out, unless `sent_bytes` says otherwise."""
    return Delivery(
        data,
        START,
        sender(mss=mss, window_scale=window_scale),
        sent_bytes=len(data) if sent_bytes is None else sent_bytes,
        has_fin=has_fin,
        client_reset=RESET,
        now=NOW,
    )


def acknowledge(owed: Delivery, distance: int, *, window: int = 60_000, mss: int = 1440, now: float = NOW) -> list[bytes]:
    """The backend acknowledges so many bytes from START on; returns what that lets out."""
    return owed.acknowledge(sequence.add(START, distance), window, mss, now)


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


def test_each_packet_carries_the_traffic_class() -> None:
    made = sender(mss=10, traffic_class=0xB8)
    packets = [*made.segments(START, b"twenty bytes and more", has_fin=True), made.acknowledgment(START)]
    assert [split_v6(packet[10:])[0].traffic_class for packet in packets] == [0xB8] * 4


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
    assert seen(delivery(b"abcdef", has_fin=True, mss=4).repeat(NOW + 1, 1440)) == (0, tcp.ACK | tcp.PSH, b"abcd")


def test_progress_leaves_the_rest_and_starts_the_timer_afresh() -> None:
    owed = delivery(b"abcdef")
    owed.repeat(NOW + 1, 1440)
    owed.repeat(NOW + 3, 1440)
    assert acknowledge(owed, 4, now=NOW + 5) == []
    assert owed.deadline == NOW + 6
    assert seen(owed.repeat(NOW + 6, 1440)) == (4, tcp.ACK | tcp.PSH, b"ef")
    assert owed.deadline == NOW + 8


def test_progress_puts_off_giving_up() -> None:
    owed = delivery(b"abcdef")
    acknowledge(owed, 1, now=NOW + 59)
    assert owed.give_up_at == NOW + 59 + GIVE_UP_S
    acknowledge(owed, 1, now=NOW + 100)
    owed.repeat(NOW + 101, 1440)
    assert owed.give_up_at == NOW + 59 + GIVE_UP_S


@pytest.mark.parametrize("distance", [0, -1, -1000])
def test_an_acknowledgment_of_nothing_new_changes_nothing(distance: int) -> None:
    owed = delivery(b"abcdef")
    assert acknowledge(owed, distance, now=NOW + 0.5) == []
    assert (owed.data, owed.start, owed.deadline, owed.is_done) == (b"abcdef", START, NOW + 1, False)
    assert owed.give_up_at == NOW + GIVE_UP_S


def test_it_is_done_when_all_is_acknowledged() -> None:
    owed = delivery(b"abcdef")
    assert acknowledge(owed, 6) == []
    assert owed.is_done


def test_bytes_acknowledged_behind_ours_mean_that_ours_arrived() -> None:
    owed = delivery(b"abcdef", has_fin=False)
    assert acknowledge(owed, 900) == []
    assert owed.is_done


def test_the_fin_is_owed_until_it_is_acknowledged_too() -> None:
    owed = delivery(b"abcdef", has_fin=True)
    assert acknowledge(owed, 6) == []
    assert not owed.is_done
    assert seen(owed.repeat(NOW + 2, 1440)) == (6, tcp.ACK | tcp.FIN, b"")
    assert acknowledge(owed, 7) == []
    assert owed.is_done


def test_data_and_fin_may_be_acknowledged_at_once() -> None:
    owed = delivery(b"abcdef", has_fin=True)
    assert acknowledge(owed, 7) == []
    assert owed.is_done


@pytest.mark.parametrize("distance", [0, 4], ids=["window update", "progress"])
def test_what_has_not_gone_out_goes_as_soon_as_the_window_takes_it(distance: int) -> None:
    owed = delivery(b"abcdefghij", sent_bytes=4, has_fin=True, mss=4)
    assert [seen(packet) for packet in acknowledge(owed, distance)] == [
        (4, tcp.ACK, b"efgh"),
        (8, tcp.ACK | tcp.PSH | tcp.FIN, b"ij"),
    ]
    assert acknowledge(owed, distance) == []


@pytest.mark.parametrize(("scale", "window"), [(0, 7), (2, 2)])
def test_nothing_goes_out_beyond_the_scaled_window_nor_the_fin_before_its_bytes(scale: int, window: int) -> None:
    """Both windows end within the last segment, counted from what is acknowledged."""
    owed = delivery(b"abcdefghij", sent_bytes=2, has_fin=True, mss=4, window_scale=scale)
    end = 2 + (window << scale)
    (first, *rest) = [seen(packet) for packet in acknowledge(owed, 2, window=window)]
    assert first == (2, tcp.ACK, b"cdef")
    assert rest == ([(6, tcp.ACK | tcp.PSH, b"ghi")] if end == 9 else [(6, tcp.ACK | tcp.PSH | tcp.FIN, b"ghij")])


def test_a_closed_window_lets_nothing_out() -> None:
    owed = delivery(b"abcdef", sent_bytes=2)
    assert acknowledge(owed, 2, window=0) == []
    assert acknowledge(owed, 2, window=4) != []


def test_a_burst_is_ten_segments_and_each_acknowledgment_lets_out_another() -> None:
    """RFC 6928 §2."""
    owed = delivery(bytes(250), sent_bytes=10, mss=10)
    for acknowledged, at in ((10, 10), (20, 110), (30, 210)):
        sent = [seen(packet) for packet in acknowledge(owed, acknowledged, mss=10)]
        count = min(BURST_SEGMENTS, (250 - at) // 10)
        assert [(distance, len(payload)) for distance, _, payload in sent] == [(at + 10 * n, 10) for n in range(count)]
    assert acknowledge(owed, 40, mss=10) == []


def test_what_goes_out_is_cut_to_what_the_path_takes_by_now() -> None:
    owed = delivery(b"abcdefghij", sent_bytes=2, mss=8)
    assert [seen(packet)[2] for packet in acknowledge(owed, 2, mss=5)] == [b"cdefg", b"hij"]
    assert seen(owed.repeat(NOW + 1, 3)) == (2, tcp.ACK | tcp.PSH, b"cde")


def test_all_behind_a_repeated_segment_counts_as_lost() -> None:
    """RFC 6298 §5.4: progress then sends it again."""
    owed = delivery(b"abcdefghij", has_fin=True, mss=4)
    assert acknowledge(owed, 0) == []
    owed.repeat(NOW + 1, 1440)
    assert [seen(packet) for packet in acknowledge(owed, 4, now=NOW + 2)] == [
        (4, tcp.ACK, b"efgh"),
        (8, tcp.ACK | tcp.PSH | tcp.FIN, b"ij"),
    ]


@pytest.mark.parametrize("timestamps", [None, (1, 2)])
@given(data=st.binary(min_size=1, max_size=300), mss=st.integers(13, 60), has_fin=st.booleans())
def test_a_repeat_and_what_progress_lets_out_behind_it_leave_no_gap(
    timestamps: tuple[int, int] | None, data: bytes, mss: int, has_fin: bool
) -> None:
    made = sender(mss=mss, timestamps=timestamps)
    owed = Delivery(data, START, made, sent_bytes=len(data), has_fin=has_fin, client_reset=RESET, now=NOW)
    at, flags, payload = seen(owed.repeat(NOW + 1, 1440))
    arrived = payload
    while payload and len(arrived) < len(data):
        sent = acknowledge(owed, len(arrived), mss=mss, now=NOW + 2)
        assert sent, "nothing goes on"
        for packet in sent:
            at, flags, payload = seen(packet)
            assert at == len(arrived)
            arrived += payload
    assert arrived == data
    assert bool(flags & tcp.FIN) == has_fin


def test_a_burst_is_of_ten_segments_as_small_as_the_backend_takes_them() -> None:
    owed = Delivery(bytes(5000), START, sender(mss=100), sent_bytes=0, has_fin=False, client_reset=RESET, now=NOW)
    assert len(acknowledge(owed, 0, mss=1440, now=NOW + 1)) == 10


def test_an_old_acknowledgment_opens_no_window() -> None:
    owed = Delivery(bytes(5000), START, sender(mss=100), sent_bytes=0, has_fin=False, client_reset=RESET, now=NOW)
    acknowledge(owed, 0, mss=100, now=NOW + 1)
    acknowledge(owed, 1000, mss=100, now=NOW + 2)
    assert acknowledge(owed, 900, mss=100, now=NOW + 3) == []
