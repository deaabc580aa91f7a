"""Held bytes the obvious way: a dictionary from offset to byte, in which the first to come stays."""

from kracauer.tcp.held import MAX_GAPS, Arrival

WRAP = 2**32


class HeldTwin:
    """What `HeldStream` is held to; offsets may be negative, for bytes before the stream's start."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes: dict[int, int] = {}
        self.fin: int | None = None
        self.latest: int | None = None  # some offset in the block that the last out-of-order segment lies in

    @property
    def contiguous(self) -> bytes:
        """What is there from offset 0 to the first gap."""
        length = next(offset for offset in range(len(self.bytes) + 1) if offset not in self.bytes)
        return bytes(self.bytes[offset] for offset in range(length))

    @property
    def has_ended(self) -> bool:
        """Whether the FIN and all before it are there."""
        return self.fin == len(self.contiguous)

    def add(self, offset: int, payload: bytes, *, has_fin: bool) -> Arrival:
        """Take in a segment; returns what it brought."""
        if not payload and not has_fin:
            return Arrival.NOTHING
        begins_behind_a_gap = offset > len(self.contiguous)
        if self.fin is not None and offset + len(payload) > self.fin:
            # Nothing comes behind a FIN; what claims to is a repeat at best.
            payload = payload[: max(self.fin - offset, 0)]
            offset = min(offset, self.fin - len(payload))
        before, end = len(self.contiguous), offset + len(payload)
        if end > self.limit_bytes:
            if offset >= self.limit_bytes:
                return Arrival.BEYOND
            has_fin = False
        if begins_behind_a_gap and len(self.gapped()) >= MAX_GAPS:
            return Arrival.BEYOND
        fresh = {at: byte for at, byte in enumerate(payload, offset) if 0 <= at < self.limit_bytes and at not in self.bytes}
        self.bytes |= fresh
        is_new_fin = has_fin and self.fin is None and end >= before
        if is_new_fin:
            self.fin = end
        after = len(self.contiguous)
        in_window = [at for at in range(max(offset, 0), min(end, self.limit_bytes)) if at >= before]
        if in_window and in_window[0] >= after:
            self.latest = in_window[0]
        if after > before or (is_new_fin and self.has_ended):
            return Arrival.IN_ORDER
        return Arrival.OUT_OF_ORDER if fresh or is_new_fin else Arrival.REPEATED

    def blocks(self) -> list[tuple[int, bytes]]:
        """Every run of bytes, as (offset, bytes) in order."""
        runs: list[tuple[int, bytearray]] = []
        for offset in sorted(self.bytes):
            if not runs or runs[-1][0] + len(runs[-1][1]) != offset:
                runs.append((offset, bytearray()))
            runs[-1][1].append(self.bytes[offset])
        return [(offset, bytes(run)) for offset, run in runs]

    def gapped(self) -> list[tuple[int, int]]:
        """The runs behind a gap as (first, past the last) offsets, the one that grew last in front, the others in order."""
        runs = [(offset, offset + len(run)) for offset, run in self.blocks() if offset != 0]
        latest = self.latest
        return sorted(runs, key=lambda run: (latest is None or not run[0] <= latest < run[1], run))
