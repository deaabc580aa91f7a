from dataclasses import replace

import pytest
import segment_strategies as packets
import splice_twin as twin
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scapy_oracle import IP, TCP, checksums_hold, dissect
from splice_setup import PLAIN, any_deltas, from_backend, from_client, make_timestamping_splice, to_backend, to_client
from splice_twin import Deltas

from kracauer.tcp.timestamping import TimestampingSplice
from kracauer.wire import ipv4, tcp, vnet_hdr
from kracauer.wire.buffer import Frame
from kracauer.wire.tcp import TcpHeader, TcpOptions, build_options
from kracauer.wire.vnet_hdr import GSO_TCPV4, NEEDS_CSUM, NO_OFFLOAD, VnetHeader

HEADER = TcpHeader(443, 49152, 1000, 2000, tcp.ACK | tcp.PSH, 500)
FOUR_BLOCKS = ((10, 20), (30, 40), (50, 60), (70, 80))


def running_splice(
    deltas: Deltas = PLAIN, *, tsval: int = 5000, client_tsval: int = 77, now: float = 100.0
) -> TimestampingSplice:
    splice = make_timestamping_splice(deltas)
    splice.start_clock(tsval, client_tsval, now)
    return splice


def options_to_client(splice: TimestampingSplice, options: bytes = b"", now: float = 100.0) -> TcpOptions:
    packet = from_backend(PLAIN, HEADER._replace(options=options), b"payload")
    _, result = to_client(splice, packet, now=now)
    return tcp.parse_options(tcp.parse(result, ipv4.MIN_LENGTH).options)


def pass_client_tsval(splice: TimestampingSplice, tsval: int) -> None:
    header = HEADER._replace(options=build_options(TcpOptions(timestamps=(tsval, 0))))
    to_backend(splice, from_client(PLAIN, header, b"x"))


# What a backend that was not granted timestamps sends of options: SACK, and now and then something unheard of.
few_options = packets.option_lists.filter(lambda options: len(options) <= 28)
sack_options = st.lists(st.tuples(packets.number, packets.number), min_size=1, max_size=4).map(
    lambda blocks: build_options(TcpOptions(sack=tuple(blocks)))
)
offloads = st.one_of(packets.no_offload, packets.partial(40))


@settings(max_examples=500)
@given(
    any_deltas,
    packets.segments(st.one_of(few_options, sack_options)),
    packets.payloads,
    offloads,
    packets.number,
    packets.number,
)
def test_the_option_is_put_behind_the_others_as_if_the_packet_were_built_anew(
    deltas: Deltas, header: TcpHeader, payload: bytes, vnet: VnetHeader, tsval: int, echo: int
) -> None:
    splice = running_splice(deltas, tsval=tsval, client_tsval=echo)
    packet = from_backend(deltas, header, payload, vnet)
    plain = twin.to_client(deltas, vnet, packet, identification=1)
    assert to_client(splice, packet, vnet, now=100.0) == twin.with_timestamps(*plain, tsval, echo)


@settings(max_examples=60)
@given(packets.segments(st.one_of(few_options, sack_options)), packets.super_payloads, packets.super_packet(40))
def test_a_super_packet_gets_the_option_and_keeps_its_segment_size(header: TcpHeader, payload: bytes, vnet: VnetHeader) -> None:
    assume(header.length + len(payload) <= 65_503)
    packet = from_backend(PLAIN, header, payload, vnet)
    out, result = to_client(running_splice(), packet, vnet, now=100.0)
    expected = twin.with_timestamps(*twin.to_client(PLAIN, vnet, packet, identification=1), 5000, 77)
    assert result == expected[1]
    data_offset = tcp.parse(result, ipv4.MIN_LENGTH).length
    ecn = vnet.gso_type & vnet_hdr.GSO_ECN
    assert out == VnetHeader(NEEDS_CSUM, GSO_TCPV4 | ecn, 20 + data_offset, vnet.gso_size, 20, 16)


@settings(max_examples=200)
@given(any_deltas, packets.segments(), packets.payloads, packets.number)
def test_the_way_to_the_backend_is_that_of_any_splice(deltas: Deltas, header: TcpHeader, payload: bytes, echo: int) -> None:
    packet = from_client(deltas, header, payload)
    splice = running_splice(deltas, client_tsval=echo)
    assert to_backend(splice, packet) == twin.to_backend(deltas, NO_OFFLOAD, packet)


@pytest.mark.parametrize("blocks", range(5))
def test_scapy_reads_the_option_and_agrees_with_the_checksums(blocks: int) -> None:
    options = build_options(TcpOptions(sack=FOUR_BLOCKS[:blocks]))
    _, result = to_client(running_splice(), from_backend(PLAIN, HEADER._replace(options=options), b"odd"), now=100.0)
    assert checksums_hold(result)
    layers = dissect(result)
    assert ("Timestamp", (5000, 77)) in layers[TCP].options
    assert bytes(layers[TCP].payload) == b"odd"
    assert layers[IP].len == len(result)


def test_of_four_sack_blocks_the_first_three_stay() -> None:
    options = build_options(TcpOptions(sack=FOUR_BLOCKS))
    assert options_to_client(running_splice(), options) == TcpOptions(timestamps=(5000, 77), sack=FOUR_BLOCKS[:3])


def test_three_sack_blocks_all_stay() -> None:
    options = build_options(TcpOptions(sack=FOUR_BLOCKS[:3]))
    assert options_to_client(running_splice(), options) == TcpOptions(timestamps=(5000, 77), sack=FOUR_BLOCKS[:3])


def test_options_that_leave_no_room_and_hold_no_sack_give_way() -> None:
    unknown = b"\xfe\x20" + bytes(30)
    assert options_to_client(running_splice(), unknown) == TcpOptions(timestamps=(5000, 77))


def test_malformed_options_that_leave_no_room_give_way() -> None:
    assert options_to_client(running_splice(), b"\x05\x00" + b"\x01" * 30) == TcpOptions(timestamps=(5000, 77))


def test_the_clock_shows_what_was_promised_and_goes_by_the_millisecond() -> None:
    splice = running_splice(tsval=2**32 - 1000, now=7.5)
    shown = [options_to_client(splice, now=now).timestamps for now in (7.5, 7.501, 8.5, 9.5)]
    assert shown == [(2**32 - 1000, 77), (2**32 - 999, 77), (0, 77), (1000, 77)]


def test_the_latest_tsval_of_the_client_is_echoed() -> None:
    splice = running_splice(client_tsval=77)
    pass_client_tsval(splice, 90)
    assert options_to_client(splice).timestamps == (5000, 90)


def test_an_old_duplicate_does_not_set_the_echo_back() -> None:
    splice = running_splice(client_tsval=77)
    pass_client_tsval(splice, 76)
    assert options_to_client(splice).timestamps == (5000, 77)


def test_the_echo_follows_a_tsval_that_wraps() -> None:
    splice = running_splice(client_tsval=2**32 - 5)
    pass_client_tsval(splice, 3)
    assert options_to_client(splice).timestamps == (5000, 3)
    pass_client_tsval(splice, 2**32 - 2)
    assert options_to_client(splice).timestamps == (5000, 3)


@pytest.mark.parametrize("before", [b"\x01\x01", b"\x05\x0a" + bytes(8) + b"\x01\x01", b"\xfe\x04\x08\x0a"])
def test_the_tsval_is_found_wherever_it_stands(before: bytes) -> None:
    splice = running_splice()
    options = before + b"\x08\x0a\x00\x00\x00\x63\x00\x00\x00\x00"
    to_backend(splice, from_client(PLAIN, HEADER._replace(options=options + bytes(-len(options) % 4)), b""))
    assert splice.client_tsval == 99


@pytest.mark.parametrize(
    "options", [b"\x00\x00\x08\x0a" + b"\xff" * 8, b"\x08\x00" + b"\x08\x0a" + b"\x00" * 8, b"\x01\x01\x08\x0a"]
)
def test_what_only_looks_like_a_timestamp_is_not_echoed(options: bytes) -> None:
    splice = running_splice()
    to_backend(splice, from_client(PLAIN, HEADER._replace(options=options), b"\x00\x00\x01\x00" * 4))
    assert splice.client_tsval == 77


def test_a_packet_that_is_not_plain_sets_no_echo() -> None:
    splice = running_splice()
    header = HEADER._replace(flags=tcp.ACK | tcp.FIN, options=build_options(TcpOptions(timestamps=(90, 0))))
    assert splice.to_backend(Frame(from_client(PLAIN, header, b"")), 1.0) is None
    assert splice.client_tsval == 77


def test_the_largest_packet_with_the_option_is_as_large_as_ipv4_allows() -> None:
    packet = from_backend(PLAIN, HEADER, bytes(65_535 - 20 - 20 - 12))
    _, result = to_client(running_splice(), packet, now=100.0)
    assert len(result) == ipv4.parse(result).total_length == 65_535
    assert checksums_hold(result)


@pytest.mark.parametrize("vetted", [False, True])
def test_a_packet_that_the_option_would_make_too_large_is_left_alone(vetted: bool) -> None:
    frame = Frame(from_backend(PLAIN, HEADER, bytes(65_535 - 20 - 20 - 11)))
    before, splice = bytes(frame.buffer), running_splice()
    assert splice.to_client(frame, 100.0, vetted=vetted) is None
    assert (bytes(frame.buffer), splice.packets_to_client) == (before, 0)


def test_the_option_counts_towards_what_fits_the_way_to_the_client() -> None:
    for payload_length, passes in ((1500 - 20 - 20 - 12, True), (1500 - 20 - 20 - 11, False)):
        splice = make_timestamping_splice(PLAIN)
        splice.limit(max_to_backend=0xFFFF, max_to_client=1500, unfragmented_to_backend=0xFFFF)
        splice.start_clock(5000, 77, 100.0)
        frame = Frame(from_backend(PLAIN, HEADER, bytes(payload_length)))
        assert (splice.to_client(frame, 100.0) is not None) is passes


def test_the_added_option_counts_as_no_payload() -> None:
    splice = running_splice()
    options_to_client(splice)
    assert (splice.packets_to_client, splice.bytes_to_client) == (1, len(b"payload"))


def test_window_and_sequence_number_are_still_moved() -> None:
    deltas = replace(PLAIN, seq_delta=9, window_shift_to_client=-2)
    _, result = to_client(running_splice(deltas), from_backend(deltas, HEADER, b""), now=100.0)
    header = tcp.parse(result, ipv4.MIN_LENGTH)
    assert (header.seq, header.window) == (1009, 125)
