"""Packets cut into fragments for a path that takes no longer ones (RFC 791 §3.2, RFC 8200 §4.5, RFC 7915 §4.1)."""

import struct
from typing import Final

from kracauer.wire import ipv4, ipv6

_FRAGMENT_HEADER: Final = struct.Struct("!BBHI")
_MIN_V4_MTU: Final = 68  # RFC 791 §3.2: what every link takes


def fragment_v4(packet: bytes, mtu: int) -> list[bytes]:
    """Return whole packets of at most `mtu` bytes that make up `packet`, under its own identification; it alone if it fits.

    Raises ValueError for a packet that is not to be cut (DF), has options, or is a fragment already, and for an `mtu` below 68.
    """
    if len(packet) <= mtu:
        return [packet]
    header = ipv4.parse(packet)
    if header.dont_fragment or header.options or header.is_fragment or mtu < _MIN_V4_MTU:
        raise ValueError("only whole packets without options or DF are cut, and for links of 68 bytes or more")
    step = (mtu - ipv4.MIN_LENGTH) // 8 * 8
    fragments = []
    for start in range(ipv4.MIN_LENGTH, header.total_length, step):
        end = min(start + step, header.total_length)
        part = header._replace(
            total_length=ipv4.MIN_LENGTH + end - start,
            fragment_offset=(start - ipv4.MIN_LENGTH) // 8,
            more_fragments=end < header.total_length,
        )
        fragments.append(ipv4.build(part) + packet[start:end])
    return fragments


def fragment_v6(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    """Return whole packets of at most `mtu` bytes that make up `packet`, as `fragment_v4`.

    `identification` has 32 bits, of which an IPv4 packet's own fills the lower half (RFC 7915 §4.1). Raises ValueError with
    Hop-by-Hop Options, a Routing or a Fragment header, which belong before the cut, and for an `mtu` below 1280.
    """
    if len(packet) <= mtu:
        return [packet]
    header = ipv6.parse(packet)
    if header.next_header in (ipv6.HOP_BY_HOP, ipv6.ROUTING, ipv6.FRAGMENT) or mtu < ipv6.MIN_MTU:
        raise ValueError("only packets without extension headers are cut, and for links of 1280 bytes or more")
    step = (mtu - ipv6.LENGTH - _FRAGMENT_HEADER.size) // 8 * 8
    total_length = ipv6.LENGTH + header.payload_length
    fragments = []
    for start in range(ipv6.LENGTH, total_length, step):
        end = min(start + step, total_length)
        part = header._replace(payload_length=_FRAGMENT_HEADER.size + end - start, next_header=ipv6.FRAGMENT)
        offset_more = start - ipv6.LENGTH | (end < total_length)
        extension = _FRAGMENT_HEADER.pack(header.next_header, 0, offset_more, identification)
        fragments.append(ipv6.build(part) + extension + packet[start:end])
    return fragments
