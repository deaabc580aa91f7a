"""Names as the peek will see them, and the reasons for refusing others."""

import idna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kracauer.config.hostnames import normalise, pattern
from kracauer.config.reader import MistakeError
from kracauer.peek.hostname import parse_hostname


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("www.example.com", "www.example.com"),
        ("WWW.Example.COM", "www.example.com"),
        ("www.example.com.", "www.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("ｗｗｗ。example", "www.example"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("*.Example.COM.", "*.example.com"),
        ("*.com", "*.com"),
        ("default", "default"),
        ("localhost", "localhost"),
        ("_sip._tcp.example.com", "_sip._tcp.example.com"),
        ("r3---sn-4g5e6nzz.example", "r3---sn-4g5e6nzz.example"),
        ("xn--i-7iq.example", "xn--i-7iq.example"),
        ("1.2.example", "1.2.example"),
        (f"{'a' * 63}.example", f"{'a' * 63}.example"),
    ],
)
def test_a_name_is_stored_as_clients_send_it(written: str, stored: str) -> None:
    assert pattern(written) == stored


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "1 to 253 characters"),
        (".", "empty label"),
        ("a..example", "empty label"),
        (".example", "empty label"),
        ("*.", "1 to 253 characters"),
        ("*", "write default"),
        ("w*.example", "whole first label"),
        ("a.*.example", "whole first label"),
        ("*.*.example", "whole first label"),
        ("-a.example", "no hyphen first or last"),
        ("a-.example", "no hyphen first or last"),
        ("a b.example", "letters, digits and hyphens"),
        ("a@b.example", "letters, digits and hyphens"),
        ("b ü.example", "U+0020"),
        ("☃.example", "U+2603"),
        ("xn--zzzzzz99.example", "no valid host name"),
        ("xn--a.example", "no valid host name"),
        ("xn--.example", "no valid host name"),
        ("xn--bücher.example", "no valid host name"),
        (f"{'a' * 64}.example", "63 characters"),
        (".".join(["abcdefg"] * 40), "253 characters"),
        (".".join(["üüü"] * 40), "at most 253 characters"),
        ("192.0.2.1", "IP address"),
        ("host.123", "IP address"),
        ("host.0x1f", "IP address"),
        ("2001:db8:1::2", "no address"),
        ("[2001:db8:1::2]", "no address"),
        ("www.example.com:443", "no address, port or path"),
        ("https://www.example.com", "no address, port or path"),
        ("Default", "write default"),
        ("default.", "write default"),
    ],
)
def test_a_name_no_client_sends_is_refused_with_the_reason(written: str, reason: str) -> None:
    with pytest.raises(MistakeError) as refusal:
        pattern(written)
    assert reason in str(refusal.value)


@given(st.one_of(st.text(), st.from_regex(r"(xn--)?[a-z0-9ü☃.-]{1,40}", fullmatch=True)))
def test_any_text_is_normalised_or_refused(written: str) -> None:
    try:
        name = normalise(written)
    except MistakeError:
        return
    assert normalise(name) == name


@given(
    st.lists(st.sampled_from(["www", "bücher", "xn--bcher-kva", "a_b", "Ex", "1", "例え", "r3---sn"]), min_size=1).map(".".join)
)
def test_every_stored_name_is_one_that_the_peek_can_come_to(written: str) -> None:
    try:
        name = normalise(written)
    except MistakeError:
        return
    assert parse_hostname(name.encode("ascii")) == name


@given(st.lists(st.sampled_from(["bücher", "例え", "пример", "example"]), min_size=1, max_size=5).map(".".join))
def test_unicode_becomes_what_idna_makes_of_it(written: str) -> None:
    assert normalise(written) == idna.encode(written, uts46=True).decode("ascii")
