from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy_oracle import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6, Raw
from segment_strategies import byte, number, v6_address

from kracauer.errors import ParseError
from kracauer.wire import icmpv6
from kracauer.wire.icmpv6 import Icmpv6Message

SRC, DST = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")


def scapy_message(message: object, body: bytes) -> bytes:
    return bytes(IPv6(src=str(SRC), dst=str(DST)) / message / Raw(body))[40:]


@given(st.binary(max_size=100), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_what_scapy_built_is_parsed(body: bytes, code: int, rest: int) -> None:
    data = scapy_message(ICMPv6DestUnreach(code=code, length=rest >> 24, unused=rest & 0xFFFFFF), body)
    assert icmpv6.parse(data, SRC.packed, DST.packed) == Icmpv6Message(1, code, rest, body)


def test_the_second_word_is_an_echos_identifier_and_sequence() -> None:
    data = scapy_message(ICMPv6EchoRequest(id=0x1234, seq=0x5678), b"ping")
    assert icmpv6.parse(memoryview(data), SRC.packed, DST.packed) == Icmpv6Message(128, 0, 0x12345678, b"ping")


@pytest.mark.parametrize("length", [0, 7])
def test_a_cut_message_is_refused(length: int) -> None:
    with pytest.raises(ParseError, match=f"{length} bytes where a header takes 8"):
        icmpv6.parse(bytes(length), SRC.packed, DST.packed)


@given(st.integers(0, 19), st.integers(1, 255))
def test_a_changed_message_is_refused(at: int, flip: int) -> None:
    data = bytearray(scapy_message(ICMPv6DestUnreach(), b"quoted packet"))
    data[at] ^= flip
    with pytest.raises(ParseError, match="checksum"):
        icmpv6.parse(data, SRC.packed, DST.packed)


def test_a_message_between_others_is_refused() -> None:
    data = scapy_message(ICMPv6DestUnreach(), b"quoted packet")
    with pytest.raises(ParseError, match="checksum"):
        icmpv6.parse(data, SRC.packed, IPv6Address("2001:db8::3").packed)


@given(st.binary(max_size=60), v6_address, v6_address)
def test_bytes_of_any_kind_are_parsed_or_refused(data: bytes, src: bytes, dst: bytes) -> None:
    try:
        message = icmpv6.parse(data, src, dst)
    except ParseError:
        return
    assert (message.type, message.code, message.body) == (data[0], data[1], data[8:])


@given(st.builds(Icmpv6Message, byte, byte, number, st.binary(max_size=99)), v6_address, v6_address)
def test_what_was_built_is_parsed_again(message: Icmpv6Message, src: bytes, dst: bytes) -> None:
    assert icmpv6.parse(icmpv6.build(message, src, dst), src, dst) == message


@given(st.binary(max_size=100), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_what_is_built_is_what_scapy_builds(body: bytes, code: int, rest: int) -> None:
    data = scapy_message(ICMPv6DestUnreach(code=code, length=rest >> 24, unused=rest & 0xFFFFFF), body)
    assert icmpv6.build(Icmpv6Message(1, code, rest, body), SRC.packed, DST.packed) == data


@pytest.mark.parametrize("kind", [1, 3])
def test_the_length_attribute_is_the_fifth_octet_in_words_of_eight_bytes(kind: int) -> None:
    assert Icmpv6Message(kind, 0, 0x13000000, b"").original_length == 0x13 * 8


@pytest.mark.parametrize("kind", [2, 4, 128])
def test_other_types_have_no_length_attribute(kind: int) -> None:
    assert Icmpv6Message(kind, 0, 0x13000000, b"").original_length == 0
