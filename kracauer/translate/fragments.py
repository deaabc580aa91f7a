"""Reassembly within bounds of time, number and bytes (RFC 791 §3.2, RFC 8200 §4.5, RFC 5722, RFC 6146 §3.4).

Whoever floods it pays first: a source has no more than an eighth of everything, and one that wants more loses its own oldest
datagram. When many sources together fill it, one with more than its fair share loses its own, else the oldest of all goes: a
datagram that will ever be whole is so within a round trip, so what has waited longest is what is never completed.
"""

from typing import Final, NamedTuple

from kracauer.errors import Dropped, DropReason
from kracauer.translate.assembly import Assembly, Datagram, Piece, parse_piece_v4, parse_piece_v6
from kracauer.wire import ipv4, ipv6
from kracauer.wire.buffer import Buffer

__all__ = ["Datagram", "Expired", "Reassembler"]

# Within the bounds of RFC 6146 §4 (at least 2 s), and RFC 791 §3.2's own first setting. Deviation: RFC 8200 §4.5 gives up after
# 60 s; a translator that waits as long holds more for a flood and joins IPv4 fragments to those of a reused identification
# (RFC 4963 §2), while the sender's TCP has long retransmitted.
TIMEOUT_S: Final = 15.0
MAX_DATAGRAMS: Final = 1024
MAX_BYTES: Final = 4 << 20
_SOURCE_SHARE: Final = 8

# What the interpreter takes for a datagram without a piece and for a piece without its data, rounded up; a test holds them to
# the truth.
DATAGRAM_OVERHEAD: Final = 2048
PIECE_OVERHEAD: Final = 160
_SMALLEST_BYTES: Final = _SOURCE_SHARE << 17  # an eighth of it holds one datagram of any size in as many pieces as are allowed


class Expired(NamedTuple):
    """A datagram whose time was over; `first_fragment` is that packet if it was there, as whole as it came.

    Only then may a Time Exceeded be sent, and that is what it quotes (RFC 792, RFC 8200 §4.5).
    """

    first_fragment: bytes | None


class _Source:
    """What one address has under way, oldest first."""

    __slots__ = ("entries", "held_bytes")

    def __init__(self) -> None:
        self.entries: dict[bytes, _Entry] = {}
        self.held_bytes = 0


class _Entry:
    """A datagram in the table, or for the rest of its time just why it was given up, for its later fragments (RFC 5722 §4)."""

    __slots__ = ("address", "assembly", "deadline", "given_up", "held_bytes", "key")

    def __init__(self, key: bytes, address: bytes, deadline: float) -> None:
        self.key = key
        self.address = address
        self.deadline = deadline
        self.assembly = Assembly()
        self.given_up: DropReason | None = None
        self.held_bytes = 0


class Reassembler:
    """Makes datagrams of fragments, for both families; two of them keep a flood of one family from costing the other.

    `max_bytes` counts the interpreter's overhead too; raises ValueError when it is less than 1 MiB. The clock of `now` must not
    go back.
    """

    def __init__(self, *, max_datagrams: int = MAX_DATAGRAMS, max_bytes: int = MAX_BYTES, timeout_s: float = TIMEOUT_S) -> None:
        if max_bytes < _SMALLEST_BYTES:
            raise ValueError(f"reassembly takes at least {_SMALLEST_BYTES} bytes")
        self._max_datagrams = max_datagrams
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._max_source_datagrams = max(max_datagrams // _SOURCE_SHARE, 1)
        self._max_source_bytes = max_bytes // _SOURCE_SHARE
        # Every entry waits equally long, so the order of insertion is the order of deadlines.
        self._entries: dict[bytes, _Entry] = {}
        self._sources: dict[bytes, _Source] = {}
        self._evicted = 0
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add_v4(self, packet: Buffer, now: float) -> Datagram | None:
        """Take in an IPv4 packet that may be a fragment, and copy what is kept; returns the datagram if it is now complete.

        Raises ParseError for a malformed packet, Dropped with the reason for one that cannot be used.
        """
        packet = bytes(packet)
        piece = parse_piece_v4(packet)
        if piece is None:
            header = ipv4.parse(packet)
            return Datagram(packet[: header.total_length], header.identification, header.total_length, header.dont_fragment)
        return self._add(piece, piece.header.src, now)

    def add_v6(self, packet: Buffer, now: float) -> Datagram | None:
        """Take in a whole IPv6 packet that may be a fragment, as `add_v4`.

        A packet that is its own only fragment is returned at once, Fragment header and all, and never joined to others
        (RFC 6946 §4).
        """
        packet = bytes(packet)
        piece = parse_piece_v6(packet)
        if piece is None:
            header = ipv6.parse(packet)
            length = ipv6.LENGTH + header.payload_length
            fragment = ipv6.find_upper_layer(packet, header).fragment
            return Datagram(packet[:length], fragment.identification if fragment else 0, length, dont_fragment=False)
        return self._add(piece, piece.header.src, now)

    def expire(self, now: float) -> list[Expired]:
        """Forget what has been waiting too long at `now`; returns it, but not what was given up before for another reason."""
        expired = []
        while self._entries:
            entry = next(iter(self._entries.values()))
            if entry.deadline > now:
                break
            self._remove(entry)
            if entry.given_up is None:
                first = entry.assembly.first
                expired.append(Expired(None if first is None else first.headers + first.data))
        return expired

    def next_deadline(self) -> float | None:
        """When `expire` is next to be called, on the clock of `now`; None when nothing is waiting."""
        return next(iter(self._entries.values())).deadline if self._entries else None

    def take_evicted(self) -> int:
        """Return how many datagrams have had to give way to newer ones since this was last asked."""
        evicted, self._evicted = self._evicted, 0
        return evicted

    def _add(self, piece: Piece, address: bytes, now: float) -> Datagram | None:
        entry = self._entries.get(piece.key)
        if entry is not None and entry.deadline <= now:
            # Its time is over though nobody has called `expire` yet: this fragment is another datagram's (RFC 4963 §2).
            self._remove(entry)
            entry = None
        if entry is None:
            entry = self._open(piece.key, address, now)
        if entry.given_up is not None:
            raise Dropped(entry.given_up, "a fragment of a datagram that was given up")
        try:
            if entry.assembly.add(piece):
                self._charge(entry, len(piece.data) + PIECE_OVERHEAD)
            if not entry.assembly.is_complete:
                return None
            datagram = entry.assembly.build()
        except Dropped as dropped:
            self._give_up(entry, dropped.reason)
            raise
        self._remove(entry)
        return datagram

    def _open(self, key: bytes, address: bytes, now: float) -> _Entry:
        source = self._sources.get(address)
        if source is not None and len(source.entries) >= self._max_source_datagrams:
            self._evict(next(iter(source.entries.values())))
        elif len(self._entries) >= self._max_datagrams:
            is_greedy = source is not None and len(source.entries) * len(self._sources) > len(self._entries)
            victims = source.entries if source is not None and is_greedy else self._entries
            self._evict(next(iter(victims.values())))
        entry = _Entry(key, address, now + self._timeout_s)
        self._entries[key] = entry
        self._sources.setdefault(address, _Source()).entries[key] = entry
        self._charge(entry, DATAGRAM_OVERHEAD + len(key) + len(address))
        return entry

    def _charge(self, entry: _Entry, cost: int) -> None:
        """Count `cost` bytes for `entry`, after making room for them at the expense of others; one datagram always has room."""
        source = self._sources[entry.address]
        while source.held_bytes + cost > self._max_source_bytes:
            self._evict(_oldest_other(source.entries, entry))
        while self.held_bytes + cost > self._max_bytes:
            is_greedy = source.held_bytes * len(self._sources) > self.held_bytes and len(source.entries) > 1
            self._evict(_oldest_other(source.entries if is_greedy else self._entries, entry))
        entry.held_bytes += cost
        source.held_bytes += cost
        self.held_bytes += cost

    def _give_up(self, entry: _Entry, reason: DropReason) -> None:
        """Let go of a datagram's pieces, but remember it until its time is over."""
        entry.assembly = Assembly()
        entry.given_up = reason
        freed = entry.held_bytes - DATAGRAM_OVERHEAD - len(entry.key) - len(entry.address)
        entry.held_bytes -= freed
        self._sources[entry.address].held_bytes -= freed
        self.held_bytes -= freed

    def _evict(self, entry: _Entry) -> None:
        self._remove(entry)
        if entry.given_up is None:
            self._evicted += 1

    def _remove(self, entry: _Entry) -> None:
        source = self._sources[entry.address]
        del self._entries[entry.key]
        del source.entries[entry.key]
        source.held_bytes -= entry.held_bytes
        self.held_bytes -= entry.held_bytes
        if not source.entries:
            del self._sources[entry.address]


def _oldest_other(entries: dict[bytes, _Entry], entry: _Entry) -> _Entry:
    """Return the oldest of `entries` that is not `entry`; there is one whenever the bounds are exceeded."""
    return next(other for other in entries.values() if other is not entry)
