"""TCP header and options (RFC 9293 §3.1, RFC 7323 §2 and §3, RFC 2018 §2 and §3).

 0                   1                   2                   3
 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
+-------------------------------+-------------------------------+
|          Source Port          |       Destination Port        |
+-------------------------------+-------------------------------+
|                        Sequence Number                        |
+---------------------------------------------------------------+
|                    Acknowledgment Number                      |
+-------+-----+-+-+-+-+-+-+-+-+-+-------------------------------+
| Data  |     |A|C|E|U|A|P|R|S|F|                               |
|Offset | Rsrv|E|W|C|R|C|S|S|Y|I|            Window             |
|       |     | |R|E|G|K|H|T|N|N|                               |
+-------+-----+-+-+-+-+-+-+-+-+-+-------------------------------+
|           Checksum            |         Urgent Pointer        |
+-------------------------------+-------------------------------+
|                      Options, padded to 32 bits               |
+---------------------------------------------------------------+
"""

import struct
from typing import Final, NamedTuple

from kracauer.errors import ParseError
from kracauer.wire.buffer import Buffer

MIN_LENGTH: Final = 20
MAX_LENGTH: Final = 60
CHECKSUM_OFFSET: Final = 16

FIN: Final = 0x001
SYN: Final = 0x002
RST: Final = 0x004
PSH: Final = 0x008
ACK: Final = 0x010
URG: Final = 0x020
ECE: Final = 0x040
CWR: Final = 0x080
AE: Final = 0x100
FLAGS_MASK: Final = 0xFFF

OPTION_END: Final = 0
OPTION_NOP: Final = 1
OPTION_MSS: Final = 2
OPTION_WINDOW_SCALE: Final = 3
OPTION_SACK_PERMITTED: Final = 4
OPTION_SACK: Final = 5
OPTION_TIMESTAMPS: Final = 8
OPTION_MD5: Final = 19
OPTION_AO: Final = 29

DEFAULT_MSS: Final = 536  # assumed of an IPv4 peer that sends no MSS option (RFC 9293 §3.7.1)
MAX_WINDOW_SCALE: Final = 14  # RFC 7323 §2.3

_LAYOUT: Final = struct.Struct("!HHIIHHHH")
_TIMESTAMPS: Final = struct.Struct("!II")
# The layouts that nearly all stacks use, each taken in one go: timestamps alone, and everything that a SYN may ask for.
_STAMPED: Final = struct.Struct("!III")
_STAMPED_PADDING: Final = 0x0101080A
_OPENING: Final = struct.Struct("!HHIIII")
_OPENING_MSS: Final = 0x0204
_OPENING_SACK_STAMPS: Final = 0x0402080A
_OPENING_SCALE: Final = 0x010303
_FIXED_LENGTHS: Final = {
    OPTION_MSS: 4,
    OPTION_WINDOW_SCALE: 3,
    OPTION_SACK_PERMITTED: 2,
    OPTION_TIMESTAMPS: 10,
    OPTION_MD5: 18,
}


class TcpHeader(NamedTuple):
    """One TCP header; `options` are raw bytes in whole 32-bit words, `flags` the low twelve bits with the reserved ones."""

    src_port: int
    dst_port: int
    seq: int
    ack: int
    flags: int
    window: int
    checksum: int = 0
    urgent: int = 0
    options: bytes = b""

    @property
    def length(self) -> int:
        """The header's length in bytes, options included."""
        return MIN_LENGTH + len(self.options)


class TcpOptions(NamedTuple):
    """The options this project understands; None or empty where absent, `timestamps` is (TSval, TSecr)."""

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    timestamps: tuple[int, int] | None = None
    sack: tuple[tuple[int, int], ...] = ()
    is_authenticated: bool = False


NO_OPTIONS: Final = TcpOptions()


def parse(data: Buffer, offset: int = 0) -> TcpHeader:
    """Read the header at `offset`; raises ParseError when it is cut short or its data offset points outside."""
    available = len(data) - offset
    if available < MIN_LENGTH:
        raise ParseError(f"TCP: {available} bytes where a header takes {MIN_LENGTH}")
    src_port, dst_port, seq, ack, offset_flags, window, checksum, urgent = _LAYOUT.unpack_from(data, offset)
    length = (offset_flags >> 12) * 4
    if not MIN_LENGTH <= length <= available:
        raise ParseError(f"TCP: data offset of {length} bytes with {available} there")
    options = bytes(data[offset + MIN_LENGTH : offset + length])
    return TcpHeader(src_port, dst_port, seq, ack, offset_flags & FLAGS_MASK, window, checksum, urgent, options)


def build(header: TcpHeader) -> bytes:
    """The header's bytes, checksum as given; raises ValueError when the options are not whole 32-bit words."""
    if len(header.options) % 4 or header.length > MAX_LENGTH:
        raise ValueError("TCP options take 0 to 40 bytes in whole 32-bit words")
    fixed = _LAYOUT.pack(
        header.src_port,
        header.dst_port,
        header.seq,
        header.ack,
        header.length // 4 << 12 | header.flags,
        header.window,
        header.checksum,
        header.urgent,
    )
    return fixed + header.options


def parse_options(options: bytes) -> TcpOptions:
    """Read what is understood of `options`, skip the rest; raises ParseError on an illegal length (RFC 9293 §3.1, MUST-7)."""
    if len(options) == _STAMPED.size:
        padding, tsval, tsecr = _STAMPED.unpack(options)
        if padding == _STAMPED_PADDING:
            return TcpOptions(None, None, False, (tsval, tsecr))  # noqa: FBT003  by name it takes twice the time
    elif len(options) == _OPENING.size:
        first, mss, second, tsval, tsecr, third = _OPENING.unpack(options)
        if first == _OPENING_MSS and second == _OPENING_SACK_STAMPS and third >> 8 == _OPENING_SCALE:
            return TcpOptions(mss, min(third & 0xFF, MAX_WINDOW_SCALE), True, (tsval, tsecr))  # noqa: FBT003
    return walk_options(options)


def walk_options(options: bytes) -> TcpOptions:
    """As `parse_options`, one option after the other: what its short cuts are held to."""
    mss = window_scale = timestamps = None
    sack_permitted = is_authenticated = False
    sack: tuple[tuple[int, int], ...] = ()
    at, end = 0, len(options)
    while at < end and options[at] != OPTION_END:
        kind = options[at]
        if kind == OPTION_NOP:
            at += 1
            continue
        length = options[at + 1] if at + 1 < end else 0
        if length < 2 or at + length > end or _FIXED_LENGTHS.get(kind, length) != length:
            raise ParseError(f"TCP: option {kind} with length {length}")
        value = options[at + 2 : at + length]
        if kind == OPTION_MSS:
            mss = int.from_bytes(value, "big")
        elif kind == OPTION_WINDOW_SCALE:
            # RFC 7323 §2.3: a larger shift must be taken as 14.
            window_scale = min(value[0], MAX_WINDOW_SCALE)
        elif kind == OPTION_SACK_PERMITTED:
            sack_permitted = True
        elif kind == OPTION_TIMESTAMPS:
            timestamps = _TIMESTAMPS.unpack(value)
        elif kind == OPTION_SACK:
            if len(value) % 8:
                raise ParseError(f"TCP: SACK option with length {length}")
            edges = struct.unpack(f"!{len(value) // 4}I", value)
            sack = tuple(zip(edges[::2], edges[1::2], strict=True))
        elif kind in (OPTION_MD5, OPTION_AO):
            is_authenticated = True
        at += length
    return TcpOptions(mss, window_scale, sack_permitted, timestamps, sack, is_authenticated)


def build_options(options: TcpOptions) -> bytes:
    """The bytes of `options` in the order and padding that stacks commonly send, in whole 32-bit words.

    Raises ValueError for authentication, which only the holder of the key can build.
    """
    if options.is_authenticated:
        raise ValueError("authentication options cannot be built")
    mss, window_scale, sack_permitted, timestamps, sack, _ = options
    if timestamps is not None and not sack:
        if mss is None and window_scale is None and not sack_permitted:
            return _STAMPED.pack(_STAMPED_PADDING, *timestamps)
        if mss is not None and window_scale is not None and sack_permitted:
            return _OPENING.pack(_OPENING_MSS, mss, _OPENING_SACK_STAMPS, *timestamps, _OPENING_SCALE << 8 | window_scale)
    packed = bytearray()
    if options.mss is not None:
        packed += struct.pack("!BBH", OPTION_MSS, 4, options.mss)
    if options.sack_permitted and options.timestamps is not None:
        packed += bytes((OPTION_SACK_PERMITTED, 2))
    elif options.sack_permitted:
        packed += bytes((OPTION_NOP, OPTION_NOP, OPTION_SACK_PERMITTED, 2))
    elif options.timestamps is not None:
        packed += bytes((OPTION_NOP, OPTION_NOP))
    if options.timestamps is not None:
        packed += bytes((OPTION_TIMESTAMPS, 10)) + _TIMESTAMPS.pack(*options.timestamps)
    if options.window_scale is not None:
        packed += bytes((OPTION_NOP, OPTION_WINDOW_SCALE, 3, options.window_scale))
    if options.sack:
        packed += bytes((OPTION_NOP, OPTION_NOP, OPTION_SACK, 2 + 8 * len(options.sack)))
        packed += b"".join(_TIMESTAMPS.pack(*block) for block in options.sack)
    return bytes(packed)
