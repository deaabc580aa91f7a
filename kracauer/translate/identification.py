"""Identification numbers for the IPv4 packets that may still be fragmented on their way (RFC 6864 §4.2, RFC 7915 §5.1).

Deviation: RFC 6864 §4.2 has no number come again within a datagram's lifetime, which would limit all packets of 1260 bytes or
less to some 500 a second. RFC 7915 §5.1 wants DF clear on them; checksums find out the few that are wrongly joined.
"""

from typing import Final

ALL: Final = 0xFFFF
LOWER_HALF: Final = 0x7FFF  # of which a fast path in the kernel uses none: it counts in the other half


class Identifications:
    """A counter up to `last`, and from 0 on again.

    A super-packet takes as many numbers as it has segments: the kernel counts on from its own.
    """

    __slots__ = ("_last", "_next")

    def __init__(self, first: int, last: int = ALL) -> None:
        self._last = last
        self._next = first & last

    def take(self, count: int = 1) -> int:
        """Return the first of `count` numbers in a row."""
        first = self._next
        self._next = (first + count) & self._last
        return first
