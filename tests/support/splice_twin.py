"""The splice done the obvious way: packets to values, those changed one by one, new packets with checksums from scratch."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kracauer.wire import ipv4, ipv6, tcp, vnet_hdr
from kracauer.wire.ipv4 import IPv4Header
from kracauer.wire.ipv6 import IPv6Header
from kracauer.wire.tcp import TcpHeader
from kracauer.wire.vnet_hdr import NO_OFFLOAD, VnetHeader

TCP = 6
WRAP = 2**32


@dataclass(frozen=True)
class Deltas:
    """What a splice changes, in the words of `kracauer.tcp.splice`."""

    service: bytes
    client: bytes
    mapped: bytes
    backend: bytes
    service_port: int
    backend_port: int
    seq_delta: int = 0
    ts_delta: int = 0
    window_shift_to_backend: int = 0
    window_shift_to_client: int = 0


def loop_sum(data: bytes | bytearray) -> int:
    """The one's-complement sum of 16-bit words, word by word as RFC 1071 §4.1 adds them."""
    if len(data) % 2:
        data += b"\x00"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(src: bytes, dst: bytes, length: int) -> bytes:
    """The pseudo-header of a TCP segment of `length` bytes, of either family (RFC 9293 §3.1, RFC 8200 §8.1)."""
    if len(src) == 4:
        return src + dst + struct.pack("!BBH", 0, TCP, length)
    return src + dst + struct.pack("!I3xB", length, TCP)


def with_tcp_checksum(src: bytes, dst: bytes, segment: bytes, vnet: VnetHeader) -> bytes:
    """`segment` with its checksum: complete, or just the pseudo-header's sum where `vnet` leaves the rest to the hardware."""
    blank = segment[:16] + bytes(2) + segment[18:]
    pseudo = pseudo_header(src, dst, len(segment))
    value = loop_sum(pseudo) if vnet.needs_csum else 0xFFFF - loop_sum(pseudo + blank)
    # 0xFFFF is zero's other form; a complete checksum never takes it, a partial one may.
    return segment[:16] + struct.pack("!H", value % 0xFFFF) + segment[18:]


def tokens(options: bytes) -> Iterator[bytes]:
    """The options one by one; from an End of Option List or an illegal length on, the rest as one token."""
    while options:
        if options[0] == 1:
            size = 1
        elif options[0] == 0 or len(options) < 2 or not 2 <= options[1] <= len(options):
            size = len(options)
        else:
            size = options[1]
        yield options[:size]
        options = options[size:]


def map_words(token: bytes, change: Callable[[int, int], int]) -> bytes:
    """An option with each whole 32-bit word of its value changed; `change` gets the word's index and the word."""
    words = [int.from_bytes(token[at : at + 4], "big") for at in range(2, len(token), 4)]
    return token[:2] + b"".join((change(index, word) % WRAP).to_bytes(4, "big") for index, word in enumerate(words))


def map_options(options: bytes, *, sack: int = 0, tsval: int = 0, tsecr: int = 0) -> bytes:
    """`options` with SACK edges, TSval and TSecr moved by that much; whatever is malformed or unknown stays."""
    changed = b""
    for token in tokens(options):
        is_whole = len(token) >= 2 and token[1] == len(token)
        if is_whole and token[0] == 8 and len(token) == 10:
            changed += map_words(token, lambda index, word: word + (tsecr if index else tsval))
        elif is_whole and token[0] == 5 and len(token) % 8 == 2:
            changed += map_words(token, lambda _, edge: edge + sack)
        else:
            changed += token
    return changed


def shift_window(window: int, shift: int) -> int:
    """A window field in another scale: rounded down, and never more than the field takes."""
    factor: int = 2 ** abs(shift)
    return min(window * factor, 0xFFFF) if shift >= 0 else window // factor


def to_backend(deltas: Deltas, vnet: VnetHeader, packet: bytes) -> tuple[VnetHeader, bytes]:
    """The client's packet as the backend gets it."""
    ip, header, payload = split_v4(packet)
    changed = header._replace(
        src_port=header.src_port,
        dst_port=deltas.backend_port,
        ack=(header.ack - deltas.seq_delta) % WRAP if header.flags & tcp.ACK else header.ack,
        window=shift_window(header.window, deltas.window_shift_to_backend),
        options=map_options(header.options, sack=-deltas.seq_delta, tsecr=-deltas.ts_delta),
    )
    return build_v6(deltas.mapped, deltas.backend, ip.tos, ip.ttl - 1, vnet, changed, payload)


def to_client(deltas: Deltas, vnet: VnetHeader, packet: bytes, identification: int = 0) -> tuple[VnetHeader, bytes]:
    """The backend's packet as the client gets it; `identification` is what it is to have if it may be fragmented."""
    ip, header, payload = split_v6(packet)
    changed = header._replace(
        src_port=deltas.service_port,
        dst_port=header.dst_port,
        seq=(header.seq + deltas.seq_delta) % WRAP,
        window=shift_window(header.window, deltas.window_shift_to_client),
        options=map_options(header.options, tsval=deltas.ts_delta),
    )
    # A super-packet leaves as parts of gso_size bytes: those are what a link may find too big.
    is_big = 20 + changed.length + (vnet.gso_size if vnet.is_super_packet else len(payload)) > 1260
    return build_v4(
        deltas.service,
        deltas.client,
        ip.traffic_class,
        ip.hop_limit - 1,
        vnet,
        changed,
        payload,
        identification=None if is_big else identification,
    )


def with_timestamps(vnet: VnetHeader, packet: bytes, tsval: int, tsecr: int) -> tuple[VnetHeader, bytes]:
    """An IPv4 packet with timestamps behind its other options, of which at most three SACK blocks stay if there is no room."""
    ip, header, payload = split_v4(packet)
    options = header.options
    if len(options) > 28:
        blocks = next((token[2:26] for token in tokens(options) if token[0] == 5), b"")
        options = b"\x01\x01\x05" + bytes([2 + len(blocks)]) + blocks if blocks else b""
    changed = header._replace(options=struct.pack("!BBBBII", 1, 1, 8, 10, tsval, tsecr) + options)
    identification = None if ip.dont_fragment else ip.identification
    return build_v4(ip.src, ip.dst, ip.tos, ip.ttl, vnet, changed, payload, identification=identification)


def split_v4(packet: bytes) -> tuple[IPv4Header, TcpHeader, bytes]:
    """An IPv4 packet as values."""
    ip = ipv4.parse(packet)
    header = tcp.parse(packet, ip.length)
    return ip, header, packet[ip.length + header.length : ip.total_length]


def split_v6(packet: bytes) -> tuple[IPv6Header, TcpHeader, bytes]:
    """An IPv6 packet without extension headers as values."""
    ip = ipv6.parse(packet)
    header = tcp.parse(packet, ipv6.LENGTH)
    return ip, header, packet[ipv6.LENGTH + header.length : ipv6.LENGTH + ip.payload_length]


def build_v4(
    src: bytes,
    dst: bytes,
    tos: int,
    ttl: int,
    vnet: VnetHeader,
    header: TcpHeader,
    payload: bytes,
    *,
    identification: int | None = None,
) -> tuple[VnetHeader, bytes]:
    """An IPv4 packet with the checksums that `vnet` wants, and the vnet header that fits it; with DF for no identification."""
    segment = with_tcp_checksum(src, dst, tcp.build(header) + payload, vnet)
    has_df = identification is None
    ip = IPv4Header(
        tos=tos,
        total_length=20 + len(segment),
        identification=identification or 0,
        dont_fragment=has_df,
        more_fragments=False,
        fragment_offset=0,
        ttl=ttl,
        protocol=TCP,
        src=src,
        dst=dst,
    )
    return adapt_vnet(vnet, 20, header, vnet_hdr.GSO_TCPV4), ipv4.build(ip) + segment


def build_v6(
    src: bytes, dst: bytes, traffic_class: int, hop_limit: int, vnet: VnetHeader, header: TcpHeader, payload: bytes
) -> tuple[VnetHeader, bytes]:
    """The same of IPv6."""
    segment = with_tcp_checksum(src, dst, tcp.build(header) + payload, vnet)
    ip = IPv6Header(traffic_class, 0, len(segment), TCP, hop_limit, src, dst)
    return adapt_vnet(vnet, 40, header, vnet_hdr.GSO_TCPV6), ipv6.build(ip) + segment


def adapt_vnet(vnet: VnetHeader, start: int, header: TcpHeader, gso_type: int) -> VnetHeader:
    """The vnet header of a packet whose TCP header begins at `start`; all zero where nothing is left to the hardware."""
    if not vnet.needs_csum:
        return NO_OFFLOAD
    return VnetHeader(
        vnet_hdr.NEEDS_CSUM,
        gso_type | vnet.gso_type & vnet_hdr.GSO_ECN if vnet.is_super_packet else 0,
        start + header.length,
        vnet.gso_size,
        start,
        16,
    )
