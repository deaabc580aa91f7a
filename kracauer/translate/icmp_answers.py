"""ICMP that we originate: errors about packets that go no further, and echo replies (RFC 1812 §4.3.2, RFC 4443 §2.4, §4.2)."""

from typing import Final

from kracauer.errors import ParseError, Untranslatable
from kracauer.translate import addresses, icmp_errors
from kracauer.wire import icmpv4, icmpv6, ipv4, ipv6
from kracauer.wire.icmpv4 import Icmpv4Message
from kracauer.wire.icmpv6 import Icmpv6Message
from kracauer.wire.ipv4 import IPv4Header
from kracauer.wire.ipv6 import IPv6Header

TTL: Final = 64
# Internetwork control, so that an error about a congested path gets through it (RFC 1812 §4.3.2.5).
_ERROR_TOS: Final = 0xC0
_ICMPV4_INFORMATIONAL: Final = frozenset((0, 8, 9, 10, *range(13, 19)))


def build_v4_error(
    kind: int, code: int, rest: int, offending_packet: bytes, src: bytes, dst: bytes, identification: int = 0
) -> bytes:
    """Return a whole IPv4 packet with an error that quotes as much as 576 bytes leave room for (RFC 1812 §4.3.2.3)."""
    body = offending_packet[: icmp_errors.MAX_V4 - ipv4.MIN_LENGTH - icmpv4.LENGTH]
    return _wrap_v4(Icmpv4Message(kind, code, rest, body), _ERROR_TOS, identification, src, dst)


def build_v6_error(kind: int, code: int, rest: int, offending_packet: bytes, src: bytes, dst: bytes) -> bytes:
    """Return a whole IPv6 packet with an error that quotes as much as 1280 bytes leave room for (RFC 4443 §2.4 (c))."""
    body = offending_packet[: icmp_errors.MAX_V6 - ipv6.LENGTH - icmpv6.LENGTH]
    return _wrap_v6(Icmpv6Message(kind, code, rest, body), 0, src, dst)


def may_answer_v4(packet: bytes) -> bool:
    """Whether an error may be sent about `packet`, all of it (RFC 1122 §3.2.2, RFC 1812 §4.3.2.7).

    Never about an error, or what might be one; to or from anything but a single host; about a later fragment; about what
    cannot be read.
    """
    try:
        header = ipv4.parse(packet)
    except ParseError:
        return False
    if header.fragment_offset or not addresses.is_legal_source_v4(header.src) or header.dst[0] >= 224:
        return False
    if header.protocol != ipv4.PROTOCOL_ICMP:
        return True
    return header.length < header.total_length and packet[header.length] in _ICMPV4_INFORMATIONAL


def may_answer_v6(packet: bytes) -> bool:
    """Whether an error may be sent about `packet` (RFC 4443 §2.4 (e)); of a fragmented one, about the first fragment only."""
    try:
        header = ipv6.parse(packet)
        upper = ipv6.find_upper_layer(packet, header)
    except ParseError:
        return False
    if header.dst[0] == 0xFF or not addresses.is_legal_source_v6(header.src):
        return False
    if upper.fragment is not None and upper.fragment.fragment_offset:
        return False
    if upper.protocol != ipv6.ICMPV6:
        return True
    if upper.start >= ipv6.LENGTH + header.payload_length:
        return False
    kind = packet[upper.start]
    return kind >= icmpv6.FIRST_INFORMATIONAL and kind != icmpv6.REDIRECT


def echo_reply_v4(packet: bytes) -> bytes | None:
    """Return the whole IPv4 packet that answers the echo request in `packet`; None when it is none, or not to be answered.

    The identification is the request's own: as unique on the way back as it was on the way here (RFC 6864 §4).

    Deviation: RFC 1122 §3.2.2.6 has the reply take the request's source route back, and keep its other options. Source routes
    are refused by most networks and used by none; the options of a translated packet are not kept either.
    """
    try:
        header, message = icmp_errors.parse_v4(packet)
    except (ParseError, Untranslatable):
        return None
    is_request = (message.type, message.code) == (icmpv4.ECHO_REQUEST, 0)
    if not is_request or not addresses.is_legal_source_v4(header.src) or header.dst[0] >= 224:
        return None
    reply = Icmpv4Message(icmpv4.ECHO_REPLY, 0, message.rest, message.body)
    return _wrap_v4(reply, header.tos, header.identification, header.dst, header.src)


def echo_reply_v6(packet: bytes) -> bytes | None:
    """Return the whole IPv6 packet that answers the echo request in `packet`; None as `echo_reply_v4`."""
    try:
        header, _, message = icmp_errors.parse_v6(packet)
    except (ParseError, Untranslatable):
        return None
    is_request = (message.type, message.code) == (icmpv6.ECHO_REQUEST, 0)
    if not is_request or not addresses.is_legal_source_v6(header.src) or header.dst[0] == 0xFF:
        return None
    reply = Icmpv6Message(icmpv6.ECHO_REPLY, 0, message.rest, message.body)
    return _wrap_v6(reply, header.traffic_class, header.dst, header.src)


def _wrap_v4(message: Icmpv4Message, tos: int, identification: int, src: bytes, dst: bytes) -> bytes:
    data = icmpv4.build(message)
    header = IPv4Header(
        tos=tos,
        total_length=ipv4.MIN_LENGTH + len(data),
        identification=identification & 0xFFFF,
        dont_fragment=False,
        more_fragments=False,
        fragment_offset=0,
        ttl=TTL,
        protocol=ipv4.PROTOCOL_ICMP,
        src=src,
        dst=dst,
    )
    return ipv4.build(header) + data


def _wrap_v6(message: Icmpv6Message, traffic_class: int, src: bytes, dst: bytes) -> bytes:
    data = icmpv6.build(message, src, dst)
    return ipv6.build(IPv6Header(traffic_class, 0, len(data), ipv6.ICMPV6, TTL, src, dst)) + data
