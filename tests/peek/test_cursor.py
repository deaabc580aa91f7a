import pytest
from hypothesis import given
from hypothesis import strategies as st

from kracauer.errors import ParseError
from kracauer.peek.cursor import Cursor


def test_integers_are_big_endian() -> None:
    cursor = Cursor(b"\x01\x02\x03\x04\x05\x06")
    assert [cursor.pull_uint(size, "field") for size in (1, 2, 3)] == [0x01, 0x0203, 0x040506]


def test_a_block_cannot_be_read_past_its_end() -> None:
    block = Cursor(b"\x02ab-outside").pull_block(1, "block")
    assert block.pull_bytes(2, "field") == b"ab"
    with pytest.raises(ParseError, match="field wants 1 bytes where 0 are left"):
        block.pull_bytes(1, "field")


def test_a_vector_longer_than_what_is_left_is_an_error() -> None:
    with pytest.raises(ParseError, match="session wants 3 bytes where 2 are left"):
        Cursor(b"\x03ab").pull_vector(1, "session")


def test_bytes_after_the_end_of_a_block_are_an_error() -> None:
    cursor = Cursor(b"abc")
    cursor.pull_bytes(1, "field")
    with pytest.raises(ParseError, match="2 bytes follow the end of block"):
        cursor.expect_end("block")


def test_a_block_read_to_its_end_has_ended() -> None:
    cursor = Cursor(b"abc")
    assert not cursor.is_at_end
    cursor.pull_bytes(3, "field")
    assert cursor.is_at_end
    cursor.expect_end("block")


@given(st.lists(st.binary(max_size=40)))
def test_vectors_come_out_as_they_were_put_in(contents: list[bytes]) -> None:
    cursor = Cursor(b"".join(bytes([len(content)]) + content for content in contents))
    assert [cursor.pull_vector(1, "field") for _ in contents] == contents
    cursor.expect_end("data")
