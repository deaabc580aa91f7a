"""A frame that needs a second look, taken apart and made plain (RFC 7915 §4.1, §5.1; RFC 1812 §5.2.2)."""

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from kracauer.errors import Dropped, DropReason, IcmpAnswer, ParseError
from kracauer.replies import Endpoints
from kracauer.translate import addresses
from kracauer.translate.fragments import Datagram, Reassembler
from kracauer.wire import icmpv4, icmpv6, ipv4, ipv6, tcp, vnet_hdr
from kracauer.wire.buffer import PACKET_START, VNET_START, Frame
from kracauer.wire.checksum import MODULUS, pseudo_header_sum, word_sum
from kracauer.wire.tcp import NO_OPTIONS, TcpHeader, TcpOptions
from kracauer.wire.vnet_hdr import VnetHeader

_V4_TCP: Final = struct.Struct("!BBH2xHBB2x4s4sHHIIHHHH")
_V6_TCP: Final = struct.Struct("!IHBB16s16sHHIIHHHH")
_V4_TCP_AT: Final = PACKET_START + ipv4.MIN_LENGTH
_V6_TCP_AT: Final = PACKET_START + ipv6.LENGTH
_V4_OPTIONS_AT: Final = _V4_TCP_AT + tcp.MIN_LENGTH
_V6_OPTIONS_AT: Final = _V6_TCP_AT + tcp.MIN_LENGTH
_FRAGMENTED: Final = ipv4.MORE_FRAGMENTS | ipv4.OFFSET_MASK
# With NEEDS_CSUM the sum is still to be made, with DATA_VALID the kernel has checked it.
_CHECKED: Final = vnet_hdr.NEEDS_CSUM | vnet_hdr.DATA_VALID
_PAYLOAD_LENGTH_AT: Final = 4
_SOURCE_ROUTE_FAILED: Final = IcmpAnswer(icmpv4.DESTINATION_UNREACHABLE, icmpv4.SOURCE_ROUTE_FAILED)


class Packet(NamedTuple):
    """A verified IP packet, whole and plain in its frame: the layer above begins `start` bytes into it.

    `identification` is that of the fragments it came in, None where it came in one piece. `dont_fragment` is IPv4's DF, and set
    for every IPv6 packet that came in one piece. `original` is the packet as it was before IP options or extension headers were
    taken out of it, None where there were none: what an ICMP error has to quote.
    """

    src: bytes
    dst: bytes
    protocol: int
    tos: int
    hop_limit: int
    start: int
    dont_fragment: bool
    identification: int | None
    original: bytes | None


class Segment(NamedTuple):
    """A verified TCP segment; `payload` borrows the frame, `size` is the packet's in bytes, of a super-packet one part's."""

    endpoints: Endpoints
    header: TcpHeader
    payload: memoryview
    size: int
    tos: int
    hop_limit: int
    dont_fragment: bool
    identification: int | None

    @property
    def options(self) -> TcpOptions:
        """The options, parsed; none where they are malformed: only a SYN's have to be right."""
        try:
            return tcp.parse_options(self.header.options)
        except ParseError:
            return NO_OPTIONS


def plain_v4(frame: Frame) -> Segment | None:
    """The TCP segment of a plain IPv4 packet, in one go; None for all others and all that is wrong: `take_v4` tells more.

    Plain is what has neither IP options nor is a fragment, and fills its frame.
    """
    buffer, end = frame.buffer, frame.end
    if end < _V4_OPTIONS_AT:
        return None
    (
        version_ihl, tos, total_length, fragment, ttl, protocol, src, dst,
        src_port, dst_port, seq, ack, offset_flags, window, tcp_checksum, urgent,
    ) = _V4_TCP.unpack_from(buffer, PACKET_START)  # fmt: skip
    data_at = _V4_TCP_AT + (offset_flags >> 10 & 0x3C)
    if (
        version_ihl != 0x45
        or protocol != ipv4.PROTOCOL_TCP
        or fragment & _FRAGMENTED
        or total_length != end - PACKET_START
        or not _V4_OPTIONS_AT <= data_at <= end
        or int.from_bytes(buffer[PACKET_START:_V4_TCP_AT], "big") % MODULUS
        or not addresses.is_legal_source_v4(src)
    ):
        return None
    if not buffer[VNET_START] & _CHECKED:
        # The addresses are all of the pseudo-header but the protocol and the length.
        total = int.from_bytes(buffer[PACKET_START + 12 : end], "big")
        if ((total << 8 if end & 1 else total) + ipv4.PROTOCOL_TCP + end - _V4_TCP_AT) % MODULUS:
            return None
    options = bytes(buffer[_V4_OPTIONS_AT:data_at])
    header = TcpHeader(src_port, dst_port, seq, ack, offset_flags & tcp.FLAGS_MASK, window, tcp_checksum, urgent, options)
    size = size_of(buffer, total_length, data_at - PACKET_START)
    endpoints, dont_fragment = Endpoints(src, dst, src_port, dst_port), bool(fragment & ipv4.DONT_FRAGMENT)
    return Segment(endpoints, header, frame.view[data_at:end], size, tos, ttl, dont_fragment, None)


def plain_v6(frame: Frame) -> Segment | None:
    """Likewise of an IPv6 packet without extension headers."""
    buffer, end = frame.buffer, frame.end
    if end < _V6_OPTIONS_AT:
        return None
    (
        version_class_label, payload_length, next_header, hop_limit, src, dst,
        src_port, dst_port, seq, ack, offset_flags, window, tcp_checksum, urgent,
    ) = _V6_TCP.unpack_from(buffer, PACKET_START)  # fmt: skip
    data_at = _V6_TCP_AT + (offset_flags >> 10 & 0x3C)
    if (
        version_class_label >> 28 != 6
        or next_header != ipv6.TCP
        or payload_length != end - _V6_TCP_AT
        or not _V6_OPTIONS_AT <= data_at <= end
        or not addresses.is_legal_source_v6(src)
    ):
        return None
    if not buffer[VNET_START] & _CHECKED:
        total = int.from_bytes(buffer[PACKET_START + 8 : end], "big")
        if ((total << 8 if end & 1 else total) + ipv6.TCP + payload_length) % MODULUS:
            return None
    options = bytes(buffer[_V6_OPTIONS_AT:data_at])
    header = TcpHeader(src_port, dst_port, seq, ack, offset_flags & tcp.FLAGS_MASK, window, tcp_checksum, urgent, options)
    size = size_of(buffer, ipv6.LENGTH + payload_length, data_at - PACKET_START)
    tos = version_class_label >> 20 & 0xFF
    endpoints = Endpoints(src, dst, src_port, dst_port)
    return Segment(endpoints, header, frame.view[data_at:end], size, tos, hop_limit, True, None)  # noqa: FBT003


def size_of(buffer: bytearray, length: int, header_length: int) -> int:
    """The size of a packet of `length` bytes: for a super-packet, that of the parts it stands for."""
    if buffer[VNET_START + 1] & ~vnet_hdr.GSO_ECN:
        return vnet_hdr.parse(buffer, VNET_START).gso_size + header_length
    return length


def take_v4(frame: Frame, reassembler: Reassembler, services: frozenset[bytes], now: float) -> Packet | None:
    """Verify the IPv4 packet in `frame`, strip its options, put it together if it is the last of its fragments.

    Only fragments to one of `services` are worth keeping. Returns None while some are missing; raises Dropped for what may not
    pass.
    """
    packet = frame.view[PACKET_START : frame.end]
    try:
        header = ipv4.parse(packet)
        has_source_route = ipv4.has_unexpired_source_route(header.options)
    except ParseError as error:
        raise Dropped(DropReason.MALFORMED_IPV4, str(error)) from None
    # Deviation: RFC 7915 §4.1 translates ICMP errors from such addresses all the same, to help in finding faults. Routers keep
    # them from getting here (RFC 1812 §5.3.7), and a forger needs no more addresses to choose from.
    if not addresses.is_legal_source_v4(header.src):
        raise Dropped(DropReason.ILLEGAL_SOURCE)
    if has_source_route:
        raise Dropped(DropReason.SOURCE_ROUTE, answer=_SOURCE_ROUTE_FAILED)
    frame.end = PACKET_START + header.total_length
    identification = None
    if header.is_fragment:
        if header.dst not in services:
            raise Dropped(DropReason.NO_LISTENER, "a fragment")
        datagram = _reassemble(reassembler.add_v4, frame, now)
        if datagram is None:
            return None
        frame.load(datagram.packet)
        header, identification = ipv4.parse(frame.view[PACKET_START : frame.end]), datagram.identification
    original = None
    if header.options:
        # RFC 7915 §4.1: options are not translated, and nothing is told to the sender.
        original = bytes(frame.view[PACKET_START : PACKET_START + header.total_length])
        rest = original[header.length :]
        plain = header._replace(options=b"", total_length=ipv4.MIN_LENGTH + len(rest))
        _reload(frame, ipv4.build(plain) + rest, header.length, ipv4.MIN_LENGTH)
    return Packet(
        header.src,
        header.dst,
        header.protocol,
        header.tos,
        header.ttl,
        ipv4.MIN_LENGTH,
        header.dont_fragment and identification is None,
        identification,
        original,
    )


def take_v6(frame: Frame, reassembler: Reassembler, prefix: bytes, now: float) -> Packet | None:
    """Verify the IPv6 packet in `frame` and strip its extension headers; otherwise as `take_v4`, for fragments to `prefix`.

    Deviation: RFC 7915 §5.1.1 translates each fragment alone, and drops those whose Fragment header is followed by another
    extension header. Ports and sequence numbers are in the first one only, so datagrams are put together (RFC 6146 §3.4), and
    then no header is out of reach.
    """
    packet = frame.view[PACKET_START : frame.end]
    try:
        header = ipv6.parse(packet)
        upper = ipv6.find_upper_layer(packet, header)
    except ParseError as error:
        raise Dropped(DropReason.MALFORMED_IPV6, str(error)) from None
    if not addresses.is_legal_source_v6(header.src):
        raise Dropped(DropReason.ILLEGAL_SOURCE)
    if upper.segments_left:
        # RFC 7915 §5.1: not for us to visit the rest of the route.
        answer = IcmpAnswer(icmpv6.PARAMETER_PROBLEM, 0, upper.segments_left_pointer)
        raise Dropped(DropReason.SOURCE_ROUTE, answer=answer)
    frame.end = PACKET_START + ipv6.LENGTH + header.payload_length
    identification = None
    if upper.fragment is not None:
        identification = upper.fragment.identification
        # A Fragment header on a whole packet is only ballast (RFC 6946); it still says that the packet may be fragmented.
        if upper.fragment.more_fragments or upper.fragment.fragment_offset:
            if addresses.extract(prefix, header.dst) is None:
                raise Dropped(DropReason.NO_FLOW, "a fragment")
            length = ipv6.LENGTH + header.payload_length - upper.fragment.start - ipv6.FRAGMENT_LENGTH
            if upper.fragment.more_fragments and length % 8:
                # RFC 8200 §4.5: pointing at the Payload Length, which belies that more is to come.
                answer = IcmpAnswer(icmpv6.PARAMETER_PROBLEM, 0, _PAYLOAD_LENGTH_AT)
                raise Dropped(DropReason.FRAGMENT_INCONSISTENT, f"{length} bytes, not the last", answer)
            datagram = _reassemble(reassembler.add_v6, frame, now)
            if datagram is None:
                return None
            frame.load(datagram.packet)
            packet = frame.view[PACKET_START : frame.end]
            try:
                header = ipv6.parse(packet)
                upper = ipv6.find_upper_layer(packet, header)
            except ParseError as error:
                raise Dropped(DropReason.MALFORMED_IPV6, str(error)) from None
    original = None
    if upper.start != ipv6.LENGTH:
        original = bytes(frame.view[PACKET_START : frame.end])
        rest = original[upper.start :]
        plain = header._replace(next_header=upper.protocol, payload_length=len(rest))
        _reload(frame, ipv6.build(plain) + rest, upper.start, ipv6.LENGTH)
    return Packet(
        header.src,
        header.dst,
        upper.protocol,
        header.traffic_class,
        header.hop_limit,
        ipv6.LENGTH,
        identification is None,
        identification,
        original,
    )


def parse_tcp(frame: Frame, packet: Packet) -> Segment:
    """Take the TCP segment of `packet` in `frame` apart and check its checksum; raises Dropped where it is wrong."""
    data = frame.view[PACKET_START + packet.start : frame.end]
    try:
        header = tcp.parse(data)
    except ParseError as error:
        raise Dropped(DropReason.MALFORMED_TCP, str(error)) from None
    vnet = vnet_hdr.parse(frame.buffer, VNET_START)
    if not vnet.flags & _CHECKED:
        pseudo = pseudo_header_sum(packet.src, packet.dst, ipv4.PROTOCOL_TCP, len(data))
        if (word_sum(data) + pseudo) % MODULUS:
            raise Dropped(DropReason.BAD_CHECKSUM)
    size = vnet.gso_size + header.length if vnet.is_super_packet else len(data)
    return Segment(
        Endpoints(packet.src, packet.dst, header.src_port, header.dst_port),
        header,
        data[header.length :],
        packet.start + size,
        packet.tos,
        packet.hop_limit,
        packet.dont_fragment,
        packet.identification,
    )


def _reassemble(add: Callable[[bytes, float], Datagram | None], frame: Frame, now: float) -> Datagram | None:
    try:
        return add(bytes(frame.view[PACKET_START : frame.end]), now)
    except ParseError as error:
        raise Dropped(DropReason.FRAGMENT_INCONSISTENT, str(error)) from None


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
