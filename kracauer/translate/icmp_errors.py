"""ICMP errors about translated segments, carried to the other family (RFC 7915 §4.2, §4.3, §5.2, §5.3, RFC 4884).

Which flow the quoted segment belongs to, `quoted_v4` and `quoted_v6` help to find; what it looked like on the other side is
then the caller's `QuoteMapping`. The result goes to the endpoint that sent the quoted segment.
"""

from typing import Final

from kracauer.errors import DropReason, ParseError, Untranslatable
from kracauer.translate import icmp_tables, quotes, rfc4884
from kracauer.translate.icmp_tables import LinkMtus
from kracauer.translate.quotes import Quoted, QuoteMapping
from kracauer.wire import icmpv4, icmpv6, ipv4, ipv6
from kracauer.wire.icmpv4 import Icmpv4Message
from kracauer.wire.icmpv6 import Icmpv6Message
from kracauer.wire.ipv4 import IPv4Header
from kracauer.wire.ipv6 import FragmentHeader, IPv6Header

__all__ = ["QuoteMapping", "Quoted", "quoted_v4", "quoted_v6", "v4_error_to_v6", "v6_error_to_v4"]

# What any path takes without fragmenting it: RFC 1812 §4.3.2.3 and RFC 4443 §2.4 (c).
MAX_V4: Final = 576
MAX_V6: Final = ipv6.MIN_MTU
_V4_BODY: Final = MAX_V4 - ipv4.MIN_LENGTH - icmpv4.LENGTH
_V6_BODY: Final = MAX_V6 - ipv6.LENGTH - icmpv6.LENGTH
_V4_UNIT, _V6_UNIT = 4, 8  # what the length attributes count in (RFC 4884 §4)


def quoted_v4(packet: bytes) -> Quoted:
    """Return what the ICMPv4 error that is all of `packet` is about.

    Raises ParseError when it is malformed or its checksum does not match, Untranslatable when it is no error, or about
    something other than the beginning of a TCP segment.
    """
    _, message = parse_v4(packet)
    if message.type not in icmpv4.ERRORS:
        raise Untranslatable(DropReason.UNTRANSLATABLE_ICMP, f"ICMP type {message.type}")
    inner = quotes.parse_v4(rfc4884.split(message.body, message.original_length)[0])
    is_too_big = (message.type, message.code) == (icmpv4.DESTINATION_UNREACHABLE, icmpv4.FRAGMENTATION_NEEDED)
    mtu = icmp_tables.path_mtu_v4(message.rest, inner.header.total_length) if is_too_big else None
    return quotes.describe(inner.header, inner.segment, mtu)


def quoted_v6(packet: bytes) -> Quoted:
    """Return what the ICMPv6 error that is all of `packet` is about; raises as `quoted_v4` does."""
    _, _, message = parse_v6(packet)
    if message.type >= icmpv6.FIRST_INFORMATIONAL:
        raise Untranslatable(DropReason.UNTRANSLATABLE_ICMP, f"ICMPv6 type {message.type}")
    inner = quotes.parse_v6(rfc4884.split(message.body, message.original_length)[0])
    mtu = message.rest if message.type == icmpv6.PACKET_TOO_BIG else None
    return quotes.describe(inner.header, inner.segment, mtu)


def v4_error_to_v6(packet: bytes, quote: QuoteMapping, *, src: bytes, dst: bytes, ipv4_mtu: int, ipv6_mtu: int) -> bytes:
    """Return the whole IPv6 packet from `src` to `dst` that tells what the ICMPv4 error in `packet` does.

    Raises ParseError or Untranslatable; the latter also for a spent TTL, which nobody is told of (RFC 1122 §3.2.2).
    """
    header, message = parse_v4(packet)
    _check_hops(header.ttl)
    original, extensions = rfc4884.split(message.body, message.original_length)
    inner = quotes.parse_v4(original)
    mtus = LinkMtus(ipv4_mtu, ipv6_mtu)
    verdict = icmp_tables.v4_to_v6(message.type, message.code, message.rest, inner.header.total_length, mtus)
    if verdict.type not in icmpv6.MULTI_PART:
        # Packet Too Big and Parameter Problem have no place for the length, and so none for extensions (RFC 4884 §4.6).
        extensions = b""
    body, length = rfc4884.join(quotes.translate_v4(inner, quote), extensions, _V6_UNIT, _V6_BODY)
    result = icmpv6.build(Icmpv6Message(verdict.type, verdict.code, verdict.rest | length << 24, body), src, dst)
    return ipv6.build(IPv6Header(header.tos, 0, len(result), ipv6.ICMPV6, header.ttl - 1, src, dst)) + result


def v6_error_to_v4(
    packet: bytes, quote: QuoteMapping, *, src: bytes, dst: bytes, ipv4_mtu: int, ipv6_mtu: int, identification: int
) -> bytes:
    """Return the whole IPv4 packet from `src` to `dst` that tells what the ICMPv6 error in `packet` does.

    `identification` is for a packet that has no Fragment header of its own (RFC 7915 §5.1); raises as `v4_error_to_v6` does.
    """
    header, fragment, message = parse_v6(packet)
    _check_hops(header.hop_limit)
    original, extensions = rfc4884.split(message.body, message.original_length)
    inner = quotes.parse_v6(original)
    verdict = icmp_tables.v6_to_v4(message.type, message.code, message.rest, LinkMtus(ipv4_mtu, ipv6_mtu))
    body, length = rfc4884.join(quotes.translate_v6(inner, quote), extensions, _V4_UNIT, _V4_BODY)
    result = icmpv4.build(Icmpv4Message(verdict.type, verdict.code, verdict.rest | length << 16, body))
    outer = IPv4Header(
        tos=header.traffic_class,
        total_length=ipv4.MIN_LENGTH + len(result),
        identification=(fragment.identification if fragment else identification) & 0xFFFF,
        dont_fragment=False,  # no result is longer than the 1260 bytes up to which RFC 7915 §5.1 leaves DF clear
        more_fragments=False,
        fragment_offset=0,
        ttl=header.hop_limit - 1,
        protocol=ipv4.PROTOCOL_ICMP,
        src=src,
        dst=dst,
    )
    return ipv4.build(outer) + result


def parse_v4(packet: bytes) -> tuple[IPv4Header, Icmpv4Message]:
    """Read a whole IPv4 packet with an ICMP message; raises ParseError, or Untranslatable for a fragment of one."""
    header = ipv4.parse(packet)
    if header.protocol != ipv4.PROTOCOL_ICMP:
        raise ParseError(f"IPv4: protocol {header.protocol} where ICMP is expected")
    if header.is_fragment:
        raise Untranslatable(DropReason.FRAGMENT)
    return header, icmpv4.parse(packet[header.length : header.total_length])


def parse_v6(packet: bytes) -> tuple[IPv6Header, FragmentHeader | None, Icmpv6Message]:
    """Read a whole IPv6 packet with an ICMPv6 message, past its extension headers; raises as `parse_v4` does."""
    header = ipv6.parse(packet)
    upper = ipv6.find_upper_layer(packet, header)
    fragment = upper.fragment
    if fragment is not None and (fragment.more_fragments or fragment.fragment_offset):
        raise Untranslatable(DropReason.FRAGMENT)
    if upper.protocol != ipv6.ICMPV6:
        raise ParseError(f"IPv6: next header {upper.protocol} where ICMPv6 is expected")
    if upper.segments_left:
        raise Untranslatable(DropReason.SOURCE_ROUTE)
    end = ipv6.LENGTH + header.payload_length
    return header, fragment, icmpv6.parse(packet[upper.start : end], header.src, header.dst)


def _check_hops(ttl: int) -> None:
    if ttl < 2:
        raise Untranslatable(DropReason.TTL_EXPIRED)
