"""Hostile packets, made ahead of time with right checksums: what can be sent without listening (RFC 4987 §2, RFC 4953 §2).

Each function yields whole IP packets for `kracauer.lab.flood` to send. `random` is the caller's, so that with a seed an attack
can be had again.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Final

from kracauer.replies import Endpoints, build_segment
from kracauer.translate import addresses
from kracauer.wire import icmpv4, icmpv6, ipv4, ipv6, tcp, vnet_hdr
from kracauer.wire.icmpv4 import Icmpv4Message
from kracauer.wire.icmpv6 import Icmpv6Message
from kracauer.wire.ipv4 import IPv4Header
from kracauer.wire.ipv6 import IPv6Header
from kracauer.wire.tcp import TcpOptions

SYN: Final = tcp.SYN
ACK: Final = tcp.ACK
RST: Final = tcp.RST
SYN_ACK: Final = tcp.SYN | tcp.ACK
LOWEST_PORT: Final = 1024
_EIGHT: Final = 8  # fragments begin at multiples of it
_TTL: Final = 60
_UDP: Final = 17
_UDP_HEADER: Final = 8
# Networks that a flood's sources must not be in, by their first byte: those that any kernel drops, and the lab's own
_AVOIDED: Final = frozenset((0, 127, 169, 192, 198, 203, *range(224, 256)))


def random_v4(random: Random) -> bytes:
    """Return an IPv4 address that could be any host's, and is none of the lab's."""
    while (address := random.randbytes(4))[0] in _AVOIDED:
        pass
    return address


def random_v6(random: Random, network: bytes) -> bytes:
    """Return an IPv6 address in the network whose first bytes are `network`."""
    return network + random.randbytes(16 - len(network))


def random_port(random: Random) -> int:
    """Return a port as clients use them."""
    return random.randrange(LOWEST_PORT, 65_536)


def spoofed(random: Random, count: int, service: bytes, port: int) -> Iterator[Endpoints]:
    """Yield the ends of `count` clients that are not there."""
    for _ in range(count):
        yield Endpoints(random_v4(random), service, random_port(random), port)


def syns(random: Random, endpoints: Iterable[Endpoints]) -> Iterator[bytes]:
    """Yield a SYN for each of `endpoints`, with the options that every stack sends."""
    options = tcp.build_options(TcpOptions(mss=1460, window_scale=7, sack_permitted=True, timestamps=(1, 0)))
    for ends in endpoints:
        yield _segment(ends, random.getrandbits(32), 0, SYN, options)


def segments(random: Random, endpoints: Iterable[Endpoints], flags: int, payload: bytes = b"") -> Iterator[bytes]:
    """Yield a segment for each of `endpoints`, its numbers guessed; `endpoints` may be of either family."""
    for ends in endpoints:
        yield _segment(ends, random.getrandbits(32), random.getrandbits(32), flags, payload=payload)


def guesses(random: Random, ends: Endpoints, count: int, payload: bytes = b"") -> Iterator[bytes]:
    """Yield ACKs of one connection that was never opened: one client number, and as many guesses at a cookie."""
    seq = random.getrandbits(32)
    for _ in range(count):
        yield _segment(ends, seq, random.getrandbits(32), ACK, payload=payload)


def injections(
    random: Random, ends: Endpoints, flags: int, outside: Sequence[range], count: int, payload: bytes = b""
) -> Iterator[bytes]:
    """Yield segments into one connection, their sequence numbers anywhere within one of the ranges `outside`."""
    for _ in range(count):
        span = random.choice(outside)
        seq = random.randrange(span.start, span.stop) & 0xFFFFFFFF
        yield _segment(ends, seq, random.getrandbits(32), flags, payload=payload)


def port_scan(random: Random, client: bytes, service: bytes, ports: Iterable[int] = range(1, 65_536)) -> Iterator[bytes]:
    """Yield a SYN from one host to each port, in an order without order."""
    order = list(ports)
    random.shuffle(order)
    return syns(random, (Endpoints(client, service, random_port(random), port) for port in order))


def fragments_v4(
    random: Random, sources: Iterable[bytes], service: bytes, pieces: Sequence[tuple[int, int]]
) -> Iterator[bytes]:
    """Yield, for each of `sources`, the pieces (first byte, length) of a TCP datagram that has more pieces than these."""
    for src in sources:
        identification = random.getrandbits(16)
        for start, length in pieces:
            data = random.randbytes(length)
            header = IPv4Header(
                tos=0,
                total_length=ipv4.MIN_LENGTH + length,
                identification=identification,
                dont_fragment=False,
                more_fragments=True,
                fragment_offset=start // _EIGHT,
                ttl=_TTL,
                protocol=ipv4.PROTOCOL_TCP,
                src=src,
                dst=service,
            )
            yield ipv4.build(header) + data


def fragments_v6(random: Random, sources: Iterable[bytes], mapped: bytes, pieces: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Likewise towards an address in the prefix."""
    for src in sources:
        identification = random.getrandbits(32)
        for start, length in pieces:
            fragment = struct.pack("!BBHI", ipv6.TCP, 0, start | 1, identification)
            header = IPv6Header(0, 0, len(fragment) + length, ipv6.FRAGMENT, _TTL, src, mapped)
            yield ipv6.build(header) + fragment + random.randbytes(length)


def pieces_of(length: int, size: int) -> list[tuple[int, int]]:
    """Return the pieces of `size` bytes, a multiple of eight, that `length` bytes fall into, but for the last one."""
    assert size % _EIGHT == 0
    return [(start, size) for start in range(0, length - size, size)]


def icmp_errors_v4(
    random: Random, sources: Iterable[bytes], quoted: Sequence[Endpoints], kind: int, code: int, rest: int = 0
) -> Iterator[bytes]:
    """Yield an ICMP error from each of `sources` about a segment that one of `quoted` is said to have sent."""
    for src in sources:
        ends = random.choice(quoted)
        quote = _segment(ends, random.getrandbits(32), random.getrandbits(32), ACK)
        message = icmpv4.build(Icmpv4Message(kind, code, rest, quote))
        yield _packet_v4(ipv4.PROTOCOL_ICMP, src, ends.src, message)


def icmp_errors_v6(
    random: Random, sources: Iterable[bytes], quoted: Sequence[Endpoints], kind: int, code: int, rest: int = 0
) -> Iterator[bytes]:
    """Likewise ICMPv6, about segments towards a backend."""
    for src in sources:
        ends = random.choice(quoted)
        quote = _segment(ends, random.getrandbits(32), random.getrandbits(32), ACK)
        message = icmpv6.build(Icmpv6Message(kind, code, rest, quote), src, ends.src)
        yield ipv6.build(IPv6Header(0, 0, len(message), ipv6.ICMPV6, _TTL, src, ends.src)) + message


def datagrams_v4(random: Random, sources: Iterable[bytes], service: bytes, port: int, length: int) -> Iterator[bytes]:
    """Yield a UDP datagram (RFC 768) from each of `sources`, as QUIC's first ones are."""
    for src in sources:
        # A checksum of zero is none
        header = struct.pack("!HHHH", random_port(random), port, _UDP_HEADER + length, 0)
        yield _packet_v4(_UDP, src, service, header + random.randbytes(length))


def pings_v4(sources: Iterable[bytes], service: bytes, length: int = 56) -> Iterator[bytes]:
    """Yield an echo request from each of `sources`."""
    message = icmpv4.build(Icmpv4Message(icmpv4.ECHO_REQUEST, 0, 1, bytes(length)))
    for src in sources:
        yield _packet_v4(ipv4.PROTOCOL_ICMP, src, service, message)


def mapped_clients(random: Random, count: int, prefix: bytes, backend: bytes, port: int) -> Iterator[Endpoints]:
    """Yield the ends of segments from `backend` to `count` clients that it has no connection with."""
    for _ in range(count):
        yield Endpoints(backend, addresses.embed(prefix, random_v4(random)), port, random_port(random))


def _segment(ends: Endpoints, seq: int, ack: int, flags: int, options: bytes = b"", payload: bytes = b"") -> bytes:
    packet = build_segment(ends, seq=seq, ack=ack, flags=flags, window=0xFAF0, options=options, payload=payload)
    return packet[vnet_hdr.LENGTH :]


def _packet_v4(protocol: int, src: bytes, dst: bytes, data: bytes) -> bytes:
    header = IPv4Header(
        tos=0,
        total_length=ipv4.MIN_LENGTH + len(data),
        identification=0,
        dont_fragment=True,
        more_fragments=False,
        fragment_offset=0,
        ttl=_TTL,
        protocol=protocol,
        src=src,
        dst=dst,
    )
    return ipv4.build(header) + data
