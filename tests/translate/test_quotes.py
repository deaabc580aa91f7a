import pytest
from hypothesis import given
from hypothesis import strategies as st
from icmp_quotes import (
    BACKEND6,
    BACKEND_PORT,
    CLIENT4,
    CLIENT_PORT,
    MAPPED6,
    SERVICE4,
    SERVICE_PORT,
    packed,
    segment_from_backend,
    segment_from_client,
    segment_to_backend,
    segment_to_client,
    tcp_checksum_holds,
)
from scapy_oracle import IP, TCP, IPOption_NOP, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrRouting, Raw, dissect
from segment_strategies import number, payloads

from kracauer.errors import DropReason, ParseError, Untranslatable
from kracauer.translate import quotes
from kracauer.translate.quotes import Quoted, QuoteMapping

DELTA = 0xFEDCBA98
TO_BACKEND = QuoteMapping(packed(BACKEND6), packed(MAPPED6), BACKEND_PORT, CLIENT_PORT, -DELTA, 0)
TO_CLIENT = QuoteMapping(packed(CLIENT4), packed(SERVICE4), CLIENT_PORT, SERVICE_PORT, 0, DELTA)
# How much of a segment is quoted. A number or checksum that was cut in two cannot be put right.
segment_lengths = st.one_of(st.sampled_from((8, 12, 16)), st.integers(18, 1500))


def back_to_backend(quote: bytes) -> bytes:
    return quotes.translate_v4(quotes.parse_v4(quote), TO_BACKEND)


def back_to_client(quote: bytes) -> bytes:
    return quotes.translate_v6(quotes.parse_v6(quote), TO_CLIENT)


@given(number, number, payloads, segment_lengths)
def test_a_quote_from_the_ipv4_side_is_what_the_backend_sent(seq: int, ack: int, payload: bytes, length: int) -> None:
    quoted = segment_to_client(seq=seq + DELTA, ack=ack, payload=payload, tos=0x2E, ttl=9)
    sent = segment_from_backend(seq=seq, ack=ack, payload=payload, tc=0x2E, hlim=9)
    assert back_to_backend(quoted[: 20 + length]) == sent[: 40 + length]


@given(number, number, payloads, segment_lengths)
def test_a_quote_from_the_ipv6_side_is_what_the_client_sent(seq: int, ack: int, payload: bytes, length: int) -> None:
    flags = "DF" if len(payload) + 40 > 1260 else 0
    quoted = segment_to_backend(seq=seq, ack=ack - DELTA, payload=payload, tc=0x2E, hlim=9, fl=0x12345)
    sent = segment_from_client(seq=seq, ack=ack, payload=payload, tos=0x2E, ttl=9, flags=flags, id=0)
    assert back_to_client(quoted[: 40 + length]) == sent[: 20 + length]


@given(number, number, st.sampled_from(("S", "R", "SEC")))
def test_a_segment_without_ack_keeps_its_acknowledgment_number(seq: int, ack: int, flags: str) -> None:
    quoted = segment_to_backend(seq=seq, ack=ack, tcp_flags=flags)
    layers = dissect(back_to_client(quoted))
    assert layers[TCP].ack == ack
    assert tcp_checksum_holds(bytes(layers))


def test_where_the_flags_were_cut_off_the_acknowledgment_number_is_moved() -> None:
    quoted = segment_to_backend(seq=1, ack=1000)[: 40 + 13]
    assert back_to_client(quoted)[28:32] == (1000 + DELTA).to_bytes(4, "big")


def test_an_acknowledgment_number_cut_in_two_is_left_alone() -> None:
    quoted = segment_to_backend(seq=1, ack=1000)[: 40 + 11]
    assert back_to_client(quoted)[20 + 8 :] == quoted[40 + 8 :]


def test_the_total_length_is_the_whole_packets_however_little_was_quoted() -> None:
    quoted = segment_to_client(seq=1, ack=2, payload=bytes(1000))[:28]
    assert IPv6(back_to_backend(quoted)).plen == 1020


def test_the_payload_length_is_the_whole_packets_however_little_was_quoted() -> None:
    quoted = segment_to_backend(seq=1, ack=2, payload=bytes(1000))[:48]
    assert IP(back_to_client(quoted)).len == 1040


def test_a_lie_about_the_length_is_kept_within_what_ipv4_can_say() -> None:
    quoted = bytearray(segment_to_backend(seq=1, ack=2))
    quoted[4:6] = b"\xff\xff"
    assert IP(back_to_client(bytes(quoted))).len == 0xFFFF


def test_padding_behind_a_short_packet_is_not_quoted() -> None:
    quoted = segment_to_client(seq=1 + DELTA, ack=2)
    assert back_to_backend(quoted + bytes(88)) == segment_from_backend(seq=1, ack=2, hlim=64)


def test_options_of_a_quoted_ipv4_header_are_stripped() -> None:
    quoted = segment_to_client(seq=1 + DELTA, ack=2, options=[IPOption_NOP()] * 4)
    assert back_to_backend(quoted) == segment_from_backend(seq=1, ack=2, hlim=64)


def test_extension_headers_of_a_quoted_ipv6_packet_are_stripped() -> None:
    plain = segment_to_backend(seq=1, ack=2 - DELTA, payload=b"data")
    layers = IPv6(plain)
    tcp = layers.payload
    layers.remove_payload()
    del layers.plen, layers.nh
    extended = bytes(layers / IPv6ExtHdrDestOpt() / tcp)
    assert len(extended) == len(plain) + 8
    assert back_to_client(extended) == back_to_client(plain)


def test_a_quoted_first_ipv4_fragment_stays_a_fragment() -> None:
    quoted = segment_to_client(seq=1 + DELTA, ack=2, payload=bytes(100), flags="MF", id=0x1234)
    header = IPv6(back_to_backend(quoted))
    fragment = header[IPv6ExtHdrFragment]
    assert (header.nh, header.plen) == (44, 128)
    assert (fragment.nh, fragment.offset, fragment.m, fragment.id) == (6, 0, 1, 0x1234)
    assert (fragment.res1, fragment.res2) == (0, 0)


def test_a_quoted_first_ipv6_fragment_stays_a_fragment() -> None:
    plain = IPv6(segment_to_backend(seq=1, ack=2 - DELTA, payload=bytes(1300)))
    fragment = IPv6ExtHdrFragment(m=1, id=0x87654321)
    quoted = bytes(IPv6(src=MAPPED6, dst=BACKEND6) / fragment / plain.payload)
    header = IP(back_to_client(quoted))
    assert (header.flags, header.frag, header.id, header.len) == ("MF", 0, 0x4321, 1340)


def test_a_fragment_header_on_a_quoted_whole_packet_keeps_df_clear() -> None:
    plain = IPv6(segment_to_backend(seq=1, ack=2 - DELTA, payload=bytes(1300)))
    quoted = bytes(IPv6(src=MAPPED6, dst=BACKEND6) / IPv6ExtHdrFragment(id=0x87654321) / plain.payload)
    header = IP(back_to_client(quoted))
    assert (header.flags, header.id) == (0, 0x4321)


@pytest.mark.parametrize(("payload_length", "flags"), [(1220, 0), (1221, "DF")])
def test_df_is_set_on_what_was_longer_than_1260_bytes(payload_length: int, flags: object) -> None:
    quoted = segment_to_backend(seq=1, ack=2, payload=bytes(payload_length))
    assert IP(back_to_client(quoted)).flags == flags


@given(st.integers(1, 0xFFFF))
def test_a_wrong_checksum_in_a_quote_stays_wrong_by_as_much(error: int) -> None:
    quoted = bytearray(segment_to_client(seq=1 + DELTA, ack=2))
    value = int.from_bytes(quoted[36:38], "big")
    quoted[36:38] = ((value + error) % 0xFFFF).to_bytes(2, "big")
    sent = segment_from_backend(seq=1, ack=2, hlim=64)
    found = back_to_backend(bytes(quoted))
    assert (int.from_bytes(found[56:58], "big") - int.from_bytes(sent[56:58], "big")) % 0xFFFF == error % 0xFFFF


def test_the_header_checksum_of_a_quote_does_not_matter() -> None:
    quoted = bytearray(segment_to_client(seq=1, ack=2))
    quoted[10:12] = b"\0\0"
    assert back_to_backend(bytes(quoted)) == back_to_backend(segment_to_client(seq=1, ack=2))


@pytest.mark.parametrize("length", [0, 19, 20, 27])
def test_less_of_an_ipv4_packet_than_ports_and_sequence_number_is_refused(length: int) -> None:
    with pytest.raises(ParseError, match="bytes quoted"):
        quotes.parse_v4(segment_to_client(seq=1, ack=2)[:length])


@pytest.mark.parametrize("length", [0, 39, 40, 47])
def test_less_of_an_ipv6_packet_than_ports_and_sequence_number_is_refused(length: int) -> None:
    with pytest.raises(ParseError, match="bytes quoted"):
        quotes.parse_v6(segment_to_backend(seq=1, ack=2)[:length])


def test_a_total_length_too_short_for_ports_and_sequence_number_is_refused() -> None:
    with pytest.raises(ParseError, match="7 bytes quoted"):
        quotes.parse_v4(segment_to_client(seq=1, ack=2, len=27))


@pytest.mark.parametrize("version_ihl", [0x65, 0x44, 0x40])
def test_what_is_no_ipv4_header_is_refused(version_ihl: int) -> None:
    with pytest.raises(ParseError, match="no IPv4 packet"):
        quotes.parse_v4(bytes((version_ihl,)) + segment_to_client(seq=1, ack=2)[1:])


def test_a_later_ipv4_fragment_has_no_flow() -> None:
    with pytest.raises(Untranslatable, match="later fragment"):
        quotes.parse_v4(segment_to_client(seq=1, ack=2, frag=1))


def test_a_later_ipv6_fragment_has_no_flow() -> None:
    quoted = bytes(IPv6(src=MAPPED6, dst=BACKEND6) / IPv6ExtHdrFragment(offset=1, nh=6) / Raw(bytes(100)))
    with pytest.raises(Untranslatable, match="later fragment"):
        quotes.parse_v6(quoted)


@pytest.mark.parametrize("protocol", [1, 17, 58])
def test_what_is_not_tcp_is_not_translated(protocol: int) -> None:
    with pytest.raises(Untranslatable) as dropped_v4:
        quotes.parse_v4(bytes(IP(src=SERVICE4, dst=CLIENT4, proto=protocol) / Raw(bytes(64))))
    assert dropped_v4.value.reason is DropReason.NOT_TCP
    with pytest.raises(Untranslatable) as dropped_v6:
        quotes.parse_v6(bytes(IPv6(src=MAPPED6, dst=BACKEND6, nh=protocol) / Raw(bytes(64))))
    assert dropped_v6.value.reason is DropReason.NOT_TCP


def test_a_quoted_packet_with_a_source_route_is_not_translated() -> None:
    routing = IPv6ExtHdrRouting(addresses=[BACKEND6], segleft=1)
    quoted = bytes(IPv6(src=MAPPED6, dst=BACKEND6) / routing / TCP(sport=CLIENT_PORT, dport=BACKEND_PORT))
    with pytest.raises(Untranslatable, match="source route"):
        quotes.parse_v6(quoted)


def test_extension_headers_cut_off_by_the_quote_are_refused() -> None:
    quoted = bytes(IPv6(src=MAPPED6, dst=BACKEND6) / IPv6ExtHdrDestOpt() / TCP())
    with pytest.raises(ParseError, match="runs out"):
        quotes.parse_v6(quoted[:46])


@given(number, number)
def test_a_quote_is_described_in_the_words_of_its_side(seq: int, ack: int) -> None:
    inner = quotes.parse_v4(segment_to_client(seq=seq, ack=ack)[:28])
    expected = Quoted(packed(SERVICE4), packed(CLIENT4), SERVICE_PORT, CLIENT_PORT, seq, 1400)
    assert quotes.describe(inner.header, inner.segment, 1400) == expected


@given(st.binary(max_size=80), st.sampled_from((b"", b"\x45", b"\x46", b"\x60")))
def test_quotes_of_any_bytes_are_translated_or_refused(data: bytes, start: bytes) -> None:
    for back in (back_to_backend, back_to_client):
        try:
            back(start + data)
        except (ParseError, Untranslatable):
            continue
