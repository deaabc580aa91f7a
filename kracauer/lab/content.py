"""Bytes that look random and are the same everywhere: both ends of a transfer can tell what should have arrived.

Every block begins with its own number, so that blocks lost, doubled or out of place change the hash.
"""

import functools
import hashlib
import random
from collections.abc import Iterator
from typing import Final

BLOCK: Final = 1 << 18
_FILLING: Final = random.Random("Kracauer").randbytes(BLOCK - 8)


def blocks(length: int) -> Iterator[bytes]:
    """Yield `length` bytes of content in blocks of up to 256 KiB."""
    for number in range(-(-length // BLOCK)):
        block = number.to_bytes(8, "big") + _FILLING
        yield block[: length - number * BLOCK]


def content(length: int) -> bytes:
    """Return `length` bytes of content at once."""
    return b"".join(blocks(length))


@functools.cache
def digest(length: int) -> str:
    """Return the SHA-256 of `length` bytes of content, in hexadecimal."""
    sha256 = hashlib.sha256()
    for block in blocks(length):
        sha256.update(block)
    return sha256.hexdigest()
