"""What every packet that leaves the engine must be, whatever went in (RFC 791, RFC 8200, RFC 9293, RFC 792, RFC 4443)."""

import struct
from collections.abc import Iterable
from typing import Final

from engine_packets import MODULUS, PLAIN, PREFIX, ROUTER_SOURCES, SERVICES, residue, word_sum

_VNET: Final = struct.Struct("=BBHHHH")
_V4_SOURCES: Final = frozenset((*SERVICES, *ROUTER_SOURCES))
_TCP, _ICMP, _ICMPV6, _FRAGMENT = 6, 1, 58, 44
_ERRORS_V4: Final = frozenset((3, 11, 12))
_ERRORS_V6: Final = frozenset((1, 2, 3, 4))


def check_packets(packets: Iterable[bytes], errors: frozenset[int]) -> None:
    """Hold what one call has sent to the rules; `errors` are those that checksums may have, for they came so."""
    fragments: dict[bytes, list[tuple[int, bool, bytes]]] = {}
    for packet in packets:
        vnet, ip = packet[:10], packet[10:]
        if ip[0] >> 4 == 4:
            _check_v4(ip)
            field = int.from_bytes(ip[6:8], "big")
            if field & 0x3FFF:
                key = ip[12:20] + ip[4:6] + ip[9:10]
                fragments.setdefault(key, []).append(((field & 0x1FFF) * 8, bool(field & 0x2000), ip[20:]))
                assert vnet == PLAIN, "an offload of a fragment"
                continue
        else:
            _check_v6(ip)
            if ip[6] == _FRAGMENT:
                field = int.from_bytes(ip[42:44], "big")
                key = ip[8:40] + ip[44:48] + ip[40:41]
                fragments.setdefault(key, []).append((field & 0xFFF8, bool(field & 1), ip[48:]))
                assert vnet == PLAIN, "an offload of a fragment"
                continue
        _check_upper(vnet, ip, errors)
    for key, pieces in fragments.items():
        _check_upper(PLAIN, _join(key, pieces), errors)


def _join(key: bytes, pieces: list[tuple[int, bool, bytes]]) -> bytes:
    """Put the fragments of one datagram together; all of them must be there, in order, none over another."""
    payload = b""
    for number, (offset, more, piece) in enumerate(pieces):
        assert offset == len(payload), f"a fragment at {offset} behind {len(payload)} bytes"
        assert more == (number < len(pieces) - 1), "a last fragment that is not the last"
        assert not more or len(piece) % 8 == 0, f"a fragment of {len(piece)} bytes"
        payload += piece
    if len(key) == 11:
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, key[10], 0) + key[:8] + payload
    return struct.pack("!IHBB", 6 << 28, len(payload), key[36], 64) + key[:32] + payload


def _check_v4(ip: bytes) -> None:
    assert ip[0] == 0x45, f"first byte {ip[0]:#x}"
    assert int.from_bytes(ip[2:4], "big") == len(ip), "total length"
    assert word_sum(ip[:20]) == 0, "IPv4 header checksum"
    assert ip[6] & 0x80 == 0, "the reserved flag"
    assert ip[8], "TTL 0"
    assert ip[12:16] in _V4_SOURCES, f"from {ip[12:16].hex()}"
    assert ip[16:20] not in SERVICES, "a packet to ourselves"


def _check_v6(ip: bytes) -> None:
    assert ip[0] >> 4 == 6, f"first byte {ip[0]:#x}"
    assert int.from_bytes(ip[4:6], "big") == len(ip) - 40, "payload length"
    assert ip[7], "hop limit 0"
    assert ip[8:20] == PREFIX, f"from {ip[8:24].hex()}"
    assert ip[24:36] != PREFIX, "a packet to ourselves"


def _check_upper(vnet: bytes, ip: bytes, errors: frozenset[int]) -> None:
    start, protocol = (20, ip[9]) if ip[0] >> 4 == 4 else (40, ip[6])
    if protocol == _TCP:
        offset = ip[start + 12] >> 2 & 0x3C
        assert 20 <= offset <= len(ip) - start, f"data offset {offset}"
        assert residue(vnet + ip) in errors, "TCP checksum"
        if vnet != PLAIN:
            _check_offload(vnet, start, offset)
        return
    assert vnet == PLAIN, "an offload of ICMP"
    message = ip[start:]
    if protocol == _ICMP:
        assert start == 20, "ICMP in IPv6"
        assert word_sum(message) == 0, "ICMP checksum"
        assert message[0] in _ERRORS_V4 or message[0] == 0, f"ICMP type {message[0]}"
    else:
        assert protocol == _ICMPV6, f"protocol {protocol}"
        assert start == 40, "ICMPv6 in IPv4"
        pseudo = (int.from_bytes(ip[8:40], "big") + _ICMPV6 + len(message)) % MODULUS
        assert (word_sum(message) + pseudo) % MODULUS == 0, "ICMPv6 checksum"
        assert message[0] in _ERRORS_V6 or message[0] == 129, f"ICMPv6 type {message[0]}"
        assert message[0] == 129 or len(ip) <= 1280, f"an error of {len(ip)} bytes"


def _check_offload(vnet: bytes, start: int, offset: int) -> None:
    flags, gso_type, header_length, gso_size, csum_start, csum_offset = _VNET.unpack(vnet)
    assert flags == 1, f"vnet flags {flags}"
    assert (csum_start, csum_offset) == (start, 16), f"checksum at {csum_start} + {csum_offset}"
    assert gso_type in ((0, 1, 0x81) if start == 20 else (0, 4, 0x84)), f"gso_type {gso_type} on a header of {start} bytes"
    assert not gso_type or header_length == start + offset, f"hdr_len {header_length}"
    assert not gso_type or gso_size, "segments of no bytes"
