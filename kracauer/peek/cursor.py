"""A cursor over the presentation language of TLS: integers and length-prefixed blocks (RFC 8446 §3)."""

from kracauer.errors import ParseError


class Cursor:
    """Reads `data` from the front; every `pull_` checks what is left first and raises ParseError with the field's name."""

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._position = start
        self._end = len(data) if end is None else end

    @property
    def is_at_end(self) -> bool:
        """Nothing is left to pull."""
        return self._position == self._end

    def pull_uint(self, size: int, field: str) -> int:
        """Pull a big-endian integer of `size` bytes."""
        return int.from_bytes(self.pull_bytes(size, field), "big")

    def pull_bytes(self, size: int, field: str) -> bytes:
        """Pull exactly `size` bytes."""
        start = self._position
        if self._end - start < size:
            raise ParseError(f"{field} wants {size} bytes where {self._end - start} are left")
        self._position = start + size
        return self._data[start : self._position]

    def pull_vector(self, length_size: int, field: str) -> bytes:
        """Pull a variable-length vector: its length in `length_size` bytes, then as many bytes."""
        return self.pull_bytes(self.pull_uint(length_size, field), field)

    def pull_block(self, length_size: int, field: str) -> "Cursor":
        """Pull a variable-length vector as a cursor of its own, so that nothing inside can read past its end."""
        return Cursor(self.pull_vector(length_size, field))

    def expect_end(self, field: str) -> None:
        """Raise ParseError unless the block ended where it said."""
        if not self.is_at_end:
            raise ParseError(f"{self._end - self._position} bytes follow the end of {field}")
