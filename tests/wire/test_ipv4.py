import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy_oracle import IP, IPOption_LSRR, IPOption_NOP, IPOption_SSRR, Raw
from segment_strategies import ipv4_headers

from kracauer.errors import ParseError
from kracauer.wire import ipv4
from kracauer.wire.checksum import checksum
from kracauer.wire.ipv4 import IPv4Header

HEADER = IPv4Header(
    tos=0x28,
    total_length=24,
    identification=0x1234,
    dont_fragment=True,
    more_fragments=False,
    fragment_offset=0,
    ttl=64,
    protocol=6,
    src=bytes((192, 0, 2, 7)),
    dst=bytes((198, 51, 100, 1)),
)
PACKET = ipv4.build(HEADER) + b"data"


def fitting(header: IPv4Header) -> IPv4Header:
    """`header` with a total length that at least holds itself."""
    return header._replace(total_length=max(header.total_length, header.length))


@given(ipv4_headers.map(fitting), st.integers(0, 40))
def test_what_was_built_is_parsed_again(header: IPv4Header, offset: int) -> None:
    data = bytes(offset) + ipv4.build(header) + bytes(header.total_length - header.length)
    assert ipv4.parse(data, offset) == header
    assert ipv4.parse(memoryview(data), offset) == header


@given(ipv4_headers.map(fitting))
def test_scapy_reads_what_was_built(header: IPv4Header) -> None:
    packet = IP(ipv4.build(header))
    assert (packet.tos, packet.len, packet.id) == (header.tos, header.total_length, header.identification)
    assert (bool(packet.flags.DF), bool(packet.flags.MF)) == (header.dont_fragment, header.more_fragments)
    assert (packet.frag, packet.ttl, packet.proto) == (header.fragment_offset, header.ttl, header.protocol)
    assert (packet.src, packet.dst) == (".".join(map(str, header.src)), ".".join(map(str, header.dst)))
    assert packet.ihl * 4 == header.length


@given(ipv4_headers.map(lambda header: header._replace(options=b"")))
def test_scapy_computes_the_same_header_checksum(header: IPv4Header) -> None:
    built = ipv4.build(header)
    packet = IP(built)
    del packet.chksum
    assert bytes(packet) == built


@given(st.binary(max_size=60), st.integers(0, 255), st.integers(0, 255))
def test_what_scapy_built_is_parsed(payload: bytes, tos: int, ttl: int) -> None:
    options = [IPOption_NOP(), IPOption_LSRR(routers=["192.0.2.1"])]
    ip = IP(src="192.0.2.7", dst="198.51.100.1", tos=tos, ttl=ttl, flags="MF", frag=185, proto=6, options=options)
    header = ipv4.parse(bytes(ip / Raw(payload)))
    assert (header.tos, header.ttl, header.more_fragments, header.dont_fragment) == (tos, ttl, True, False)
    assert (header.fragment_offset, header.protocol, header.total_length) == (185, 6, 20 + 8 + len(payload))
    assert header.options == bytes.fromhex("01830704c0000201")


@given(st.binary(max_size=100), st.integers(0, 110))
@example(b"\x45", 0)
@example(PACKET, 1)
def test_bytes_of_any_kind_are_parsed_or_refused(data: bytes, offset: int) -> None:
    try:
        header = ipv4.parse(data, offset)
    except ParseError:
        return
    assert ipv4.build(header)[:10] == data[offset : offset + 10]


@given(st.integers(0, 19), st.integers(1, 255))
def test_a_flipped_bit_is_noticed(at: int, flip: int) -> None:
    flipped = bytearray(PACKET)
    flipped[at] ^= flip
    with pytest.raises(ParseError):
        ipv4.parse(flipped)


@pytest.mark.parametrize("length", [0, 1, 19])
def test_a_cut_header_is_refused(length: int) -> None:
    with pytest.raises(ParseError, match=f"{length} bytes where a header takes 20"):
        ipv4.parse(PACKET[:length])


def checksummed(at: int, value: bytes) -> bytes:
    """PACKET with other bytes at `at` and the checksum put right."""
    changed = bytearray(PACKET)
    changed[at : at + len(value)] = value
    changed[10:12] = bytes(2)
    changed[10:12] = checksum(changed[: (changed[0] & 15) * 4]).to_bytes(2, "big")
    return bytes(changed)


@pytest.mark.parametrize(
    ("packet", "match"),
    [
        (checksummed(0, b"\x65"), "version 6"),
        (checksummed(0, b"\x44"), "header length 16"),
        (checksummed(0, b"\x47"), "header length 28 with 24 bytes"),
        (checksummed(2, b"\x00\x13"), "total length 19"),
        (checksummed(2, b"\x00\x19"), "total length 25 with 24 bytes"),
        (PACKET[:10] + b"\x00\x00" + PACKET[12:], "checksum"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(packet: bytes, match: str) -> None:
    with pytest.raises(ParseError, match=match):
        ipv4.parse(packet)


def test_bytes_behind_the_packet_are_none_of_its() -> None:
    assert ipv4.parse(PACKET + b"more") == HEADER


@pytest.mark.parametrize("options", [b"\x01", bytes(41), bytes(44)])
def test_options_that_fit_no_header_are_not_built(options: bytes) -> None:
    with pytest.raises(ValueError, match="32-bit words"):
        ipv4.build(HEADER._replace(options=options))


@pytest.mark.parametrize(
    ("more_fragments", "fragment_offset", "is_fragment"),
    [(False, 0, False), (True, 0, True), (False, 1, True), (True, 9, True)],
)
def test_a_fragment_is_any_part_but_the_whole(more_fragments: bool, fragment_offset: int, is_fragment: bool) -> None:
    assert HEADER._replace(more_fragments=more_fragments, fragment_offset=fragment_offset).is_fragment is is_fragment


@pytest.mark.parametrize("route", [IPOption_LSRR, IPOption_SSRR])
@pytest.mark.parametrize(("pointer", "is_unexpired"), [(4, True), (8, True), (11, True), (12, False), (255, False)])
def test_a_source_route_is_spent_once_its_pointer_is_past_it(route: type, pointer: int, is_unexpired: bool) -> None:
    options = bytes(IPOption_NOP()) + bytes(route(pointer=pointer, routers=["192.0.2.1", "192.0.2.2"]))
    assert ipv4.has_unexpired_source_route(options) is is_unexpired


@pytest.mark.parametrize(
    "options",
    [
        b"",
        b"\x01\x01\x01\x00",
        b"\x00\x83\x07\x04\xc0\x00\x02\x01",  # behind the end of the list
        b"\x94\x04\x00\x00",  # router alert (RFC 2113 §2.1)
        b"\x07\x07\x04\x00\x00\x00\x00\x00",  # record route
    ],
)
def test_other_options_are_no_source_route(options: bytes) -> None:
    assert not ipv4.has_unexpired_source_route(options)


def test_a_source_route_behind_a_spent_one_counts() -> None:
    assert ipv4.has_unexpired_source_route(b"\x83\x03\x04\x89\x07\x04\xc0\x00\x02\x01")


@pytest.mark.parametrize(
    "options", [b"\x83", b"\x83\x00\x04\x00", b"\x83\x01", b"\x83\x02\x01\x01", b"\x94\x05\x00\x00", b"\x01\x83"]
)
def test_an_option_that_runs_out_of_the_header_is_refused(options: bytes) -> None:
    with pytest.raises(ParseError):
        ipv4.has_unexpired_source_route(options)


@given(st.binary(max_size=40))
def test_options_of_any_kind_hold_a_source_route_or_none_or_are_refused(options: bytes) -> None:
    try:
        assert ipv4.has_unexpired_source_route(options) in (True, False)
    except ParseError:
        return
