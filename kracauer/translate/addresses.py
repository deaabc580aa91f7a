"""IPv4 addresses embedded in a /96 prefix, and addresses that no packet may come from (RFC 6052 §2.2, RFC 1122 §3.2.1.3).

Deviation: RFC 6052 §2.2 has five other prefix lengths. A /96 is the one whose addresses can be read with the eye.
"""

import ipaddress
from typing import Final

PREFIX_BYTES: Final = 12

# Sources a router must not forward from (RFC 1812 §5.3.7): this network, loopback, multicast, class E with the broadcast.
_ILLEGAL_FIRST_BYTES: Final = frozenset((0, 127, *range(224, 256)))
_LINK_LOCAL: Final = bytes((169, 254))  # never forwarded (RFC 3927 §2.7)
_V4_MAPPED: Final = ipaddress.IPv6Address("::ffff:0:0").packed[:PREFIX_BYTES]


def embed(prefix: bytes, address: bytes) -> bytes:
    """Return the IPv6 address (16 bytes) that stands for an IPv4 `address` (4 bytes) in a /96 `prefix` (12 bytes)."""
    return prefix + address


def extract(prefix: bytes, address: bytes) -> bytes | None:
    """Return the IPv4 address embedded in `address`, or None when it lies outside `prefix`."""
    return address[PREFIX_BYTES:] if address[:PREFIX_BYTES] == prefix else None


def is_legal_source_v4(address: bytes) -> bool:
    """Whether an IPv4 packet may come from `address`."""
    return address[0] not in _ILLEGAL_FIRST_BYTES and address[:2] != _LINK_LOCAL


def is_legal_source_v6(address: bytes) -> bool:
    """Whether an IPv6 packet that is to cross a router may come from `address` (RFC 4291 §2.5.2, §2.5.3, §2.5.6, §2.7)."""
    first = address[0]
    if first == 0xFF or (first == 0xFE and address[1] & 0xC0 == 0x80):
        return False
    return not (first == 0 and (address[:15] == bytes(15) or address[:PREFIX_BYTES] == _V4_MAPPED))
