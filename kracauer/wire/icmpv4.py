"""ICMP messages of IPv4 (RFC 792, RFC 1191 §4, RFC 4884 §4).

 0                   1                   2                   3
 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
+---------------+---------------+-------------------------------+
|     Type      |     Code      |           Checksum            |
+---------------+---------------+-------------------------------+
| Unused, or pointer |  Length  |  Unused, or next-hop MTU      |   or identifier and sequence number
+---------------+---------------+-------------------------------+
|      internet header and more of the original datagram        |   or data
"""

import struct
from typing import Final, NamedTuple

from kracauer.errors import ParseError
from kracauer.wire.buffer import Buffer
from kracauer.wire.checksum import checksum, word_sum

LENGTH: Final = 8

ECHO_REPLY: Final = 0
DESTINATION_UNREACHABLE: Final = 3
SOURCE_QUENCH: Final = 4
REDIRECT: Final = 5
ECHO_REQUEST: Final = 8
TIME_EXCEEDED: Final = 11
PARAMETER_PROBLEM: Final = 12
TIMESTAMP: Final = 13
TIMESTAMP_REPLY: Final = 14

NET_UNREACHABLE: Final = 0
HOST_UNREACHABLE: Final = 1
PROTOCOL_UNREACHABLE: Final = 2
PORT_UNREACHABLE: Final = 3
FRAGMENTATION_NEEDED: Final = 4
SOURCE_ROUTE_FAILED: Final = 5
HOST_PROHIBITED: Final = 10
COMMUNICATION_PROHIBITED: Final = 13

TTL_EXCEEDED: Final = 0
REASSEMBLY_TIME_EXCEEDED: Final = 1

# Types that carry a quoted datagram. Source Quench and Redirect are obsolete and single-hop, but errors all the same.
ERRORS: Final = frozenset({DESTINATION_UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM})
# Of these, the ones with a length attribute in the second octet of `rest` (RFC 4884 §4.1 to §4.3).
MULTI_PART: Final = frozenset({DESTINATION_UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM})

_LAYOUT: Final = struct.Struct("!BBHI")


class Icmpv4Message(NamedTuple):
    """One message; `rest` is the second 32-bit word, `body` what follows it."""

    type: int
    code: int
    rest: int
    body: bytes

    @property
    def original_length(self) -> int:
        """The length attribute in bytes: how much of `body` is the quoted datagram; 0 where none is given (RFC 4884 §4)."""
        return (self.rest >> 16 & 0xFF) * 4 if self.type in MULTI_PART else 0


def parse(data: Buffer) -> Icmpv4Message:
    """Read a message that is all of `data`; raises ParseError when it is cut short or its checksum does not match."""
    if len(data) < LENGTH:
        raise ParseError(f"ICMP: {len(data)} bytes where a header takes {LENGTH}")
    if word_sum(data):
        raise ParseError("ICMP: checksum does not match")
    kind, code, _, rest = _LAYOUT.unpack_from(data)
    return Icmpv4Message(kind, code, rest, bytes(data[LENGTH:]))


def build(message: Icmpv4Message) -> bytes:
    """The message's bytes with its checksum."""
    head = _LAYOUT.pack(message.type, message.code, 0, message.rest)
    # The header is whole 16-bit words, so the sums of header and body add up (RFC 1071 §2).
    return _LAYOUT.pack(message.type, message.code, checksum(message.body, word_sum(head)), message.rest) + message.body
