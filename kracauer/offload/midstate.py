"""The state of a keyed BLAKE2b once it has taken in its key (RFC 7693 §3.2, §3.3): from there a digest is one block away.

`hashlib` has no way to ask for it.
"""

import struct
from collections.abc import Sequence
from typing import Final

BLOCK_BYTES: Final = 128

_MASK: Final = 0xFFFFFFFFFFFFFFFF
_BLOCK: Final = struct.Struct("<16Q")
_STATE: Final = struct.Struct("<8Q")
_ROUNDS: Final = 12
_START: Final = (
    0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
    0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
)  # fmt: skip
# By round, and from the eleventh on anew: which word of the message comes in which place.
_SCHEDULE: Final = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3),
    (11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4),
    (7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8),
    (9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13),
    (2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9),
    (12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11),
    (13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10),
    (6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5),
    (10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0),
)
# Columns, then diagonals.
_LANES: Final = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip


def keyed_state(key: bytes, digest_size: int) -> tuple[int, ...]:
    """The eight words of the state behind the block that holds `key`, of a hash of `digest_size` bytes."""
    start = (_START[0] ^ 0x01010000 ^ len(key) << 8 ^ digest_size, *_START[1:])
    return compress(start, key.ljust(BLOCK_BYTES, b"\0"), BLOCK_BYTES, is_last=False)


def finish(state: Sequence[int], data: bytes) -> bytes:
    """The 64 bytes of the digest of `data`, one block of it at most, by a `keyed_state`."""
    return _STATE.pack(*compress(state, data.ljust(BLOCK_BYTES, b"\0"), BLOCK_BYTES + len(data), is_last=True))


def compress(state: Sequence[int], block: bytes, count: int, *, is_last: bool) -> tuple[int, ...]:
    """The state once it has taken in `block`, up to the end of which the hash has been given `count` bytes."""
    words = _BLOCK.unpack(block)
    v = [*state, *_START]
    v[12] ^= count
    if is_last:
        v[14] ^= _MASK
    for number in range(_ROUNDS):
        schedule = _SCHEDULE[number % len(_SCHEDULE)]
        for (a, b, c, d), first, second in zip(_LANES, schedule[::2], schedule[1::2], strict=True):
            for word, turn_d, turn_b in ((words[first], 32, 24), (words[second], 16, 63)):
                v[a] = v[a] + v[b] + word & _MASK
                v[d] = _rotate(v[d] ^ v[a], turn_d)
                v[c] = v[c] + v[d] & _MASK
                v[b] = _rotate(v[b] ^ v[c], turn_b)
    return tuple(before ^ low ^ high for before, low, high in zip(state, v[:8], v[8:], strict=True))


def _rotate(number: int, bits: int) -> int:
    return number >> bits | number << 64 - bits & _MASK
