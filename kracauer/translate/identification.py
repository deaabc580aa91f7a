"""Identification numbers for the IPv4 packets that may still be fragmented on their way (RFC 6864 §4.2, RFC 7915 §5.1).

Deviation: RFC 6864 §4.2 has no number come again within a datagram's lifetime, which would limit all packets of 1260 bytes or
less to some 500 a second. RFC 7915 §5.1 wants DF clear on them; checksums find out the few that are wrongly joined.
"""


class Identifications:
    """A counter modulo 65,536. A super-packet takes as many numbers as it has segments: the kernel counts on from its own."""

    __slots__ = ("_next",)

    def __init__(self, first: int) -> None:
        self._next = first & 0xFFFF

    def take(self, count: int = 1) -> int:
        """Return the first of `count` numbers in a row."""
        first = self._next
        self._next = (first + count) & 0xFFFF
        return first
