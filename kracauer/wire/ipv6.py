"""IPv6 header and extension header walk (RFC 8200 §3, §4).

 0                   1                   2                   3
 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
+-------+---------------+---------------------------------------+
|Version| Traffic Class |              Flow Label               |
+-------+---------------+-------+---------------+---------------+
|        Payload Length         |  Next Header  |   Hop Limit   |
+-------------------------------+---------------+---------------+
|                 Source (128 bits), Destination                |
+---------------------------------------------------------------+
"""

import struct
from typing import Final, NamedTuple

from kracauer.errors import ParseError
from kracauer.wire.buffer import Buffer

LENGTH: Final = 40
FRAGMENT_LENGTH: Final = 8
MIN_MTU: Final = 1280

HOP_BY_HOP: Final = 0
TCP: Final = 6
ROUTING: Final = 43
FRAGMENT: Final = 44
ICMPV6: Final = 58
NO_NEXT_HEADER: Final = 59
DESTINATION_OPTIONS: Final = 60

_LAYOUT: Final = struct.Struct("!IHBB16s16s")
_FRAGMENT: Final = struct.Struct("!BBHI")
_SKIPPABLE: Final = frozenset({HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS})


class IPv6Header(NamedTuple):
    """One IPv6 header; addresses are 16 bytes, `payload_length` counts all that follows, in bytes."""

    traffic_class: int
    flow_label: int
    payload_length: int
    next_header: int
    hop_limit: int
    src: bytes
    dst: bytes


class FragmentHeader(NamedTuple):
    """A Fragment extension header (RFC 8200 §4.5); `fragment_offset` counts 8-byte units, `start` bytes from the packet's."""

    start: int
    next_header: int
    fragment_offset: int
    more_fragments: bool
    identification: int


class UpperLayer(NamedTuple):
    """Where the extension headers end: the protocol above, its offset in bytes from the packet's start, what was passed."""

    protocol: int
    start: int
    fragment: FragmentHeader | None
    segments_left: int
    segments_left_pointer: int


def parse(data: Buffer, offset: int = 0) -> IPv6Header:
    """Read the header at `offset`; raises ParseError on a wrong version or a payload longer than the data."""
    available = len(data) - offset
    if available < LENGTH:
        raise ParseError(f"IPv6: {available} bytes where a header takes {LENGTH}")
    word, payload_length, next_header, hop_limit, src, dst = _LAYOUT.unpack_from(data, offset)
    if word >> 28 != 6:
        raise ParseError(f"IPv6: version {word >> 28}")
    if LENGTH + payload_length > available:
        raise ParseError(f"IPv6: payload length {payload_length} with {available - LENGTH} bytes there")
    return IPv6Header(word >> 20 & 0xFF, word & 0xFFFFF, payload_length, next_header, hop_limit, src, dst)


def build(header: IPv6Header) -> bytes:
    """The header's 40 bytes."""
    return _LAYOUT.pack(
        6 << 28 | header.traffic_class << 20 | header.flow_label,
        header.payload_length,
        header.next_header,
        header.hop_limit,
        header.src,
        header.dst,
    )


def find_upper_layer(data: Buffer, header: IPv6Header, offset: int = 0) -> UpperLayer:
    """Walk the extension headers behind `header`; raises ParseError when one runs out of the packet or is out of place.

    A non-first fragment ends the walk at the fragment's payload, with the next header its Fragment header names.
    """
    end = LENGTH + header.payload_length
    protocol, at = header.next_header, LENGTH
    fragment: FragmentHeader | None = None
    segments_left = segments_left_pointer = 0
    while True:
        if protocol in _SKIPPABLE:
            if protocol == HOP_BY_HOP and at != LENGTH:
                raise ParseError("IPv6: Hop-by-Hop Options not directly behind the header")
            if at + 8 > end:
                raise ParseError(f"IPv6: extension header {protocol} runs out of the packet")
            length = (data[offset + at + 1] + 1) * 8
            if at + length > end:
                raise ParseError(f"IPv6: extension header {protocol} of {length} bytes runs out of the packet")
            if protocol == ROUTING and data[offset + at + 3] and not segments_left:
                segments_left, segments_left_pointer = data[offset + at + 3], at + 3
            protocol = data[offset + at]
            at += length
        elif protocol == FRAGMENT:
            if fragment is not None or at + 8 > end:
                raise ParseError("IPv6: a second Fragment header, or one that runs out of the packet")
            next_header, _, offset_more, identification = _FRAGMENT.unpack_from(data, offset + at)
            fragment = FragmentHeader(at, next_header, offset_more >> 3, bool(offset_more & 1), identification)
            protocol = next_header
            at += 8
            if fragment.fragment_offset:
                break
        else:
            break
    return UpperLayer(protocol, at, fragment, segments_left, segments_left_pointer)
