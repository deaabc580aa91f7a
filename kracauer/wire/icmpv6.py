"""ICMPv6 messages (RFC 4443 §2.1, §3).

 0                   1                   2                   3
 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
+---------------+---------------+-------------------------------+
|     Type      |     Code      |           Checksum            |
+---------------+---------------+-------------------------------+
|        MTU, pointer, unused, or identifier and sequence       |
+---------------------------------------------------------------+
|          as much of the invoking packet as fits               |
"""

import struct
from typing import Final, NamedTuple

from kracauer.errors import ParseError
from kracauer.wire.buffer import Buffer
from kracauer.wire.checksum import MODULUS, pseudo_header_sum, word_sum

NEXT_HEADER: Final = 58
LENGTH: Final = 8

DESTINATION_UNREACHABLE: Final = 1

_LAYOUT: Final = struct.Struct("!BBHI")


class Icmpv6Message(NamedTuple):
    """One message; `rest` is the second 32-bit word, `body` what follows it."""

    type: int
    code: int
    rest: int
    body: bytes


def parse(data: Buffer, src: bytes, dst: bytes) -> Icmpv6Message:
    """Read a message that is all of `data`; raises ParseError when it is cut short or its checksum does not match."""
    if len(data) < LENGTH:
        raise ParseError(f"ICMPv6: {len(data)} bytes where a header takes {LENGTH}")
    if (word_sum(data) + pseudo_header_sum(src, dst, NEXT_HEADER, len(data))) % MODULUS:
        raise ParseError("ICMPv6: checksum does not match")
    kind, code, _, rest = _LAYOUT.unpack_from(data)
    return Icmpv6Message(kind, code, rest, bytes(data[LENGTH:]))
