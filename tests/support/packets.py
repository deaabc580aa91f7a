"""Packets for tests, built and taken apart by the obvious way; nothing here is the code under test."""

import struct
from dataclasses import dataclass

FLAGS = {"F": 0x001, "S": 0x002, "R": 0x004, "P": 0x008, "A": 0x010, "U": 0x020, "E": 0x040, "W": 0x080, "N": 0x100}
GSO_TYPES = {4: 1, 6: 4}


@dataclass(frozen=True, slots=True)
class Packet:
    """One TCP packet of either family, with all that a test may want to say about it.

    `options` are tokens: "mss=1460", "ws=7", "sackOK", "ts=1:2", "sack=5-9,20-30", "opt=1e04dead" (hex of the whole).
    `gso_size` is 0 for a packet whose checksum is complete; any other size makes a super-packet with a partial checksum.
    """

    src: bytes
    dst: bytes
    src_port: int
    dst_port: int
    flags: int
    seq: int = 0
    ack: int = 0
    window: int = 1000
    options: tuple[str, ...] = ()
    payload: bytes = b""
    urgent: int = 0
    tos: int = 0
    ttl: int = 57
    gso_size: int = 0

    @property
    def version(self) -> int:
        return 4 if len(self.src) == 4 else 6

    @property
    def is_syn(self) -> bool:
        return bool(self.flags & FLAGS["S"])

    @property
    def is_fin(self) -> bool:
        return bool(self.flags & FLAGS["F"])

    @property
    def is_rst(self) -> bool:
        return bool(self.flags & FLAGS["R"])

    @property
    def is_ack(self) -> bool:
        return bool(self.flags & FLAGS["A"])


def flag_letters(flags: int) -> str:
    return "".join(letter for letter, bit in FLAGS.items() if flags & bit) or "."


def sum_words(data: bytes) -> int:
    """The one's-complement sum of RFC 1071 §4.1, carry by carry."""
    total = 0
    for (word,) in struct.iter_unpack("!H", data + b"\0" * (len(data) % 2)):
        total += word
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def build(packet: Packet) -> tuple[bytes, bytes]:
    """The packet's vnet header and bytes."""
    options = b"".join(_encode_option(token) for token in packet.options)
    offset = 20 + len(options)
    assert offset % 4 == 0
    assert offset <= 60, "the options do not fit"
    header = struct.pack(
        "!HHIIHHHH",
        packet.src_port,
        packet.dst_port,
        packet.seq % 2**32,
        packet.ack % 2**32,
        offset // 4 << 12 | packet.flags,
        packet.window,
        0,
        packet.urgent,
    )
    segment = header + options + packet.payload
    pseudo = _pseudo_sum(packet.src, packet.dst, len(segment))
    value = pseudo if packet.gso_size else 0xFFFF - sum_words(pseudo.to_bytes(2, "big") + segment)
    segment = segment[:16] + value.to_bytes(2, "big") + segment[18:]
    ip = _build_v4(packet, len(segment)) if packet.version == 4 else _build_v6(packet, len(segment))
    vnet = bytes(10)
    if packet.gso_size:
        vnet = struct.pack("=BBHHHH", 1, GSO_TYPES[packet.version], len(ip) + offset, packet.gso_size, len(ip), 16)
    return vnet, ip + segment


def parse(data: bytes) -> Packet:
    """Take apart a vnet header with its packet, and hold every length, checksum and constant in it to the RFCs."""
    vnet, data = struct.unpack("=BBHHHH", data[:10]), data[10:]
    if data[0] >> 4 == 4:
        assert data[0] == 0x45, "IPv4 options"
        tos, length, _, fragment, ttl, protocol = struct.unpack_from("!BHHHBB", data, 1)
        src, dst, start = data[12:16], data[16:20], 20
        assert length == len(data), f"total length {length} of {len(data)}"
        assert sum_words(data[:20]) == 0xFFFF, "IPv4 header checksum"
        assert fragment in (0, 0x4000), f"fragment field {fragment:#06x}"
        # Atomic datagrams need no identification (RFC 6864 §4.1), fragmentable ones do.
        assert fragment == 0x4000 or length <= 1260 or vnet[3], "DF missing"
    else:
        word, length, protocol, ttl = struct.unpack_from("!IHBB", data)
        assert word >> 28 == 6, "version"
        assert word & 0xFFFFF == 0, "flow label"
        tos, src, dst, start = word >> 20 & 0xFF, data[8:24], data[24:40], 40
        assert length == len(data) - 40, f"payload length {length} of {len(data) - 40}"
    assert protocol == 6, f"protocol {protocol}"
    assert ttl in (64, 56), f"TTL or hop limit {ttl}: neither our own nor one less than the peer's"
    segment = data[start:]
    src_port, dst_port, seq, ack, offset_flags, window, checksum, urgent = struct.unpack_from("!HHIIHHHH", segment)
    header_length = offset_flags >> 12 << 2
    assert 20 <= header_length <= len(segment), f"data offset {header_length}"
    pseudo = _pseudo_sum(src, dst, len(segment))
    gso_size = _check_offload(vnet, start, 4 if len(src) == 4 else 6)
    if gso_size:
        assert checksum % 0xFFFF == pseudo % 0xFFFF, "partial TCP checksum"
    else:
        assert vnet == (0, 0, 0, 0, 0, 0), f"vnet header {vnet}"
        assert sum_words(pseudo.to_bytes(2, "big") + segment) == 0xFFFF, "TCP checksum"
    return Packet(
        src=src,
        dst=dst,
        src_port=src_port,
        dst_port=dst_port,
        flags=offset_flags & 0xFFF,
        seq=seq,
        ack=ack,
        window=window,
        options=_decode_options(segment[20:header_length]),
        payload=segment[header_length:],
        urgent=urgent,
        tos=tos,
        ttl=ttl,
        gso_size=gso_size,
    )


def parse_flags(letters: str) -> int:
    return sum(FLAGS[letter] for letter in letters if letter != ".")


def _check_offload(vnet: tuple[int, ...], start: int, version: int) -> int:
    flags, gso_type, _, gso_size, csum_start, csum_offset = vnet
    if not flags:
        return 0
    assert flags == 1, f"vnet flags {flags}"
    assert gso_type == GSO_TYPES[version], f"gso_type {gso_type} on IPv{version}"
    assert (csum_start, csum_offset) == (start, 16), f"checksum at {csum_start} + {csum_offset}"
    return gso_size


def _pseudo_sum(src: bytes, dst: bytes, length: int) -> int:
    return sum_words(src + dst + struct.pack("!IHH", length, 0, 6))


def _build_v4(packet: Packet, length: int) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, packet.tos, 20 + length, 7, 0x4000, packet.ttl, 6, 0) + packet.src + packet.dst
    return head[:10] + (0xFFFF - sum_words(head)).to_bytes(2, "big") + head[12:]


def _build_v6(packet: Packet, length: int) -> bytes:
    return struct.pack("!IHBB", 6 << 28 | packet.tos << 20, length, 6, packet.ttl) + packet.src + packet.dst


def _encode_option(token: str) -> bytes:
    """One option in whole 32-bit words, NOPs first."""
    name, _, value = token.partition("=")
    match name:
        case "mss":
            option = struct.pack("!BBH", 2, 4, int(value))
        case "ws":
            option = bytes((3, 3, int(value)))
        case "sackOK":
            option = bytes((4, 2))
        case "ts":
            option = struct.pack("!BBII", 8, 10, *(int(part) % 2**32 for part in value.split(":")))
        case "sack":
            edges = [int(edge) % 2**32 for block in value.split(",") for edge in block.split("-")]
            option = struct.pack(f"!BB{len(edges)}I", 5, 2 + 4 * len(edges), *edges)
        case "opt":
            option = bytes.fromhex(value)
        case _:
            raise ValueError(f"unknown option {token}")
    return bytes([1] * (-len(option) % 4)) + option


def _decode_options(data: bytes) -> tuple[str, ...]:
    tokens = []
    at = 0
    while at < len(data) and data[at] != 0:
        if data[at] == 1:
            at += 1
            continue
        length = data[at + 1]
        assert length >= 2, "an option without a length"
        assert at + length <= len(data), "an option that runs out of the header"
        tokens.append(_decode_option(data[at], data[at : at + length]))
        at += length
    return tuple(tokens)


def _decode_option(kind: int, option: bytes) -> str:
    value = option[2:]
    if kind == 2 and len(value) == 2:
        return f"mss={int.from_bytes(value, 'big')}"
    if kind == 3 and len(value) == 1:
        return f"ws={value[0]}"
    if kind == 4 and not value:
        return "sackOK"
    if kind == 8 and len(value) == 8:
        return "ts={}:{}".format(*struct.unpack("!II", value))
    if kind == 5 and value and len(value) % 8 == 0:
        edges = struct.unpack(f"!{len(value) // 4}I", value)
        return "sack=" + ",".join(f"{left}-{right}" for left, right in zip(edges[::2], edges[1::2], strict=True))
    return f"opt={option.hex()}"
