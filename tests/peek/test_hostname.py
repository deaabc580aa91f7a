import pytest
from hypothesis import given
from hypothesis import strategies as st

from kracauer.errors import ParseError
from kracauer.peek.hostname import parse_authority, parse_hostname

LABEL_OF_63 = b"a" * 63
NAME_OF_253 = b".".join([LABEL_OF_63] * 3 + [b"a" * 61])


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"www.example.com", "www.example.com"),
        (b"WWW.Example.COM", "www.example.com"),
        (b"www.example.com.", "www.example.com"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"localhost", "localhost"),
        (b"_dmarc.example.com", "_dmarc.example.com"),
        (b"-edge-.example.com", "-edge-.example.com"),
        (b"1.example.com", "1.example.com"),
        (b"1.2.3.4.com", "1.2.3.4.com"),
        (b"4chan", "4chan"),
        (NAME_OF_253, NAME_OF_253.decode()),
        (NAME_OF_253 + b".", NAME_OF_253.decode()),
    ],
)
def test_a_hostname_is_lowered_and_loses_one_trailing_dot(raw: bytes, name: str) -> None:
    assert parse_hostname(raw) == name


@pytest.mark.parametrize(
    "raw",
    [
        b"192.0.2.1",
        b"192.0.2.1.",
        b"192.0.2",
        b"300.300.300.300",
        b"3221225985",
        b"0xC0.0.2.1",
        b"192.0.2.0x1",
        b"example.0x",
        b"2001:db8::1",
        b"[2001:db8::1]",
        b"::ffff:192.0.2.1",
    ],
)
def test_an_address_in_any_form_is_no_hostname(raw: bytes) -> None:
    assert parse_hostname(raw) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b".",
        b"..",
        b".example.com",
        b"www..example.com",
        b"www.example.com..",
        b"www example.com",
        b" www.example.com",
        b"www.example.com\n",
        b"www.example.com\x00",
        b"www.example.com:443",
        b"www%2eexample.com",
        b"user@example.com",
        b"www.example.com/",
        b"a,b",
        b"*.example.com",
        b"b\xc3\xbccher.example",
        b"b\xfccher.example",
        b"2001:db8:::1",
        b"fe80::1%eth0",
        b"2001:db8::1::2",
        b"[2001:db8::1",
        LABEL_OF_63 + b"a.example",
        NAME_OF_253 + b"a",
        b"a" * 60_000,
    ],
)
def test_what_is_neither_a_hostname_nor_an_address_is_malformed(raw: bytes) -> None:
    with pytest.raises(ParseError):
        parse_hostname(raw)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"www.example.com", "www.example.com"),
        (b"www.example.com:8080", "www.example.com"),
        (b"www.example.com:", "www.example.com"),
        (b"www.example.com.:80", "www.example.com"),
        (b"www.example.com:65535", "www.example.com"),
        (b"192.0.2.1:80", None),
        (b"[2001:db8::1]", None),
        (b"[2001:db8::1]:8080", None),
        (b"[v7.future:host]:80", None),
    ],
)
def test_an_authority_loses_its_port(raw: bytes, name: str | None) -> None:
    assert parse_authority(raw) == name


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b":80",
        b"www.example.com:65536",
        b"www.example.com:000080",
        b"www.example.com:80:80",
        b"www.example.com:http",
        b"www.example.com:-1",
        b"user:password@www.example.com",
        b"2001:db8::1",
        b"[2001:db8::1",
        b"[www.example.com]",
        b"[]",
        b"[2001:db8::1]x",
        b"[2001:db8::1%25eth0]",
        b"[[2001:db8::1]]",
    ],
)
def test_a_malformed_authority_is_refused(raw: bytes) -> None:
    with pytest.raises(ParseError):
        parse_authority(raw)


@pytest.mark.parametrize("raw", [b"www.example.com", b"www.example.com:", b"[2001:db8::1]"])
def test_an_authority_that_needs_a_port_is_refused_without(raw: bytes) -> None:
    with pytest.raises(ParseError, match="port"):
        parse_authority(raw, needs_port=True)


def test_an_error_quotes_hostile_bytes_escaped_and_cut() -> None:
    with pytest.raises(ParseError) as caught:
        parse_hostname(b"\x1b[31m\n\xff" + b"a" * 1000)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 120


@given(st.binary(max_size=300))
def test_any_bytes_are_a_normal_name_an_address_or_malformed(raw: bytes) -> None:
    for parse in (parse_hostname, parse_authority):
        try:
            name = parse(raw)
        except ParseError:
            continue
        if name is not None:
            assert parse_hostname(name.encode("ascii")) == name
