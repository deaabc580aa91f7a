"""Packets and answers that Kracauer originates itself: TCP segments of either family, TLS alerts, HTTP errors."""

import struct
from http import HTTPStatus
from typing import Final, NamedTuple

from kracauer.wire import ipv4, tcp
from kracauer.wire.checksum import MODULUS, word_sum
from kracauer.wire.tcp import TcpHeader

TTL: Final = 64

# Behind an empty vnet header; urgent pointers are zero.
_V4_TCP: Final = struct.Struct("!10xBBHHHHH4s4sHHIIHHH2x")
_V6_TCP: Final = struct.Struct("!10xIHH16s16sHHIIHHH2x")
_TTL_TCP: Final = TTL << 8 | ipv4.PROTOCOL_TCP
_TCP_HOPS: Final = ipv4.PROTOCOL_TCP << 8 | TTL

ALERT_UNRECOGNIZED_NAME: Final = 112  # RFC 6066 §3

_EXPLANATIONS: Final = {
    HTTPStatus.BAD_REQUEST: "The request could not be understood.",
    HTTPStatus.MISDIRECTED_REQUEST: "This address serves no such host.",
    HTTPStatus.SERVICE_UNAVAILABLE: "This host has as many connections as it may have. Try again later.",
}


class Endpoints(NamedTuple):
    """Where a segment goes from and to: addresses of one family (4 or 16 bytes each) and ports."""

    src: bytes
    dst: bytes
    src_port: int
    dst_port: int

    @property
    def reversed(self) -> "Endpoints":
        """The way back."""
        return Endpoints(self.dst, self.src, self.dst_port, self.src_port)


def build_segment(
    endpoints: Endpoints,
    *,
    seq: int,
    ack: int,
    flags: int,
    window: int = 0,
    options: bytes = b"",
    payload: bytes = b"",
    traffic_class: int = 0,
) -> bytes:
    """Return a whole packet of the endpoints' family with both checksums, behind an empty vnet header."""
    src, dst, src_port, dst_port = endpoints
    header_length = tcp.MIN_LENGTH + len(options)
    if header_length % 4 or header_length > tcp.MAX_LENGTH:
        raise ValueError("TCP options take 0 to 40 bytes in whole 32-bit words")
    length = header_length + len(payload)
    addresses = int.from_bytes(src, "big") + int.from_bytes(dst, "big")
    offset_flags = header_length << 10 | flags
    total = addresses + ipv4.PROTOCOL_TCP + length + src_port + dst_port + seq + ack + offset_flags + window
    if options:
        total += int.from_bytes(options, "big")
    if payload:
        total += word_sum(payload)
    if len(src) == 4:
        # Atomic (RFC 6864 §4.1): never fragmented, so the identification says nothing.
        total_length = ipv4.MIN_LENGTH + length
        ip_sum = 0x4500 + traffic_class + total_length + ipv4.DONT_FRAGMENT + _TTL_TCP + addresses
        head = _V4_TCP.pack(
            0x45, traffic_class, total_length, 0, ipv4.DONT_FRAGMENT, _TTL_TCP, -ip_sum % MODULUS, src, dst,
            src_port, dst_port, seq, ack, offset_flags, window, -total % MODULUS,
        )  # fmt: skip
    else:
        head = _V6_TCP.pack(
            0x60000000 | traffic_class << 20, length, _TCP_HOPS, src, dst,
            src_port, dst_port, seq, ack, offset_flags, window, -total % MODULUS,
        )  # fmt: skip
    return head + options + payload


def build_reset(endpoints: Endpoints, header: TcpHeader, payload_length: int) -> bytes:
    """Return the RST that answers a segment of no connection, from `endpoints` (RFC 9293 §3.10.7.1)."""
    if header.flags & tcp.ACK:
        return build_segment(endpoints, seq=header.ack, ack=0, flags=tcp.RST)
    length = payload_length + bool(header.flags & tcp.SYN) + bool(header.flags & tcp.FIN)
    return build_segment(endpoints, seq=0, ack=(header.seq + length) & 0xFFFFFFFF, flags=tcp.RST | tcp.ACK)


def tls_alert(description: int) -> bytes:
    """Return a record with a fatal alert (RFC 8446 §6); its version is the one that every TLS reads before any is agreed."""
    return bytes((21, 3, 3, 0, 2, 2, description))


def http_redirect(location: str, *, is_head: bool = False) -> bytes:
    """Return a whole HTTP/1.1 response that sends its client to `location` for good (RFC 9110 §15.4.9), as `http_error`."""
    return _http_response(HTTPStatus.PERMANENT_REDIRECT, "See the Location.", (f"Location: {location}",), is_head=is_head)


def http_error(status: int, *, is_head: bool = False) -> bytes:
    """Return a whole HTTP/1.1 response that ends its connection (RFC 9110 §15.5.20, RFC 9112 §9.6); no body for HEAD."""
    code = HTTPStatus(status)
    retry = ("Retry-After: 5",) if code is HTTPStatus.SERVICE_UNAVAILABLE else ()
    return _http_response(code, _EXPLANATIONS.get(code, code.description), (*retry, "Cache-Control: no-store"), is_head=is_head)


def _http_response(code: HTTPStatus, explanation: str, fields: tuple[str, ...], *, is_head: bool) -> bytes:
    body = f"{code.value} {code.phrase}\n{explanation}\n".encode()
    lines = (
        f"HTTP/1.1 {code.value} {code.phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        *fields,
        "Connection: close",
    )
    head = "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")
    return head if is_head else head + body
