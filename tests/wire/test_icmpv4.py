import pytest
from hypothesis import given
from hypothesis import strategies as st
from icmp_quotes import error_v4
from segment_strategies import byte, number

from kracauer.errors import ParseError
from kracauer.wire import icmpv4
from kracauer.wire.icmpv4 import Icmpv4Message

messages = st.builds(Icmpv4Message, byte, byte, number, st.binary(max_size=99))


@given(messages)
def test_what_was_built_is_parsed_again(message: Icmpv4Message) -> None:
    assert icmpv4.parse(icmpv4.build(message)) == message


@given(messages)
def test_the_checksum_is_the_oracles(message: Icmpv4Message) -> None:
    data = icmpv4.build(message)
    expected = error_v4(message.type, message.code, message.body, rest=message.rest)[20:]
    # Zero has two forms; an all-zero message is the one case in which they differ.
    assert data == expected or (not any(data) and expected[2:4] == b"\xff\xff")


@pytest.mark.parametrize("length", [0, 7])
def test_a_cut_message_is_refused(length: int) -> None:
    with pytest.raises(ParseError, match=f"{length} bytes where a header takes 8"):
        icmpv4.parse(bytes(length))


@given(st.integers(0, 20), st.integers(1, 255))
def test_a_changed_message_is_refused(at: int, flip: int) -> None:
    data = bytearray(icmpv4.build(Icmpv4Message(3, 1, 0, b"quoted packet")))
    data[at] ^= flip
    with pytest.raises(ParseError, match="checksum"):
        icmpv4.parse(data)


@pytest.mark.parametrize("kind", [3, 11, 12])
def test_the_length_attribute_is_the_sixth_octet_in_words_of_four_bytes(kind: int) -> None:
    assert Icmpv4Message(kind, 0, 0x09210507, b"").original_length == 0x21 * 4


@pytest.mark.parametrize("kind", [0, 4, 5, 8])
def test_other_types_have_no_length_attribute(kind: int) -> None:
    assert Icmpv4Message(kind, 0, 0x00210000, b"").original_length == 0


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_parsed_or_refused(data: bytes) -> None:
    try:
        message = icmpv4.parse(data)
    except ParseError:
        return
    assert (message.type, message.code, message.body) == (data[0], data[1], data[8:])
