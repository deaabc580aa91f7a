"""Arithmetic on sequence numbers: modulo 2**32, with an order that wraps (RFC 9293 §3.4, RFC 7323 §5.2)."""

from typing import Final

MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


def add(number: int, distance: int) -> int:
    """Return `number` moved by `distance`, which may be negative."""
    return (number + distance) & MASK


def distance(start: int, end: int) -> int:
    """Return how far `end` lies after `start`: −2**31 to 2**31 − 1, negative when it lies before."""
    return ((end - start + _HALF) & MASK) - _HALF
