from collections.abc import Callable

import pytest
from hellos import client_hello
from hypothesis import given
from hypothesis import strategies as st

from kracauer.errors import ParseError
from kracauer.peek import NEED_MORE, NO_HOSTNAME, Dialect, Peeked, PeekError, tls

Build = Callable[..., bytes]
NAMED = Peeked(Dialect.TLS, "www.example.com")
UNNAMED = Peeked(Dialect.TLS, NO_HOSTNAME)


@pytest.fixture
def plain(hello: Build, server_name: Build) -> bytes:
    """A well-formed ClientHello with extensions on both sides of its server name."""
    return hello([(43, b"\x02\x03\x04"), (0, server_name(b"www.example.com")), (65_281, b"\x00")])


def refusal(stream: bytes, limit_bytes: int = 65_536) -> PeekError:
    with pytest.raises(PeekError) as caught:
        tls.peek(stream, limit_bytes)
    assert caught.value.dialect is Dialect.TLS
    return caught.value


def test_the_server_name_is_found(plain: bytes, records: Build) -> None:
    assert tls.peek(records(plain)) == NAMED


def test_a_refusal_is_a_parse_error() -> None:
    assert isinstance(refusal(b"\x17"), ParseError)


def test_no_bytes_need_more() -> None:
    assert tls.peek(b"") is NEED_MORE


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 41, 100])
def test_a_hello_may_span_records_of_any_size(plain: bytes, records: Build, size: int) -> None:
    assert tls.peek(records(plain, size)) == NAMED


@pytest.mark.parametrize("size", [1, 7, 16_384])
def test_nothing_is_answered_before_the_last_byte_of_the_hello(plain: bytes, records: Build, size: int) -> None:
    stream = records(plain, size)
    assert {tls.peek(stream[:end]) for end in range(len(stream))} == {NEED_MORE}


def test_what_follows_the_hello_is_not_looked_at(plain: bytes, records: Build) -> None:
    assert tls.peek(records(plain) + b"\x14\x03\x03\x00\x01\x01early data, of no concern") == NAMED


def test_a_hello_of_64_kib_is_read(hello: Build, server_name: Build, records: Build) -> None:
    room = 65_536 - len(records(hello([(21, b""), (0, server_name(b"www.example.com"))]))) - 15
    stream = records(hello([(21, bytes(room)), (0, server_name(b"www.example.com"))]))
    assert len(stream) == 65_536
    assert tls.peek(stream) == NAMED


def test_a_hello_beyond_the_limit_is_refused_as_soon_as_its_length_is_known(plain: bytes, records: Build) -> None:
    stream = records(plain)
    assert tls.peek(stream, len(stream)) == NAMED
    assert refusal(stream[:9], len(stream) - 1).code == tls.ILLEGAL_PARAMETER


def test_record_headers_count_towards_the_limit(plain: bytes, records: Build) -> None:
    stream = records(plain, 1)
    assert tls.peek(stream, len(stream)) == NAMED
    assert "no complete ClientHello" in str(refusal(stream, len(stream) - 1))


def test_a_limit_reached_inside_a_record_header_is_a_refusal() -> None:
    assert "no complete ClientHello" in str(refusal(b"\x16\x03", 2))


@pytest.mark.parametrize("content_type", [0, 20, 21, 23, 24])
def test_another_content_type_is_unexpected(content_type: int) -> None:
    assert refusal(bytes([content_type])).code == tls.UNEXPECTED_MESSAGE


def test_another_record_inside_a_hello_is_unexpected(plain: bytes, records: Build) -> None:
    assert refusal(records(plain[:9]) + b"\x15\x03\x03\x00\x02\x01\x00" + records(plain[9:])).code == tls.UNEXPECTED_MESSAGE


def test_an_ssl_2_hello_is_told_by_name() -> None:
    error = refusal(b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10")
    assert error.code == tls.PROTOCOL_VERSION
    assert "SSL 2.0" in str(error)


def test_plain_http_is_told_by_name() -> None:
    assert "HTTP" in str(refusal(b"GET / HTTP/1.1\r\n"))


@pytest.mark.parametrize("minor", [0, 1, 3, 4, 255])
def test_any_minor_record_version_is_accepted(plain: bytes, minor: int) -> None:
    assert tls.peek(bytes([22, 3, minor]) + len(plain).to_bytes(2, "big") + plain) == NAMED


@pytest.mark.parametrize("major", [0, 2, 4, 254])
def test_another_major_record_version_is_refused(major: int) -> None:
    assert refusal(bytes([22, major])).code == tls.PROTOCOL_VERSION


def test_a_record_of_2_to_the_14_is_the_longest(hello: Build, records: Build) -> None:
    padding = 16_384 - len(hello([(21, b"")]))
    assert tls.peek(records(hello([(21, bytes(padding))]))) == UNNAMED
    assert refusal(b"\x16\x03\x01\x40\x01").code == tls.RECORD_OVERFLOW


@pytest.mark.parametrize("before", [0, 1, 4, 20])
def test_an_empty_record_is_refused(plain: bytes, records: Build, before: int) -> None:
    stream = records(plain[:before], 1) + b"\x16\x03\x01\x00\x00"
    assert refusal(stream).code == tls.UNEXPECTED_MESSAGE


@pytest.mark.parametrize("msg_type", [0, 2, 11, 255])
def test_another_handshake_message_is_unexpected(msg_type: int) -> None:
    assert refusal(b"\x16\x03\x01\x00\x30" + bytes([msg_type])).code == tls.UNEXPECTED_MESSAGE


@pytest.mark.parametrize("seen", [9, 20, None])
def test_a_record_that_goes_on_after_the_hello_is_refused_however_much_was_seen(
    plain: bytes, records: Build, seen: int | None
) -> None:
    error = refusal(records(plain + b"\x01")[:seen])
    assert error.code == tls.UNEXPECTED_MESSAGE
    assert "goes on" in str(error)


def test_a_hello_without_extensions_names_no_host(hello: Build, records: Build) -> None:
    assert tls.peek(records(hello(None))) == UNNAMED


def test_a_hello_with_an_empty_extensions_block_names_no_host(hello: Build, records: Build) -> None:
    assert tls.peek(records(hello([]))) == UNNAMED


def test_a_version_of_the_future_is_for_the_backend_to_answer(hello: Build, records: Build) -> None:
    assert tls.peek(records(hello([], version=b"\x04\x00"))) == UNNAMED


def test_a_hello_older_than_ssl_3_is_refused(hello: Build, records: Build) -> None:
    assert refusal(records(hello([], version=b"\x02\x00"))).code == tls.PROTOCOL_VERSION


@pytest.mark.parametrize(
    "broken",
    [
        {"session_id": bytes(33)},
        {"cipher_suites": b""},
        {"cipher_suites": b"\x13\x01\x13"},
        {"compression_methods": b""},
        {"tail": b"\x00"},
        {"extensions": None, "tail": b"\x00"},
        {"extensions": None, "tail": b"\x00\x05\x00\x17\x00\x00"},
    ],
)
def test_a_field_or_block_of_a_wrong_length_is_a_decode_error(hello: Build, records: Build, broken: dict[str, bytes]) -> None:
    assert refusal(records(hello(**({"extensions": [(23, b"")]} | broken)))).code == tls.DECODE_ERROR


@pytest.mark.parametrize("length", range(40))
def test_a_hello_cut_short_inside_its_message_is_a_decode_error(plain: bytes, records: Build, length: int) -> None:
    message = b"\x01" + length.to_bytes(3, "big") + plain[4 : 4 + length]
    assert refusal(records(message)).code == tls.DECODE_ERROR


@pytest.mark.parametrize(
    "extension",
    [
        b"\x00",
        b"\x00\x17\x00",
        b"\x00\x17\x00\x01",
        b"\x00\x17\xff\xff\x00",
    ],
)
def test_an_extension_cut_short_is_a_decode_error_even_after_the_name(
    hello: Build, server_name: Build, vector: Build, records: Build, extension: bytes
) -> None:
    block = b"\x00\x00" + vector(2, server_name(b"www.example.com")) + extension
    assert refusal(records(hello(None, tail=vector(2, block)))).code == tls.DECODE_ERROR


@pytest.mark.parametrize(
    "server_name_data",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        b"\x00\x03\x00\x00\x00",
        b"\x00\x06\x00\x00\x01a",
        b"\x00\x03\x00\x00\x01a",
        b"\x00\x04\x00\x00\x01a\x00",
        b"\x00\x05\x00\x00\x01a\x01",
        b"\x00\x04\x00\x00\x02a",
    ],
)
def test_a_malformed_server_name_is_a_decode_error(hello: Build, records: Build, server_name_data: bytes) -> None:
    assert refusal(records(hello([(0, server_name_data)]))).code == tls.DECODE_ERROR


@pytest.mark.parametrize("kind", [0, 23, 0x0A0A])
def test_an_extension_given_twice_is_refused(hello: Build, server_name: Build, records: Build, kind: int) -> None:
    data = server_name(b"www.example.com") if kind == 0 else b""
    assert refusal(records(hello([(kind, data), (51, b""), (kind, data)]))).code == tls.ILLEGAL_PARAMETER


def test_two_host_names_are_refused(hello: Build, server_name: Build, records: Build) -> None:
    assert refusal(records(hello([(0, server_name(b"a.example", b"a.example"))]))).code == tls.ILLEGAL_PARAMETER


def test_a_name_of_another_type_is_passed_over(hello: Build, records: Build) -> None:
    names = b"\x07\x00\x03\xff\x00\xff" + b"\x00\x00\x09a.example"
    assert tls.peek(records(hello([(0, len(names).to_bytes(2, "big") + names)]))) == Peeked(Dialect.TLS, "a.example")


def test_names_of_another_type_alone_name_no_host(hello: Build, server_name: Build, records: Build) -> None:
    assert tls.peek(records(hello([(0, server_name(b"www.example.com", name_type=1))]))) == UNNAMED


@pytest.mark.parametrize("address", [b"198.51.100.1", b"2001:db8::1", b"[2001:db8::1]"])
def test_an_address_as_server_name_names_no_host(hello: Build, server_name: Build, records: Build, address: bytes) -> None:
    assert tls.peek(records(hello([(0, server_name(address))]))) == UNNAMED


def test_the_server_name_is_normalised(hello: Build, server_name: Build, records: Build) -> None:
    assert tls.peek(records(hello([(0, server_name(b"WWW.Example.com."))]))) == NAMED


@pytest.mark.parametrize("name", [b"www.example.com\x00.example.org", b"b\xc3\xbccher.example", b"a..example", b"a:443"])
def test_a_server_name_that_is_no_hostname_is_refused(hello: Build, server_name: Build, records: Build, name: bytes) -> None:
    assert refusal(records(hello([(0, server_name(name))]))).code == tls.ILLEGAL_PARAMETER


@given(
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
    cut=st.one_of(st.none(), st.integers(0, 120)),
    size=st.sampled_from([0, 150, 300]),
)
def test_a_hello_is_read_in_one_walk_as_field_by_field(changes: list[tuple[int, int]], cut: int | None, size: int) -> None:
    message = bytearray(client_hello("www.example.com", size)[5:])
    for at, value in changes:
        message[at % len(message)] = value
    whole = bytes(message if cut is None else message[:cut])

    def read(function: Callable[[bytes], str | None]) -> str | tuple[int | None, str] | None:
        try:
            return function(whole)
        except PeekError as error:
            return error.code, str(error)

    assert read(tls.parse_client_hello) == read(tls.read_client_hello)


@pytest.mark.parametrize("name", ["www.example.com", "WWW.Example.COM", "a.example.org."])
def test_a_plain_hello_takes_no_more_than_one_walk(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_message: bytes) -> str | None:
        raise AssertionError("was read field by field")

    monkeypatch.setattr(tls, "read_client_hello", refuse)
    assert tls.parse_client_hello(client_hello(name)[5:]) == name.lower().removesuffix(".")
