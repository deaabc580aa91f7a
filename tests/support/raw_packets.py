"""What `packets` does not build: IPv4 options and fragments, IPv6 extension headers, other protocols; from whole packets."""

import struct

from packets import sum_words
from script import Side


def edit_v4(
    packet: bytes,
    *,
    options: bytes = b"",
    ttl: int | None = None,
    dont_fragment: bool = True,
    identification: int = 7,
) -> bytes:
    """`packet` (IPv4, without options) with another header."""
    head = bytearray(packet[:20]) + options + bytes(-len(options) % 4)
    head[0] = 0x40 | len(head) // 4
    head[2:4] = (len(head) + len(packet) - 20).to_bytes(2, "big")
    head[4:8] = struct.pack("!HH", identification, 0x4000 * dont_fragment)
    if ttl is not None:
        head[8] = ttl
    return _summed(head) + packet[20:]


def extend_v6(packet: bytes, first: int, extensions: bytes, *, hop_limit: int | None = None) -> bytes:
    """`packet` (IPv6, without extension headers) with `extensions`, the first of them of kind `first`."""
    head = bytearray(packet[:40])
    head[4:6] = (len(packet) - 40 + len(extensions)).to_bytes(2, "big")
    head[6] = first
    if hop_limit is not None:
        head[7] = hop_limit
    return bytes(head) + extensions + packet[40:]


def cut_v4(packet: bytes, *starts: int, identification: int = 7, dont_fragment: bool = False) -> list[bytes]:
    """`packet` in fragments that begin at these bytes of what follows its header (whole eights), the first at 0."""
    data = packet[20:]
    fragments = []
    for start, end in zip((0, *starts), (*starts, len(data)), strict=True):
        head = bytearray(packet[:20])
        head[2:4] = (20 + end - start).to_bytes(2, "big")
        field = 0x4000 * dont_fragment | 0x2000 * (end < len(data)) | start // 8
        head[4:8] = struct.pack("!HH", identification, field)
        fragments.append(_summed(head) + data[start:end])
    return fragments


def cut_v6(packet: bytes, *starts: int, identification: int = 0x1234_5678) -> list[bytes]:
    """Likewise of an IPv6 packet without extension headers."""
    data = packet[40:]
    fragments = []
    for start, end in zip((0, *starts), (*starts, len(data)), strict=True):
        header = struct.pack("!BBHI", packet[6], 0, start | (end < len(data)), identification)
        fragments.append(extend_v6(packet[:40] + data[start:end], 44, header))
    return fragments


def join_v4(fragments: list[bytes]) -> bytes:
    """What fragments of one datagram are together; asserts that they are all of it."""
    ordered = sorted(fragments, key=lambda packet: packet[6] << 8 & 0x1F00 | packet[7])
    assert len({(packet[4:6], packet[12:20]) for packet in ordered}) == 1
    data = b""
    for number, packet in enumerate(ordered):
        field = int.from_bytes(packet[6:8], "big")
        assert sum_words(packet[:20]) == 0xFFFF
        assert int.from_bytes(packet[2:4], "big") == len(packet)
        assert (field & 0x1FFF) * 8 == len(data)
        assert bool(field & 0x2000) == (number < len(ordered) - 1)
        data += packet[20:]
    head = bytearray(ordered[0][:20])
    head[2:4] = (20 + len(data)).to_bytes(2, "big")
    head[6:8] = bytes(2)
    return _summed(head) + data


def join_v6(fragments: list[bytes]) -> tuple[bytes, int]:
    """Likewise; returns the whole packet and the identification."""
    pieces = []
    for packet in fragments:
        assert packet[6] == 44
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
        following, _, field, identification = struct.unpack_from("!BBHI", packet, 40)
        pieces.append((field & 0xFFF8, field & 1, packet[48:], following, identification))
    pieces.sort()
    assert len({piece[3:] for piece in pieces}) == 1
    data = b""
    for number, (start, has_more, piece, _, _) in enumerate(pieces):
        assert start == len(data)
        assert bool(has_more) == (number < len(pieces) - 1)
        data += piece
    head = bytearray(fragments[0][:40])
    head[4:6] = len(data).to_bytes(2, "big")
    head[6] = pieces[0][3]
    return bytes(head) + data, pieces[0][4]


def datagram(side: Side, protocol: int, data: bytes, *, ttl: int = 57) -> bytes:
    """An IPv4 or IPv6 packet of any protocol from `side`."""
    if len(side.src) == 16:
        return struct.pack("!IHBB", 6 << 28, len(data), protocol, ttl) + side.src + side.dst + data
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 9, 0, ttl, protocol, 0) + side.src + side.dst
    return _summed(bytearray(head)) + data


def icmp(kind: int, code: int, rest: int, body: bytes) -> bytes:
    """An ICMPv4 message."""
    message = struct.pack("!BBHI", kind, code, 0, rest) + body
    return message[:2] + (0xFFFF - sum_words(message)).to_bytes(2, "big") + message[4:]


def icmp_v6(side: Side, kind: int, code: int, rest: int, body: bytes, *, hop_limit: int = 57) -> bytes:
    """An IPv6 packet with an ICMPv6 message from `side`."""
    message = struct.pack("!BBHI", kind, code, 0, rest) + body
    pseudo = side.src + side.dst + struct.pack("!II", len(message), 58)
    message = message[:2] + (0xFFFF - sum_words(pseudo + message)).to_bytes(2, "big") + message[4:]
    return datagram(side, 58, message, ttl=hop_limit)


def _summed(head: bytearray) -> bytes:
    head[10:12] = bytes(2)
    head[10:12] = (0xFFFF - sum_words(bytes(head))).to_bytes(2, "big")
    return bytes(head)
