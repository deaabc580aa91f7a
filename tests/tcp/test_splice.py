from collections.abc import Callable
from dataclasses import replace

import pytest
import segment_strategies as packets
import splice_twin as twin
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy_oracle import checksums_hold
from splice_setup import (
    PLAIN,
    any_deltas,
    dirty_frame,
    from_backend,
    from_client,
    make_splice,
    make_timestamping_splice,
    to_backend,
    to_client,
)
from splice_twin import Deltas

from kracauer.tcp.splice import Splice
from kracauer.wire import ipv4, ipv6, tcp
from kracauer.wire.buffer import Frame
from kracauer.wire.tcp import TcpHeader, TcpOptions, build_options
from kracauer.wire.vnet_hdr import GSO_ECN, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, NO_OFFLOAD, VnetHeader

HEADER = TcpHeader(49152, 443, 1000, 2000, tcp.ACK | tcp.PSH, 500)

hops = st.integers(2, 255)
offloads_v4 = st.one_of(packets.no_offload, packets.partial(20))
offloads_v6 = st.one_of(packets.no_offload, packets.partial(40))


@settings(max_examples=800)
@given(any_deltas, packets.segments(), packets.payloads, offloads_v4, packets.byte, hops)
def test_a_packet_to_the_backend_is_what_the_codec_would_make_of_it(
    deltas: Deltas, header: TcpHeader, payload: bytes, vnet: VnetHeader, tos: int, ttl: int
) -> None:
    packet = from_client(deltas, header, payload, vnet, tos=tos, ttl=ttl)
    assert to_backend(make_splice(deltas), packet, vnet) == twin.to_backend(deltas, vnet, packet)


@settings(max_examples=800)
@given(any_deltas, packets.segments(), packets.payloads, offloads_v6, packets.byte, hops)
def test_a_packet_to_the_client_is_what_the_codec_would_make_of_it(
    deltas: Deltas, header: TcpHeader, payload: bytes, vnet: VnetHeader, tos: int, ttl: int
) -> None:
    packet = from_backend(deltas, header, payload, vnet, tos=tos, ttl=ttl)
    expected = twin.to_client(deltas, vnet, packet, identification=0xBEEF)
    assert to_client(make_splice(deltas, first_identification=0xABEEF), packet, vnet) == expected


@settings(max_examples=100)
@given(any_deltas, packets.segments(), packets.super_payloads, packets.super_packet(20))
def test_a_super_packet_to_the_backend_is_rewritten_whole(
    deltas: Deltas, header: TcpHeader, payload: bytes, vnet: VnetHeader
) -> None:
    packet = from_client(deltas, header, payload, vnet)
    out, result = to_backend(make_splice(deltas), packet, vnet)
    assert (out, result) == twin.to_backend(deltas, vnet, packet)
    assert (out.flags, out.gso_type) == (NEEDS_CSUM, GSO_TCPV6 | vnet.gso_type & GSO_ECN)
    assert (out.csum_start, out.csum_offset, out.hdr_len, out.gso_size) == (40, 16, 40 + header.length, vnet.gso_size)


@settings(max_examples=100)
@given(any_deltas, packets.segments(), packets.super_payloads, packets.super_packet(40))
def test_a_super_packet_to_the_client_is_rewritten_whole(
    deltas: Deltas, header: TcpHeader, payload: bytes, vnet: VnetHeader
) -> None:
    packet = from_backend(deltas, header, payload, vnet)
    out, result = to_client(make_splice(deltas), packet, vnet)
    assert (out, result) == twin.to_client(deltas, vnet, packet, identification=1)
    assert (out.flags, out.gso_type) == (NEEDS_CSUM, GSO_TCPV4 | vnet.gso_type & GSO_ECN)
    assert (out.csum_start, out.csum_offset, out.hdr_len, out.gso_size) == (20, 16, 20 + header.length, vnet.gso_size)


@given(any_deltas, packets.segments(), packets.bits[12])
def test_a_caller_that_has_looked_at_the_flags_gets_any_segment_rewritten(
    deltas: Deltas, header: TcpHeader, flags: int
) -> None:
    header, splice = header._replace(flags=flags), make_splice(deltas)
    to_go, to_come = from_client(deltas, header, b"x"), from_backend(deltas, header, b"x")
    assert to_backend(splice, to_go, vetted=True) == twin.to_backend(deltas, NO_OFFLOAD, to_go)
    assert to_client(splice, to_come, vetted=True) == twin.to_client(deltas, NO_OFFLOAD, to_come, identification=1)


def test_scapy_agrees_with_every_checksum() -> None:
    deltas = replace(PLAIN, seq_delta=0xDEADBEEF, ts_delta=77, window_shift_to_client=-3)
    options = build_options(TcpOptions(timestamps=(1, 2), sack=((3, 4), (5, 6))))
    for payload in (b"", b"odd", bytes(1400)):
        header = HEADER._replace(options=options)
        assert checksums_hold(to_backend(make_splice(deltas), from_client(deltas, header, payload))[1])
        assert checksums_hold(to_client(make_splice(deltas), from_backend(deltas, header, payload))[1])


def residue(packet: bytes | bytearray) -> int:
    """What a packet's TCP sum is off by; zero for an intact one."""
    packet = bytes(packet)
    src, dst, start = (packet[12:16], packet[16:20], 20) if packet[0] >> 4 == 4 else (packet[8:24], packet[24:40], 40)
    segment = packet[start:]
    return twin.loop_sum(twin.pseudo_header(src, dst, len(segment)) + segment) % 0xFFFF


@given(any_deltas, packets.segments(), st.binary(min_size=1, max_size=60), st.integers(1, 60), st.integers(1, 255))
def test_a_corrupt_segment_stays_exactly_as_wrong_as_it_was(
    deltas: Deltas, header: TcpHeader, payload: bytes, back: int, flip: int
) -> None:
    splice, from_end = make_splice(deltas), min(back, len(payload))
    to_go, to_come = bytearray(from_client(deltas, header, payload)), bytearray(from_backend(deltas, header, payload))
    to_go[-from_end] ^= flip
    to_come[-from_end] ^= flip
    assert residue(to_backend(splice, bytes(to_go))[1]) == residue(to_go) != 0
    assert residue(to_client(splice, bytes(to_come))[1]) == residue(to_come) != 0


def relay_to_v4(deltas: Deltas, header: TcpHeader) -> Splice:
    """A splice that turns the client's translated packets into IPv4 again and changes nothing else."""
    port = header.src_port
    return make_splice(Deltas(deltas.client, deltas.service, deltas.mapped, deltas.backend, port, port))


@given(any_deltas, packets.segments(), packets.payloads, packets.byte, st.integers(6, 255))
def test_to_ipv6_and_back_with_the_deltas_undone_keeps_everything_but_the_hops(
    deltas: Deltas, header: TcpHeader, payload: bytes, tos: int, ttl: int
) -> None:
    deltas = replace(deltas, backend_port=deltas.service_port, window_shift_to_backend=0)
    relay = relay_to_v4(deltas, header)
    back = make_splice(replace(deltas, seq_delta=-deltas.seq_delta, ts_delta=-deltas.ts_delta))
    there = to_client(relay, to_backend(make_splice(deltas), from_client(deltas, header, payload, tos=tos, ttl=ttl))[1])[1]
    again = to_client(relay, to_backend(back, there)[1])[1]
    ip, kept_header, kept_payload = twin.split_v4(again)
    sent_ip, sent_header, _ = twin.split_v4(from_client(deltas, header, payload, tos=tos, ttl=ttl - 4))
    assert (kept_header, kept_payload) == (sent_header, payload)
    assert ip._replace(identification=0, dont_fragment=False) == sent_ip._replace(identification=0, dont_fragment=False)


@given(packets.segments(), packets.payloads, packets.number, packets.number)
def test_a_segment_acknowledges_what_the_other_side_sent(
    header: TcpHeader, payload: bytes, seq_delta: int, ts_delta: int
) -> None:
    """What goes to the client with a number comes back in its ACK, SACK and echo as the backend's own number."""
    deltas = replace(PLAIN, seq_delta=seq_delta, ts_delta=ts_delta)
    splice, seq, tsval = make_splice(deltas), header.seq, header.ack
    out = header._replace(flags=tcp.ACK, options=build_options(TcpOptions(timestamps=(tsval, 5))))
    seen = tcp.parse(to_client(splice, from_backend(deltas, out, payload))[1], ipv4.MIN_LENGTH)
    seen_timestamps = tcp.parse_options(seen.options).timestamps
    assert seen_timestamps is not None
    echo = TcpOptions(timestamps=(6, seen_timestamps[0]), sack=((seen.seq, (seen.seq + 9) % 2**32),))
    reply = header._replace(ack=seen.seq, options=build_options(echo))
    back = tcp.parse(to_backend(splice, from_client(deltas, reply, b""))[1], ipv6.LENGTH)
    assert back.ack == seq
    assert tcp.parse_options(back.options) == TcpOptions(timestamps=(6, tsval), sack=((seq, (seq + 9) % 2**32),))


def test_a_window_that_no_longer_fits_is_the_largest_there_is() -> None:
    deltas = replace(PLAIN, window_shift_to_backend=8, window_shift_to_client=2)
    header = HEADER._replace(window=0x4000)
    assert tcp.parse(to_backend(make_splice(deltas), from_client(deltas, header, b""))[1], 40).window == 0xFFFF
    assert tcp.parse(to_client(make_splice(deltas), from_backend(deltas, header, b""))[1], 20).window == 0xFFFF


@pytest.mark.parametrize(("payload_length", "has_df"), [(1220, False), (1221, True)])
def test_just_a_packet_over_1260_bytes_may_not_be_fragmented(payload_length: int, has_df: bool) -> None:
    _, packet = to_client(make_splice(PLAIN), from_backend(PLAIN, HEADER, bytes(payload_length)))
    assert ipv4.parse(packet).dont_fragment is has_df


def test_packets_that_may_be_fragmented_have_identifications_of_their_own() -> None:
    splice = make_splice(PLAIN)
    results = [to_client(splice, from_backend(PLAIN, HEADER, b""))[1] for _ in range(3)]
    assert [ipv4.parse(result).identification for result in results] == [1, 2, 3]


def test_a_super_packet_takes_an_identification_for_each_of_its_segments() -> None:
    splice, vnet = make_splice(PLAIN), VnetHeader(NEEDS_CSUM, GSO_TCPV6, 0, 1000, 40, 16)
    first = to_client(splice, from_backend(PLAIN, HEADER, bytes(4500), vnet), vnet)[1]
    following = to_client(splice, from_backend(PLAIN, HEADER, b""))[1]
    assert ipv4.parse(first).identification == 1
    assert ipv4.parse(following).identification >= 1 + 5


def test_options_behind_the_end_of_the_list_are_left_alone() -> None:
    deltas = replace(PLAIN, seq_delta=12345, ts_delta=999)
    behind = b"\x00\x02\x08\x0a" + bytes(8) + b"\x01\x01\x05\x0a" + bytes(8)
    header = HEADER._replace(options=behind)
    assert twin.split_v6(to_backend(make_splice(deltas), from_client(deltas, header, b""))[1])[1].options == behind
    assert twin.split_v4(to_client(make_splice(deltas), from_backend(deltas, header, b""))[1])[1].options == behind


def edited(packet: bytes, at: int, value: bytes) -> bytes:
    """`packet` with other bytes at `at`, the IPv4 header's checksum put right."""
    changed = bytearray(packet)
    changed[at : at + len(value)] = value
    if changed[0] >> 4 == 4:
        changed[10:12] = bytes(2)
        changed[10:12] = (0xFFFF - twin.loop_sum(bytes(changed[:20]))).to_bytes(2, "big")
    return bytes(changed)


def dont_fragment(packet: bytes) -> bytes:
    return edited(packet, 6, b"\x40")


PARTIAL_V4, PARTIAL_V6 = VnetHeader(NEEDS_CSUM, 0, 0, 0, 20, 16), VnetHeader(NEEDS_CSUM, 0, 0, 0, 40, 16)
SIZED = [(NO_OFFLOAD, NO_OFFLOAD, 700), (PARTIAL_V4, PARTIAL_V6, 700)]
SUPER_V4, SUPER_V6 = (
    PARTIAL_V4._replace(gso_type=GSO_TCPV4, gso_size=700),
    PARTIAL_V6._replace(gso_type=GSO_TCPV6, gso_size=700),
)
SIZED += [(SUPER_V4, SUPER_V6, 3000)]


def passes_to_backend(packet: bytes, vnet: VnetHeader, *, limit: int, unfragmented: int, vetted: bool = False) -> bool:
    splice = make_splice(PLAIN, max_to_backend=limit, unfragmented_to_backend=unfragmented)
    frame = dirty_frame(packet, vnet)
    before = bytes(frame.buffer)
    has_passed = splice.to_backend(frame, 1.0, vetted=vetted) is not None
    assert has_passed == (splice.packets_to_backend == 1) == (bytes(frame.buffer) != before)
    return has_passed


@pytest.mark.parametrize(("vnet", "_", "payload_length"), SIZED)
def test_what_would_not_fit_the_way_to_the_backend_is_left_alone(vnet: VnetHeader, _: VnetHeader, payload_length: int) -> None:
    """An IPv4 packet, or a super-packet's segment, of 740 bytes."""
    packet = dont_fragment(from_client(PLAIN, HEADER, bytes(payload_length), vnet))
    assert passes_to_backend(packet, vnet, limit=740, unfragmented=600)
    assert not passes_to_backend(packet, vnet, limit=739, unfragmented=600)
    assert passes_to_backend(packet, vnet, limit=739, unfragmented=600, vetted=True)


@pytest.mark.parametrize(("vnet", "_", "payload_length"), SIZED)
def test_what_may_be_fragmented_and_would_have_to_be_is_left_alone(
    vnet: VnetHeader, _: VnetHeader, payload_length: int
) -> None:
    packet = from_client(PLAIN, HEADER, bytes(payload_length), vnet)
    if ipv4.parse(packet).dont_fragment:
        packet = edited(packet, 6, b"\x00")
    assert passes_to_backend(packet, vnet, limit=2000, unfragmented=740)
    assert not passes_to_backend(packet, vnet, limit=2000, unfragmented=739)
    assert passes_to_backend(packet, vnet, limit=2000, unfragmented=739, vetted=True)
    assert passes_to_backend(dont_fragment(packet), vnet, limit=2000, unfragmented=739)


@pytest.mark.parametrize(("_", "vnet", "payload_length"), SIZED)
def test_what_would_not_fit_the_way_to_the_client_is_left_alone(_: VnetHeader, vnet: VnetHeader, payload_length: int) -> None:
    packet = from_backend(PLAIN, HEADER, bytes(payload_length), vnet)
    for limit, vetted, passes in ((740, False, True), (739, False, False), (739, True, True)):
        splice, frame = make_splice(PLAIN, max_to_client=limit), dirty_frame(packet, vnet)
        before = bytes(frame.buffer)
        assert (splice.to_client(frame, 1.0, vetted=vetted) is not None) is passes
        assert (bytes(frame.buffer) != before) is passes


def test_the_last_acknowledgments_are_noted_in_their_receivers_numbers() -> None:
    deltas = replace(PLAIN, seq_delta=500)
    splice = make_splice(deltas)
    to_backend(splice, from_client(deltas, HEADER._replace(ack=2000), b""))
    to_client(splice, from_backend(deltas, HEADER._replace(ack=3000), b""))
    assert (splice.backend_acked, splice.client_acked) == (1500, 3000)


def test_a_number_in_a_segment_without_ack_is_not_noted() -> None:
    splice, header = make_splice(PLAIN), HEADER._replace(flags=tcp.RST, ack=2000)
    to_backend(splice, from_client(PLAIN, header, b""), vetted=True)
    to_client(splice, from_backend(PLAIN, header, b""), vetted=True)
    assert (splice.backend_acked, splice.client_acked) == (0, 0)


def test_the_largest_ipv4_packet_goes_to_the_backend() -> None:
    packet = from_client(PLAIN, HEADER, bytes(65_535 - 40))
    assert to_backend(make_splice(PLAIN), packet) == twin.to_backend(PLAIN, NO_OFFLOAD, packet)


def test_the_largest_packet_that_fits_ipv4_goes_to_the_client() -> None:
    packet = from_backend(PLAIN, HEADER, bytes(65_535 - 40))
    assert to_client(make_splice(PLAIN), packet) == twin.to_client(PLAIN, NO_OFFLOAD, packet)


def test_what_was_carried_is_counted_in_payload_bytes_and_packets() -> None:
    splice = make_splice(PLAIN)
    header = HEADER._replace(options=build_options(TcpOptions(timestamps=(1, 2))))
    to_backend(splice, from_client(PLAIN, header, b"abc"), now=5.0)
    to_backend(splice, from_client(PLAIN, HEADER, b""), now=6.0)
    assert (splice.packets_to_backend, splice.bytes_to_backend, splice.last_seen) == (2, 3, 6.0)
    to_client(splice, from_backend(PLAIN, header, b"abcd"), now=7.0)
    assert (splice.packets_to_client, splice.bytes_to_client, splice.last_seen) == (1, 4, 7.0)


def test_the_payload_is_not_moved() -> None:
    frame = Frame(from_client(PLAIN, HEADER, b"payload"))
    view = make_splice(PLAIN).to_backend(frame, 1.0)
    assert view is not None
    assert view.obj is frame.buffer
    assert frame.buffer[frame.end - 7 : frame.end] == b"payload"


V4 = from_client(PLAIN, HEADER, b"payload")
V6 = from_backend(PLAIN, HEADER, b"payload")

NOT_PLAIN_V4 = {
    "options in the IP header": (edited(V4, 0, b"\x46"), NO_OFFLOAD),
    "another version": (edited(V4, 0, b"\x55"), NO_OFFLOAD),
    "another protocol": (edited(V4, 9, b"\x11"), NO_OFFLOAD),
    "more fragments": (edited(V4, 6, b"\x20"), NO_OFFLOAD),
    "a later fragment": (edited(V4, 7, b"\x01"), NO_OFFLOAD),
    "spent TTL": (edited(V4, 8, b"\x01"), NO_OFFLOAD),
    "no TTL": (edited(V4, 8, b"\x00"), NO_OFFLOAD),
    "bytes behind the packet": (V4 + b"\x00", NO_OFFLOAD),
    "less than the total length": (V4[:-1], NO_OFFLOAD),
    "a wrong IP checksum": (V4[:1] + b"\x04" + V4[2:], NO_OFFLOAD),
    "a SYN": (edited(V4, 33, b"\x12"), NO_OFFLOAD),
    "a FIN": (edited(V4, 33, b"\x11"), NO_OFFLOAD),
    "a RST": (edited(V4, 33, b"\x14"), NO_OFFLOAD),
    "no ACK": (edited(V4, 33, b"\x00"), NO_OFFLOAD),
    "a data offset below the header": (edited(V4, 32, b"\x40"), NO_OFFLOAD),
    "a data offset past the end": (edited(V4, 32, b"\x70"), NO_OFFLOAD),
    "a cut TCP header": (edited(V4[:39], 2, b"\x00\x27"), NO_OFFLOAD),
    "an IP header alone": (edited(V4[:20], 2, b"\x00\x14"), NO_OFFLOAD),
    "a checksum to begin elsewhere": (V4, PARTIAL_V4._replace(csum_start=24)),
    "a checksum to go elsewhere": (V4, PARTIAL_V4._replace(csum_offset=6)),
    "a super-packet of the other family": (V4, PARTIAL_V4._replace(gso_type=GSO_TCPV6)),
    "a super-packet of UDP": (V4, PARTIAL_V4._replace(gso_type=3)),
    "a super-packet with a complete checksum": (V4, PARTIAL_V4._replace(flags=0, gso_type=GSO_TCPV4)),
}
NOT_PLAIN_V6 = {
    "another version": (edited(V6, 0, b"\x50"), NO_OFFLOAD),
    "an extension header": (edited(V6, 6, b"\x3c"), NO_OFFLOAD),
    "spent hop limit": (edited(V6, 7, b"\x01"), NO_OFFLOAD),
    "no hop limit": (edited(V6, 7, b"\x00"), NO_OFFLOAD),
    "bytes behind the packet": (V6 + b"\x00", NO_OFFLOAD),
    "less than the payload length": (V6[:-1], NO_OFFLOAD),
    "a SYN": (edited(V6, 53, b"\x12"), NO_OFFLOAD),
    "a FIN": (edited(V6, 53, b"\x11"), NO_OFFLOAD),
    "a RST": (edited(V6, 53, b"\x14"), NO_OFFLOAD),
    "no ACK": (edited(V6, 53, b"\x00"), NO_OFFLOAD),
    "a data offset below the header": (edited(V6, 52, b"\x40"), NO_OFFLOAD),
    "a data offset past the end": (edited(V6, 52, b"\x70"), NO_OFFLOAD),
    "a cut TCP header": (edited(V6[:59], 4, b"\x00\x13"), NO_OFFLOAD),
    "an IP header alone": (edited(V6[:40], 4, b"\x00\x00"), NO_OFFLOAD),
    "a packet too big for IPv4": (from_backend(PLAIN, HEADER, bytes(65_535 - 39)), NO_OFFLOAD),
    "a checksum to begin elsewhere": (V6, PARTIAL_V6._replace(csum_start=20)),
    "a checksum to go elsewhere": (V6, PARTIAL_V6._replace(csum_offset=6)),
    "a super-packet of the other family": (V6, PARTIAL_V6._replace(gso_type=GSO_TCPV4)),
    "a super-packet of UDP": (V6, PARTIAL_V6._replace(gso_type=5)),
    "a super-packet with a complete checksum": (V6, PARTIAL_V6._replace(flags=0, gso_type=GSO_TCPV6)),
}
KINDS: list[Callable[[Deltas], Splice]] = [make_splice, make_timestamping_splice]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("what", NOT_PLAIN_V4)
def test_a_client_packet_that_is_not_plain_is_left_alone(what: str, make: Callable[[Deltas], Splice]) -> None:
    packet, vnet = NOT_PLAIN_V4[what]
    splice, frame = make(PLAIN), dirty_frame(packet, vnet)
    before = bytes(frame.buffer)
    assert splice.to_backend(frame, 9.0) is None
    assert (bytes(frame.buffer), frame.end) == (before, 30 + len(packet))
    assert (splice.packets_to_backend, splice.bytes_to_backend, splice.last_seen) == (0, 0, 0.0)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("what", NOT_PLAIN_V6)
def test_a_backend_packet_that_is_not_plain_is_left_alone(what: str, make: Callable[[Deltas], Splice]) -> None:
    packet, vnet = NOT_PLAIN_V6[what]
    splice, frame = make(PLAIN), dirty_frame(packet, vnet)
    before = bytes(frame.buffer)
    assert splice.to_client(frame, 9.0) is None
    assert (bytes(frame.buffer), frame.end) == (before, 30 + len(packet))
    assert (splice.packets_to_client, splice.bytes_to_client, splice.last_seen) == (0, 0, 0.0)


@given(st.binary(max_size=120), st.binary(min_size=10, max_size=10), st.booleans())
def test_bytes_of_any_kind_are_rewritten_or_left_alone(data: bytes, vnet: bytes, vetted: bool) -> None:
    for first, rewrite in ((b"\x45", make_splice(PLAIN).to_backend), (b"\x60", make_splice(PLAIN).to_client)):
        frame = Frame(first + data, vnet)
        before = bytes(frame.buffer)
        if rewrite(frame, 1.0, vetted=vetted) is None:
            assert bytes(frame.buffer) == before


@given(st.binary(max_size=40).map(lambda options: options + bytes(-len(options) % 4)))
def test_options_of_any_kind_are_walked_without_harm(options: bytes) -> None:
    header = HEADER._replace(options=options)
    deltas = replace(PLAIN, seq_delta=12345, ts_delta=999)
    packet = from_client(deltas, header, b"")
    assert to_backend(make_splice(deltas), packet) == twin.to_backend(deltas, NO_OFFLOAD, packet)
