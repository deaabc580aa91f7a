"""The Internet checksum (RFC 1071) and its incremental update (RFC 1624 §3).

A one's-complement sum of 16-bit words is the big-endian number modulo 0xFFFF, because 2**16 ≡ 1; Python's integers take that
in one step. Zero and 0xFFFF are the same residue: every checksum here is in its non-negative form, 0 to 0xFFFE, which is what
adding up a packet that is not all zeros gives too.
"""

from typing import Final

from kracauer.wire.buffer import Buffer

MODULUS: Final = 0xFFFF


def word_sum(data: Buffer) -> int:
    """Return the one's-complement sum of `data`'s 16-bit words, 0 to 0xFFFE; an odd last byte is padded with zero."""
    total = int.from_bytes(data, "big")
    return (total << 8 if len(data) & 1 else total) % MODULUS


def checksum(data: Buffer, initial: int = 0) -> int:
    """Return the checksum of `data` (its own checksum field zero) on top of `initial`, a sum of other words."""
    return -(word_sum(data) + initial) % MODULUS


def update(old_checksum: int, removed: int, added: int) -> int:
    """Return the checksum after words that sum to `removed` were replaced by words that sum to `added` (RFC 1624 §3).

    Sums may be of any size: a 32-bit field counts as itself, its halves being congruent to it.
    """
    return (old_checksum + removed - added) % MODULUS


def pseudo_header_sum(src: Buffer, dst: Buffer, protocol: int, length: int) -> int:
    """Return the pseudo-header's sum, of either family (RFC 9293 §3.1, RFC 8200 §8.1); `length` in bytes."""
    return (int.from_bytes(src, "big") + int.from_bytes(dst, "big") + protocol + length) % MODULUS
