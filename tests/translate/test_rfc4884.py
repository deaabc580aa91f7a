from hypothesis import given
from hypothesis import strategies as st

from kracauer.translate import rfc4884

V4_UNIT, V6_UNIT = 4, 8
QUOTE = bytes(range(1, 129))
EXTENSIONS = b"\x20\x00\xc1\x2d" + b"extension object"


def test_the_length_attribute_parts_quote_and_extensions() -> None:
    assert rfc4884.split(QUOTE + EXTENSIONS, 128) == (QUOTE, EXTENSIONS)


def test_without_a_length_attribute_everything_is_the_quote() -> None:
    assert rfc4884.split(QUOTE + EXTENSIONS, 0) == (QUOTE + EXTENSIONS, b"")


def test_a_length_attribute_that_reaches_to_the_end_leaves_no_extensions() -> None:
    assert rfc4884.split(QUOTE, 128) == (QUOTE, b"")


def test_a_length_attribute_that_reaches_past_the_end_says_nothing() -> None:
    assert rfc4884.split(QUOTE, 132) == (QUOTE, b"")


def test_a_quote_shorter_than_128_bytes_is_padded_with_zeros_before_extensions() -> None:
    body, length = rfc4884.join(QUOTE[:28], EXTENSIONS, V4_UNIT, 548)
    assert body == QUOTE[:28] + bytes(100) + EXTENSIONS
    assert length == 32


def test_a_quote_is_padded_to_whole_units_and_nothing_of_it_is_cut() -> None:
    quote = QUOTE + bytes(18)
    body, length = rfc4884.join(quote, EXTENSIONS, V6_UNIT, 1232)
    assert body == quote + bytes(6) + EXTENSIONS
    assert length == 19


def test_the_length_attribute_counts_in_the_familys_units() -> None:
    assert rfc4884.join(bytes(152), EXTENSIONS, V4_UNIT, 548)[1] == 38
    assert rfc4884.join(bytes(152), EXTENSIONS, V6_UNIT, 1232)[1] == 19


def test_the_quote_gives_way_before_the_extensions() -> None:
    body, length = rfc4884.join(b"q" * 600, b"e" * 40, V4_UNIT, 548)
    assert body == b"q" * 508 + b"e" * 40
    assert length == 127


def test_extensions_fit_as_long_as_128_bytes_of_the_quote_do() -> None:
    body, length = rfc4884.join(b"q" * 600, b"e" * 420, V4_UNIT, 548)
    assert body == b"q" * 128 + b"e" * 420
    assert length == 32


def test_extensions_that_do_not_fit_are_left_out_whole() -> None:
    assert rfc4884.join(b"q" * 108, b"e" * 421, V4_UNIT, 548) == (b"q" * 108, 0)


def test_a_quote_without_extensions_is_not_padded() -> None:
    assert rfc4884.join(b"q" * 33, b"", V6_UNIT, 1232) == (b"q" * 33, 0)


def test_a_quote_without_extensions_is_cut_to_the_limit() -> None:
    assert rfc4884.join(b"q" * 1233, b"", V6_UNIT, 1232) == (b"q" * 1232, 0)


@given(
    st.binary(max_size=1500),
    st.binary(max_size=1500),
    st.sampled_from(((V4_UNIT, 548), (V6_UNIT, 1232))),
)
def test_what_was_joined_is_within_the_limit_and_splits_again(
    quote: bytes, extensions: bytes, unit_limit: tuple[int, int]
) -> None:
    unit, limit = unit_limit
    body, length = rfc4884.join(quote, extensions, unit, limit)
    assert len(body) <= limit
    assert length < 256
    original, rest = rfc4884.split(body, length * unit)
    assert rest in (extensions, b"")
    assert original.startswith(quote[: len(original)])
    assert not any(original[len(quote) :])
