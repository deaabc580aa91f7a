"""A super-packet taken apart where its segments have to be handled one by one (virtio 1.2 §5.1.6.4, RFC 3168 §6.1.2)."""

from kracauer.wire import ipv4, tcp, vnet_hdr
from kracauer.wire.buffer import PACKET_START, VNET_START, Buffer, Frame
from kracauer.wire.checksum import checksum, pseudo_header_sum

_FIRST_ONLY = tcp.CWR
_LAST_ONLY = tcp.FIN | tcp.PSH


def segment_v4(frame: Frame) -> list[bytes]:
    """Return the IPv4 TCP packets that the one in `frame` stands for, each with both checksums; a plain packet gives itself.

    The packet must be well-formed, without IP options; raises ParseError otherwise.
    """
    packet = bytes(frame.view[PACKET_START : frame.end])
    vnet = vnet_hdr.parse(frame.buffer, VNET_START)
    ip = ipv4.parse(packet)
    header = tcp.parse(packet, ip.length)
    payload = packet[ip.length + header.length : ip.total_length]
    step = vnet.gso_size if vnet.is_super_packet and vnet.gso_size else max(len(payload), 1)
    if not vnet.needs_csum and step >= len(payload):
        return [packet]
    packets = []
    for index, start in enumerate(range(0, max(len(payload), 1), step)):
        piece = payload[start : start + step]
        flags = header.flags
        if start:
            flags &= ~_FIRST_ONLY
        if start + step < len(payload):
            flags &= ~_LAST_ONLY
        segment = tcp.build(header._replace(seq=(header.seq + start) & 0xFFFFFFFF, flags=flags, checksum=0)) + piece
        segment = _with_checksum(ip.src, ip.dst, segment)
        outer = ip._replace(total_length=ip.length + len(segment), identification=(ip.identification + index) & 0xFFFF)
        packets.append(ipv4.build(outer) + segment)
    return packets


def _with_checksum(src: bytes, dst: bytes, segment: Buffer) -> bytes:
    value = checksum(segment, pseudo_header_sum(src, dst, ipv4.PROTOCOL_TCP, len(segment)))
    at = tcp.CHECKSUM_OFFSET
    return bytes(segment[:at]) + value.to_bytes(2, "big") + bytes(segment[at + 2 :])
