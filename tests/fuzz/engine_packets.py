"""Packets for the engine's fuzz target: quick to build, quick to check; nothing here is the code under test."""

import struct
from typing import Final, NamedTuple

from hellos import bulk, client_hello, http_request

MODULUS: Final = 0xFFFF
PLAIN: Final = bytes(10)  # the vnet header of a packet whose checksums are complete
PREFIX: Final = bytes.fromhex("20010db80046000000000000")
SERVICES: Final = (bytes((198, 51, 100, 1)), bytes((198, 51, 100, 2)))
ROUTER_SOURCES: Final = (bytes((198, 51, 100, 250)), bytes((198, 51, 100, 251)))
BACKENDS: Final = tuple(bytes.fromhex("20010db80001000000000000000000") + bytes((last,)) for last in (2, 3, 0xB))
ROUTER_V4, ROUTER_V6 = bytes((203, 0, 113, 1)), bytes.fromhex("20010db80009000000000000000000ff")

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
FLAGS: Final = (
    *(ACK, PSH | ACK, SYN, SYN | ACK, FIN | ACK, FIN | PSH | ACK, RST, RST | ACK),
    *(SYN | ECE | CWR, SYN | ACK | ECE, URG | ACK, 0, FIN, SYN | FIN, ACK | ECE, ACK | CWR),
)

_TCP: Final = struct.Struct("!HHIIHHHH")
_V4: Final = struct.Struct("!BBHHHBBH4s4s")
_V6: Final = struct.Struct("!IHBB16s16s")
_VNET: Final = struct.Struct("=BBHHHH")
_MORE: Final = bulk(4000)  # what follows a first message


class Ends(NamedTuple):
    """Addresses and ports of a packet."""

    src: bytes
    dst: bytes
    src_port: int
    dst_port: int


class Slot:
    """One client's connection as its two ends would know it; our own numbers are learnt from what the engine sends."""

    def __init__(self, number: int, client: bytes, port: int, service: bytes, service_port: int, stream: bytes) -> None:
        self.to_service = Ends(client, service, port, service_port)
        self.stream = stream + _MORE
        self.hello_bytes = len(stream)
        self.c = 0x1000_0000 + (number << 24) - 3000 * number  # some wrap early, some never
        self.b = 0xFFFF_FF00 + number * 0x0B00_0000 & 0xFFFF_FFFF
        self.s = 0
        self.tsval = 0
        self.client_sent = self.backend_sent = 0
        self.to_client = Ends(BACKENDS[0], PREFIX + client, service_port, port)

    def renew(self) -> None:
        """Have the client begin anew, with other numbers."""
        self.c = self.c + 0x0123_4567 & 0xFFFF_FFFF
        self.client_sent = self.backend_sent = 0


def make_slots() -> list[Slot]:
    """Eight connections: each kind of listener and of hostname, two of one client, two that meet at one backend's port."""
    clients = [bytes((192, 0, 2, last)) for last in (7, 8, 9)]
    www, two = client_hello("www.example.com"), client_hello("two.example.com")
    first, second = SERVICES
    return [
        Slot(0, clients[0], 40000, first, 443, www),
        Slot(1, clients[0], 40001, first, 80, http_request("www.example.com")),
        Slot(2, clients[1], 40002, first, 443, two),
        Slot(3, clients[1], 40003, first, 443, client_hello("unknown.example.net")),
        Slot(4, clients[1], 40004, first, 80, http_request("unknown.example.net", "HEAD")),
        Slot(5, clients[2], 40005, first, 443, client_hello("two.example.com", 3500)),
        Slot(6, clients[2], 40006, first, 80, b"\x16\x03\x01 no request"),
        Slot(7, clients[0], 40000, second, 443, www),
    ]


def make_bystander() -> Slot:
    """A connection that nothing ever addresses."""
    return Slot(8, bytes((203, 0, 113, 200)), 55555, SERVICES[0], 443, client_hello("bystander.example.com"))


def word_sum(data: bytes) -> int:
    total = int.from_bytes(data, "big")
    return (total << 8 if len(data) & 1 else total) % MODULUS


def build_ip(
    src: bytes, dst: bytes, protocol: int, payload: bytes, *, ttl: int = 57, tos: int = 0, fragment: int = 0x4000
) -> bytes:
    """An IP packet of the addresses' family; `fragment` is IPv4's field of that place."""
    if len(src) == 16:
        return _V6.pack(6 << 28 | tos << 20, len(payload), protocol, ttl, src, dst) + payload
    head = _V4.pack(0x45, tos, 20 + len(payload), 7, fragment, ttl, protocol, 0, src, dst)
    value = (-word_sum(head) % MODULUS).to_bytes(2, "big")
    return head[:10] + value + head[12:] + payload


def pseudo_sum(src: bytes, dst: bytes, protocol: int, length: int) -> int:
    return (int.from_bytes(src + dst, "big") + protocol + length) % MODULUS


def build_tcp(
    ends: Ends,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    options: bytes,
    payload: bytes,
    *,
    urgent: int = 0,
    ttl: int = 57,
    tos: int = 0,
    gso_size: int = 0,
    fragment: int = 0x4000,
) -> bytes:
    """A whole packet behind its vnet header; with `gso_size` a super-packet with a partial checksum."""
    src, dst, src_port, dst_port = ends
    offset = 20 + len(options)
    head = _TCP.pack(
        src_port, dst_port, seq & 0xFFFF_FFFF, ack & 0xFFFF_FFFF, offset << 10 | flags, window, 0, urgent if flags & URG else 0
    )
    segment = head + options + payload
    pseudo = pseudo_sum(src, dst, 6, len(segment))
    if gso_size:
        start = 20 if len(src) == 4 else 40
        vnet = _VNET.pack(1, 1 if start == 20 else 4, start + offset, gso_size, start, 16)
        value = pseudo
    else:
        vnet, value = PLAIN, -(word_sum(segment) + pseudo) % MODULUS
    segment = segment[:16] + value.to_bytes(2, "big") + segment[18:]
    return vnet + build_ip(src, dst, 6, segment, ttl=ttl, tos=tos, fragment=fragment)


def build_icmp(src: bytes, dst: bytes, kind: int, code: int, rest: int, body: bytes) -> bytes:
    """A whole ICMP packet of the addresses' family, behind its vnet header."""
    protocol = 1 if len(src) == 4 else 58
    message = struct.pack("!BBHI", kind, code, 0, rest) + body
    pseudo = 0 if protocol == 1 else pseudo_sum(src, dst, protocol, len(message))
    value = -(word_sum(message) + pseudo) % MODULUS
    return PLAIN + build_ip(src, dst, protocol, message[:2] + value.to_bytes(2, "big") + message[4:], ttl=64)


def cut(packet: bytes, size: int) -> list[bytes]:
    """The fragments of a packet (behind a vnet header), of `size` bytes of payload each; or the packet itself."""
    ip, size = packet[10:], max(size & ~7, 8)
    if ip[0] >> 4 == 6:
        start, head = 40, ip[:40]
    else:
        start, head = 20, ip[:20]
    payload = ip[start:]
    if len(payload) <= size:
        return [packet]
    pieces = []
    for at in range(0, len(payload), size):
        piece, more = payload[at : at + size], at + size < len(payload)
        if start == 40:
            extension = struct.pack("!BBHI", head[6], 0, at | more, 99)
            pieces.append(PLAIN + build_ip(head[8:24], head[24:40], 44, extension + piece))
        else:
            pieces.append(
                PLAIN + build_ip(head[12:16], head[16:20], head[9], piece, fragment=at >> 3 | (0x2000 if more else 0))
            )
    return pieces


def repair(packet: bytes) -> bytes:
    """Lengths and checksums made right, as far as there is something to make right: so that a mutation gets past them."""
    vnet, ip = packet[:10], bytearray(packet[10:])
    if len(ip) >= 20 and ip[0] >> 4 == 4:
        start = (ip[0] & 15) * 4
        if not 20 <= start <= len(ip):
            return packet
        ip[2:4] = len(ip).to_bytes(2, "big")
        ip[10:12] = b"\0\0"
        ip[10:12] = (-word_sum(bytes(ip[:start])) % MODULUS).to_bytes(2, "big")
        protocol, addresses = ip[9], bytes(ip[12:20])
    elif len(ip) >= 40 and ip[0] >> 4 == 6:
        start, protocol, addresses = 40, ip[6], bytes(ip[8:40])
        ip[4:6] = (len(ip) - 40).to_bytes(2, "big")
    else:
        return packet
    at = {6: 16, 1: 2, 58: 2}.get(protocol)
    if at is None or start + at + 2 > len(ip) or vnet[0] & 1:
        return vnet + bytes(ip)
    ip[start + at : start + at + 2] = b"\0\0"
    pseudo = 0 if protocol == 1 else (int.from_bytes(addresses, "big") + protocol + len(ip) - start) % MODULUS
    ip[start + at : start + at + 2] = (-(word_sum(bytes(ip[start:])) + pseudo) % MODULUS).to_bytes(2, "big")
    return vnet + bytes(ip)


_EXTENSIONS: Final = frozenset((0, 43, 44, 60))  # of IPv6 (RFC 8200 §4)


def residue(packet: bytes) -> int:
    """By how much a TCP checksum, or the sum that stands for one still to be made, is wrong: 0 where it is right."""
    vnet_flags, ip = packet[0], packet[10:]
    if len(ip) < 40:
        return 0
    if ip[0] >> 4 == 4:
        start, addresses, protocol = (ip[0] & 15) * 4, ip[12:20], ip[9]
    else:
        start, addresses, protocol = 40, ip[8:40], ip[6]
        while protocol in _EXTENSIONS and len(ip) >= start + 8:
            length = 8 if protocol == 44 else (ip[start + 1] + 1) * 8
            protocol, start = ip[start], start + length
    segment = ip[start:]
    pseudo = int.from_bytes(addresses, "big") + protocol + len(segment)
    if vnet_flags & 1:
        return (int.from_bytes(segment[16:18], "big") - pseudo) % MODULUS
    return (word_sum(segment) + pseudo) % MODULUS
