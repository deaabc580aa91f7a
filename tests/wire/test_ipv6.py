from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy_oracle import (
    TCP,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    Raw,
)
from segment_strategies import ipv6_headers

from kracauer.errors import ParseError
from kracauer.wire import ipv6
from kracauer.wire.ipv6 import FragmentHeader, IPv6Header, UpperLayer

SRC, DST = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")
HEADER = IPv6Header(0x28, 0x12345, 4, 6, 64, SRC.packed, DST.packed)
PACKET = ipv6.build(HEADER) + b"data"


@given(ipv6_headers, st.integers(0, 40))
def test_what_was_built_is_parsed_again(header: IPv6Header, offset: int) -> None:
    data = bytes(offset) + ipv6.build(header) + bytes(header.payload_length)
    assert ipv6.parse(data, offset) == header
    assert ipv6.parse(memoryview(data), offset) == header


@given(ipv6_headers)
def test_scapy_reads_what_was_built(header: IPv6Header) -> None:
    packet = IPv6(ipv6.build(header))
    assert (packet.tc, packet.fl, packet.plen) == (header.traffic_class, header.flow_label, header.payload_length)
    assert (packet.nh, packet.hlim) == (header.next_header, header.hop_limit)
    assert (IPv6Address(packet.src).packed, IPv6Address(packet.dst).packed) == (header.src, header.dst)


@given(st.binary(max_size=60), st.integers(0, 255), st.integers(0, 2**20 - 1), st.integers(0, 255))
def test_what_scapy_built_is_parsed(payload: bytes, traffic_class: int, flow_label: int, hop_limit: int) -> None:
    built = bytes(IPv6(src=str(SRC), dst=str(DST), tc=traffic_class, fl=flow_label, nh=59, hlim=hop_limit) / Raw(payload))
    assert ipv6.parse(built) == IPv6Header(traffic_class, flow_label, len(payload), 59, hop_limit, SRC.packed, DST.packed)


@given(st.binary(max_size=100), st.integers(0, 110))
def test_bytes_of_any_kind_are_parsed_or_refused(data: bytes, offset: int) -> None:
    try:
        header = ipv6.parse(data, offset)
    except ParseError:
        return
    assert ipv6.build(header) == data[offset : offset + 40]


@pytest.mark.parametrize(
    ("packet", "match"),
    [
        (b"", "0 bytes where a header takes 40"),
        (PACKET[:39], "39 bytes where a header takes 40"),
        (b"\x45" + PACKET[1:], "version 4"),
        (PACKET[:-1], "payload length 4 with 3 bytes there"),
    ],
)
def test_a_header_that_contradicts_the_data_is_refused(packet: bytes, match: str) -> None:
    with pytest.raises(ParseError, match=match):
        ipv6.parse(packet)


def test_bytes_behind_the_packet_are_none_of_its() -> None:
    assert ipv6.parse(PACKET + b"more") == HEADER


def walk(packet: bytes, offset: int = 0) -> UpperLayer:
    return ipv6.find_upper_layer(packet, ipv6.parse(packet, offset), offset)


def scapy_packet(*extensions: object) -> bytes:
    packet = IPv6(src=str(SRC), dst=str(DST))
    for extension in extensions:
        packet /= extension
    return bytes(packet / TCP(sport=1, dport=2))


def options(size: int) -> list[object]:
    return [PadN(optdata=bytes(size))]


CHAINS = {
    "nothing": (),
    "hop-by-hop": (IPv6ExtHdrHopByHop(options=options(2)),),
    "destination options": (IPv6ExtHdrDestOpt(options=options(12)),),
    "all that is passed": (
        IPv6ExtHdrHopByHop(options=options(20)),
        IPv6ExtHdrDestOpt(options=options(2)),
        IPv6ExtHdrRouting(addresses=["2001:db8::9"], segleft=0),
        IPv6ExtHdrDestOpt(options=options(60)),
    ),
}


@pytest.mark.parametrize("what", CHAINS)
@pytest.mark.parametrize("offset", [0, 30])
def test_the_walk_ends_at_the_tcp_header(what: str, offset: int) -> None:
    packet = scapy_packet(*CHAINS[what])
    assert walk(bytes(offset) + packet, offset) == UpperLayer(6, len(packet) - 20, None, 0, 0)


def test_segments_left_are_told_with_their_place() -> None:
    routing = IPv6ExtHdrRouting(addresses=["2001:db8::9", "2001:db8::8"], segleft=2)
    packet = scapy_packet(IPv6ExtHdrHopByHop(options=options(2)), routing)
    upper = walk(packet)
    assert (upper.segments_left, upper.segments_left_pointer) == (2, 51)
    assert packet[upper.segments_left_pointer] == 2


def test_of_several_routing_headers_the_first_unspent_one_counts() -> None:
    spent, unspent = (IPv6ExtHdrRouting(addresses=["2001:db8::9"], segleft=left) for left in (0, 1))
    upper = walk(scapy_packet(spent, unspent, unspent))
    assert (upper.segments_left, upper.segments_left_pointer) == (1, 40 + 24 + 3)


@pytest.mark.parametrize("more", [True, False])
def test_a_first_fragment_is_walked_through(more: bool) -> None:
    packet = scapy_packet(IPv6ExtHdrFragment(offset=0, m=int(more), id=0xDEADBEEF), IPv6ExtHdrDestOpt(options=options(2)))
    assert walk(packet) == UpperLayer(6, 56, FragmentHeader(40, 60, 0, more, 0xDEADBEEF), 0, 0)


def test_a_later_fragment_ends_the_walk() -> None:
    packet = scapy_packet(IPv6ExtHdrFragment(offset=181, m=1, id=7), IPv6ExtHdrDestOpt(options=options(2)))
    assert walk(packet) == UpperLayer(60, 48, FragmentHeader(40, 60, 181, True, 7), 0, 0)  # noqa: FBT003


@pytest.mark.parametrize("protocol", [59, 58, 17, 50, 253])
def test_the_walk_ends_at_whatever_is_no_extension_it_knows(protocol: int) -> None:
    packet = ipv6.build(HEADER._replace(next_header=protocol)) + b"data"
    assert walk(packet) == UpperLayer(protocol, 40, None, 0, 0)


def chain(first: int, *headers: bytes) -> bytes:
    payload = b"".join(headers)
    return ipv6.build(HEADER._replace(next_header=first, payload_length=len(payload))) + payload


@pytest.mark.parametrize(
    ("packet", "match"),
    [
        (chain(60, bytes((0, 0, 1, 4, 0, 0, 0, 0)), bytes((6, 0, 1, 4, 0, 0, 0, 0))), "not directly behind"),
        (chain(0, bytes(7)), "runs out"),
        (chain(60), "runs out"),
        (chain(43, bytes((6, 1, 0, 0, 0, 0, 0, 0))), "16 bytes runs out"),
        (chain(44, bytes(7)), "Fragment"),
        (chain(44, bytes((44, 0, 0, 1, 0, 0, 0, 1)), bytes((6, 0, 0, 1, 0, 0, 0, 1))), "second Fragment"),
    ],
)
def test_a_chain_that_is_out_of_place_or_runs_out_is_refused(packet: bytes, match: str) -> None:
    with pytest.raises(ParseError, match=match):
        walk(packet)


def test_an_extension_header_may_not_reach_behind_the_packet() -> None:
    with pytest.raises(ParseError, match="runs out"):
        walk(chain(60, bytes((6, 1, 1, 4, 0, 0, 0, 0))) + bytes(8))


@given(
    st.sampled_from((0, 43, 44, 60, 6)),
    st.lists(st.tuples(st.sampled_from((0, 43, 44, 60, 6)), st.integers(0, 2), st.binary(min_size=6, max_size=22)), max_size=6),
    st.integers(0, 20),
)
def test_chains_of_any_kind_are_walked_or_refused(first: int, headers: list[tuple[int, int, bytes]], cut: int) -> None:
    packet = chain(first, *(bytes((following, length)) + rest for following, length, rest in headers))
    packet = packet[: max(len(packet) - cut, 40)]
    packet = packet[:4] + (len(packet) - 40).to_bytes(2, "big") + packet[6:]
    try:
        upper = walk(packet)
    except ParseError:
        return
    assert 40 <= upper.start <= len(packet)


@given(st.binary(max_size=80), st.integers(0, 255))
def test_bytes_of_any_kind_behind_the_header_are_walked_or_refused(data: bytes, first: int) -> None:
    packet = chain(first, data)
    try:
        upper = walk(packet)
    except ParseError:
        return
    assert 40 <= upper.start <= len(packet)
