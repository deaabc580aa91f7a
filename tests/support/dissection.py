"""A packet of either family as a flat dictionary of its fields, so that two packets can be told apart field by field."""

import struct
from typing import TypeAlias

from packets import sum_words

Fields: TypeAlias = dict[str, int | str]
_TCP, _ICMPV4, _FRAGMENT, _ICMPV6 = 6, 1, 44, 58


def dissect(packet: bytes) -> Fields:
    """Every field of a whole IP packet and of the TCP segment or ICMP message in it.

    A checksum is shown as what is wrong with it: 0 where it is right.
    """
    fields, start, protocol, pseudo = _header(packet, "")
    if protocol == _TCP:
        return fields | _tcp(packet[start:], "") | {"checksum": _error(packet[start:], pseudo)}
    if protocol in (_ICMPV4, _ICMPV6):
        checked = _error(packet[start:], pseudo if protocol == _ICMPV6 else 0)
        return fields | _icmp(packet[start:], protocol) | {"checksum": checked}
    return fields | {"data": packet[start:].hex()}


def _error(data: bytes, pseudo: int) -> int:
    return (sum_words(data) + pseudo) % 0xFFFF


def _header(packet: bytes, prefix: str) -> tuple[Fields, int, int, int]:
    """The IP header's fields, where its payload begins, that one's protocol, and the pseudo-header's sum."""
    if packet[0] >> 4 == 4:
        _, tos, length, identification, field, ttl, protocol, _ = struct.unpack_from("!BBHHHBBH", packet)
        start = (packet[0] & 0x0F) * 4
        fields: Fields = {
            "tos": tos,
            "length": length - start,
            "options": packet[20:start].hex(),
            "identification": identification,
            "dont_fragment": field >> 14 & 1,
            "flags": field & 0xA000,
            "fragment_offset": field & 0x1FFF,
            "ttl": ttl,
            "protocol": protocol,
            "src": packet[12:16].hex(),
            "dst": packet[16:20].hex(),
            "header_checksum": sum_words(packet[:start]) - 0xFFFF,
        }
        pseudo = sum_words(packet[12:20]) + protocol + len(packet) - start
    else:
        word, length, protocol, ttl = struct.unpack_from("!IHBB", packet)
        start, fragment = 40, ""
        if protocol == _FRAGMENT:
            protocol, fragment, start = packet[40], packet[41:48].hex(), 48
        fields = {
            "tos": word >> 20 & 0xFF,
            "flow_label": word & 0xFFFFF,
            "length": length,
            "fragment": fragment,
            "ttl": ttl,
            "protocol": protocol,
            "src": packet[8:24].hex(),
            "dst": packet[24:40].hex(),
        }
        pseudo = sum_words(packet[8:40]) + protocol + len(packet) - start
    return {prefix + key: value for key, value in fields.items()}, start, protocol, pseudo


def _tcp(segment: bytes, prefix: str) -> Fields:
    """The segment's fields, as far as it was quoted; the checksum is for who knows all of it to judge."""
    return {
        f"{prefix}ports": segment[:4].hex(),
        f"{prefix}seq": segment[4:8].hex(),
        f"{prefix}ack": segment[8:12].hex(),
        f"{prefix}offset_flags": segment[12:14].hex(),
        f"{prefix}window": segment[14:16].hex(),
        f"{prefix}urgent_options_payload": segment[18:].hex(),
    }


def _icmp(message: bytes, protocol: int) -> Fields:
    kind, code, _, rest = struct.unpack_from("!BBHI", message)
    fields: Fields = {"type": kind, "code": code, "rest": rest, "quoted": len(message) - 8}
    quote = message[8:]
    if kind in ((3, 11, 12) if protocol == _ICMPV4 else (1, 2, 3, 4)) and len(quote) >= 28:
        header, start, inner, _ = _header(quote, "inner_")
        fields |= header | {"inner_checksum": quote[start + 16 : start + 18].hex()}
        fields |= _tcp(quote[start:], "inner_") if inner == _TCP else {"inner_data": quote[start:].hex()}
    else:
        fields["data"] = quote.hex()
    return fields
