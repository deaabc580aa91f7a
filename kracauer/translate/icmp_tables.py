"""ICMP types, codes, pointers and MTUs of one family in the other's terms (RFC 7915 §4.2, §5.2, RFC 1191 §7, RFC 8201 §4).

What has no entry is dropped in silence, as RFC 7915 asks for every type and code that it does not name.
"""

from typing import Final, NamedTuple

from kracauer.errors import DropReason, Untranslatable
from kracauer.wire import icmpv4, icmpv6, ipv6

HEADER_DIFFERENCE: Final = 20  # an IPv6 header is so much longer than an IPv4 header


class Verdict(NamedTuple):
    """Type, code and second word of the translated message; the word without RFC 4884's length attribute."""

    type: int
    code: int
    rest: int


class LinkMtus(NamedTuple):
    """The MTUs of the next hops on both sides of the translator."""

    v4: int
    v6: int


# RFC 7915 §4.2: the codes of Destination Unreachable that stay one; 2 and 4 become other types, 14 is dropped.
_UNREACHABLE_TO_V6: Final = {
    **dict.fromkeys((0, 1, 5, 6, 7, 8, 11, 12), icmpv6.NO_ROUTE),
    **dict.fromkeys((9, 10, 13, 15), icmpv6.ADMINISTRATIVELY_PROHIBITED),
    3: icmpv6.PORT_UNREACHABLE,
}
# RFC 7915 §5.2; codes 5 and 6 of RFC 4443 are not listed there and so are dropped.
_UNREACHABLE_TO_V4: Final = {
    icmpv6.NO_ROUTE: icmpv4.HOST_UNREACHABLE,
    icmpv6.ADMINISTRATIVELY_PROHIBITED: icmpv4.HOST_PROHIBITED,
    icmpv6.BEYOND_SCOPE: icmpv4.HOST_UNREACHABLE,
    icmpv6.ADDRESS_UNREACHABLE: icmpv4.HOST_UNREACHABLE,
    icmpv6.PORT_UNREACHABLE: icmpv4.PORT_UNREACHABLE,
}
# RFC 7915 §4.2, Figure 3. Identification, flags, fragment offset, checksum and options have no counterpart.
_POINTER_TO_V6: Final = {
    0: 0,
    1: 1,
    **dict.fromkeys((2, 3), 4),
    8: 7,
    9: 6,
    **dict.fromkeys(range(12, 16), 8),
    **dict.fromkeys(range(16, 20), 24),
}
# RFC 7915 §5.2, Figure 6. The flow label has no counterpart.
_POINTER_TO_V4: Final = {
    0: 0,
    1: 1,
    **dict.fromkeys((4, 5), 2),
    6: 9,
    7: 8,
    **dict.fromkeys(range(8, 24), 12),
    **dict.fromkeys(range(24, 40), 16),
}
_NEXT_HEADER_POINTER: Final = 6
_BAD_LENGTH: Final = 2

# RFC 1191 §7, greatest first.
_PLATEAUS: Final = (65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)


def v4_to_v6(kind: int, code: int, rest: int, quoted_total_length: int, mtus: LinkMtus) -> Verdict:
    """Return what an ICMPv4 error is in ICMPv6; raises Untranslatable where it is nothing."""
    if kind == icmpv4.DESTINATION_UNREACHABLE:
        if code == icmpv4.FRAGMENTATION_NEEDED:
            path_mtu = path_mtu_v4(rest, quoted_total_length)
            return Verdict(icmpv6.PACKET_TOO_BIG, 0, packet_too_big_mtu(path_mtu, mtus))
        if code == icmpv4.PROTOCOL_UNREACHABLE:
            return Verdict(icmpv6.PARAMETER_PROBLEM, icmpv6.UNRECOGNIZED_NEXT_HEADER, _NEXT_HEADER_POINTER)
        if code in _UNREACHABLE_TO_V6:
            return Verdict(icmpv6.DESTINATION_UNREACHABLE, _UNREACHABLE_TO_V6[code], 0)
    elif kind == icmpv4.TIME_EXCEEDED:
        return Verdict(icmpv6.TIME_EXCEEDED, code, 0)
    elif kind == icmpv4.PARAMETER_PROBLEM and code in (0, _BAD_LENGTH):
        pointer = _POINTER_TO_V6.get(rest >> 24)
        if pointer is not None:
            return Verdict(icmpv6.PARAMETER_PROBLEM, icmpv6.ERRONEOUS_HEADER_FIELD, pointer)
    raise Untranslatable(DropReason.UNTRANSLATABLE_ICMP, f"ICMP type {kind} code {code}")


def v6_to_v4(kind: int, code: int, rest: int, mtus: LinkMtus) -> Verdict:
    """Return what an ICMPv6 error is in ICMPv4; raises Untranslatable where it is nothing."""
    if kind == icmpv6.DESTINATION_UNREACHABLE and code in _UNREACHABLE_TO_V4:
        return Verdict(icmpv4.DESTINATION_UNREACHABLE, _UNREACHABLE_TO_V4[code], 0)
    if kind == icmpv6.PACKET_TOO_BIG:
        # The code is to be ignored by its receivers (RFC 4443 §3.2).
        mtu = fragmentation_needed_mtu(rest, mtus)
        return Verdict(icmpv4.DESTINATION_UNREACHABLE, icmpv4.FRAGMENTATION_NEEDED, mtu)
    if kind == icmpv6.TIME_EXCEEDED:
        return Verdict(icmpv4.TIME_EXCEEDED, code, 0)
    if kind == icmpv6.PARAMETER_PROBLEM:
        if code == icmpv6.UNRECOGNIZED_NEXT_HEADER:
            return Verdict(icmpv4.DESTINATION_UNREACHABLE, icmpv4.PROTOCOL_UNREACHABLE, 0)
        if code == icmpv6.ERRONEOUS_HEADER_FIELD and rest in _POINTER_TO_V4:
            return Verdict(icmpv4.PARAMETER_PROBLEM, 0, _POINTER_TO_V4[rest] << 24)
    raise Untranslatable(DropReason.UNTRANSLATABLE_ICMP, f"ICMPv6 type {kind} code {code}")


def path_mtu_v4(rest: int, quoted_total_length: int) -> int:
    """Return the IPv4 path MTU that a Fragmentation Needed tells: its own, or where it has none the plateau below the packet.

    RFC 1191 §7; RFC 7915 §4.2 asks for a plateau of 1280 or more, which the bound on the translated value comes to.

    Deviation: RFC 1191 §5 takes the header's length off a Total Length that is not below the MTU known so far, because routers
    after 4.2BSD added it. What is known so far is the endpoint's; those routers are gone.
    """
    mtu = rest & 0xFFFF
    return mtu or next((plateau for plateau in _PLATEAUS if plateau < quoted_total_length), _PLATEAUS[-1])


def packet_too_big_mtu(path_mtu: int, mtus: LinkMtus) -> int:
    """Return the MTU for a Packet Too Big when the IPv4 path takes `path_mtu` (RFC 7915 §4.2)."""
    return max(ipv6.MIN_MTU, min(path_mtu + HEADER_DIFFERENCE, mtus.v6, mtus.v4 + HEADER_DIFFERENCE))


def fragmentation_needed_mtu(path_mtu: int, mtus: LinkMtus) -> int:
    """Return the MTU for a Fragmentation Needed when the IPv6 path takes `path_mtu` (RFC 7915 §5.2).

    Deviation: RFC 7915 §5.2 subtracts 20 from any value. No IPv6 path takes less than 1280, whoever says so: RFC 8201 §4 has
    smaller values ignored, and RFC 8021 §2 tells why.
    """
    path_mtu = max(path_mtu, ipv6.MIN_MTU)
    return min(path_mtu - HEADER_DIFFERENCE, mtus.v4, mtus.v6 - HEADER_DIFFERENCE, 0xFFFF)
