"""One flow's segment as each side knows it, and ICMP errors about it, built by scapy and by hand."""

from ipaddress import IPv4Address, IPv6Address
from typing import Final

from packets import sum_words
from scapy_oracle import IP, TCP, IPv6, Raw

CLIENT4: Final = "192.0.2.7"
SERVICE4: Final = "198.51.100.1"
ROUTER4: Final = "203.0.113.9"
MAPPED6: Final = "2001:db8:46::192.0.2.7"
BACKEND6: Final = "2001:db8:1::2"
ROUTER6: Final = "2001:db8:2::1"
CLIENT_PORT: Final = 40000
SERVICE_PORT: Final = 443
BACKEND_PORT: Final = 8443


def packed(address: str) -> bytes:
    return IPv6Address(address).packed if ":" in address else IPv4Address(address).packed


def segment_to_client(*, seq: int, ack: int, payload: bytes = b"", tcp_flags: str = "A", **header: object) -> bytes:
    """What the backend's segment is on the IPv4 side."""
    layers = IP(src=SERVICE4, dst=CLIENT4, **{"flags": "DF", "id": 0} | header) / TCP(
        sport=SERVICE_PORT, dport=CLIENT_PORT, seq=seq % 2**32, ack=ack, flags=tcp_flags
    )
    return bytes(layers / Raw(payload))


def segment_from_backend(*, seq: int, ack: int, payload: bytes = b"", tcp_flags: str = "A", **header: object) -> bytes:
    """What the backend's segment is where it comes from."""
    tcp = TCP(sport=BACKEND_PORT, dport=CLIENT_PORT, seq=seq % 2**32, ack=ack, flags=tcp_flags)
    return bytes(IPv6(src=BACKEND6, dst=MAPPED6, **header) / tcp / Raw(payload))


def segment_from_client(*, seq: int, ack: int, payload: bytes = b"", tcp_flags: str = "A", **header: object) -> bytes:
    """What the client's segment is where it comes from."""
    tcp = TCP(sport=CLIENT_PORT, dport=SERVICE_PORT, seq=seq, ack=ack % 2**32, flags=tcp_flags)
    return bytes(IP(src=CLIENT4, dst=SERVICE4, **header) / tcp / Raw(payload))


def segment_to_backend(*, seq: int, ack: int, payload: bytes = b"", tcp_flags: str = "A", **header: object) -> bytes:
    """What the client's segment is on the IPv6 side."""
    tcp = TCP(sport=CLIENT_PORT, dport=BACKEND_PORT, seq=seq, ack=ack % 2**32, flags=tcp_flags)
    return bytes(IPv6(src=MAPPED6, dst=BACKEND6, **header) / tcp / Raw(payload))


def error_v4(
    kind: int, code: int, body: bytes, *, rest: int = 0, src: str = ROUTER4, dst: str = SERVICE4, **header: object
) -> bytes:
    """An ICMPv4 message, `body` being all behind its first eight bytes."""
    message = bytes((kind, code, 0, 0)) + rest.to_bytes(4, "big") + body
    value = 0xFFFF - sum_words(message)
    message = message[:2] + value.to_bytes(2, "big") + message[4:]
    return bytes(IP(src=src, dst=dst, proto=1, **header) / Raw(message))


def error_v6(
    kind: int, code: int, body: bytes, *, rest: int = 0, src: str = ROUTER6, dst: str = MAPPED6, **header: object
) -> bytes:
    """An ICMPv6 message, `body` being all behind its first eight bytes."""
    message = bytes((kind, code, 0, 0)) + rest.to_bytes(4, "big") + body
    pseudo = packed(src) + packed(dst) + len(message).to_bytes(4, "big") + (58).to_bytes(4, "big")
    message = message[:2] + (0xFFFF - sum_words(pseudo + message)).to_bytes(2, "big") + message[4:]
    return bytes(IPv6(src=src, dst=dst, nh=58, **header) / Raw(message))


def icmp_checksum_holds(packet: bytes) -> bool:
    """Whether the checksum of the ICMP message right behind the IP header is what RFC 792 or RFC 4443 §2.3 says."""
    if packet[0] >> 4 == 4:
        return sum_words(packet[20:]) == 0xFFFF
    pseudo = packet[8:40] + (len(packet) - 40).to_bytes(4, "big") + (58).to_bytes(4, "big")
    return sum_words(pseudo + packet[40:]) == 0xFFFF


def tcp_checksum_holds(packet: bytes) -> bool:
    """Whether a whole packet without options or extension headers has the TCP checksum of RFC 9293 §3.1."""
    start, addresses = (20, packet[12:20]) if packet[0] >> 4 == 4 else (40, packet[8:40])
    pseudo = addresses + (len(packet) - start).to_bytes(4, "big") + (6).to_bytes(4, "big")
    return sum_words(pseudo + packet[start:]) == 0xFFFF
