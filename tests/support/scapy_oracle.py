"""scapy's opinion of a packet; it warns of routes it cannot look up, which no test here needs."""

import logging

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)

from scapy.layers.inet import (  # noqa: E402  the logger has to be quiet first
    IP,
    TCP,
    IPOption_LSRR,
    IPOption_NOP,
    IPOption_SSRR,
    in4_chksum,
)
from scapy.layers.inet6 import (  # noqa: E402
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    in6_chksum,
)
from scapy.packet import Raw  # noqa: E402
from scapy.utils import checksum  # noqa: E402

__all__ = [
    "IP",
    "TCP",
    "ICMPv6DestUnreach",
    "ICMPv6EchoRequest",
    "IPOption_LSRR",
    "IPOption_NOP",
    "IPOption_SSRR",
    "IPv6",
    "IPv6ExtHdrDestOpt",
    "IPv6ExtHdrFragment",
    "IPv6ExtHdrHopByHop",
    "IPv6ExtHdrRouting",
    "PadN",
    "Raw",
    "checksum",
    "checksums_hold",
    "dissect",
]


def dissect(packet: bytes) -> "IP | IPv6":
    """`packet` as scapy's layers."""
    return (IP if packet[0] >> 4 == 4 else IPv6)(packet)


def checksums_hold(packet: bytes) -> bool:
    """Whether the IP header's and the TCP segment's checksums are right in scapy's eyes; IP options are not looked for."""
    if packet[0] >> 4 == 4:
        return bool(checksum(packet[:20]) == 0 and in4_chksum(6, IP(packet[:20]), packet[20:]) == 0)
    return bool(in6_chksum(6, IPv6(packet[:40]), packet[40:]) == 0)
