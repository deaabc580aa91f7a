"""Which of several workers a packet belongs to: by the client's IPv4 address and port, in whatever it is wrapped.

Both directions of a flow meet in one worker, and so do the ICMP errors about it, by the packet that they quote (RFC 792,
RFC 4443 §3). Fragments have no ports, all but the first: they meet where the address alone leads, and go on from there.
The program in kracauer/offload/steer.bpf.c does the same for packets of the usual shapes.
"""

from typing import Final, NamedTuple

from kracauer.errors import ParseError, Untranslatable
from kracauer.translate import quotes
from kracauer.wire import icmpv4, icmpv6, ipv4, ipv6
from kracauer.wire.buffer import PACKET_START, Buffer, Frame

_NO_PORT: Final = 0
_MASK: Final = 0xFFFFFFFF
_PORT_FACTOR: Final = 0x9E3779B1
_FIRST_FACTOR: Final = 0x85EBCA6B
_SECOND_FACTOR: Final = 0xC2B2AE35
_SHIFT: Final = 15
_FRAGMENTED: Final = ipv4.MORE_FRAGMENTS | ipv4.OFFSET_MASK
_V4_PLAIN: Final = 0x45
_V6_ERRORS_END: Final = 128  # RFC 4443 §2.1


class Share(NamedTuple):
    """What one of several workers has: all of which `worker_of` says that it is of `number` of `workers`."""

    number: int = 0
    workers: int = 1

    def owns(self, client: bytes, port: int) -> bool:
        """Whether packets of the client (4 bytes) with this port are this worker's."""
        return self.workers == 1 or worker_of(client, port, self.workers) == self.number


ALL: Final = Share()


def worker_of(client: bytes, port: int, workers: int) -> int:
    """The number, from 0 on, of the worker that has the flows of this client (4 bytes) from this port."""
    number = (int.from_bytes(client, "big") + port * _PORT_FACTOR) * _FIRST_FACTOR & _MASK
    number = (number ^ number >> _SHIFT) * _SECOND_FACTOR & _MASK
    return number * workers >> 32


def is_plain(frame: Frame) -> bool:
    """Whether the packet is one of the usual shapes in which ports are found at once: TCP without anything before it."""
    buffer = frame.buffer
    if buffer[PACKET_START] == _V4_PLAIN:
        fragment = buffer[PACKET_START + 6] << 8 | buffer[PACKET_START + 7]
        return buffer[PACKET_START + 9] == ipv4.PROTOCOL_TCP and not fragment & _FRAGMENTED
    return buffer[PACKET_START] >> 4 == 6 and buffer[PACKET_START + 6] == ipv6.TCP


def is_fragment(frame: Frame) -> bool:
    """Whether the packet is a fragment, or at least has a Fragment header right behind its own."""
    buffer = frame.buffer
    if buffer[PACKET_START] >> 4 == 4:
        return bool((buffer[PACKET_START + 6] << 8 | buffer[PACKET_START + 7]) & _FRAGMENTED)
    return buffer[PACKET_START] >> 4 == 6 and buffer[PACKET_START + 6] == ipv6.FRAGMENT


def find_worker(packet: Buffer, workers: int) -> int:
    """The worker that `packet` of either family belongs to; 0 where that cannot be told."""
    return _choose(packet, workers, is_first=False)


def find_worker_of_datagram(first_fragment: Buffer, workers: int) -> int:
    """The worker that a datagram belongs to which begins with this fragment; 0 where that cannot be told."""
    return _choose(first_fragment, workers, is_first=True)


def _choose(packet: Buffer, workers: int, *, is_first: bool) -> int:
    try:
        client, port = _find_mapped(packet, is_first) if packet and packet[0] >> 4 == 6 else _find_client(packet, is_first)
    except (ParseError, Untranslatable):
        return 0
    return worker_of(client, port, workers)


def _find_client(packet: Buffer, is_first: bool) -> tuple[bytes, int]:
    header = ipv4.parse(packet)
    rest = packet[header.length : header.total_length]
    if header.is_fragment and not is_first:
        return header.src, _NO_PORT
    if header.protocol == ipv4.PROTOCOL_TCP:
        return header.src, _port(rest, 0)
    if header.protocol == ipv4.PROTOCOL_ICMP and rest and rest[0] in icmpv4.ERRORS:
        inner = quotes.parse_v4(bytes(rest[icmpv4.LENGTH :]))
        return inner.header.dst, _port(inner.segment, 2)
    return header.src, _NO_PORT


def _find_mapped(packet: Buffer, is_first: bool) -> tuple[bytes, int]:
    header = ipv6.parse(packet)
    upper = ipv6.find_upper_layer(packet, header)
    client, rest = header.dst[12:], packet[upper.start : ipv6.LENGTH + header.payload_length]
    if upper.fragment is not None and not is_first:
        return client, _NO_PORT
    if upper.protocol == ipv6.TCP:
        return client, _port(rest, 2)
    if upper.protocol == ipv6.ICMPV6 and rest and rest[0] < _V6_ERRORS_END:
        inner = quotes.parse_v6(bytes(rest[icmpv6.LENGTH :]))
        return inner.header.src[12:], _port(inner.segment, 0)
    return client, _NO_PORT


def _port(segment: Buffer, at: int) -> int:
    if len(segment) < at + 2:
        raise ParseError("ends before its ports")
    return int.from_bytes(segment[at : at + 2], "big")
