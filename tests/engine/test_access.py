"""Clients that lists keep out: in silence where that shows before the name, with an answer after it."""

import pytest
from hellos import client_hello, http_request
from openings import PLAIN_BACKEND, PLAIN_HANDSHAKE, PLAIN_HELLO, PLAIN_SPLICED
from script import CONFIG, Conversation, client_side, config

from kracauer.config import parse_config

DENY_ALL_BUT = '[access]\nallow = ["203.0.113.0/24"]\n'
DENY = '[access]\ndeny = ["192.0.2.0/24"]\n'
ACCESS_DENIED = bytes((21, 3, 3, 0, 2, 2, 49))
HTTP = """
    0.00  H> S  c    win=64240 mss=1460
          H< SA s    ack=c+1 win=65535 mss=1440
    0.01  H> A  c+1  ack=s+1
"""
TABLES = CONFIG + '[hosts."shop.example.com"]\nbackends = "2001:db8:1::3"\ndeny = ["192.0.2.0/24"]\n'


def on_the_first_listener(keys: str) -> str:
    return CONFIG.replace('protocol = "tls"\n', f'protocol = "tls"\n{keys}\n')


@pytest.mark.parametrize("settings", [DENY, DENY_ALL_BUT])
def test_a_denied_client_gets_no_answer_to_its_syn(settings: str) -> None:
    Conversation(settings).play("""
        0.00  C> S  c    win=64240 mss=1460 sackOK ws=7
              !! drop denied
              H> S  c    win=64240 mss=1460 sackOK ws=7
              !! drop denied
              ?? flows=0
    """)


@pytest.mark.parametrize(
    "settings", ['[access]\ndeny = ["192.0.2.8"]\n', '[access]\nallow = ["192.0.2.0/29"]\n', "[access]\ndeny = []\n"]
)
def test_who_is_not_denied_is_served(settings: str) -> None:
    Conversation(settings).play(PLAIN_SPLICED)


def test_an_ack_of_a_client_that_was_denied_since_its_syn_is_dropped_without_a_reset() -> None:
    talk = Conversation().play("""
        0.00  C> S  c    win=64240 mss=1460 sackOK ws=7
              C< SA s    ack=c+1 win=65535 mss=1440 sackOK ws=7
    """)
    talk.engine.reconfigure(config(DENY), talk.now)
    talk.play("""
        0.01  C> A  c+1  ack=s+1
              !! drop denied
        0.02  C> PA c+1  ack=s+1 data=hello
              !! drop denied
        9.00  C> A  c+1  ack=s+1
              !! drop denied
              ?? flows=0
    """)


def test_a_connection_with_a_backend_outlives_the_denial_of_its_client() -> None:
    talk = Conversation().play(PLAIN_SPLICED)
    talk.engine.reconfigure(config(DENY), talk.now)
    talk.play("""
        0.10  C> PA c+1+H  ack=s+1 data=bulk(10)
              B< PA c+1+H  ack=b+1 data=bulk(10)
        0.11  C> S  7      mss=1460
              !! drop denied
        0.12  B> PA b+1    ack=c+11+H data=bulk(10)
              C< PA s+1    ack=c+11+H data=bulk(10)
              ?? flows=1 state=established
    """)


def test_a_client_whose_denial_is_taken_back_may_come() -> None:
    talk = Conversation(DENY)
    talk.play("0.00 C> S c mss=1460 \n !! drop denied")
    talk.engine.reconfigure(config(), talk.now)
    talk.play("1.00 C> S c mss=1460 \n C< SA s ack=c+1 win=65535 mss=1440")


def test_the_list_of_one_listener_says_nothing_of_another() -> None:
    talk = Conversation(parse_config(on_the_first_listener('deny = ["192.0.2.7"]')))
    talk.play("0.00 C> S c mss=1460 \n !! drop denied").play(HTTP)


@pytest.mark.parametrize(
    ("everywhere", "here", "is_served"),
    [
        ('allow = ["192.0.2.0/24"]', 'allow = ["192.0.2.7"]', True),
        ('allow = ["192.0.2.7"]', 'allow = ["192.0.2.0/24"]', True),
        ('allow = ["192.0.2.0/24"]', 'allow = ["192.0.2.8"]', False),
        ('allow = ["203.0.113.0/24"]', 'allow = ["192.0.2.0/24"]', False),
        ('allow = ["192.0.2.0/24"]', 'deny = ["192.0.2.7"]', False),
        ('deny = ["192.0.2.7"]', 'allow = ["192.0.2.0/24"]', False),
        ('deny = ["192.0.2.8"]', 'deny = ["192.0.2.9"]', True),
    ],
)
def test_a_client_has_to_pass_the_list_of_everything_and_that_of_the_listener(
    everywhere: str, here: str, is_served: bool
) -> None:
    talk = Conversation(parse_config(on_the_first_listener(here) + f"[access]\n{everywhere}\n"))
    answer = "C< SA s ack=c+1 win=65535 mss=1440" if is_served else "!! drop denied"
    talk.play(f"0.00 C> S c mss=1460 \n {answer}")


def test_a_name_that_is_not_for_a_client_gets_it_the_alert_access_denied() -> None:
    """RFC 8446 §6.2."""
    talk = Conversation(parse_config(TABLES), shop=client_hello("shop.example.com"), alert=ACCESS_DENIED)
    talk.play(PLAIN_HANDSHAKE).play("""
        0.02  C> PA c+1    ack=s+1 data=shop
              C< FPA s+1   ack=c+1+len(shop) win=512 data=alert
              !! flow_refused reason=denied
        0.03  C> FA c+1+len(shop) ack=s+9
              C< A  s+9    ack=c+2+len(shop) win=512
        1.10  !! flow_closed reason=refused
              ?? flows=0
    """)
    (event,) = [event for event in talk.events if event.event == "flow_refused"]
    assert event.fields()["answer"] == "tls alert 49"
    assert event.fields()["hostname"] == "shop.example.com"


@pytest.mark.parametrize(("method", "has_body"), [("GET", True), ("HEAD", False)])
def test_over_http_such_a_client_is_forbidden(method: str, has_body: bool) -> None:
    talk = Conversation(parse_config(TABLES), request=http_request("shop.example.com", method)).play(HTTP)
    talk.inject(talk.bytes_of("H> PA c+1 ack=s+1 data=request"))
    (answer,) = talk.take_sent()
    head, _, body = answer.payload.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert bool(body) is has_body
    assert answer.is_fin


def test_another_name_is_for_everybody_all_the_same() -> None:
    Conversation(parse_config(TABLES)).play(PLAIN_HANDSHAKE + PLAIN_HELLO + PLAIN_BACKEND)


def test_a_name_that_is_for_others_is_for_them() -> None:
    talk = Conversation(
        parse_config(TABLES), shop=client_hello("shop.example.com"), sides={"C": client_side(address="203.0.113.8")}
    )
    talk.play(PLAIN_HANDSHAKE).symbols["n"] = 0
    talk.inject(talk.bytes_of("C> PA c+1 ack=s+1 data=shop"))
    (syn,) = talk.take_sent()
    assert syn.is_syn
    assert syn.version == 6


def test_the_default_may_have_a_list_too() -> None:
    text = CONFIG + '[hosts.default]\nbackends = "2001:db8:1::3"\nallow = ["203.0.113.0/24"]\n'
    talk = Conversation(parse_config(text), other=client_hello("other.example.net"), alert=ACCESS_DENIED)
    talk.play(PLAIN_HANDSHAKE).play("""
        0.02  C> PA c+1    ack=s+1 data=other
              C< FPA s+1   ack=c+1+len(other) win=512 data=alert
              !! flow_refused reason=denied
    """)


def test_a_listener_without_any_list_asks_none() -> None:
    """What is handled flat relies on it."""
    talk = Conversation(parse_config(on_the_first_listener('deny = ["192.0.2.7"]')))
    first, second = talk.engine._context.listeners.values()
    assert first.access is not None
    assert second.access is None
