"""Packets and answers that Kracauer originates itself: TCP segments of either family, TLS alerts, HTTP errors."""

from http import HTTPStatus
from typing import Final, NamedTuple

from kracauer.wire import ipv4, ipv6, tcp, vnet_hdr
from kracauer.wire.checksum import checksum, pseudo_header_sum
from kracauer.wire.ipv4 import IPv4Header
from kracauer.wire.ipv6 import IPv6Header
from kracauer.wire.tcp import TcpHeader

TTL: Final = 64

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
    header = tcp.build(TcpHeader(src_port, dst_port, seq, ack, flags, window, options=options))
    length = len(header) + len(payload)
    segment = bytearray(header + payload)
    value = checksum(segment, pseudo_header_sum(src, dst, ipv4.PROTOCOL_TCP, length))
    segment[tcp.CHECKSUM_OFFSET : tcp.CHECKSUM_OFFSET + 2] = value.to_bytes(2, "big")
    if len(src) == 4:
        # Atomic (RFC 6864 §4.1): never fragmented, so the identification says nothing.
        header_v4 = IPv4Header(
            tos=traffic_class,
            total_length=ipv4.MIN_LENGTH + length,
            identification=0,
            dont_fragment=True,
            more_fragments=False,
            fragment_offset=0,
            ttl=TTL,
            protocol=ipv4.PROTOCOL_TCP,
            src=src,
            dst=dst,
        )
        ip = ipv4.build(header_v4)
    else:
        ip = ipv6.build(IPv6Header(traffic_class, 0, length, ipv6.TCP, TTL, src, dst))
    return vnet_hdr.EMPTY + ip + bytes(segment)


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
