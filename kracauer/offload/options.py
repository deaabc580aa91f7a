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


# Those of a SYN: window scale behind a NOP, SACK permitted before two or behind, and timestamps behind either.
_MSS: Final = b"\x02\x04"
_SCALE: Final = b"\x01\x03\x03"
_STAMPED: Final = frozenset((_TIMESTAMPS, b"\x04\x02\x08\x0a"))
_SACK_PERMITTED: Final = frozenset((b"\x01\x01\x04\x02", b"\x04\x02\x01\x01"))
_SACK_AND_END: Final = b"\x04\x02\x00\x00"


def is_walked_syn(options: bytes) -> bool:
    """Whether the options of a SYN are such as stacks send, each where it ends with a word, or begins in its middle."""
    at = 0
    while at < len(options):
        word = options[at : at + 4]
        if word[0] == 0 or word == _SACK_AND_END:
            return True
        if word in _STAMPED:
            at += 4 + _BLOCK_BYTES
        elif word[:2] == _MSS or word[:3] == _SCALE or word in _SACK_PERMITTED or word == _PADDING:
            at += 4
        else:
            return False
    return at == len(options)
