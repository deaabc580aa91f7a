"""The packet that an ICMP error quotes: found out about, and translated back to the side that sent it (RFC 7915 §4.3, §5.3).

A quote is cut off anywhere behind the first eight bytes of TCP, and a router between may have left its header checksum stale,
so its lengths are not held against it. What counts is which flow it names.

Deviation: RFC 5508 §4.1 drops an error whose inner header has a wrong checksum. Routers that change a header before they quote
it leave the checksum stale, and an error lost for that is a transfer that hangs.
"""

import struct
from typing import Final, NamedTuple

from kracauer.errors import DropReason, ParseError, Untranslatable
from kracauer.wire import ipv4, ipv6
from kracauer.wire.checksum import update
from kracauer.wire.ipv4 import IPv4Header
from kracauer.wire.ipv6 import FragmentHeader, IPv6Header
from kracauer.wire.tcp import ACK, CHECKSUM_OFFSET

# Ports and sequence number: the least that a router quotes of what follows the IP header (RFC 792).
MIN_TRANSPORT: Final = 8
# Above this an IPv4 packet made of an IPv6 one has DF set (RFC 7915 §5.1).
DONT_FRAGMENT_ABOVE: Final = 1260

_MASK: Final = 0xFFFFFFFF
_V4_LAYOUT: Final = struct.Struct("!BBHHHBBH4s4s")
_FRAGMENT_LAYOUT: Final = struct.Struct("!BBHI")
_PORTS_AND_SEQ: Final = struct.Struct("!HHI")


class QuoteMapping(NamedTuple):
    """The quoted packet's addresses and ports in the other family, and what to add to its sequence numbers (mod 2**32)."""

    src: bytes
    dst: bytes
    src_port: int
    dst_port: int
    seq_delta: int
    ack_delta: int


class Quoted(NamedTuple):
    """Which segment an ICMP error is about, in the words of the side it comes from.

    `mtu` is the path MTU that the error tells, for packets of its own family; None for any other error.
    """

    src: bytes
    dst: bytes
    src_port: int
    dst_port: int
    seq: int
    mtu: int | None


class InnerV4(NamedTuple):
    """A quoted IPv4 packet: its header as it stands, and what was quoted of its TCP segment."""

    header: IPv4Header
    segment: bytes


class InnerV6(NamedTuple):
    """A quoted IPv6 packet; `segment_length` is the whole segment's, however little of it was quoted."""

    header: IPv6Header
    fragment: FragmentHeader | None
    segment_length: int
    segment: bytes


def parse_v4(quote: bytes) -> InnerV4:
    """Read a quoted IPv4 packet; raises ParseError when it is too short, Untranslatable when no TCP segment begins in it."""
    if len(quote) < ipv4.MIN_LENGTH:
        raise ParseError(f"ICMP: {len(quote)} bytes quoted of an IPv4 packet")
    version_ihl, tos, total_length, identification, flags, ttl, protocol, _, src, dst = _V4_LAYOUT.unpack_from(quote)
    length = (version_ihl & 0x0F) * 4
    if version_ihl >> 4 != 4 or length < ipv4.MIN_LENGTH:
        raise ParseError("ICMP: quotes what is no IPv4 packet")
    header = IPv4Header(
        tos,
        total_length,
        identification,
        bool(flags & ipv4.DONT_FRAGMENT),
        bool(flags & ipv4.MORE_FRAGMENTS),
        flags & ipv4.OFFSET_MASK,
        ttl,
        protocol,
        src,
        dst,
        quote[ipv4.MIN_LENGTH : length],
    )
    _check_translatable(protocol, header.fragment_offset)
    return InnerV4(header, _cut_segment(quote, length, total_length))


def parse_v6(quote: bytes) -> InnerV6:
    """Read a quoted IPv6 packet, past its extension headers; raises as `parse_v4` does."""
    if len(quote) < ipv6.LENGTH:
        raise ParseError(f"ICMPv6: {len(quote)} bytes quoted of an IPv6 packet")
    # The payload is cut short, so its length is checked against the quote only after the header has been read without it.
    header = ipv6.parse(quote[:4] + bytes(2) + quote[6 : ipv6.LENGTH])
    payload_length = int.from_bytes(quote[4:6], "big")
    end = ipv6.LENGTH + payload_length
    upper = ipv6.find_upper_layer(quote, header._replace(payload_length=min(end, len(quote)) - ipv6.LENGTH))
    if upper.segments_left:
        raise Untranslatable(DropReason.UNTRANSLATABLE_ICMP, "ICMPv6 error about a packet with a source route")
    _check_translatable(upper.protocol, upper.fragment.fragment_offset if upper.fragment else 0)
    segment = _cut_segment(quote, upper.start, end)
    header = header._replace(payload_length=payload_length)
    return InnerV6(header, upper.fragment, end - upper.start, segment)


def describe(header: IPv4Header | IPv6Header, segment: bytes, mtu: int | None) -> Quoted:
    """Return what names the flow of a quoted packet."""
    src_port, dst_port, seq = _PORTS_AND_SEQ.unpack_from(segment)
    return Quoted(header.src, header.dst, src_port, dst_port, seq, mtu)


def translate_v4(inner: InnerV4, mapping: QuoteMapping) -> bytes:
    """Return the quoted packet as the IPv6 packet it was made of; TTL as it stands, length of the whole (RFC 7915 §4.3)."""
    header = inner.header
    extension = b""
    next_header = ipv6.TCP
    if header.is_fragment:
        # RFC 7915 §4.1: a fragment stays one.
        next_header = ipv6.FRAGMENT
        offset_more = header.fragment_offset << 3 | header.more_fragments
        extension = _FRAGMENT_LAYOUT.pack(ipv6.TCP, 0, offset_more, header.identification)
    payload_length = len(extension) + header.total_length - header.length
    outcome = IPv6Header(header.tos, 0, payload_length, next_header, header.ttl, mapping.src, mapping.dst)
    return ipv6.build(outcome) + extension + translate_segment(inner.segment, header.src + header.dst, mapping)


def translate_v6(inner: InnerV6, mapping: QuoteMapping) -> bytes:
    """Return the quoted packet as the IPv4 packet it was made of, by the rules that made it IPv6 (RFC 7915 §5.1, §5.1.1)."""
    header, fragment = inner.header, inner.fragment
    total_length = min(ipv4.MIN_LENGTH + inner.segment_length, ipv4.MAX_TOTAL_LENGTH)
    outcome = IPv4Header(
        tos=header.traffic_class,
        total_length=total_length,
        # The number the packet once had is known to nobody; only a Fragment header has kept one.
        identification=fragment.identification & 0xFFFF if fragment else 0,
        dont_fragment=fragment is None and total_length > DONT_FRAGMENT_ABOVE,
        more_fragments=fragment.more_fragments if fragment else False,
        fragment_offset=0,
        ttl=header.hop_limit,
        protocol=ipv4.PROTOCOL_TCP,
        src=mapping.src,
        dst=mapping.dst,
    )
    return ipv4.build(outcome) + translate_segment(inner.segment, header.src + header.dst, mapping)


def translate_segment(segment: bytes, addresses: bytes, mapping: QuoteMapping) -> bytes:
    """Return the beginning of a TCP segment with the ports and sequence numbers of `mapping`, as far as it goes.

    Its checksum, if it was quoted, is updated for them and for the addresses (RFC 1624 §3): as right or wrong as it was.
    """
    result = bytearray(segment)
    src_port, dst_port, seq = _PORTS_AND_SEQ.unpack_from(segment)
    new_seq = (seq + mapping.seq_delta) & _MASK
    _PORTS_AND_SEQ.pack_into(result, 0, mapping.src_port, mapping.dst_port, new_seq)
    removed = int.from_bytes(addresses, "big") + src_port + dst_port + seq
    added = int.from_bytes(mapping.src + mapping.dst, "big") + mapping.src_port + mapping.dst_port + new_seq
    # A segment without ACK has no acknowledgment number to move; where the flags were cut off, it is taken to have ACK.
    if len(segment) >= 12 and (len(segment) < 14 or segment[13] & ACK):
        ack = int.from_bytes(segment[8:12], "big")
        new_ack = (ack + mapping.ack_delta) & _MASK
        result[8:12] = new_ack.to_bytes(4, "big")
        removed += ack
        added += new_ack
    end = CHECKSUM_OFFSET + 2
    if len(segment) >= end:
        checksum = int.from_bytes(segment[CHECKSUM_OFFSET:end], "big")
        result[CHECKSUM_OFFSET:end] = update(checksum, removed, added).to_bytes(2, "big")
    return bytes(result)


def _check_translatable(protocol: int, fragment_offset: int) -> None:
    if fragment_offset:
        raise Untranslatable(DropReason.UNTRANSLATABLE_ICMP, "ICMP error about a later fragment, which names no ports")
    if protocol != ipv4.PROTOCOL_TCP:
        # Among others, an error about an error: RFC 7915 §4.3 and §5.3 end at the first embedded header.
        raise Untranslatable(DropReason.NOT_TCP, f"ICMP error about protocol {protocol}")


def _cut_segment(quote: bytes, start: int, end: int) -> bytes:
    """Return what there is of the segment between `start` and the packet's own `end`: padding behind it is not quoted."""
    segment = quote[start:end]
    if len(segment) < MIN_TRANSPORT:
        raise ParseError(f"ICMP: {len(segment)} bytes quoted of a TCP segment")
    return segment
