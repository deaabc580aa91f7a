"""The codec: every parser on any bytes, and its builder on what it made of them."""

import contextlib
import struct
from typing import Final

from kracauer.errors import ParseError
from kracauer.wire import icmpv4, icmpv6, ipv4, ipv6, tcp, vnet_hdr
from kracauer.wire.checksum import word_sum

_SRC, _DST = bytes(range(16)), bytes(range(16, 32))


def play_ipv4(data: bytes) -> int:
    """Any bytes parse or raise ParseError; what parsed builds to the very header, and parses as itself again.

    The header's checksum is made right first, in every second input: else nearly none would get past it. The reserved flag is
    the one bit that is not kept.
    """
    fixed = _fix_ipv4(data[1:]) if data and data[0] & 1 else data[1:]
    try:
        header = ipv4.parse(fixed)
    except ParseError:
        return 1
    built = ipv4.build(header)
    if not fixed[6] & 0x80:
        assert built[:10] + built[12:] == fixed[: header.length][:10] + fixed[: header.length][12:]
    assert word_sum(built) == 0
    assert header.length <= header.total_length <= len(fixed)
    assert ipv4.parse(built + bytes(header.total_length - len(built))) == header
    with contextlib.suppress(ParseError):
        ipv4.has_unexpired_source_route(header.options)
    return 1


def _fix_ipv4(data: bytes) -> bytes:
    length = (data[0] & 15) * 4 if data else 0
    if len(data) < max(length, 20):
        return data
    head = data[:10] + b"\0\0" + data[12:length]
    return head[:10] + (-word_sum(head) % 0xFFFF).to_bytes(2, "big") + head[12:] + data[length:]


def play_ipv6(data: bytes) -> int:
    """Any bytes parse or raise ParseError; what parsed builds to the very header; the upper layer lies inside the packet."""
    try:
        header = ipv6.parse(data)
    except ParseError:
        return 1
    assert ipv6.build(header) == data[: ipv6.LENGTH]
    try:
        upper = ipv6.find_upper_layer(data, header)
    except ParseError:
        return 1
    end = ipv6.LENGTH + header.payload_length
    assert ipv6.LENGTH <= upper.start <= end <= len(data)
    if upper.fragment is not None:
        assert ipv6.LENGTH <= upper.fragment.start <= upper.start - ipv6.FRAGMENT_LENGTH
    assert bool(upper.segments_left) == bool(upper.segments_left_pointer)
    assert not upper.segments_left or data[upper.segments_left_pointer] == upper.segments_left
    return 1


def play_tcp(data: bytes) -> int:
    """Any bytes parse or raise ParseError; a header builds to its own bytes, options build to what parses as themselves."""
    try:
        header = tcp.parse(data)
    except ParseError:
        return 1
    assert tcp.build(header) == data[: header.length]
    try:
        options = tcp.parse_options(header.options)
    except ParseError:
        return 1
    assert options.window_scale is None or options.window_scale <= tcp.MAX_WINDOW_SCALE
    if not options.is_authenticated:
        built = tcp.build_options(options)
        assert len(built) % 4 == 0
        if len(built) < 256:
            assert tcp.parse_options(built) == options
    return 1


def play_icmp(data: bytes) -> int:
    """Any bytes parse or raise ParseError, of both ICMPs; a message builds to its own bytes, sums aside."""
    body, value = data[1:], data[:1]
    if len(body) >= icmpv4.LENGTH and value != b"\0":
        sum_v4 = -word_sum(body[:2] + b"\0\0" + body[4:]) % 0xFFFF
        body = body[:2] + sum_v4.to_bytes(2, "big") + body[4:]
    try:
        message = icmpv4.parse(body)
    except ParseError:
        pass
    else:
        assert 0 <= message.original_length <= 1020
        built = icmpv4.build(message)
        assert built[:2] + built[4:] == body[:2] + body[4:]
        assert icmpv4.parse(built) == message
    if len(body) >= icmpv6.LENGTH and value != b"\0":
        pseudo = (sum(struct.unpack("!16H", _SRC + _DST)) + icmpv6.NEXT_HEADER + len(body)) % 0xFFFF
        sum_v6 = -(word_sum(body[:2] + b"\0\0" + body[4:]) + pseudo) % 0xFFFF
        body = body[:2] + sum_v6.to_bytes(2, "big") + body[4:]
    try:
        message_v6 = icmpv6.parse(body, _SRC, _DST)
    except ParseError:
        return 1
    assert 0 <= message_v6.original_length <= 2040
    built = icmpv6.build(message_v6, _SRC, _DST)
    assert built[:2] + built[4:] == body[:2] + body[4:]
    assert icmpv6.parse(built, _SRC, _DST) == message_v6
    return 1


def play_vnet(data: bytes) -> int:
    """Ten bytes parse and build to themselves, fewer raise ParseError."""
    try:
        header = vnet_hdr.parse(data)
    except ParseError:
        assert len(data) < vnet_hdr.LENGTH
        return 1
    assert vnet_hdr.build(header) == data[: vnet_hdr.LENGTH]
    return 1


def seeds_ipv4() -> list[bytes]:
    """A plain header, one with options, a fragment, a source route."""
    plain = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 24, 7, 0x4000, 64, 6, 0, b"\xc0\0\2\7", b"\xc63d\1") + b"data"
    route = b"\x83\x07\x04\xc0\x00\x02\x01\x00"
    return [
        b"\1" + plain,
        b"\1\x47" + plain[1:3] + b"\x20" + plain[4:20] + route + b"data",
        b"\1" + plain[:6] + b"\x20\1" + plain[8:],
    ]


def seeds_ipv6() -> list[bytes]:
    """A plain header, and chains of every extension header."""
    ends = _SRC + _DST
    hop, routing, fragment = b"\x2b\0" + bytes(6), b"\x2c\0\0\1" + bytes(4), struct.pack("!BBHI", 60, 0, 1, 99)
    chain = hop + routing + fragment + b"\x06\0" + bytes(6) + bytes(20)
    return [
        struct.pack("!IHBB", 6 << 28, 4, 6, 64) + ends + b"data",
        struct.pack("!IHBB", 6 << 28, len(chain), 0, 64) + ends + chain,
        struct.pack("!IHBB", 6 << 28, 28, 44, 64) + ends + struct.pack("!BBHI", 6, 0, 8 << 3, 1) + bytes(20),
    ]


def seeds_tcp() -> list[bytes]:
    """A SYN as common stacks send it, a segment with SACK blocks, options of every kind."""
    fixed: Final = struct.Struct("!HHIIHHHH")
    syn = bytes.fromhex("020405b40402080a0000000100000000" + "01030307")
    sack = bytes.fromhex("0101050a0000000100000005") + bytes.fromhex("0101080a0000000100000002")
    return [
        fixed.pack(40000, 443, 1, 0, (5 + len(options) // 4) << 12 | flags, 64240, 0, 0) + options
        for options, flags in ((syn, 2), (sack, 16), (b"", 0x1FF), (b"\x13\x12" + bytes(18), 2), (b"\x1d\x04\0\0", 2))
    ]


def seeds_icmp() -> list[bytes]:
    """An error of each family with a quote, and an echo."""
    quote = seeds_ipv4()[0][1:] + bytes(8)
    return [
        b"\1" + head + quote
        for head in (b"\3\4\0\0\0\5\5\xdc", b"\2\0\0\0\0\0\5\0", b"\1\4\0\0\4\0\0\0", b"\x08\0\0\0\0\1\0\1")
    ]


def seeds_vnet() -> list[bytes]:
    """None, a partial checksum, a super-packet."""
    return [bytes(10), struct.pack("=BBHHHH", 1, 0, 40, 0, 20, 16), struct.pack("=BBHHHH", 1, 4, 60, 1428, 40, 16)]
