"""scapy's opinion of a packet; it warns of routes it cannot look up, which no test here needs."""

import logging

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)

from scapy.layers.inet import IP, TCP  # noqa: E402  the logger has to be quiet first
from scapy.layers.inet6 import IPv6  # noqa: E402

__all__ = ["IP", "TCP", "IPv6", "checksums_hold", "dissect"]


def dissect(packet: bytes) -> "IP | IPv6":
    """`packet` as scapy's layers."""
    return (IP if packet[0] >> 4 == 4 else IPv6)(packet)


def checksums_hold(packet: bytes) -> bool:
    """Whether the IP header's and the TCP segment's checksums are what scapy computes."""
    layers = dissect(packet)
    if packet[0] >> 4 == 4:
        del layers[IP].chksum
    del layers[TCP].chksum
    return bytes(layers) == packet
