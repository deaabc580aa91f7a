import pytest
from hypothesis import given
from hypothesis import strategies as st
from icmp_quotes import (
    BACKEND6,
    BACKEND_PORT,
    CLIENT4,
    CLIENT_PORT,
    MAPPED6,
    ROUTER4,
    ROUTER6,
    SERVICE4,
    SERVICE_PORT,
    error_v4,
    error_v6,
    icmp_checksum_holds,
    packed,
    segment_from_backend,
    segment_from_client,
    segment_to_backend,
    segment_to_client,
)
from scapy_oracle import IP, IPOption_NOP, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrRouting, Raw

from kracauer.errors import DropReason, ParseError, Untranslatable
from kracauer.translate.icmp_errors import Quoted, QuoteMapping, quoted_v4, quoted_v6, v4_error_to_v6, v6_error_to_v4

DELTA = 1000
ROUTER_MAPPED6 = "2001:db8:46::203.0.113.9"
ROUTER_MAPPED4 = "203.0.113.66"
TO_BACKEND = QuoteMapping(packed(BACKEND6), packed(MAPPED6), BACKEND_PORT, CLIENT_PORT, -DELTA, 0)
TO_CLIENT = QuoteMapping(packed(CLIENT4), packed(SERVICE4), CLIENT_PORT, SERVICE_PORT, 0, DELTA)
EXTENSIONS = bytes.fromhex("2000 f5dd 0008 0101 0001 6140")  # an MPLS label stack, RFC 4950


def to_backend(packet: bytes, *, ipv4_mtu: int = 1500, ipv6_mtu: int = 1500) -> bytes:
    return v4_error_to_v6(
        packet, TO_BACKEND, src=packed(ROUTER_MAPPED6), dst=packed(BACKEND6), ipv4_mtu=ipv4_mtu, ipv6_mtu=ipv6_mtu
    )


def to_client(packet: bytes, *, ipv4_mtu: int = 1500, ipv6_mtu: int = 1500, identification: int = 0x4242) -> bytes:
    return v6_error_to_v4(
        packet,
        TO_CLIENT,
        src=packed(ROUTER_MAPPED4),
        dst=packed(CLIENT4),
        ipv4_mtu=ipv4_mtu,
        ipv6_mtu=ipv6_mtu,
        identification=identification,
    )


def quote_v4(payload_length: int = 20) -> bytes:
    """A segment as routers on the IPv4 side see it; 40 bytes and its payload."""
    return segment_to_client(seq=5000 + DELTA, ack=7000, payload=bytes(range(256)) * 6)[: 40 + payload_length]


def quote_v6(payload_length: int = 20) -> bytes:
    """A segment as routers on the IPv6 side see it; 60 bytes and its payload."""
    return segment_to_backend(seq=5000, ack=7000 - DELTA, payload=bytes(range(256)) * 6)[: 60 + payload_length]


def sent_v6(payload_length: int = 20) -> bytes:
    """What `quote_v4` was made of, hops aside."""
    return segment_from_backend(seq=5000, ack=7000, payload=bytes(range(256)) * 6, hlim=64)[: 60 + payload_length]


def sent_v4(payload_length: int = 20) -> bytes:
    """What `quote_v6` was made of, hops aside."""
    whole = segment_from_client(seq=5000, ack=7000, payload=bytes(range(256)) * 6, ttl=64, flags="DF", id=0)
    return whole[: 40 + payload_length]


# The outer packet.


def test_an_icmp_error_becomes_an_icmpv6_error_from_the_given_addresses() -> None:
    packet = to_backend(error_v4(3, 1, quote_v4(), ttl=33, tos=0xC0))
    outer = IPv6(packet)
    assert (outer.src, outer.dst) == (str(IPv6(src=ROUTER_MAPPED6).src), BACKEND6)
    assert (outer.tc, outer.fl, outer.nh, outer.hlim, outer.plen) == (0xC0, 0, 58, 32, len(packet) - 40)
    assert packet[40:42] == bytes((1, 0))
    assert packet[44:48] == bytes(4)
    assert packet[48:] == sent_v6()
    assert icmp_checksum_holds(packet)


def test_an_icmpv6_error_becomes_an_icmp_error_from_the_given_addresses() -> None:
    packet = to_client(error_v6(1, 0, quote_v6(), hlim=33, tc=0xC0, fl=0x12345))
    outer = IP(packet)
    assert (outer.src, outer.dst) == (ROUTER_MAPPED4, CLIENT4)
    assert (outer.tos, outer.ihl, outer.proto, outer.ttl, outer.len) == (0xC0, 5, 1, 32, len(packet))
    assert packet[20:22] == bytes((3, 1))
    assert packet[24:28] == bytes(4)
    assert packet[28:] == sent_v4()
    assert icmp_checksum_holds(packet)


def test_the_outer_ipv4_header_has_the_given_identification_a_clear_df_and_a_good_checksum() -> None:
    packet = to_client(error_v6(1, 0, quote_v6()), identification=0x1234)
    outer = IP(packet)
    assert (outer.id, outer.flags, outer.frag) == (0x1234, 0, 0)
    del outer.chksum
    assert bytes(outer) == packet


def test_the_identification_of_a_fragment_header_is_kept() -> None:
    message = error_v6(1, 0, quote_v6())[40:]
    packet = bytes(IPv6(src=ROUTER6, dst=MAPPED6) / IPv6ExtHdrFragment(nh=58, id=0x87654321) / Raw(message))
    assert IP(to_client(packet)).id == 0x4321


def test_options_of_the_outer_ipv4_header_are_skipped() -> None:
    with_options = error_v4(3, 1, quote_v4(), options=[IPOption_NOP()] * 4)
    assert to_backend(with_options) == to_backend(error_v4(3, 1, quote_v4()))


def test_extension_headers_of_the_outer_packet_are_skipped() -> None:
    message = error_v6(1, 0, quote_v6())[40:]
    packet = bytes(IPv6(src=ROUTER6, dst=MAPPED6) / IPv6ExtHdrDestOpt(nh=58) / Raw(message))
    assert to_client(packet) == to_client(error_v6(1, 0, quote_v6()))


@pytest.mark.parametrize("ttl", [0, 1])
def test_an_error_without_hops_left_ends_here(ttl: int) -> None:
    for translate, packet in (
        (to_backend, error_v4(3, 1, quote_v4(), ttl=ttl)),
        (to_client, error_v6(1, 0, quote_v6(), hlim=ttl)),
    ):
        with pytest.raises(Untranslatable) as dropped:
            translate(packet)
        assert dropped.value.reason is DropReason.TTL_EXPIRED


def test_an_error_with_a_hop_left_goes_on() -> None:
    assert IPv6(to_backend(error_v4(3, 1, quote_v4(), ttl=2))).hlim == 1
    assert IP(to_client(error_v6(1, 0, quote_v6(), hlim=2))).ttl == 1


@pytest.mark.parametrize(("flags", "offset"), [("MF", 0), (0, 1)])
def test_a_fragment_of_an_icmp_error_is_not_translated(flags: object, offset: int) -> None:
    with pytest.raises(Untranslatable) as dropped:
        to_backend(error_v4(3, 1, quote_v4(), flags=flags, frag=offset))
    assert dropped.value.reason is DropReason.FRAGMENT


@pytest.mark.parametrize("header", [{"m": 1}, {"offset": 1}])
def test_a_fragment_of_an_icmpv6_error_is_not_translated(header: dict[str, int]) -> None:
    message = error_v6(1, 0, quote_v6())[40:]
    with pytest.raises(Untranslatable) as dropped:
        to_client(bytes(IPv6(src=ROUTER6, dst=MAPPED6) / IPv6ExtHdrFragment(nh=58, **header) / Raw(message)))
    assert dropped.value.reason is DropReason.FRAGMENT


def test_an_error_with_a_source_route_to_follow_is_not_translated() -> None:
    message = error_v6(1, 0, quote_v6())[40:]
    routing = IPv6ExtHdrRouting(nh=58, addresses=[MAPPED6], segleft=1)
    with pytest.raises(Untranslatable) as dropped:
        to_client(bytes(IPv6(src=ROUTER6, dst=MAPPED6) / routing / Raw(message)))
    assert dropped.value.reason is DropReason.SOURCE_ROUTE


def test_what_is_no_icmp_is_refused() -> None:
    with pytest.raises(ParseError, match="protocol 6 where ICMP"):
        to_backend(segment_to_client(seq=1, ack=2))
    with pytest.raises(ParseError, match="next header 6 where ICMPv6"):
        to_client(segment_to_backend(seq=1, ack=2))


def test_a_damaged_error_is_refused() -> None:
    packet = bytearray(error_v4(3, 1, quote_v4()))
    packet[-1] ^= 1
    with pytest.raises(ParseError, match="checksum"):
        to_backend(bytes(packet))
    packet = bytearray(error_v6(1, 0, quote_v6()))
    packet[-1] ^= 1
    with pytest.raises(ParseError, match="checksum"):
        to_client(bytes(packet))


def test_an_informational_message_is_not_translated() -> None:
    with pytest.raises(Untranslatable) as dropped:
        to_backend(error_v4(8, 0, quote_v4()))
    assert dropped.value.reason is DropReason.UNTRANSLATABLE_ICMP
    with pytest.raises(Untranslatable) as dropped:
        to_client(error_v6(128, 0, quote_v6()))
    assert dropped.value.reason is DropReason.UNTRANSLATABLE_ICMP


# Sizes.


@pytest.mark.parametrize(("payload_length", "size"), [(1172, 1280), (1171, 1279), (1173, 1280), (1400, 1280)])
def test_an_icmpv6_error_has_at_most_1280_bytes(payload_length: int, size: int) -> None:
    packet = to_backend(error_v4(3, 3, quote_v4(payload_length)))
    assert len(packet) == size
    assert packet[48:] == sent_v6(payload_length)[: size - 48]
    assert icmp_checksum_holds(packet)


@pytest.mark.parametrize(("payload_length", "size"), [(508, 576), (507, 575), (509, 576), (1172, 576)])
def test_an_icmp_error_has_at_most_576_bytes(payload_length: int, size: int) -> None:
    packet = to_client(error_v6(1, 4, quote_v6(payload_length)))
    assert len(packet) == size
    assert packet[28:] == sent_v4(payload_length)[: size - 28]
    assert icmp_checksum_holds(packet)


@pytest.mark.parametrize("length", [28, 29, 36])
def test_eight_bytes_of_a_segment_are_enough_of_a_quote(length: int) -> None:
    assert to_backend(error_v4(11, 0, quote_v4()[:length]))[48:] == sent_v6()[: length + 20]


# Path MTU.


def test_fragmentation_needed_becomes_packet_too_big() -> None:
    packet = to_backend(error_v4(3, 4, quote_v4(), rest=1400))
    assert packet[40:42] == bytes((2, 0))
    assert packet[44:48] == (1420).to_bytes(4, "big")


def test_packet_too_big_becomes_fragmentation_needed() -> None:
    packet = to_client(error_v6(2, 0, quote_v6(), rest=1400))
    assert packet[20:22] == bytes((3, 4))
    assert packet[24:28] == (1380).to_bytes(4, "big")


def test_the_mtus_of_both_links_bound_what_is_told() -> None:
    assert to_backend(error_v4(3, 4, quote_v4(), rest=9000), ipv6_mtu=1450)[44:48] == (1450).to_bytes(4, "big")
    assert to_backend(error_v4(3, 4, quote_v4(), rest=9000), ipv4_mtu=1400)[44:48] == (1420).to_bytes(4, "big")
    assert to_client(error_v6(2, 0, quote_v6(), rest=9000), ipv6_mtu=1450)[26:28] == (1430).to_bytes(2, "big")
    assert to_client(error_v6(2, 0, quote_v6(), rest=9000), ipv4_mtu=1400)[26:28] == (1400).to_bytes(2, "big")


def test_a_router_that_tells_no_mtu_gets_a_plateau_below_the_quoted_total_length() -> None:
    quote = segment_to_client(seq=5000 + DELTA, ack=7000, payload=bytes(1460))  # 1500 bytes
    assert to_backend(error_v4(3, 4, quote[:28]))[44:48] == (1500).to_bytes(4, "big")
    assert to_backend(error_v4(3, 4, quote[:28]), ipv6_mtu=9000, ipv4_mtu=9000)[44:48] == (1512).to_bytes(4, "big")


# Extensions (RFC 4884).


def test_extensions_of_an_icmp_error_are_carried_and_the_length_counts_in_words_of_eight_bytes() -> None:
    quote = quote_v4(92)  # 132 bytes
    packet = to_backend(error_v4(11, 0, quote + EXTENSIONS, rest=33 << 16))
    assert packet[44:48] == bytes((19, 0, 0, 0))
    assert packet[48:] == sent_v6(92) + EXTENSIONS
    assert icmp_checksum_holds(packet)


def test_extensions_of_an_icmpv6_error_are_carried_and_the_length_counts_in_words_of_four_bytes() -> None:
    quote = quote_v6(92)  # 152 bytes
    packet = to_client(error_v6(3, 0, quote + EXTENSIONS, rest=19 << 24))
    assert packet[24:28] == bytes((0, 33, 0, 0))
    assert packet[28:] == sent_v4(92) + EXTENSIONS
    assert icmp_checksum_holds(packet)


def test_a_quote_that_is_no_whole_number_of_words_is_padded_and_nothing_is_cut() -> None:
    quote = segment_to_client(seq=5000 + DELTA, ack=7000, payload=bytes(range(86)))
    sent = segment_from_backend(seq=5000, ack=7000, payload=bytes(range(86)), hlim=64)
    packet = to_backend(error_v4(3, 3, quote + bytes(2) + EXTENSIONS, rest=32 << 16))
    assert packet[44] == 19
    assert packet[48:] == sent + bytes(6) + EXTENSIONS


def test_the_padding_of_a_short_quote_is_made_anew() -> None:
    quote = segment_to_backend(seq=5000, ack=7000 - DELTA)
    sent = segment_from_client(seq=5000, ack=7000, ttl=64, id=0)
    packet = to_client(error_v6(1, 4, quote.ljust(128, b"\0") + EXTENSIONS, rest=16 << 24))
    assert packet[25] == 32
    assert packet[28:] == sent.ljust(128, b"\0") + EXTENSIONS


def test_the_quote_is_cut_so_that_extensions_survive() -> None:
    packet = to_client(error_v6(3, 0, quote_v6(1100)[:1160] + EXTENSIONS, rest=145 << 24))
    assert len(packet) == 576
    assert packet[25] * 4 == 536
    assert packet[28:] == sent_v4(1100)[:536] + EXTENSIONS


def test_extensions_that_leave_no_room_for_128_bytes_of_the_quote_are_dropped() -> None:
    packet = to_client(error_v6(3, 0, quote_v6(68) + bytes(421), rest=16 << 24))
    assert packet[24:28] == bytes(4)
    assert packet[28:] == sent_v4(68)


def test_packet_too_big_has_no_place_for_extensions_but_keeps_its_mtu() -> None:
    packet = to_backend(error_v4(3, 4, quote_v4(88) + EXTENSIONS, rest=32 << 16 | 1400))
    assert packet[44:48] == (1420).to_bytes(4, "big")
    assert packet[48:] == sent_v6(88)


@pytest.mark.parametrize(("code", "pointer", "expected"), [(0, 8, 7), (2, 3, 4)])
def test_a_parameter_problem_has_no_place_for_extensions_but_keeps_its_pointer(code: int, pointer: int, expected: int) -> None:
    packet = to_backend(error_v4(12, code, quote_v4(88) + EXTENSIONS, rest=pointer << 24 | 32 << 16))
    assert packet[40:42] == bytes((4, 0))
    assert packet[44:48] == expected.to_bytes(4, "big")
    assert packet[48:] == sent_v6(88)


def test_the_first_octet_of_packet_too_big_is_no_length() -> None:
    packet = to_client(error_v6(2, 0, quote_v6(68) + EXTENSIONS, rest=16 << 24))
    assert packet[25] == 0
    assert packet[28 : 28 + 108] == sent_v4(68)


# What the error is about.


def test_an_icmp_error_tells_which_segment_it_is_about() -> None:
    expected = Quoted(packed(SERVICE4), packed(CLIENT4), SERVICE_PORT, CLIENT_PORT, 5000 + DELTA, None)
    assert quoted_v4(error_v4(3, 1, quote_v4()[:28])) == expected


def test_an_icmpv6_error_tells_which_segment_it_is_about() -> None:
    expected = Quoted(packed(MAPPED6), packed(BACKEND6), CLIENT_PORT, BACKEND_PORT, 5000, None)
    assert quoted_v6(error_v6(1, 0, quote_v6()[:48])) == expected


def test_an_error_about_a_packet_too_long_tells_the_path_mtu() -> None:
    assert quoted_v4(error_v4(3, 4, quote_v4(), rest=1000)).mtu == 1000
    assert quoted_v6(error_v6(2, 0, quote_v6(), rest=1400)).mtu == 1400


def test_the_path_mtu_that_a_router_leaves_out_is_the_plateau() -> None:
    quote = segment_to_client(seq=1, ack=2, payload=bytes(1000))
    assert quoted_v4(error_v4(3, 4, quote)).mtu == 1006


@pytest.mark.parametrize("kind", [0, 8, 13, 40])
def test_what_is_no_icmp_error_is_about_no_segment(kind: int) -> None:
    with pytest.raises(Untranslatable, match=f"type {kind}"):
        quoted_v4(error_v4(kind, 0, quote_v4()))


@pytest.mark.parametrize("kind", [128, 129, 134, 255])
def test_what_is_no_icmpv6_error_is_about_no_segment(kind: int) -> None:
    with pytest.raises(Untranslatable, match=f"type {kind}"):
        quoted_v6(error_v6(kind, 0, quote_v6()))


def test_an_error_about_an_error_is_not_translated() -> None:
    with pytest.raises(Untranslatable):
        to_backend(error_v4(3, 1, error_v4(11, 0, quote_v4(), src=SERVICE4, dst=ROUTER4)))
    with pytest.raises(Untranslatable):
        to_client(error_v6(1, 0, error_v6(3, 0, quote_v6(), src=MAPPED6, dst=ROUTER6)))


# Any bytes.


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=100))
def test_icmp_messages_with_any_bytes_are_translated_within_1280_or_refused(
    kind: int, code: int, rest: int, body: bytes
) -> None:
    packet = error_v4(kind, code, body, rest=rest)
    try:
        quoted_v4(packet)
        result = to_backend(packet)
    except (ParseError, Untranslatable):
        return
    assert len(result) <= 1280
    assert icmp_checksum_holds(result)


@given(
    st.sampled_from((3, 11, 12)),
    st.integers(0, 15),
    st.integers(0, 2**24 - 1),
    st.integers(28, 1400),
    st.binary(max_size=700),
)
def test_every_translated_icmp_error_is_well_formed(kind: int, code: int, rest: int, length: int, tail: bytes) -> None:
    packet = error_v4(kind, code, quote_v4(1400)[:length] + tail, rest=rest)
    try:
        result = to_backend(packet)
    except (ParseError, Untranslatable):
        return
    assert len(result) <= 1280
    assert icmp_checksum_holds(result)
    assert quoted_v6(result)[:5] == (packed(BACKEND6), packed(MAPPED6), BACKEND_PORT, CLIENT_PORT, 5000)


@given(
    st.sampled_from((1, 2, 3, 4)),
    st.integers(0, 6),
    st.integers(0, 2**32 - 1) | st.integers(0, 40),
    st.integers(48, 1400),
    st.binary(max_size=700),
)
def test_every_translated_icmpv6_error_is_well_formed(kind: int, code: int, rest: int, length: int, tail: bytes) -> None:
    packet = error_v6(kind, code, quote_v6(1400)[:length] + tail, rest=rest)
    try:
        result = to_client(packet)
    except (ParseError, Untranslatable):
        return
    assert len(result) <= 576
    assert icmp_checksum_holds(result)
    assert quoted_v4(result)[:5] == (packed(CLIENT4), packed(SERVICE4), CLIENT_PORT, SERVICE_PORT, 5000)


@given(st.binary(max_size=120), st.sampled_from((b"", b"\x45", b"\x60\0\0\0")))
def test_any_bytes_are_refused_or_translated(data: bytes, start: bytes) -> None:
    for function in (to_backend, to_client, quoted_v4, quoted_v6):
        try:
            function(start + data)
        except (ParseError, Untranslatable):
            continue
