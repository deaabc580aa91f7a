import pytest
from hypothesis import given
from hypothesis import strategies as st
from icmp_quotes import (
    BACKEND6,
    CLIENT4,
    MAPPED6,
    ROUTER4,
    ROUTER6,
    SERVICE4,
    error_v4,
    error_v6,
    icmp_checksum_holds,
    packed,
    segment_from_backend,
    segment_from_client,
)
from scapy_oracle import IP, TCP, IPOption_NOP, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrRouting, Raw

from kracauer.translate import icmp_answers

OFFENDING4 = segment_from_client(seq=1, ack=2, payload=bytes(range(256)) * 5)
OFFENDING6 = segment_from_backend(seq=1, ack=2, payload=bytes(range(256)) * 5)


# Errors.


def test_an_icmp_error_quotes_what_576_bytes_leave_room_for() -> None:
    packet = icmp_answers.build_v4_error(3, 4, 1260, OFFENDING4, packed(SERVICE4), packed(CLIENT4))
    assert len(packet) == 576
    assert packet[20:22] + packet[24:28] == bytes((3, 4)) + (1260).to_bytes(4, "big")
    assert packet[28:] == OFFENDING4[:548]
    assert icmp_checksum_holds(packet)


def test_an_icmpv6_error_quotes_what_1280_bytes_leave_room_for() -> None:
    packet = icmp_answers.build_v6_error(2, 0, 1420, OFFENDING6, packed(MAPPED6), packed(BACKEND6))
    assert len(packet) == 1280
    assert packet[40:42] + packet[44:48] == bytes((2, 0)) + (1420).to_bytes(4, "big")
    assert packet[48:] == OFFENDING6[:1232]
    assert icmp_checksum_holds(packet)


def test_a_short_packet_is_quoted_whole() -> None:
    assert icmp_answers.build_v4_error(11, 0, 0, b"short", packed(SERVICE4), packed(CLIENT4))[28:] == b"short"
    assert icmp_answers.build_v6_error(3, 0, 0, b"short", packed(MAPPED6), packed(BACKEND6))[48:] == b"short"


def test_an_icmp_error_has_the_precedence_of_network_control_and_may_be_fragmented() -> None:
    packet = icmp_answers.build_v4_error(11, 0, 0, OFFENDING4, packed(SERVICE4), packed(CLIENT4), identification=0x51234)
    header = IP(packet)
    assert (header.src, header.dst, header.proto, header.ttl, header.len) == (SERVICE4, CLIENT4, 1, 64, 576)
    assert (header.tos, header.flags, header.id) == (0xC0, 0, 0x1234)
    del header.chksum
    assert bytes(header) == packet


def test_without_an_identification_an_icmp_error_has_zero() -> None:
    assert IP(icmp_answers.build_v4_error(11, 0, 0, OFFENDING4, packed(SERVICE4), packed(CLIENT4))).id == 0


def test_an_icmpv6_error_is_an_ordinary_packet() -> None:
    header = IPv6(icmp_answers.build_v6_error(3, 0, 0, OFFENDING6, packed(ROUTER6), packed(BACKEND6)))
    assert (header.src, header.dst, header.nh, header.hlim, header.plen) == (ROUTER6, BACKEND6, 58, 64, 1240)
    assert (header.tc, header.fl) == (0, 0)


# What may be answered.


@pytest.mark.parametrize("packet", [OFFENDING4, bytes(IP(src=CLIENT4, dst=SERVICE4, proto=17) / Raw(b"udp"))])
def test_an_ordinary_ipv4_packet_may_be_answered(packet: bytes) -> None:
    assert icmp_answers.may_answer_v4(packet)


@pytest.mark.parametrize("packet", [OFFENDING6, bytes(IPv6(src=BACKEND6, dst=MAPPED6, nh=17) / Raw(b"udp"))])
def test_an_ordinary_ipv6_packet_may_be_answered(packet: bytes) -> None:
    assert icmp_answers.may_answer_v6(packet)


def test_a_first_fragment_may_be_answered() -> None:
    assert icmp_answers.may_answer_v4(bytes(IP(src=CLIENT4, dst=SERVICE4, flags="MF") / TCP()))
    assert icmp_answers.may_answer_v6(bytes(IPv6(src=BACKEND6, dst=MAPPED6) / IPv6ExtHdrFragment(m=1) / TCP()))


def test_a_later_fragment_is_never_answered() -> None:
    assert not icmp_answers.may_answer_v4(bytes(IP(src=CLIENT4, dst=SERVICE4, frag=1) / TCP()))
    assert not icmp_answers.may_answer_v6(bytes(IPv6(src=BACKEND6, dst=MAPPED6) / IPv6ExtHdrFragment(offset=1) / TCP()))


def test_only_icmp_that_is_known_to_be_no_error_is_answered() -> None:
    answered = [kind for kind in range(256) if icmp_answers.may_answer_v4(error_v4(kind, 0, b""))]
    assert answered == [0, 8, 9, 10, 13, 14, 15, 16, 17, 18]


def test_only_icmpv6_that_is_no_error_and_no_redirect_is_answered() -> None:
    answered = [kind for kind in range(256) if icmp_answers.may_answer_v6(error_v6(kind, 0, b""))]
    assert answered == [*range(128, 137), *range(138, 256)]


def test_icmp_without_a_type_is_never_answered() -> None:
    assert not icmp_answers.may_answer_v4(bytes(IP(src=CLIENT4, dst=SERVICE4, proto=1)))
    assert not icmp_answers.may_answer_v6(bytes(IPv6(src=BACKEND6, dst=MAPPED6, nh=58)))


@pytest.mark.parametrize("address", ["224.0.0.1", "255.255.255.255"])
def test_an_ipv4_packet_to_many_is_never_answered(address: str) -> None:
    assert not icmp_answers.may_answer_v4(bytes(IP(src=CLIENT4, dst=address) / TCP()))


def test_an_ipv6_packet_to_many_is_never_answered() -> None:
    assert not icmp_answers.may_answer_v6(bytes(IPv6(src=BACKEND6, dst="ff02::1") / TCP()))


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_an_ipv4_packet_from_no_single_host_is_never_answered(address: str) -> None:
    assert not icmp_answers.may_answer_v4(bytes(IP(src=address, dst=SERVICE4) / TCP()))


@pytest.mark.parametrize("address", ["::", "::1", "ff02::1"])
def test_an_ipv6_packet_from_no_single_host_is_never_answered(address: str) -> None:
    assert not icmp_answers.may_answer_v6(bytes(IPv6(src=address, dst=MAPPED6) / TCP()))


@given(st.integers(0, len(OFFENDING4) - 1))
def test_what_was_cut_short_is_never_answered(length: int) -> None:
    assert not icmp_answers.may_answer_v4(OFFENDING4[:length])
    assert not icmp_answers.may_answer_v6(OFFENDING6[:length])


@given(st.binary(max_size=80), st.sampled_from((b"", b"\x45", b"\x60\0\0\0")))
def test_no_bytes_may_be_answered_in_both_families(data: bytes, start: bytes) -> None:
    packet = start + data
    assert not (icmp_answers.may_answer_v4(packet) and icmp_answers.may_answer_v6(packet))


# Echo.


@given(st.integers(1, 2**32 - 1), st.binary(max_size=100), st.integers(0, 255), st.integers(0, 0xFFFF))
def test_an_echo_request_is_answered_with_its_own_data(rest: int, data: bytes, tos: int, identification: int) -> None:
    packet = icmp_answers.echo_reply_v4(error_v4(8, 0, data, rest=rest, src=CLIENT4, tos=tos, id=identification, ttl=3))
    expected = error_v4(0, 0, data, rest=rest, src=SERVICE4, dst=CLIENT4, tos=tos, id=identification, ttl=64)
    assert packet == expected


@given(st.integers(0, 2**32 - 1), st.binary(max_size=100), st.integers(0, 255))
def test_an_icmpv6_echo_request_is_answered_with_its_own_data(rest: int, data: bytes, traffic_class: int) -> None:
    request = error_v6(128, 0, data, rest=rest, src=BACKEND6, tc=traffic_class, fl=7, hlim=3)
    expected = error_v6(129, 0, data, rest=rest, src=MAPPED6, dst=BACKEND6, tc=traffic_class, hlim=64)
    assert icmp_answers.echo_reply_v6(request) == expected


def test_options_of_an_echo_request_are_not_echoed() -> None:
    plain = error_v4(8, 0, b"data", src=CLIENT4)
    assert icmp_answers.echo_reply_v4(
        error_v4(8, 0, b"data", src=CLIENT4, options=[IPOption_NOP()] * 4)
    ) == icmp_answers.echo_reply_v4(plain)


def test_extension_headers_of_an_echo_request_are_not_echoed() -> None:
    plain = error_v6(128, 0, b"data", src=BACKEND6)
    packet = bytes(IPv6(src=BACKEND6, dst=MAPPED6) / IPv6ExtHdrDestOpt(nh=58) / Raw(plain[40:]))
    assert icmp_answers.echo_reply_v6(packet) == icmp_answers.echo_reply_v6(plain)


@pytest.mark.parametrize(("kind", "code"), [(0, 0), (3, 0), (8, 1), (13, 0)])
def test_other_icmp_gets_no_echo(kind: int, code: int) -> None:
    assert icmp_answers.echo_reply_v4(error_v4(kind, code, b"data", src=CLIENT4)) is None


@pytest.mark.parametrize(("kind", "code"), [(129, 0), (1, 0), (128, 1), (135, 0)])
def test_other_icmpv6_gets_no_echo(kind: int, code: int) -> None:
    assert icmp_answers.echo_reply_v6(error_v6(kind, code, b"data", src=BACKEND6)) is None


@pytest.mark.parametrize(("src", "dst"), [(CLIENT4, "224.0.0.1"), (CLIENT4, "255.255.255.255"), ("127.0.0.1", SERVICE4)])
def test_many_are_not_echoed_in_ipv4(src: str, dst: str) -> None:
    assert icmp_answers.echo_reply_v4(error_v4(8, 0, b"data", src=src, dst=dst)) is None


@pytest.mark.parametrize(("src", "dst"), [(BACKEND6, "ff02::1"), ("ff02::1", MAPPED6), ("::", MAPPED6)])
def test_many_are_not_echoed_in_ipv6(src: str, dst: str) -> None:
    assert icmp_answers.echo_reply_v6(error_v6(128, 0, b"data", src=src, dst=dst)) is None


def test_a_fragment_of_an_echo_request_gets_no_echo() -> None:
    message = error_v6(128, 0, b"data", src=BACKEND6)[40:]
    assert icmp_answers.echo_reply_v4(error_v4(8, 0, b"data", src=CLIENT4, flags="MF")) is None
    packet = bytes(IPv6(src=BACKEND6, dst=MAPPED6) / IPv6ExtHdrFragment(nh=58, m=1) / Raw(message))
    assert icmp_answers.echo_reply_v6(packet) is None


def test_an_echo_request_with_a_source_route_to_follow_gets_no_echo() -> None:
    message = error_v6(128, 0, b"data", src=BACKEND6)[40:]
    routing = IPv6ExtHdrRouting(nh=58, addresses=[MAPPED6], segleft=1)
    assert icmp_answers.echo_reply_v6(bytes(IPv6(src=BACKEND6, dst=MAPPED6) / routing / Raw(message))) is None


def test_a_damaged_echo_request_gets_no_echo() -> None:
    assert icmp_answers.echo_reply_v4(error_v4(8, 0, b"data", src=ROUTER4)[:-1] + b"x") is None
    assert icmp_answers.echo_reply_v6(error_v6(128, 0, b"data", src=ROUTER6)[:-1] + b"x") is None


@given(st.binary(max_size=80), st.sampled_from((b"", b"\x45", b"\x60\0\0\0")))
def test_any_bytes_are_answered_or_not(data: bytes, start: bytes) -> None:
    assert not icmp_answers.echo_reply_v4(start + data) or start != b"\x60\0\0\0"
    assert not icmp_answers.echo_reply_v6(start + data) or start != b"\x45"
