"""IPv4 header and options (RFC 791 §3.1).

 0                   1                   2                   3
 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
+-------+-------+---------------+-------------------------------+
|Version|  IHL  |      TOS      |         Total Length          |
+-------+-------+---------------+-----+-------------------------+
|        Identification         |Flags|     Fragment Offset     |
+---------------+---------------+-----+-------------------------+
|      TTL      |   Protocol    |        Header Checksum        |
+---------------+---------------+-------------------------------+
|                      Source, Destination                      |
+---------------------------------------------------------------+
|                      Options, padded to 32 bits               |
+---------------------------------------------------------------+
"""

import struct
from typing import Final, NamedTuple

from kracauer.errors import ParseError
from kracauer.wire.buffer import Buffer
from kracauer.wire.checksum import checksum, word_sum

MIN_LENGTH: Final = 20
MAX_TOTAL_LENGTH: Final = 0xFFFF

DONT_FRAGMENT: Final = 0x4000
MORE_FRAGMENTS: Final = 0x2000
OFFSET_MASK: Final = 0x1FFF

PROTOCOL_ICMP: Final = 1
PROTOCOL_TCP: Final = 6

OPTION_END: Final = 0
OPTION_NOP: Final = 1
OPTION_LOOSE_SOURCE_ROUTE: Final = 131
OPTION_STRICT_SOURCE_ROUTE: Final = 137

_LAYOUT: Final = struct.Struct("!BBHHHBBH4s4s")


class IPv4Header(NamedTuple):
    """One IPv4 header; addresses are 4 bytes, `fragment_offset` counts 8-byte units, `total_length` bytes."""

    tos: int
    total_length: int
    identification: int
    dont_fragment: bool
    more_fragments: bool
    fragment_offset: int
    ttl: int
    protocol: int
    src: bytes
    dst: bytes
    options: bytes = b""

    @property
    def length(self) -> int:
        """The header's own length in bytes, options included."""
        return MIN_LENGTH + len(self.options)

    @property
    def is_fragment(self) -> bool:
        """Whether this is any fragment but the whole datagram."""
        return self.more_fragments or self.fragment_offset != 0


def parse(data: Buffer, offset: int = 0) -> IPv4Header:
    """Read the header at `offset`; raises ParseError on a wrong version, length or checksum."""
    available = len(data) - offset
    if available < MIN_LENGTH:
        raise ParseError(f"IPv4: {available} bytes where a header takes {MIN_LENGTH}")
    version_ihl, tos, total_length, identification, fragment, ttl, protocol, _, src, dst = _LAYOUT.unpack_from(data, offset)
    if version_ihl >> 4 != 4:
        raise ParseError(f"IPv4: version {version_ihl >> 4}")
    length = (version_ihl & 0x0F) * 4
    if not MIN_LENGTH <= length <= available:
        raise ParseError(f"IPv4: header length {length} with {available} bytes there")
    if not length <= total_length <= available:
        raise ParseError(f"IPv4: total length {total_length} with {available} bytes there")
    if word_sum(data[offset : offset + length]) != 0:
        raise ParseError("IPv4: header checksum does not match")
    return IPv4Header(
        tos,
        total_length,
        identification,
        bool(fragment & DONT_FRAGMENT),
        bool(fragment & MORE_FRAGMENTS),
        fragment & OFFSET_MASK,
        ttl,
        protocol,
        src,
        dst,
        bytes(data[offset + MIN_LENGTH : offset + length]),
    )


def build(header: IPv4Header) -> bytes:
    """The header's bytes with its checksum; raises ValueError when the options are not whole 32-bit words."""
    if len(header.options) % 4 or len(header.options) > 40:
        raise ValueError("IPv4 options take 0 to 40 bytes in whole 32-bit words")
    fragment = header.fragment_offset
    if header.dont_fragment:
        fragment |= DONT_FRAGMENT
    if header.more_fragments:
        fragment |= MORE_FRAGMENTS
    packed = bytearray(
        _LAYOUT.pack(
            0x40 | header.length // 4,
            header.tos,
            header.total_length,
            header.identification,
            fragment,
            header.ttl,
            header.protocol,
            0,
            header.src,
            header.dst,
        )
    )
    packed += header.options
    packed[10:12] = checksum(packed).to_bytes(2, "big")
    return bytes(packed)


def has_unexpired_source_route(options: bytes) -> bool:
    """Whether a loose or strict source route still has hops to visit (RFC 7915 §4.1); raises ParseError on a bad option."""
    at = 0
    while at < len(options) and options[at] != OPTION_END:
        if options[at] == OPTION_NOP:
            at += 1
            continue
        if at + 1 >= len(options) or options[at + 1] < 2 or at + options[at + 1] > len(options):
            raise ParseError(f"IPv4: option {options[at]} runs out of the header")
        if options[at] in (OPTION_LOOSE_SOURCE_ROUTE, OPTION_STRICT_SOURCE_ROUTE):
            length = options[at + 1]
            if length < 3:
                raise ParseError("IPv4: source route without a pointer")
            # The pointer counts from 1 at the option's first byte; past the length the route is spent (RFC 791 §3.1).
            if options[at + 2] <= length:
                return True
        at += options[at + 1]
    return False
