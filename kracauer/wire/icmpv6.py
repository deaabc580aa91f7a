"""ICMPv6 messages (RFC 4443 §2.1, §3, §4, RFC 4884 §4).

 0                   1                   2                   3
 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
+---------------+---------------+-------------------------------+
|     Type      |     Code      |           Checksum            |
+---------------+---------------+-------------------------------+
|    Length and unused, MTU, pointer, identifier and sequence   |
+---------------------------------------------------------------+
|          as much of the invoking packet as fits, or data      |
"""

import struct
from typing import Final, NamedTuple

from kracauer.errors import ParseError
from kracauer.wire.buffer import Buffer
from kracauer.wire.checksum import MODULUS, checksum, pseudo_header_sum, word_sum

NEXT_HEADER: Final = 58
LENGTH: Final = 8

DESTINATION_UNREACHABLE: Final = 1
PACKET_TOO_BIG: Final = 2
TIME_EXCEEDED: Final = 3
PARAMETER_PROBLEM: Final = 4
FIRST_INFORMATIONAL: Final = 128  # below it, errors (RFC 4443 §2.1)
ECHO_REQUEST: Final = 128
ECHO_REPLY: Final = 129
REDIRECT: Final = 137

NO_ROUTE: Final = 0
ADMINISTRATIVELY_PROHIBITED: Final = 1
BEYOND_SCOPE: Final = 2
ADDRESS_UNREACHABLE: Final = 3
PORT_UNREACHABLE: Final = 4

HOP_LIMIT_EXCEEDED: Final = 0
REASSEMBLY_TIME_EXCEEDED: Final = 1

ERRONEOUS_HEADER_FIELD: Final = 0
UNRECOGNIZED_NEXT_HEADER: Final = 1
UNRECOGNIZED_OPTION: Final = 2

# The types with a length attribute in the first octet of `rest` (RFC 4884 §4.4, §4.5).
MULTI_PART: Final = frozenset({DESTINATION_UNREACHABLE, TIME_EXCEEDED})

_LAYOUT: Final = struct.Struct("!BBHI")


class Icmpv6Message(NamedTuple):
    """One message; `rest` is the second 32-bit word, `body` what follows it."""

    type: int
    code: int
    rest: int
    body: bytes

    @property
    def original_length(self) -> int:
        """The length attribute in bytes: how much of `body` is the quoted datagram; 0 where none is given (RFC 4884 §4)."""
        return (self.rest >> 24) * 8 if self.type in MULTI_PART else 0


def parse(data: Buffer, src: bytes, dst: bytes) -> Icmpv6Message:
    """Read a message that is all of `data`; raises ParseError when it is cut short or its checksum does not match."""
    if len(data) < LENGTH:
        raise ParseError(f"ICMPv6: {len(data)} bytes where a header takes {LENGTH}")
    if (word_sum(data) + pseudo_header_sum(src, dst, NEXT_HEADER, len(data))) % MODULUS:
        raise ParseError("ICMPv6: checksum does not match")
    kind, code, _, rest = _LAYOUT.unpack_from(data)
    return Icmpv6Message(kind, code, rest, bytes(data[LENGTH:]))


def build(message: Icmpv6Message, src: bytes, dst: bytes) -> bytes:
    """The message's bytes with the checksum that fits these addresses."""
    head = _LAYOUT.pack(message.type, message.code, 0, message.rest)
    pseudo = pseudo_header_sum(src, dst, NEXT_HEADER, LENGTH + len(message.body))
    value = checksum(message.body, word_sum(head) + pseudo)
    return _LAYOUT.pack(message.type, message.code, value, message.rest) + message.body
