"""One fragmented datagram of either family on its way to being whole (RFC 791 §3.2, RFC 8200 §4.5, RFC 5722 §4).

Deviation: RFC 791 §3.2 lets the later bytes win where IPv4 fragments overlap. Here an overlap ends a datagram of either family:
endpoints and filters differ in which bytes they take, and no sender makes overlaps on purpose but to be seen differently by the
two (RFC 1858 §4, RFC 3128 §1).
"""

import struct
from bisect import bisect_right
from typing import Final, NamedTuple

from kracauer.errors import Dropped, DropReason, ParseError
from kracauer.wire import icmpv6, ipv4, ipv6, tcp
from kracauer.wire.ipv4 import IPv4Header
from kracauer.wire.ipv6 import IPv6Header

# In as many pieces a 64 KiB datagram comes over a path of 576 bytes; more is nobody's need, and each has its overhead.
MAX_PIECES: Final = 128

_MAX_LENGTH: Final = 0xFFFF
_ECN: Final = 3
_CONGESTION_EXPERIENCED: Final = 3
_NOT_ECT: Final = 0
_V4_KEY: Final = struct.Struct("!4s4sBH")
_V6_KEY: Final = struct.Struct("!16s16sI")


class Datagram(NamedTuple):
    """A whole packet, and what its fragments said.

    `identification` is theirs (32 bits in IPv6), `largest_fragment` the length in bytes of the longest with all its headers,
    `dont_fragment` whether any had DF set. A packet that was whole from the start is its own only fragment.
    """

    packet: bytes
    identification: int
    largest_fragment: int
    dont_fragment: bool


class Piece(NamedTuple):
    """A fragment: its `data` from byte `start` of the datagram on, behind the `headers` it came with.

    `key` tells its datagram from every other; `extensions` are the extension headers before an IPv6 Fragment header, `protocol`
    is what that header or the IPv4 header names.
    """

    key: bytes
    header: IPv4Header | IPv6Header
    headers: bytes
    extensions: bytes
    protocol: int
    identification: int
    start: int
    is_last: bool
    data: bytes

    @property
    def end(self) -> int:
        """Where in the datagram the data ends."""
        return self.start + len(self.data)

    @property
    def ecn(self) -> int:
        """The ECN field of the fragment's header (RFC 3168 §5)."""
        return (self.header.tos if isinstance(self.header, IPv4Header) else self.header.traffic_class) & _ECN


def parse_piece_v4(packet: bytes) -> Piece | None:
    """Read one IPv4 fragment; None when `packet` is whole. Raises ParseError, and Dropped for a tiny one (RFC 1858 §3)."""
    header = ipv4.parse(packet)
    if not header.is_fragment:
        return None
    piece = Piece(
        key=_V4_KEY.pack(header.src, header.dst, header.protocol, header.identification),
        header=header,
        headers=packet[: header.length],
        extensions=b"",
        protocol=header.protocol,
        identification=header.identification,
        start=header.fragment_offset * 8,
        is_last=not header.more_fragments,
        data=packet[header.length : header.total_length],
    )
    _check(piece, header.length)
    return piece


def parse_piece_v6(packet: bytes) -> Piece | None:
    """Read one IPv6 fragment; None when `packet` has no Fragment header, or one that says it is whole (RFC 6946).

    Raises ParseError, also when a first fragment does not hold all extension headers (RFC 7112 §5); Dropped for a tiny one.
    """
    header = ipv6.parse(packet)
    upper = ipv6.find_upper_layer(packet, header)
    fragment = upper.fragment
    if fragment is None or not (fragment.fragment_offset or fragment.more_fragments):
        return None
    data_start = fragment.start + 8
    extensions = packet[ipv6.LENGTH : fragment.start]
    piece = Piece(
        key=_V6_KEY.pack(header.src, header.dst, fragment.identification),
        header=header,
        headers=packet[:data_start],
        extensions=extensions,
        protocol=fragment.next_header,
        identification=fragment.identification,
        start=fragment.fragment_offset * 8,
        is_last=not fragment.more_fragments,
        data=packet[data_start : ipv6.LENGTH + header.payload_length],
    )
    # RFC 7112 §5: the upper layer's header belongs into the first fragment; of TCP's, at least what every segment has.
    needed = {ipv6.TCP: tcp.MIN_LENGTH, ipv6.ICMPV6: icmpv6.LENGTH}.get(upper.protocol, 0)
    if piece.start == 0 and ipv6.LENGTH + header.payload_length - upper.start < needed:
        raise Dropped(DropReason.FRAGMENT_TINY)
    _check(piece, len(extensions))
    return piece


def _check(piece: Piece, headers_length: int) -> None:
    if not piece.data or (not piece.is_last and len(piece.data) % 8):
        raise ParseError(f"a fragment of {len(piece.data)} bytes, not the last")
    if headers_length + piece.end > _MAX_LENGTH:
        raise ParseError(f"a fragment that ends at byte {piece.end}")
    # RFC 1858 §3.2.2: neither may the first fragment leave out part of the TCP header, nor a later one bring it.
    if piece.protocol == ipv4.PROTOCOL_TCP and (piece.start or piece.end) < tcp.MIN_LENGTH:
        raise Dropped(DropReason.FRAGMENT_TINY)


class Assembly:
    """The pieces of one datagram so far. What contradicts them raises Dropped, and then the datagram is to be given up."""

    __slots__ = ("_data", "_ecns", "_end", "_starts", "dont_fragment", "first", "largest_fragment", "received")

    def __init__(self) -> None:
        self.first: Piece | None = None
        self.largest_fragment = 0
        self.dont_fragment = False
        self.received = 0
        self._starts: list[int] = []
        self._data: list[bytes] = []
        self._end: int | None = None
        self._ecns = 0

    def add(self, piece: Piece) -> bool:
        """Take in `piece`; returns whether it was news, and not the exact duplicate that RFC 8200 §4.5 lets pass."""
        at = bisect_right(self._starts, piece.start)
        if at and self._starts[at - 1] == piece.start and self._data[at - 1] == piece.data:
            if piece.is_last != (piece.end == self._end):
                raise Dropped(DropReason.FRAGMENT_INCONSISTENT, "the same fragment as the last and as not the last")
            return False
        overlaps_left = at > 0 and self._starts[at - 1] + len(self._data[at - 1]) > piece.start
        if overlaps_left or (at < len(self._starts) and piece.end > self._starts[at]):
            raise Dropped(DropReason.FRAGMENT_OVERLAP)
        self._check_end(piece)
        if len(self._starts) == MAX_PIECES:
            raise Dropped(DropReason.FRAGMENTS_FULL, f"a datagram in more than {MAX_PIECES} pieces")
        self._starts.insert(at, piece.start)
        self._data.insert(at, piece.data)
        self.received += len(piece.data)
        self._ecns |= 1 << piece.ecn
        self.largest_fragment = max(self.largest_fragment, len(piece.headers) + len(piece.data))
        if isinstance(piece.header, IPv4Header) and piece.header.dont_fragment:
            self.dont_fragment = True
        if piece.start == 0:
            self.first = piece
        return True

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing; without overlaps, counting the bytes tells."""
        return self.received == self._end

    def build(self) -> Datagram:
        """Return the whole datagram with the first fragment's headers; raises Dropped when it cannot be one."""
        first = self.first
        if first is None or not self.is_complete:
            raise ValueError("fragments are missing")
        ecn = self._merge_ecn(first.ecn)
        data = b"".join(self._data)
        header = first.header
        if isinstance(header, IPv4Header):
            total_length = header.length + len(data)
            if total_length > _MAX_LENGTH:
                raise Dropped(DropReason.FRAGMENT_INCONSISTENT, "a datagram longer than its header can say")
            plain = header._replace(tos=header.tos & ~_ECN | ecn, total_length=total_length, more_fragments=False)
            packet = ipv4.build(plain) + data
        else:
            payload_length = len(first.extensions) + len(data)
            if payload_length > _MAX_LENGTH:
                raise Dropped(DropReason.FRAGMENT_INCONSISTENT, "a datagram longer than its header can say")
            packet = _join_v6(header, first, payload_length, ecn) + data
        return Datagram(packet, first.identification, self.largest_fragment, self.dont_fragment)

    def _check_end(self, piece: Piece) -> None:
        """Hold that the datagram has one end, and nothing behind it."""
        if self._end is not None:
            # A second last piece, or one that claims more to come where there is none.
            is_consistent = not piece.is_last and piece.end < self._end
        else:
            is_consistent = not piece.is_last or not self._starts or piece.start >= self._starts[-1]
        if not is_consistent:
            raise Dropped(DropReason.FRAGMENT_INCONSISTENT, "fragments that disagree on where their datagram ends")
        if piece.is_last:
            self._end = piece.end

    def _merge_ecn(self, ecn: int) -> int:
        """Return the datagram's ECN field: congestion that any fragment experienced is not lost (RFC 3168 §5.3)."""
        if not self._ecns & 1 << _CONGESTION_EXPERIENCED:
            return ecn
        if self._ecns & 1 << _NOT_ECT:
            raise Dropped(DropReason.FRAGMENT_INCONSISTENT, "congestion marked on some fragments, ECN unknown to others")
        return _CONGESTION_EXPERIENCED


def _join_v6(header: IPv6Header, first: Piece, payload_length: int, ecn: int) -> bytes:
    """Return the headers of the whole: the first fragment's without the Fragment header, the one before it pointing past it."""
    traffic_class = header.traffic_class & ~_ECN | ecn
    plain = header._replace(traffic_class=traffic_class, payload_length=payload_length)
    if not first.extensions:
        return ipv6.build(plain._replace(next_header=first.protocol))
    extensions = bytearray(first.extensions)
    at = last = 0
    while at < len(extensions):
        last = at
        at += (extensions[at + 1] + 1) * 8
    extensions[last] = first.protocol
    return ipv6.build(plain) + bytes(extensions)
