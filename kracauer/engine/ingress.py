"""A frame that needs a second look, taken apart and made plain (RFC 7915 §4.1, §5.1; RFC 1812 §5.2.2)."""

from typing import NamedTuple

from kracauer.errors import Dropped, DropReason, ParseError
from kracauer.replies import Endpoints
from kracauer.translate import addresses
from kracauer.wire import ipv4, ipv6, tcp, vnet_hdr
from kracauer.wire.buffer import PACKET_START, VNET_START, Frame
from kracauer.wire.checksum import MODULUS, pseudo_header_sum, word_sum
from kracauer.wire.tcp import NO_OPTIONS, TcpHeader, TcpOptions
from kracauer.wire.vnet_hdr import VnetHeader


class Segment(NamedTuple):
    """A verified TCP segment; `payload` borrows the frame."""

    endpoints: Endpoints
    header: TcpHeader
    payload: memoryview

    @property
    def options(self) -> TcpOptions:
        """The options, parsed; none where they are malformed: only a SYN's have to be right."""
        try:
            return tcp.parse_options(self.header.options)
        except ParseError:
            return NO_OPTIONS


def parse_v4(frame: Frame) -> Segment:
    """Verify the IPv4 packet in `frame` and strip its IP options; raises Dropped with the reason for what is no TCP segment."""
    packet = frame.view[PACKET_START : frame.end]
    try:
        header = ipv4.parse(packet)
        has_source_route = ipv4.has_unexpired_source_route(header.options)
    except ParseError as error:
        raise Dropped(DropReason.MALFORMED_IPV4, str(error)) from None
    if not addresses.is_legal_source_v4(header.src):
        raise Dropped(DropReason.ILLEGAL_SOURCE)
    if header.is_fragment:
        raise Dropped(DropReason.FRAGMENT)
    if header.protocol != ipv4.PROTOCOL_TCP:
        raise Dropped(DropReason.NOT_TCP, f"protocol {header.protocol}")
    if has_source_route:
        raise Dropped(DropReason.SOURCE_ROUTE)
    if header.ttl < 2:
        raise Dropped(DropReason.TTL_EXPIRED)
    frame.end = PACKET_START + header.total_length
    if header.options:
        # RFC 7915 §4.1: options are not translated, and nothing is told to the sender.
        rest = bytes(packet[header.length : header.total_length])
        plain = header._replace(options=b"", total_length=ipv4.MIN_LENGTH + len(rest))
        _reload(frame, ipv4.build(plain) + rest, header.length, ipv4.MIN_LENGTH)
    return _parse_tcp(frame, header.src, header.dst, ipv4.MIN_LENGTH)


def parse_v6(frame: Frame) -> Segment:
    """Verify the IPv6 packet in `frame` and strip its extension headers; raises Dropped as `parse_v4` does."""
    packet = frame.view[PACKET_START : frame.end]
    try:
        header = ipv6.parse(packet)
        upper = ipv6.find_upper_layer(packet, header)
    except ParseError as error:
        raise Dropped(DropReason.MALFORMED_IPV6, str(error)) from None
    if not addresses.is_legal_source_v6(header.src):
        raise Dropped(DropReason.ILLEGAL_SOURCE)
    # A Fragment header on a whole packet is only ballast (RFC 6946).
    if upper.fragment is not None and (upper.fragment.more_fragments or upper.fragment.fragment_offset):
        raise Dropped(DropReason.FRAGMENT)
    if upper.segments_left:
        raise Dropped(DropReason.SOURCE_ROUTE)
    if upper.protocol != ipv6.TCP:
        raise Dropped(DropReason.NOT_TCP, f"next header {upper.protocol}")
    if header.hop_limit < 2:
        raise Dropped(DropReason.TTL_EXPIRED)
    frame.end = PACKET_START + ipv6.LENGTH + header.payload_length
    if upper.start != ipv6.LENGTH:
        rest = bytes(packet[upper.start : ipv6.LENGTH + header.payload_length])
        plain = header._replace(next_header=ipv6.TCP, payload_length=len(rest))
        _reload(frame, ipv6.build(plain) + rest, upper.start, ipv6.LENGTH)
    return _parse_tcp(frame, header.src, header.dst, ipv6.LENGTH)


def _parse_tcp(frame: Frame, src: bytes, dst: bytes, start: int) -> Segment:
    segment = frame.view[PACKET_START + start : frame.end]
    try:
        header = tcp.parse(segment)
    except ParseError as error:
        raise Dropped(DropReason.MALFORMED_TCP, str(error)) from None
    vnet = vnet_hdr.parse(frame.buffer, VNET_START)
    # With NEEDS_CSUM the sum is still to be made, with DATA_VALID the kernel has checked it.
    if not vnet.flags & (vnet_hdr.NEEDS_CSUM | vnet_hdr.DATA_VALID):
        pseudo = pseudo_header_sum(src, dst, ipv4.PROTOCOL_TCP, len(segment))
        if (word_sum(segment) + pseudo) % MODULUS:
            raise Dropped(DropReason.BAD_CHECKSUM)
    return Segment(Endpoints(src, dst, header.src_port, header.dst_port), header, segment[header.length :])


def _reload(frame: Frame, packet: bytes, old_start: int, new_start: int) -> None:
    """Put `packet` into `frame`, its TCP header moved from `old_start` to `new_start`, the vnet header's offsets with it."""
    vnet = vnet_hdr.parse(frame.buffer, VNET_START)
    moved = old_start - new_start
    if vnet.needs_csum:
        vnet = VnetHeader(
            vnet.flags,
            vnet.gso_type,
            max(vnet.hdr_len - moved, 0),
            vnet.gso_size,
            max(vnet.csum_start - moved, 0),
            vnet.csum_offset,
        )
    frame.load(packet, vnet_hdr.build(vnet))
