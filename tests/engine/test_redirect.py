"""Plain HTTP that is sent to HTTPS (RFC 9110 §15.4.9), and names that have as many connections as they may have."""

from dataclasses import replace

import pytest
from hellos import client_hello, http_request
from openings import PLAIN_HANDSHAKE, PLAIN_SPLICED
from script import CONFIG, Conversation, client_side

from kracauer.config import Config, parse_config
from kracauer.routes import RouteTable

HTTP = """
    0.00  H> S  c    win=64240 mss=1460
          H< SA s    ack=c+1 win=65535 mss=1440
    0.01  H> A  c+1  ack=s+1
"""


def redirecting(*, by_listener: bool) -> Config:
    """Everything on port 80 goes to HTTPS, or just www.example.com does."""
    config = parse_config(CONFIG)
    if by_listener:
        return replace(config, listeners=tuple(replace(each, redirect=each.port == 80) for each in config.listeners))
    return replace(
        config, routes=RouteTable(replace(route, redirect=route.pattern == "www.example.com") for route in config.routes)
    )


def limited(max_flows: int) -> Config:
    config = parse_config(CONFIG)
    return replace(config, routes=RouteTable(replace(route, max_flows=max_flows) for route in config.routes))


def answers_to(request: bytes, settings: Config, mss: int = 1460) -> list[bytes]:
    """The payloads with which the listener on port 80 answers `request`; none when it goes on to a backend."""
    talk = Conversation(settings, request=request).play(HTTP.replace("mss=1460", f"mss={mss}"))
    talk.inject(talk.bytes_of("H> PA c+1 ack=s+1 data=request"))
    sent = talk.take_sent()
    return [packet.payload for packet in sent if packet.src_port == 80]


@pytest.mark.parametrize("by_listener", [True, False])
def test_a_request_is_sent_to_the_same_name_and_path_by_https(by_listener: bool) -> None:
    request = b"GET /a/b?c=d HTTP/1.1\r\nHost: www.example.com:80\r\n\r\n"
    (answer,) = answers_to(request, redirecting(by_listener=by_listener))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
    assert b"\r\nLocation: https://www.example.com/a/b?c=d\r\n" in head
    assert f"Content-Length: {len(body)}".encode() in head


def test_the_redirect_is_told_as_such_and_closed_properly() -> None:
    talk = Conversation(redirecting(by_listener=True), request=http_request("www.example.com")).play(HTTP)
    talk.inject(talk.bytes_of("H> PA c+1 ack=s+1 data=request"))
    (answer,) = talk.take_sent()
    assert answer.is_fin
    talk.symbols["n"] = len(answer.payload)
    talk.play("""
              !! flow_redirected hostname=www.example.com
        0.10  H> FA c+1+len(request) ack=s+2+n
              H< A  s+2+n  ack=c+2+len(request) win=512
        1.20  !! flow_closed reason=redirected
              ?? flows=0
    """)


def test_a_head_request_is_answered_without_a_body() -> None:
    (answer,) = answers_to(http_request("www.example.com", "HEAD"), redirecting(by_listener=True))
    assert b"\r\nLocation: https://www.example.com/" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"//evil.example/", b"//evil.example/"),
        (b"http://www.example.com", b"/"),
        (b"http://www.example.com?q", b"/?q"),
        (b"http://www.example.com/x?y#z", b"/x?y"),
        (b"/x#z", b"/x"),
        ("/é".encode(), b"/%C3%A9"),
    ],
)
def test_the_path_is_kept_as_it_was_asked_for(target: bytes, path: bytes) -> None:
    request = b"GET %b HTTP/1.1\r\nHost: www.example.com\r\n\r\n" % target
    (answer,) = answers_to(request, redirecting(by_listener=True))
    assert b"\r\nLocation: https://www.example.com%b\r\n" % path in answer


@pytest.mark.parametrize("path", [b"/.well-known/acme-challenge/token", b"*"])
def test_who_asks_for_a_certificate_or_for_no_path_at_all_reaches_the_backend(path: bytes) -> None:
    """RFC 8555 §8.3: the challenge is fetched by plain HTTP."""
    method = b"OPTIONS" if path == b"*" else b"GET"
    request = b"%b %b HTTP/1.1\r\nHost: www.example.com\r\n\r\n" % (method, path)
    assert answers_to(request, redirecting(by_listener=True)) == []


def test_a_name_that_is_not_served_is_not_redirected() -> None:
    (answer,) = answers_to(http_request("nobody.example.net"), redirecting(by_listener=True))
    assert answer.startswith(b"HTTP/1.1 421 ")


def test_another_name_is_left_alone_where_just_one_is_redirected() -> None:
    assert answers_to(http_request("two.example.com"), redirecting(by_listener=False)) == []


def test_tls_is_never_redirected() -> None:
    Conversation(redirecting(by_listener=False)).play(PLAIN_SPLICED)


def test_a_long_location_goes_out_in_segments_that_the_client_takes() -> None:
    path = b"/" + b"x" * 2000
    request = b"GET %b HTTP/1.1\r\nHost: www.example.com\r\n\r\n" % path
    pieces = answers_to(request, redirecting(by_listener=True), mss=536)
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= 536
    assert b"\r\nLocation: https://www.example.com%b\r\n" % path in b"".join(pieces)


def test_one_that_is_too_long_for_a_first_flight_is_refused() -> None:
    request = b"GET /%b HTTP/1.1\r\nHost: www.example.com\r\n\r\n" % (b"x" * 20_000)
    talk = Conversation(redirecting(by_listener=True), first=request[:10_000], rest=request[10_000:]).play(HTTP)
    talk.inject(talk.bytes_of("H> A c+1 ack=s+1 data=first"))
    talk.inject(talk.bytes_of("H> PA c+1+len(first) ack=s+1 data=rest"))
    (answer,) = talk.take_sent()
    assert answer.payload.startswith(b"HTTP/1.1 414 ")


def test_a_name_has_no_more_connections_than_it_may_have_and_gets_new_ones_when_old_ones_end() -> None:
    talk = Conversation(limited(1)).play(PLAIN_SPLICED)
    full = bytes((21, 3, 3, 0, 2, 2, 80))
    other = Conversation(engine=talk.engine, sides={"C": client_side(port=40001)}, now=talk.now, full=full)
    other.play(PLAIN_HANDSHAKE.replace("0.00", "0.50").replace("0.01", "0.51")).play("""
        0.60  C> PA c+1   ack=s+1 data=hello
              C< FPA s+1  ack=c+1+H win=512 data=full
              !! flow_refused reason=host_full
    """)
    two = Conversation(
        engine=talk.engine, sides={"C": client_side(port=40002)}, now=talk.now, two=client_hello("two.example.com")
    )
    two.play(PLAIN_HANDSHAKE.replace("0.00", "0.70").replace("0.01", "0.71"))
    two.inject(two.bytes_of("C> PA c+1 ack=s+1 data=two"))
    (syn,) = two.take_sent()
    assert syn.is_syn

    for packet in talk.engine.abort(talk.now):
        assert packet
    assert not talk.engine.flows
    Conversation(engine=talk.engine, now=talk.now + 1).play(PLAIN_SPLICED)
