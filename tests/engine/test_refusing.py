"""A client that cannot be served is told so, and its connection closed properly (RFC 6066 §3, RFC 9110 §15.5)."""

import pytest
from hellos import client_hello, http_request
from openings import PLAIN_HANDSHAKE
from script import CONFIG, Conversation, config

UNKNOWN = client_hello("nobody.example.net")
ALERT = bytes((21, 3, 3, 0, 2, 2, 112))
HTTP = """
    0.00  H> S  c    win=64240 mss=1460
          H< SA s    ack=c+1 win=65535 mss=1440
    0.01  H> A  c+1  ack=s+1
"""
REFUSED = (
    PLAIN_HANDSHAKE
    + """
    0.02  C> PA c+1    ack=s+1 data=unknown
          C< FPA s+1   ack=c+1+U win=512 data=alert
          !! flow_refused reason=no_route
"""
)
DEFAULT = CONFIG + 'default = "2001:db8:1::3"\n'


@pytest.fixture
def talk() -> Conversation:
    return Conversation(unknown=UNKNOWN, U=len(UNKNOWN), alert=ALERT)


@pytest.fixture
def refused(talk: Conversation) -> Conversation:
    """A client that has been told that its name is not served."""
    return talk.play(REFUSED)


def answer_to(request: bytes) -> bytes:
    """What the listener for HTTP says to `request`."""
    talk = Conversation(request=request).play(HTTP)
    talk.inject(talk.bytes_of("H> PA c+1 ack=s+1 data=request"))
    (answer,) = talk.take_sent()
    assert answer.is_fin
    return answer.payload


def test_an_unknown_name_gets_the_alert_and_a_clean_close(refused: Conversation) -> None:
    refused.play("""
        0.03  C> FA c+1+U  ack=s+9
              C< A  s+9    ack=c+2+U win=512
        1.10  !! flow_closed reason=refused
              ?? flows=0
    """)
    (event,) = [event for event in refused.events if event.event == "flow_refused"]
    assert event.fields()["answer"] == "tls alert 112"
    assert event.fields()["hostname"] == "nobody.example.net"


def test_a_hello_without_a_name_gets_the_alert(talk: Conversation) -> None:
    talk.symbols["nameless"] = client_hello(None)
    talk.play(PLAIN_HANDSHAKE).play("""
        0.02  C> PA c+1    ack=s+1 data=nameless
              C< FPA s+1   ack=c+1+len(nameless) win=512 data=alert
              !! flow_refused reason=no_hostname
    """)


def test_what_is_no_tls_gets_unexpected_message(talk: Conversation) -> None:
    talk.play(PLAIN_HANDSHAKE).play("""
        0.02  C> PA c+1    ack=s+1 data=b'GET'
              C< FPA s+1   ack=c+4 win=512 data=bytes((21,3,3,0,2,2,10))
              !! flow_refused reason=malformed
    """)


def test_an_unknown_host_is_misdirected() -> None:
    answer = answer_to(http_request("nobody.example.net"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Connection: close" in head
    assert body


def test_a_malformed_request_is_bad() -> None:
    answer = answer_to(b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize("hostname", ["nobody.example.net", "a, b"])
def test_a_head_request_gets_no_body(hostname: str) -> None:
    """RFC 9110 §9.3.2; the length is that of the body a GET would have got."""
    answer = answer_to(http_request(hostname, "HEAD"))
    same = answer_to(http_request(hostname, "GET"))
    assert answer.endswith(b"\r\n\r\n")
    assert same.startswith(answer)
    assert len(same) > len(answer)


def test_a_lost_answer_is_repeated(refused: Conversation) -> None:
    """RFC 6298 §5.5."""
    refused.play("""
        1.05  C< FPA s+1   ack=c+1+U win=512 data=alert
        3.05  C< FPA s+1   ack=c+1+U win=512 data=alert
        3.10  C> A  c+1+U  ack=s+9
        9.00  ?? state=refusing
    """)


def test_an_answer_never_acknowledged_ends_in_a_reset(refused: Conversation) -> None:
    refused.play("""
        1.05  C< FPA s+1   ack=c+1+U win=512 data=alert
        3.05  C< FPA s+1   ack=c+1+U win=512 data=alert
        7.05  C< FPA s+1   ack=c+1+U win=512 data=alert
       10.05  C< RA s+9    ack=c+1+U win=512
              !! flow_closed reason=refused
              ?? flows=0
    """)


def test_a_client_that_does_not_close_is_reset_after_ten_seconds(refused: Conversation) -> None:
    refused.play("""
        0.03  C> A  c+1+U  ack=s+9
       10.05  C< RA s+9    ack=c+1+U win=512
              !! flow_closed reason=refused
              ?? flows=0
    """)


def test_what_the_client_still_sends_is_acknowledged_and_thrown_away(refused: Conversation) -> None:
    """A reset would have its TCP forget the answer before it is read (RFC 1122 §4.2.2.13)."""
    refused.play("""
        0.03  C> PA c+1+U  ack=s+1 data=bulk(1000)
              C< A  s+9    ack=c+1001+U win=512
        0.04  C> PA c+1001+U ack=s+9 data=bulk(1000)
              C< A  s+9    ack=c+2001+U win=512
        0.05  C> FPA c+2001+U ack=s+9 data=bulk(10)
              C< A  s+9    ack=c+2012+U win=512
        1.20  ?? flows=0
    """)


def test_data_behind_a_gap_is_not_acknowledged(refused: Conversation) -> None:
    refused.play("""
        0.03  C> PA c+1001+U ack=s+9 data=bulk(1000)
              C< A  s+9    ack=c+1+U win=512
    """)


def test_a_repeated_hello_is_acknowledged_once_more(refused: Conversation) -> None:
    refused.play("""
        0.30  C> PA c+1    ack=s+1 data=unknown
              C< A  s+9    ack=c+1+U win=512
    """)


def test_a_repeated_fin_is_acknowledged_once_more(refused: Conversation) -> None:
    refused.play("""
        0.03  C> FA c+1+U  ack=s+9
              C< A  s+9    ack=c+2+U win=512
        0.50  C> FA c+1+U  ack=s+9
              C< A  s+9    ack=c+2+U win=512
    """)


def test_a_half_closed_client_gets_its_answer(talk: Conversation) -> None:
    talk.play(PLAIN_HANDSHAKE).play("""
        0.02  C> FPA c+1   ack=s+1 data=unknown
              C< FPA s+1   ack=c+2+U win=512 data=alert
        0.03  C> A  c+2+U  ack=s+9
        1.10  !! flow_closed reason=refused
              ?? flows=0
    """)


def test_a_clients_reset_ends_it(refused: Conversation) -> None:
    refused.play("""
        0.03  C> R  c+1+U
              !! flow_closed reason=refused
              ?? flows=0
    """)


def test_a_reset_with_another_number_does_not(refused: Conversation) -> None:
    refused.play("""
        0.03  C> R  c+U
              ?? state=refusing
    """)


def test_timestamps_go_on_in_the_answer(talk: Conversation) -> None:
    talk.play("""
        0.00  C> S  c      mss=1460 ts=500:0
              C< SA s      ack=c+1 win=65535 mss=1440 ts=t:500
        0.01  C> A  c+1    ack=s+1 ts=501:t
        0.02  C> PA c+1    ack=s+1 ts=510:t data=unknown
              C< FPA s+1   ack=c+1+U win=512 ts=t:510 data=alert
        0.03  C> FA c+1+U  ack=s+9 ts=520:t
              C< A  s+9    ack=c+2+U win=512 ts=t:520
    """)


def test_the_port_can_be_used_again_at_once(refused: Conversation) -> None:
    refused.play("""
        0.03  C> FA c+1+U  ack=s+9
              C< A  s+9    ack=c+2+U win=512
        0.10  C> S  7      mss=1460
              C< SA z      ack=8 win=65535 mss=1440
        0.11  C> PA 8      ack=z+1 data=hello
              B< S  7      mss=1440
              !! flow_closed reason=replaced
    """)


def test_a_default_route_takes_the_unknown() -> None:
    talk = Conversation(config(base=DEFAULT), unknown=UNKNOWN)
    talk.play(PLAIN_HANDSHAKE).play("""
        0.02  C> PA c+1    ack=s+1 data=unknown
              B2< S  c     win=65535 mss=1440 sackOK ws=7
              ?? state=dialing
    """)


def test_a_default_route_takes_the_nameless() -> None:
    talk = Conversation(config(base=DEFAULT), nameless=client_hello(None))
    talk.play(PLAIN_HANDSHAKE).play("""
        0.02  C> PA c+1    ack=s+1 data=nameless
              B2< S  c     win=65535 mss=1440 sackOK ws=7
              ?? state=dialing
    """)


def test_a_default_route_does_not_take_the_malformed() -> None:
    talk = Conversation(config(base=DEFAULT))
    talk.play(PLAIN_HANDSHAKE).play("""
        0.02  C> PA c+1    ack=s+1 data=b'GET'
              C< FPA s+1   ack=c+4 win=512 data=bytes((21,3,3,0,2,2,10))
              !! flow_refused reason=malformed
    """)
