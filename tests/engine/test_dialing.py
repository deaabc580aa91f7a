"""From the hostname to a backend that answers, and what client and other backends hear meanwhile (RFC 9293 §3.10.7.3)."""

import pytest
from hellos import client_hello
from icmp_quotes import error_v6
from openings import PLAIN_BACKEND, PLAIN_HANDSHAKE, PLAIN_HELLO, PLAIN_SPLICED
from packets import Packet, build, parse_flags
from script import CONFIG, Conversation, backend_side, client_side, config

TWO = client_hello("two.example.com")
DIALLING = PLAIN_HANDSHAKE + PLAIN_HELLO
THREE = CONFIG.replace('["2001:db8:1::2", ', '["2001:db8:1::2", "2001:db8:1::4", ')


@pytest.fixture
def talk() -> Conversation:
    """A client whose one backend has been sent a SYN."""
    return Conversation().play(DIALLING)


@pytest.fixture
def two() -> Conversation:
    """A client of the name with two backends; the first one has been sent a SYN."""
    return Conversation(hello=TWO, H=len(TWO)).play(DIALLING)


def unreachable(
    talk: Conversation, *, code: int = 0, kind: int = 1, rest: int = 0, seq: int | None = None, side: str = "B"
) -> bytes:
    """An ICMPv6 error about the SYN that the backend at `side` was sent."""
    to_backend = talk.sides[side].reversed
    syn = Packet(
        src=to_backend.src,
        dst=to_backend.dst,
        src_port=to_backend.src_port,
        dst_port=to_backend.dst_port,
        flags=parse_flags("S"),
        seq=talk.symbols["c"] if seq is None else seq,
        options=("mss=1440", "sackOK", "ws=7"),
    )
    return error_v6(kind, code, build(syn)[1], rest=rest)


def test_a_refused_backend_is_replaced_at_once(two: Conversation) -> None:
    two.play("""
        0.03  B> RA 0      ack=c+1
              B2< S c      win=65535 mss=1440 sackOK ws=7
              !! backend_failed reason=refused backend=[2001:db8:1::2]:443 hostname=two.example.com
        0.04  B2> SA b     ack=c+1 win=65535 mss=1440 sackOK ws=7
              B2< PA c+1   ack=b+1 data=hello
              !! flow_spliced backend=[2001:db8:1::3]:443
    """)


def test_a_silent_backend_is_asked_twice_and_replaced_after_half_a_second(two: Conversation) -> None:
    """Its SYN is taken back, should it have arrived after all."""
    two.play("""
        0.27  B< S  c      win=65535 mss=1440 sackOK ws=7
        0.52  B< R  c+1
              B2< S c      win=65535 mss=1440 sackOK ws=7
              !! backend_failed reason=silent backend=[2001:db8:1::2]:443
              ?? state=dialing
    """)


def test_the_last_backend_is_asked_for_as_long_as_the_client_waits(two: Conversation) -> None:
    """RFC 6298 §2, §5.5: after one second, then twice as long each time, until ten seconds are over."""
    two.play("""
        0.03  B> RA 0      ack=c+1
              B2< S c      win=65535 mss=1440 sackOK ws=7
        1.05  B2< S c      win=65535 mss=1440 sackOK ws=7
        3.05  B2< S c      win=65535 mss=1440 sackOK ws=7
        7.05  B2< S c      win=65535 mss=1440 sackOK ws=7
       10.02  B2< R c+1
              C< RA s+1    ack=c+1+H
              !! backend_failed reason=refused
              !! backend_failed reason=silent backend=[2001:db8:1::3]:443
              !! flow_closed reason=backends_failed
              ?? flows=0
    """)


def test_three_backends_are_tried_in_their_order() -> None:
    talk = Conversation(config(base=THREE), sides={"B3": backend_side("2001:db8:1::4")}, hello=TWO, H=len(TWO)).play(DIALLING)
    talk.play("""
        0.03  B> RA 0      ack=c+1
              B3< S c      win=65535 mss=1440 sackOK ws=7
        0.04  B3> RA 0     ack=c+1
              B2< S c      win=65535 mss=1440 sackOK ws=7
        0.05  B2> RA 0     ack=c+1
              C< RA s+1    ack=c+1+H
              !! flow_closed reason=backends_failed
    """)


def test_the_times_of_an_attempt_are_configurable() -> None:
    talk = Conversation("[timeouts]\ndial_attempt_s = 2\ndial_s = 4\n", hello=TWO, H=len(TWO)).play(DIALLING)
    talk.play("""
        1.05  B< S  c      win=65535 mss=1440 sackOK ws=7
        2.05  B< R  c+1
              B2< S c      win=65535 mss=1440 sackOK ws=7
        3.05  B2< S c      win=65535 mss=1440 sackOK ws=7
        4.02  B2< R c+1
              C< RA s+1    ack=c+1+H
              !! flow_closed reason=backends_failed
    """)


@pytest.mark.parametrize("code", [0, 1, 3, 4])
def test_an_unreachable_backend_is_replaced_at_once(two: Conversation, code: int) -> None:
    two.inject(unreachable(two, code=code))
    two.play("""
              B< R  c+1
              B2< S c      win=65535 mss=1440 sackOK ws=7
              !! backend_failed reason=unreachable backend=[2001:db8:1::2]:443
    """)


def test_the_last_unreachable_backend_has_the_client_reset(talk: Conversation) -> None:
    talk.inject(unreachable(talk))
    talk.play("""
              B< R  c+1
              C< RA s+1    ack=c+1+H
              !! backend_failed reason=unreachable
              !! flow_closed reason=backends_failed
              ?? flows=0
    """)


def test_an_error_about_another_sequence_number_fails_no_backend(talk: Conversation) -> None:
    """RFC 5927 §4.1: whoever sends it has not seen the SYN."""
    talk.inject(unreachable(talk, seq=77))
    talk.play("!! drop unexpected \n ?? state=dialing").play(PLAIN_BACKEND)


def test_a_time_exceeded_fails_no_backend(talk: Conversation) -> None:
    """A routing loop may pass (RFC 5461 §2)."""
    talk.inject(unreachable(talk, kind=3))
    talk.play("!! drop unexpected \n ?? state=dialing").play(PLAIN_BACKEND)


@pytest.mark.parametrize("numbers", ["0 ack=c", "0 ack=c+2", "c+1 ack=0"])
def test_a_reset_that_does_not_acknowledge_the_syn_is_not_believed(talk: Conversation, numbers: str) -> None:
    """RFC 9293 §3.10.7.3."""
    talk.play(f"""
        0.025 B> RA {numbers}
              !! drop out_of_window
              ?? state=dialing
    """).play(PLAIN_BACKEND)


def test_a_reset_without_ack_is_not_believed(talk: Conversation) -> None:
    talk.play("""
        0.025 B> R  c+1
              !! drop out_of_window
              ?? state=dialing
    """)


def test_a_simultaneous_open_is_not_for_backends(talk: Conversation) -> None:
    talk.play("""
        0.025 B> S  b      mss=1440
              !! drop unexpected
              ?? state=dialing
    """).play(PLAIN_BACKEND)


def test_the_reset_to_the_client_fits_what_it_has_sent() -> None:
    """RFC 9293 §3.5.2: in the client's window, and acknowledging all that has come, in order, though nobody kept it."""
    talk = Conversation().play(DIALLING)
    talk.play("""
        0.025 C> PA c+1+H  ack=s+1 data=bulk(50)
        0.03  B> RA 0      ack=c+1
              C< RA s+1    ack=c+51+H
    """)


def test_a_late_syn_ack_of_an_abandoned_backend_is_answered_with_a_reset(two: Conversation) -> None:
    """Its connection is half open, and belongs to nobody."""
    two.symbols["g"] = 0x7000_0000
    two.play("""
        0.27  B< S  c      win=65535 mss=1440 sackOK ws=7
        0.52  B< R  c+1
              B2< S c      win=65535 mss=1440 sackOK ws=7
        0.60  B> SA g      ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< R  c+1
              !! drop no_flow
        0.70  B2> SA b     ack=c+1 win=65535 mss=1440 sackOK ws=7
              B2< PA c+1   ack=b+1 data=hello
              ?? state=established
    """)


def test_a_challenge_ack_of_an_old_incarnation_is_cleared_once_and_the_syn_repeated(talk: Conversation) -> None:
    """RFC 9293 §3.5.1: the RST ends the backend's old connection; once, for more than that would be a loop."""
    talk.play("""
        0.03  B> A  77     ack=99
              B< R  99
              B< S  c      win=65535 mss=1440 sackOK ws=7
        0.04  B> A  77     ack=99
              B< R  99
        0.05  B> SA b      ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< PA c+1    ack=b+1 data=hello
    """)


def test_each_backend_has_its_old_incarnation_cleared(two: Conversation) -> None:
    two.play("""
        0.03  B> A  77     ack=99
              B< R  99
              B< S  c      win=65535 mss=1440 sackOK ws=7
        0.04  B> RA 0      ack=c+1
              B2< S c      win=65535 mss=1440 sackOK ws=7
        0.05  B2> A 77     ack=99
              B2< R 99
              B2< S c      win=65535 mss=1440 sackOK ws=7
    """)


TWO_SERVICES = CONFIG + '[[listen]]\naddress = "198.51.100.2"\nport = 443\nprotocol = "tls"\n'


def two_services(hello: bytes = client_hello("www.example.com")) -> Conversation:
    """D is the same client at the same port, towards a second service address that leads to the same backends."""
    listen, hosts = TWO_SERVICES.partition("[hosts]")[::2]
    hosts, second = hosts.partition("[[listen]]")[::2]
    text = listen + "[[listen]]" + second + "[hosts]" + hosts
    return Conversation(config(base=text), sides={"D": client_side("198.51.100.2")}, hello=hello, H=len(hello))


SECOND_OPENING = """
          D> S  c+5000    win=64240 mss=1460 sackOK ws=7
          D< SA z         ack=c+5001 win=65535 mss=1440 sackOK ws=7
          D> PA c+5001    ack=z+1 data=hello
"""


def test_a_backend_that_the_same_port_is_connected_to_is_never_mixed_up() -> None:
    two_services().play(PLAIN_SPLICED).play(
        "0.10 --"
        + SECOND_OPENING
        + """
              D< RA z+1    ack=c+5001+H
              !! backend_failed reason=tuple_in_use backend=[2001:db8:1::2]:443
              !! flow_closed reason=backends_failed
        0.20  C> PA c+1+H  ack=s+1 data=bulk(10)
              B< PA c+1+H  ack=b+1 data=bulk(10)
              B> PA b+1    ack=c+11+H data=bulk(10)
              C< PA s+1    ack=c+11+H data=bulk(10)
              ?? flows=1
    """
    )


def test_the_next_backend_is_taken_where_the_port_is_in_use_towards_the_first() -> None:
    talk = two_services(TWO)
    talk.play(PLAIN_SPLICED.replace("www", "two")).play(
        "0.10 --"
        + SECOND_OPENING
        + """
              B2< S c+5000 win=65535 mss=1440 sackOK ws=7
              !! backend_failed reason=tuple_in_use backend=[2001:db8:1::2]:443
        0.20  B2> SA b     ack=c+5001 win=65535 mss=1440 sackOK ws=7
              B2< PA c+5001 ack=b+1 data=hello
              B2> PA b+1   ack=c+5001+H data=bulk(10)
              D< PA z+1    ack=c+5001+H data=bulk(10)
              B> PA b+1    ack=c+1+H data=bulk(10)
              C< PA s+1    ack=c+1+H data=bulk(10)
    """
    )


@pytest.mark.parametrize(
    "end",
    ["C> R c+1+H \n B< R c+1+H", "C> FA c+1+H ack=s+1 \n B< FA c+1+H ack=b+1 \n B> FA b+1 ack=c+2+H \n C< FA s+1 ack=c+2+H"],
    ids=["RST", "FINs"],
)
def test_a_finished_flow_gives_way_to_a_new_one_towards_the_same_backend(end: str) -> None:
    two_services().play(PLAIN_SPLICED).play("0.10 --\n" + end).play(
        "0.20 --"
        + SECOND_OPENING
        + """
              B< S c+5000  win=65535 mss=1440 sackOK ws=7
              !! flow_closed reason=superseded
              ?? flows=1 state=dialing
    """
    )


def test_a_client_that_repeats_its_hello_has_the_syn_repeated(talk: Conversation) -> None:
    """But not more often than every fifth of a second."""
    talk.play("""
        0.10  C> PA c+1    ack=s+1 data=hello
        0.23  C> PA c+1    ack=s+1 data=hello
              B< S  c      win=65535 mss=1440 sackOK ws=7
        0.30  C> PA c+1    ack=s+1 data=hello
        1.25  B< S  c      win=65535 mss=1440 sackOK ws=7
    """)


def test_a_clients_reset_takes_the_syn_back(talk: Conversation) -> None:
    talk.play("""
        0.025 C> R  c+1+H
              B< R  c+1
              !! flow_closed reason=client_aborted
              ?? flows=0
        0.03  B> SA b      ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< R  c+1
              !! drop no_flow
    """)


def test_a_clients_reset_elsewhere_in_the_window_is_challenged(talk: Conversation) -> None:
    talk.play("""
        0.025 C> R  c+2+H
              C< A  s+1    ack=c+1 win=*
              ?? state=dialing
    """).play(PLAIN_BACKEND)


def test_a_clients_fin_goes_behind_its_data(talk: Conversation) -> None:
    talk.play("""
        0.025 C> FA c+1+H  ack=s+1
              ?? state=dialing
        0.03  B> SA b      ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< FPA c+1   ack=b+1 data=hello
              ?? state=client_fin
        0.04  B> PA b+1    ack=c+2+H data=bulk(10)
              C< PA s+1    ack=c+2+H data=bulk(10)
    """)


def test_more_data_of_the_client_goes_with_the_hello(talk: Conversation) -> None:
    talk.play("""
        0.025 C> PA c+1+H  ack=s+1 data=bulk(100)
        0.03  B> SA b      ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< PA c+1    ack=b+1 data=hello+bulk(100)
    """)


RELIEVED = (
    PLAIN_HANDSHAKE
    + """
    0.02  C> A  c+1    ack=s+1 data=hello[:30]
    0.32  C> A  c+1    ack=s+1 data=hello[:30]
          C< A  s+1    ack=c+31 win=*
    0.33  C> PA c+31   ack=s+1 data=hello[30:]
          B< S  c      win=65535 mss=1440 sackOK ws=7
    0.35  B> SA b      ack=c+1 win=65535 mss=1440 sackOK ws=7
          B< PA c+1    ack=b+1 data=hello
"""
)


def test_what_the_client_was_relieved_of_is_repeated_until_it_is_acknowledged() -> None:
    """RFC 6298 §5.5. Only that: the rest of the hello is still the client's to repeat."""
    Conversation().play(RELIEVED).play("""
        1.35  B< PA c+1    ack=b+1 data=hello[:30]
        3.35  B< PA c+1    ack=b+1 data=hello[:30]
        7.35  B< PA c+1    ack=b+1 data=hello[:30]
        7.40  B> A  b+1    ack=c+1+H
              C< A  s+1    ack=c+1+H
       60.00  ?? state=established
    """)


def test_only_what_is_not_acknowledged_is_repeated() -> None:
    Conversation().play(RELIEVED).play("""
        1.35  B< PA c+1    ack=b+1 data=hello[:30]
        1.40  B> A  b+1    ack=c+11
              C< A  s+1    ack=c+11
        2.40  B< PA c+11   ack=b+1 data=hello[10:30]
    """)


def test_a_backend_that_never_acknowledges_has_both_reset() -> None:
    """The client has forgotten those bytes, so the connection can not be made whole."""
    Conversation().play(RELIEVED).play("""
        1.35  B< PA c+1    ack=b+1 data=hello[:30]
        3.35  B< PA c+1    ack=b+1 data=hello[:30]
        7.35  B< PA c+1    ack=b+1 data=hello[:30]
       15.35  B< PA c+1    ack=b+1 data=hello[:30]
       31.35  B< PA c+1    ack=b+1 data=hello[:30]
       47.35  B< PA c+1    ack=b+1 data=hello[:30]
       60.35  B< R  c+1
              C< RA s+1    ack=c+1+H
              !! flow_closed reason=undelivered
              ?? flows=0
    """)


LONG = client_hello("www.example.com", 3500)
RELIEVED_OF_ALL = (
    PLAIN_HANDSHAKE
    + """
    0.02  C> A  c+1    ack=s+1 data=long[:1440]
    0.32  C> A  c+1    ack=s+1 data=long[:1440]
          C< A  s+1    ack=c+1441 win=*
    0.33  C> A  c+1441 ack=s+1 data=long[1440:2880]
          C< A  s+1    ack=c+2881 win=*
    0.34  C> PA c+2881 ack=s+1 data=long[2880:]
          B< S  c      win=65535 mss=1440 sackOK ws=7
"""
)


@pytest.fixture
def long() -> Conversation:
    """A client that was relieved of the first 2880 bytes of its hello, and whose backend has been sent a SYN."""
    return Conversation(long=LONG).play(RELIEVED_OF_ALL)


def test_what_the_client_was_relieved_of_goes_on_as_soon_as_the_backends_window_opens(long: Conversation) -> None:
    """The window of the SYN-ACK takes the first segment alone; what the client was not relieved of is its own to send."""
    long.play("""
        0.40  B> SA b       ack=c+1 win=1440 mss=1440 sackOK ws=7
              B< PA c+1     ack=b+1 data=long[:1440]
        0.41  B> A  b+1     ack=c+1441 win=500
              B< PA c+1441  ack=b+1 data=long[1440:2880]
              C< A  s+1     ack=c+1441 win=500
        0.42  C> PA c+2881  ack=s+1 data=long[2880:]
              B< PA c+2881  ack=b+1 data=long[2880:]
    """)


def test_a_window_update_lets_it_go_on_too(long: Conversation) -> None:
    long.play("""
        0.40  B> SA b       ack=c+1 win=0 mss=1440 sackOK ws=7
              B< A  c+1     ack=b+1
        0.45  B> A  b+1     ack=c+1 win=20
              B< A  c+1     ack=b+1 data=long[:1440]
              B< PA c+1441  ack=b+1 data=long[1440:2560]
              C< A  s+1     ack=c+1 win=20
    """)


def test_a_backend_that_takes_it_slowly_is_not_given_up() -> None:
    """A few bytes every fifty seconds: each of them starts the minute afresh."""
    talk = Conversation().play(RELIEVED)
    for step in range(1, 6):
        talk.run_until(50.0 * step)
        talk.take_sent()
        talk.symbols["n"] = 1 + 5 * step
        talk.play("B> A b+1 ack=c+n \n C< A s+1 ack=c+n")
    talk.run_until(309.0)
    talk.take_sent()
    talk.play("?? state=established")
    talk.run_until(310.1)
    talk.take_sent()
    talk.play("!! flow_closed reason=undelivered")


def test_a_client_that_begins_anew_has_the_backend_reset_at_the_first_byte_it_lacks(long: Conversation) -> None:
    """Not at the end of what the client was told has arrived (RFC 5961 §3.2)."""
    long.symbols["d"] = 0x5000_0000
    long.play("""
        0.40  B> SA b       ack=c+1 win=1440 mss=1440 sackOK ws=7
              B< PA c+1     ack=b+1 data=long[:1440]
        0.50  C> S  d       win=64240 mss=1460
              C< SA z       ack=d+1 win=65535 mss=1440
              C> A  d+1     ack=z+1
              B< R  c+1
              !! flow_closed reason=replaced
    """)


def test_a_forged_reset_does_not_lose_what_the_client_was_relieved_of(long: Conversation) -> None:
    """While it stands nothing is repeated; the client that goes on belies it, and the repetition goes on too."""
    long.play("""
        0.40  B> SA b       ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< A c+1      ack=b+1 data=long[:1440]
              B< A c+1441   ack=b+1 data=long[1440:2880]
              B< PA c+2881  ack=b+1 data=long[2880:]
        0.50  C> R c+90000
              B< R c+90000
        5.00  ?? state=transitory
        5.10  C> A c+2881   ack=s+1
              B< A c+2881   ack=b+1
              ?? state=established
              B< PA c+1     ack=b+1 data=long[:1440]
    """)


def test_an_error_about_a_syn_that_was_never_sent_lowers_no_offer(talk: Conversation) -> None:
    """RFC 5927 §4.1; nor does one about the SYN itself, which is too small to be too big."""
    talk.exchange(unreachable(talk, kind=2, rest=1280, seq=77))
    talk.exchange(unreachable(talk, kind=2, rest=1280))
    talk.sides["D"] = client_side(port=40009)
    talk.play("!! drop unexpected \n !! drop unexpected").play("""
              D> S  c       win=64240 mss=1460 sackOK ws=7
              D< SA z       ack=c+1 win=65535 mss=1440 sackOK ws=7
    """)


def test_no_other_backend_is_asked_once_the_time_for_all_of_them_is_over() -> None:
    settings = "[timeouts]\ndial_attempt_s = 1\ndial_s = 1\n"
    Conversation(settings, hello=TWO, H=len(TWO)).play(DIALLING).play("""
        0.55  B< S  c       win=65535 mss=1440 sackOK ws=7
        1.05  B< R  c+1
              C< RA s+1     ack=c+1+H
              !! backend_failed reason=silent
              !! flow_closed reason=backends_failed
              ?? flows=0
    """)


def test_a_client_that_begins_anew_has_the_syn_of_its_last_connection_taken_back(talk: Conversation) -> None:
    talk.symbols["d"] = 0x5000_0000
    talk.play("""
        0.20  C> S  d       win=64240 mss=1460
              C< SA z       ack=d+1 win=65535 mss=1440
              C> PA d+1     ack=z+1 data=hello
              B< R  c+1
              B< S  d       mss=1440
              !! flow_closed reason=replaced
              ?? flows=1 state=dialing
    """)


def test_nothing_is_repeated_for_a_client_that_was_not_relieved(talk: Conversation) -> None:
    talk.play(PLAIN_BACKEND).play("100.0 ?? state=established")


def test_a_backends_own_reset_ends_the_repetition() -> None:
    Conversation().play(RELIEVED).play("""
        0.40  B> R  b+1
              C< R  s+1
              ?? state=transitory
      240.40  B< R  c+1
              C< RA s+1    ack=c+1+H
              !! flow_closed reason=undelivered
              ?? flows=0
    """)
