"""RFC 7915 §4.1 and §5.1, field by field: a packet is made plain and then translated, as the engine does it."""

import pytest
import splice_setup as setup
from icmp_quotes import BACKEND6, CLIENT4, MAPPED6, SERVICE4, packed
from scapy_oracle import (
    IP,
    TCP,
    IPOption_LSRR,
    IPOption_NOP,
    IPOption_SSRR,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
    checksums_hold,
)

from kracauer.engine import ingress
from kracauer.errors import Dropped, DropReason, IcmpAnswer
from kracauer.translate.fragments import Reassembler
from kracauer.wire import ipv4, ipv6
from kracauer.wire.buffer import Frame

PAYLOAD = bytes(range(200))
SERVICES = frozenset({packed(SERVICE4)})
PREFIX = packed(MAPPED6)[:12]


def client_packet(**header: object) -> bytes:
    segment = TCP(sport=40000, dport=443, flags="A") / Raw(PAYLOAD)
    data = bytes(IP(src=CLIENT4, dst=SERVICE4, ttl=57, **header) / segment)
    # scapy sums a segment behind a source route for the route's end; what reaches a translator is summed for it.
    plain = bytes(IP(src=CLIENT4, dst=SERVICE4) / segment)[20:]
    return data[: -len(plain)] + plain


def backend_packet(*extensions: object, payload: bytes = PAYLOAD, **header: object) -> bytes:
    packet = IPv6(src=BACKEND6, dst=MAPPED6, hlim=57, **header)
    for extension in extensions:
        packet = packet / extension
    tcp = TCP(sport=8443, dport=40000, flags="A")
    data = bytes(packet / tcp / Raw(payload))
    plain = bytes(IPv6(src=BACKEND6, dst=MAPPED6) / tcp / Raw(payload))[40:]
    return data[: -len(plain)] + plain


def to_backend(packet: bytes) -> bytes:
    frame = Frame()
    frame.load(packet)
    assert ingress.take_v4(frame, Reassembler(), SERVICES, 0.0) is not None
    result = setup.make_splice(setup.PLAIN).to_backend(frame, 0.0)
    assert result is not None
    return bytes(result[10:])


def to_client(packet: bytes) -> bytes:
    frame = Frame()
    frame.load(packet)
    assert ingress.take_v6(frame, Reassembler(), PREFIX, 0.0) is not None
    result = setup.make_splice(setup.PLAIN).to_client(frame, 0.0)
    assert result is not None
    return bytes(result[10:])


def dropped_v4(packet: bytes) -> Dropped:
    frame = Frame()
    frame.load(packet)
    with pytest.raises(Dropped) as caught:
        ingress.take_v4(frame, Reassembler(), SERVICES, 0.0)
    return caught.value


def dropped_v6(packet: bytes) -> Dropped:
    frame = Frame()
    frame.load(packet)
    with pytest.raises(Dropped) as caught:
        ingress.take_v6(frame, Reassembler(), PREFIX, 0.0)
    return caught.value


@pytest.mark.parametrize("octet", [0, 0x03, 0xB8, 0xFF])
def test_the_tos_octet_becomes_the_traffic_class_with_all_its_bits(octet: int) -> None:
    assert ipv6.parse(to_backend(client_packet(tos=octet))).traffic_class == octet


@pytest.mark.parametrize("octet", [0, 0x03, 0xB8, 0xFF])
def test_the_traffic_class_becomes_the_tos_octet_with_all_its_bits(octet: int) -> None:
    assert ipv4.parse(to_client(backend_packet(tc=octet))).tos == octet


def test_the_ipv6_header_has_the_fields_of_rfc_7915() -> None:
    result = to_backend(client_packet(id=77))
    header = ipv6.parse(result)
    assert (header.flow_label, header.next_header, header.hop_limit) == (0, ipv6.TCP, 56)
    assert header.payload_length == 20 + len(PAYLOAD) == len(result) - 40
    assert (header.src, header.dst) == (packed(MAPPED6), packed(BACKEND6))
    assert checksums_hold(result)


def test_the_ipv4_header_has_the_fields_of_rfc_7915() -> None:
    result = to_client(backend_packet(fl=0x12345))
    header = ipv4.parse(result)
    assert (header.length, header.protocol, header.ttl) == (20, 6, 56)
    assert (header.more_fragments, header.fragment_offset, header.dont_fragment) == (False, 0, False)
    assert header.total_length == 40 + len(PAYLOAD) == len(result)
    assert (header.src, header.dst) == (packed(SERVICE4), packed(CLIENT4))
    assert checksums_hold(result)


@pytest.mark.parametrize(("payload_length", "is_set"), [(1220, False), (1221, True)])
def test_df_is_clear_up_to_1260_bytes_and_set_above(payload_length: int, is_set: bool) -> None:
    header = ipv4.parse(to_client(backend_packet(payload=bytes(payload_length))))
    assert (header.total_length, header.dont_fragment) == (40 + payload_length, is_set)


@pytest.mark.parametrize("flags", ["", "DF"])
@pytest.mark.parametrize("length", [1220, 1400])
def test_a_packet_that_is_not_fragmented_gets_no_fragment_header(flags: str, length: int) -> None:
    """RFC 7915 §4: whatever DF says; RFC 8021 §4 asks the same."""
    packet = bytes(IP(src=CLIENT4, dst=SERVICE4, flags=flags) / TCP(sport=40000, dport=443, flags="A") / Raw(bytes(length)))
    assert ipv6.parse(to_backend(packet)).next_header == ipv6.TCP


SPENT = IPOption_LSRR(routers=["203.0.113.8", "203.0.113.9"], pointer=12)


@pytest.mark.parametrize("options", [[IPOption_NOP()] * 3, [SPENT], [IPOption_NOP(), SPENT]])
def test_ipv4_options_are_skipped(options: list[object]) -> None:
    assert to_backend(client_packet(options=options)) == to_backend(client_packet())


@pytest.mark.parametrize("route", [IPOption_LSRR, IPOption_SSRR])
def test_an_unexpired_source_route_is_refused_with_source_route_failed(route: type) -> None:
    dropped = dropped_v4(client_packet(options=[route(routers=["203.0.113.8"], pointer=4)]))
    assert (dropped.reason, dropped.answer) == (DropReason.SOURCE_ROUTE, IcmpAnswer(3, 5))


@pytest.mark.parametrize("src", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"])
def test_an_illegal_ipv4_source_is_dropped_in_silence(src: str) -> None:
    packet = bytes(IP(src=src, dst=SERVICE4) / TCP(sport=40000, dport=443, flags="A"))
    dropped = dropped_v4(packet)
    assert (dropped.reason, dropped.answer) == (DropReason.ILLEGAL_SOURCE, None)


@pytest.mark.parametrize("src", ["::", "::1", "ff02::1", "fe80::1", "::ffff:192.0.2.7"])
def test_an_illegal_ipv6_source_is_dropped_in_silence(src: str) -> None:
    packet = bytes(IPv6(src=src, dst=MAPPED6) / TCP(sport=8443, dport=40000, flags="A"))
    dropped = dropped_v6(packet)
    assert (dropped.reason, dropped.answer) == (DropReason.ILLEGAL_SOURCE, None)


@pytest.mark.parametrize(
    "extensions",
    [
        [IPv6ExtHdrHopByHop()],
        [IPv6ExtHdrDestOpt()],
        [IPv6ExtHdrRouting(addresses=["2001:db8:9::9"], segleft=0)],
        [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=["2001:db8:9::9"], segleft=0)],
    ],
)
def test_extension_headers_are_skipped(extensions: list[object]) -> None:
    assert to_client(backend_packet(*extensions)) == to_client(backend_packet())


@pytest.mark.parametrize(("before", "pointer"), [([], 43), ([IPv6ExtHdrHopByHop()], 51)])
def test_a_route_with_segments_left_is_refused_with_a_pointer_to_them(before: list[object], pointer: int) -> None:
    dropped = dropped_v6(backend_packet(*before, IPv6ExtHdrRouting(addresses=["2001:db8:9::9"], segleft=1)))
    assert (dropped.reason, dropped.answer) == (DropReason.SOURCE_ROUTE, IcmpAnswer(4, 0, pointer))
