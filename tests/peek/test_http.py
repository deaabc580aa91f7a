import pytest

from kracauer.peek import NEED_MORE, NO_HOSTNAME, Dialect, Peeked, PeekError, http


def host_of(head: bytes) -> str | None:
    outcome = http.peek(head)
    assert isinstance(outcome, Peeked)
    assert outcome.dialect is Dialect.HTTP
    return outcome.hostname


def refusal(head: bytes, limit_bytes: int = 65_536) -> PeekError:
    with pytest.raises(PeekError) as caught:
        http.peek(head, limit_bytes)
    assert caught.value.dialect is Dialect.HTTP
    return caught.value


def test_the_host_field_names_the_host() -> None:
    assert host_of(b"GET / HTTP/1.1\r\nAccept: */*\r\nHost: www.example.com\r\nX: y\r\n\r\n") == "www.example.com"


@pytest.mark.parametrize(
    "field",
    [
        b"Host:www.example.com",
        b"hOsT: www.example.com",
        b"Host: \t www.example.com \t",
        b"Host: WWW.EXAMPLE.COM:8080",
        b"Host: www.example.com.",
        b"Host: www.example.com:",
    ],
)
def test_a_host_is_found_in_any_case_with_any_port_and_padding(field: bytes) -> None:
    assert host_of(b"GET / HTTP/1.1\r\n" + field + b"\r\n\r\n") == "www.example.com"


def test_nothing_is_answered_before_the_empty_line() -> None:
    head = b"GET / HTTP/1.1\r\nHost: www.example.com\r\nAccept: */*\r\n\r\n"
    assert {http.peek(head[:end]) for end in range(len(head))} == {NEED_MORE}


def test_what_follows_the_head_is_not_looked_at() -> None:
    assert host_of(b"POST / HTTP/1.1\r\nHost: a.example\r\n\r\n\x00\r\r\nHost: b.example\r\n") == "a.example"


def test_a_head_request_is_told() -> None:
    assert http.peek(b"HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n") == Peeked(Dialect.HTTP, "a.example", is_head_request=True)


def test_methods_are_case_sensitive() -> None:
    assert http.peek(b"Head / HTTP/1.1\r\nHost: a.example\r\n\r\n") == Peeked(Dialect.HTTP, "a.example", is_head_request=False)


def test_a_refused_head_request_is_told_too() -> None:
    assert refusal(b"HEAD / HTTP/1.1\r\n\r\n").is_head_request
    assert not refusal(b"GET / HTTP/1.1\r\n\r\n").is_head_request


@pytest.mark.parametrize("count", [1, 2, 4])
def test_some_empty_lines_before_the_request_are_ignored(count: int) -> None:
    assert host_of(b"\r\n" * count + b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n") == "a.example"


def test_endless_empty_lines_are_refused() -> None:
    assert http.peek(b"\r\n" * 4) is NEED_MORE
    assert refusal(b"\r\n" * 5).code == http.BAD_REQUEST


# request-target forms (RFC 9112 §3.2)


def test_an_absolute_form_target_beats_the_host_field() -> None:
    assert host_of(b"GET http://a.example:8080/x?y HTTP/1.1\r\nHost: b.example\r\n\r\n") == "a.example"


@pytest.mark.parametrize(
    "target", [b"http://a.example", b"HTTP://A.example/", b"https://a.example?q", b"http://a.example#f", b"ws://a.example:/"]
)
def test_an_absolute_form_target_may_end_in_any_way(target: bytes) -> None:
    assert host_of(b"GET " + target + b" HTTP/1.0\r\n\r\n") == "a.example"


def test_an_absolute_form_target_does_not_excuse_a_missing_host() -> None:
    assert "without Host" in str(refusal(b"GET http://a.example/ HTTP/1.1\r\n\r\n"))


def test_an_absolute_form_target_does_not_excuse_a_malformed_host() -> None:
    assert refusal(b"GET http://a.example/ HTTP/1.1\r\nHost: b/example\r\n\r\n").code == http.BAD_REQUEST


def test_connect_names_the_host_in_authority_form() -> None:
    assert host_of(b"CONNECT a.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n") == "a.example"


@pytest.mark.parametrize("target", [b"a.example", b"a.example:", b"/", b"http://a.example/", b"*"])
def test_connect_to_anything_but_host_and_port_is_refused(target: bytes) -> None:
    assert refusal(b"CONNECT " + target + b" HTTP/1.1\r\nHost: a.example\r\n\r\n").code == http.BAD_REQUEST


def test_options_with_an_asterisk_goes_by_the_host_field() -> None:
    assert host_of(b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n") == "a.example"


def test_an_asterisk_is_refused_for_any_other_method() -> None:
    assert refusal(b"GET * HTTP/1.1\r\n").code == http.BAD_REQUEST


def test_an_origin_form_that_looks_like_an_authority_is_a_path() -> None:
    assert host_of(b"GET //b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n") == "a.example"


@pytest.mark.parametrize(
    "target",
    [
        b"a.example",
        b"a.example:80",
        b"http:/a.example/",
        b"http:///",
        b"http://:80/",
        b"http://user@a.example/",
        b"http://a.example\\@b.example/",
        b"http://a%2eexample/",
        b"http://[2001:db8::1/",
        b"1http://a.example/",
        b"?q",
    ],
)
def test_a_target_in_no_form_or_with_a_malformed_host_is_refused(target: bytes) -> None:
    assert refusal(b"GET " + target + b" HTTP/1.1\r\n").code == http.BAD_REQUEST


# no name


@pytest.mark.parametrize("host", [b"192.0.2.1", b"192.0.2.1:80", b"[2001:db8::1]:80", b""])
def test_an_address_or_nothing_as_host_names_no_host(host: bytes) -> None:
    assert host_of(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n") is NO_HOSTNAME


def test_an_address_as_target_is_not_replaced_by_the_host_field() -> None:
    assert host_of(b"GET http://192.0.2.1/ HTTP/1.1\r\nHost: a.example\r\n\r\n") is NO_HOSTNAME


def test_http_1_0_without_host_names_no_host() -> None:
    assert host_of(b"GET / HTTP/1.0\r\n\r\n") is NO_HOSTNAME


@pytest.mark.parametrize("version", [b"1.1", b"1.2", b"1.9"])
def test_http_1_1_and_later_without_host_is_malformed(version: bytes) -> None:
    assert refusal(b"GET / HTTP/" + version + b"\r\n\r\n").code == http.BAD_REQUEST


def test_the_http_2_preface_names_no_host() -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert host_of(preface) is NO_HOSTNAME
    assert {http.peek(preface[:end]) for end in range(len(preface))} == {NEED_MORE}


@pytest.mark.parametrize("rest", [b"Host: a.example\r\n", b"\r\nSM \r\n", b"\r\nSM\r\nx\r\n"])
def test_a_broken_http_2_preface_is_refused(rest: bytes) -> None:
    assert refusal(b"PRI * HTTP/2.0\r\n" + rest).code == http.BAD_REQUEST


# refusals


@pytest.mark.parametrize("hosts", [(b"a.example", b"b.example"), (b"a.example", b"a.example"), (b"", b""), (b"a.example", b"")])
def test_two_hosts_are_refused(hosts: tuple[bytes, bytes]) -> None:
    lines = b"".join(b"Host: " + host + b"\r\n" for host in hosts)
    for version in (b"1.0", b"1.1"):
        assert "more than one Host" in str(refusal(b"GET / HTTP/" + version + b"\r\n" + lines))


@pytest.mark.parametrize(
    "host",
    [
        b"a.example, b.example",
        b"a.example b.example",
        b"http://a.example",
        b"a.example:80:80",
        b"u@a.example",
        b"b\xc3\xbc.example",
    ],
)
def test_a_malformed_host_is_refused(host: bytes) -> None:
    assert refusal(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n").code == http.BAD_REQUEST


@pytest.mark.parametrize("fold", [b" ", b"\t"])
def test_folded_lines_are_refused(fold: bytes) -> None:
    assert "folded" in str(refusal(b"GET / HTTP/1.1\r\nHost: a.example\r\n" + fold + b"b.example\r\n"))


def test_space_before_the_first_field_is_refused() -> None:
    assert refusal(b"GET / HTTP/1.1\r\n Host: a.example\r\n").code == http.BAD_REQUEST


@pytest.mark.parametrize(
    "line", [b"Host : a.example", b"Host\t: a.example", b": a.example", b"Host", b"H(o)st: a", b"H\xc3\xb6st: a"]
)
def test_a_field_with_an_invalid_name_is_refused(line: bytes) -> None:
    assert refusal(b"GET / HTTP/1.1\r\n" + line + b"\r\n").code == http.BAD_REQUEST


@pytest.mark.parametrize("byte", [*range(9), 11, 12, *range(14, 32), 127])
def test_a_control_byte_is_refused_where_it_stands(byte: int) -> None:
    assert f"{byte:#04x}" in str(refusal(b"GET / HTTP/1.1\r\nX: a" + bytes([byte])))


def test_bytes_above_ascii_are_allowed_in_paths_and_values() -> None:
    assert host_of(b"GET /\xc3\xbc HTTP/1.1\r\nHost: a.example\r\nX: \xff\x80\r\n\r\n") == "a.example"


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\nHost: a.example\r\n", b"\nGET /", b"GET / HTTP/1.1\r\nX: a\nHost: b.example\r\n"]
)
def test_a_lone_lf_is_refused(head: bytes) -> None:
    assert "lone LF" in str(refusal(head))


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\rHost", b"GET / HTTP/1.1\r\nX: a\rHost: b", b"\rG", b"GET / HTTP/1.1\r\r\n"]
)
def test_a_lone_cr_is_refused(head: bytes) -> None:
    assert "lone CR" in str(refusal(head))


@pytest.mark.parametrize(
    "line",
    [
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET /a b HTTP/1.1",
        b"GET\t/\tHTTP/1.1",
        b"GET / http/1.1",
        b"GET / HTTP/1",
        b"GET / HTTP/1.10",
        b"GET / HTTP/11",
        b"G(T / HTTP/1.1",
        b"GET HTTP/1.1",
        b"SSH-2.0-OpenSSH_9.2",
    ],
)
def test_a_malformed_request_line_is_refused(line: bytes) -> None:
    assert refusal(line + b"\r\n").code == http.BAD_REQUEST


@pytest.mark.parametrize("version", [b"0.9", b"2.0", b"3.0"])
def test_another_major_version_is_not_supported(version: bytes) -> None:
    assert refusal(b"GET / HTTP/" + version + b"\r\n").code == http.VERSION_NOT_SUPPORTED


@pytest.mark.parametrize("first", [b"\x00", b"\x16", b"\x80", b" ", b"(", b"\xff"])
def test_a_byte_that_cannot_begin_a_request_is_refused_at_once(first: bytes) -> None:
    assert "cannot begin" in str(refusal(first))


def test_a_tls_hello_is_told_by_name() -> None:
    assert "TLS" in str(refusal(b"\x16\x03\x01"))


def test_a_head_within_the_limit_is_read_and_one_beyond_is_too_large() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
    assert http.peek(head, len(head)) == Peeked(Dialect.HTTP, "a.example")
    assert http.peek(head[:-1], len(head)) is NEED_MORE
    assert refusal(head, len(head) - 1).code == http.HEAD_TOO_LARGE


@pytest.mark.parametrize(
    "field", [b"Host: a" + b" " * 60_000 + b"b", b"Host: " + b"1." * 30_000 + b"x", b"Host: " + b"1:" * 30_000]
)
@pytest.mark.timeout(5)
def test_a_host_made_to_be_slow_is_refused_all_the_same(field: bytes) -> None:
    assert refusal(b"GET / HTTP/1.1\r\n" + field + b"\r\n").code == http.BAD_REQUEST


@pytest.mark.parametrize(
    "line", [b"GET " + b"a" * 60_000 + b" HTTP/1.1", b"G" * 60_000 + b"\x80", b"GET http://" + b"." * 60_000 + b" HTTP/1.1"]
)
@pytest.mark.timeout(5)
def test_a_request_line_made_to_be_slow_is_refused_all_the_same(line: bytes) -> None:
    assert refusal(line + b"\r\n").code == http.BAD_REQUEST
