"""The client's first bytes, held until the backend can take them: reassembly in any order (RFC 9293 §3.10.7.4, RFC 2018 §4)."""

from enum import Enum, auto
from typing import Final

from kracauer.tcp import sequence
from kracauer.wire.buffer import Buffer

MAX_SACK_BLOCKS: Final = 3
# No network reorders so much; a client that makes more gaps than this is after our memory and time.
MAX_GAPS: Final = 64


class Arrival(Enum):
    """What a segment brought."""

    NOTHING = auto()  # no payload, no FIN
    IN_ORDER = auto()  # the contiguous bytes grew
    OUT_OF_ORDER = auto()  # new bytes behind a gap
    REPEATED = auto()  # only what was held already, or lies before the start
    BEYOND = auto()  # all of it lies past the limit, or behind one gap too many: not held


class HeldStream:
    """Bytes of the stream that begins at `start` (a sequence number), at most `limit_bytes` of them.

    Where segments overlap, the bytes that came first stay, as a receiver's do.
    """

    __slots__ = ("_fin_offset", "_later", "_latest", "contiguous", "limit_bytes", "start")

    def __init__(self, start: int, limit_bytes: int) -> None:
        self.start = start
        self.limit_bytes = limit_bytes
        self.contiguous = bytearray()
        self._later: list[tuple[int, bytes]] = []  # (offset, bytes): sorted, disjoint, not touching
        self._latest = 0  # offset of the block that grew last: RFC 2018 §4 wants it reported first
        self._fin_offset: int | None = None

    @property
    def next_seq(self) -> int:
        """The sequence number that would continue the contiguous bytes; past the FIN once all before it is here."""
        return sequence.add(self.start, len(self.contiguous) + self.has_ended)

    @property
    def end_seq(self) -> int:
        """The sequence number just past everything that was held, gaps or not."""
        if self._later:
            offset, data = self._later[-1]
            return sequence.add(self.start, offset + len(data))
        return self.next_seq

    @property
    def has_ended(self) -> bool:
        """Whether the client's FIN and every byte before it are here."""
        return self._fin_offset is not None and self._fin_offset == len(self.contiguous)

    @property
    def has_more(self) -> bool:
        """Whether there is more than the contiguous bytes: what lies behind gaps, or a FIN."""
        return bool(self._later) or self._fin_offset is not None

    @property
    def held_bytes(self) -> int:
        """The memory in payload bytes that this stream holds."""
        return len(self.contiguous) + (sum(len(data) for _, data in self._later) if self._later else 0)

    def add(self, seq: int, payload: Buffer, has_fin: bool) -> Arrival:
        """Take a copy of what is new in `payload`, which begins at `seq`, and note the FIN behind it."""
        offset = sequence.distance(self.start, seq)
        end = offset + len(payload)
        if not payload and not has_fin:
            return Arrival.NOTHING
        is_plain = not (has_fin or self._later) and self._fin_offset is None
        if is_plain and offset == len(self.contiguous) and end <= self.limit_bytes:
            self.contiguous += payload
            return Arrival.IN_ORDER
        if self._fin_offset is not None and end > self._fin_offset:
            # Nothing comes behind a FIN (RFC 9293 §3.10.7.4).
            payload, end = payload[: max(self._fin_offset - offset, 0)], self._fin_offset
        if end > self.limit_bytes:
            # The FIN lies past what can be held, so it has not arrived either.
            payload, has_fin, end = payload[: max(self.limit_bytes - offset, 0)], False, self.limit_bytes
            if offset >= self.limit_bytes:
                return Arrival.BEYOND
        if offset > len(self.contiguous) and len(self._later) >= MAX_GAPS:
            return Arrival.BEYOND
        is_new_fin = has_fin and self._fin_offset is None and end >= len(self.contiguous)
        if is_new_fin:
            self._fin_offset = end
        before = len(self.contiguous)
        grew = self._insert(max(offset, 0), payload[max(-offset, 0) :]) if payload and end > before else False
        if len(self.contiguous) > before or (is_new_fin and self.has_ended):
            return Arrival.IN_ORDER
        return Arrival.OUT_OF_ORDER if grew or is_new_fin else Arrival.REPEATED

    def sack_blocks(self) -> tuple[tuple[int, int], ...]:
        """What is held behind gaps, as SACK blocks, the latest first."""
        blocks = sorted(self._later, key=lambda block: block[0] != self._latest)[:MAX_SACK_BLOCKS]
        return tuple(
            (sequence.add(self.start, offset), sequence.add(self.start, offset + len(data))) for offset, data in blocks
        )

    def blocks(self) -> list[tuple[int, bytes]]:
        """Everything held, as (offset, bytes) in order."""
        return ([(0, bytes(self.contiguous))] if self.contiguous else []) + self._later

    def _insert(self, offset: int, payload: Buffer) -> bool:
        """Merge `payload` at `offset`; returns whether any byte was new. Blocks it touches become one."""
        base = len(self.contiguous)
        if offset < base:
            payload, offset = payload[base - offset :], base
        merged, start = bytearray(payload), offset
        kept: list[tuple[int, bytes]] = []
        known = 0
        for at, data in self._later:
            if at + len(data) < start or at > start + len(merged):
                kept.append((at, data))
                continue
            if at < start:
                merged[:0] = data[: start - at]
                start = at
            overlap = data[: max(start + len(merged) - at, 0)]
            merged[at - start : at - start + len(overlap)] = overlap
            merged += data[len(overlap) :]
            known += len(data)
        has_grown = len(merged) > known
        if start == base:
            self.contiguous += merged
        else:
            kept.append((start, bytes(merged)))
            self._latest = start
        self._later = sorted(kept)
        return has_grown
