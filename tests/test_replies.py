import io
import ssl
from http.client import HTTPResponse

import pytest
import segment_strategies as packets
from hypothesis import given
from hypothesis import strategies as st
from scapy_oracle import TCP, checksums_hold, dissect
from splice_twin import split_v4, split_v6

from kracauer.replies import ALERT_UNRECOGNIZED_NAME, Endpoints, build_reset, build_segment, http_error, tls_alert
from kracauer.wire import tcp
from kracauer.wire.tcp import TcpHeader

V4 = Endpoints(bytes((198, 51, 100, 1)), bytes((192, 0, 2, 7)), 443, 49152)
V6 = Endpoints(
    bytes.fromhex("20010db8000100000000000000000002"), bytes.fromhex("20010db80046000000000000c0000207"), 8443, 49152
)

endpoints = st.one_of(
    st.builds(Endpoints, packets.v4_address, packets.v4_address, packets.word, packets.word),
    st.builds(Endpoints, packets.v6_address, packets.v6_address, packets.word, packets.word),
)


def take_apart(packet: bytes) -> tuple[Endpoints, TcpHeader, bytes]:
    """A built packet as values; the vnet header before it has to be empty, its checksums right."""
    assert packet[:10] == bytes(10)
    assert checksums_hold(packet[10:])
    ip, header, payload = split_v4(packet[10:]) if packet[10] >> 4 == 4 else split_v6(packet[10:])
    return Endpoints(ip.src, ip.dst, header.src_port, header.dst_port), header, payload


@given(endpoints, packets.tcp_headers, st.binary(max_size=50))
def test_a_segment_says_what_it_was_told_to(ends: Endpoints, wanted: TcpHeader, payload: bytes) -> None:
    packet = build_segment(
        ends,
        seq=wanted.seq,
        ack=wanted.ack,
        flags=wanted.flags,
        window=wanted.window,
        options=wanted.options,
        payload=payload,
    )
    found, header, carried = take_apart(packet)
    assert found == ends
    expected = wanted._replace(src_port=ends.src_port, dst_port=ends.dst_port, urgent=0, checksum=header.checksum)
    assert (header, carried) == (expected, payload)


@pytest.mark.parametrize("ends", [V4, V6])
def test_the_ip_header_is_a_hosts_own(ends: Endpoints) -> None:
    layers = dissect(build_segment(ends, seq=1, ack=2, flags=tcp.ACK, traffic_class=0x28)[10:])
    if len(ends.src) == 4:
        assert (layers.ttl, layers.tos, layers.id, str(layers.flags), layers.frag) == (64, 0x28, 0, "DF", 0)
    else:
        assert (layers.hlim, layers.tc, layers.fl, layers.nh) == (64, 0x28, 0, 6)


def test_the_way_back_swaps_both_ends() -> None:
    assert V4.reversed == Endpoints(V4.dst, V4.src, V4.dst_port, V4.src_port)
    assert V4.reversed.reversed == V4


def incoming(flags: int, *, seq: int = 1000, ack: int = 2000) -> TcpHeader:
    return TcpHeader(49152, 443, seq, ack, flags, 500)


def reset_for(header: TcpHeader, payload_length: int = 0, ends: Endpoints = V4) -> tuple[int, int, int]:
    """(SEQ, ACK, flags) of the RST, for RFC 9293 §3.10.7.1."""
    found, reset, payload = take_apart(build_reset(ends, header, payload_length))
    assert found == ends
    assert (reset.window, reset.options, payload) == (0, b"", b"")
    return reset.seq, reset.ack, reset.flags


@pytest.mark.parametrize("ends", [V4, V6])
@pytest.mark.parametrize("flags", [tcp.ACK, tcp.ACK | tcp.PSH, tcp.ACK | tcp.FIN, tcp.SYN | tcp.ACK])
def test_a_reset_takes_its_number_from_the_acknowledgment(ends: Endpoints, flags: int) -> None:
    assert reset_for(incoming(flags), 10, ends) == (2000, 0, tcp.RST)


@pytest.mark.parametrize(
    ("flags", "payload_length", "ack"),
    [
        (0, 0, 1000),
        (0, 10, 1010),
        (tcp.SYN, 0, 1001),
        (tcp.SYN, 10, 1011),
        (tcp.FIN, 0, 1001),
        (tcp.FIN, 10, 1011),
        (tcp.SYN | tcp.FIN, 10, 1012),
    ],
)
def test_without_an_acknowledgment_a_reset_acknowledges_all_that_came(flags: int, payload_length: int, ack: int) -> None:
    assert reset_for(incoming(flags, ack=0), payload_length) == (0, ack, tcp.RST | tcp.ACK)


def test_the_number_that_a_reset_acknowledges_wraps() -> None:
    assert reset_for(incoming(tcp.SYN, seq=0xFFFFFFFF), 2) == (0, 2, tcp.RST | tcp.ACK)


@given(packets.tcp_headers, st.integers(0, 65_000), endpoints)
def test_any_segment_can_be_reset(header: TcpHeader, payload_length: int, ends: Endpoints) -> None:
    _, reset, _ = take_apart(build_reset(ends, header, payload_length))
    assert reset.flags & tcp.RST
    assert bool(reset.flags & tcp.ACK) != bool(header.flags & tcp.ACK)
    assert not reset.flags & (tcp.SYN | tcp.FIN)


def test_scapy_reads_a_reset() -> None:
    assert str(dissect(build_reset(V6, incoming(tcp.SYN), 0)[10:])[TCP].flags) == "RA"


def test_the_alert_is_one_fatal_record() -> None:
    assert tls_alert(ALERT_UNRECOGNIZED_NAME) == bytes.fromhex("15 0303 0002 02 70")
    assert tls_alert(50) == bytes.fromhex("15 0303 0002 02 32")


def test_openssl_understands_the_alert() -> None:
    to_read, written = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(to_read, written, server_hostname="www.example.net")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    to_read.write(tls_alert(ALERT_UNRECOGNIZED_NAME))
    with pytest.raises(ssl.SSLError, match="unrecognized name"):
        client.do_handshake()


class Connection:
    """What `http.client` reads a response from."""

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)

    def makefile(self, _mode: str) -> io.BytesIO:
        return self.stream


def read_response(data: bytes, method: str = "GET") -> tuple[HTTPResponse, bytes, bytes]:
    """The response, its body and what follows it."""
    connection = Connection(data)
    response = HTTPResponse(connection, method=method)  # type: ignore[arg-type]
    response.begin()
    body = response.read()
    return response, body, connection.stream.read() if not connection.stream.closed else b""


@pytest.mark.parametrize(("status", "phrase"), [(400, "Bad Request"), (421, "Misdirected Request"), (431, None), (505, None)])
def test_an_http_library_reads_the_error(status: int, phrase: str | None) -> None:
    response, body, rest = read_response(http_error(status))
    assert (response.status, response.version, rest) == (status, 11, b"")
    assert phrase in (None, response.reason)
    assert response.getheader("Content-Length") == str(len(body))
    assert body.decode().startswith(f"{status} {response.reason}\n")
    assert response.will_close


@pytest.mark.parametrize("status", [400, 421])
def test_the_error_says_in_words_what_is_wrong(status: int) -> None:
    body = read_response(http_error(status))[1].decode()
    assert len(body.splitlines()) == 2
    assert body.endswith(".\n")


def test_a_head_request_gets_the_head_alone() -> None:
    whole, head = http_error(421), http_error(421, is_head=True)
    assert head.endswith(b"\r\n\r\n")
    assert whole.startswith(head)
    assert len(whole) > len(head)
    response, body, rest = read_response(head, "HEAD")
    assert (response.status, body, rest) == (421, b"", b"")


def test_the_error_is_not_to_be_stored() -> None:
    assert read_response(http_error(421))[0].getheader("Cache-Control") == "no-store"
