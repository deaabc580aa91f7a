"""The option layouts that the program in the kernel walks: whole words, as stacks do send them."""

from typing import Final

_TIMESTAMPS: Final = b"\x01\x01\x08\x0a"
_SACK: Final = b"\x01\x01\x05"
_PADDING: Final = b"\x01\x01\x01\x01"
_BLOCK_BYTES: Final = 8
_SACK_LENGTHS: Final = frozenset(2 + _BLOCK_BYTES * count for count in range(1, 5))


def is_walked(options: bytes) -> bool:
    """Whether `options` are nothing but timestamps and SACK blocks, each behind two NOPs, and four NOPs at a time."""
    at = 0
    while at < len(options):
        word = options[at : at + 4]
        if word == _TIMESTAMPS:
            at += 4 + _BLOCK_BYTES
        elif word[:3] == _SACK and word[3] in _SACK_LENGTHS:
            at += 2 + word[3]
        elif word == _PADDING:
            at += 4
        else:
            return False
    return at == len(options)
