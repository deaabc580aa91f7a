"""A SYN costs an answer and nothing else; the cookie in it is what lets a client in (RFC 4987 §3.6)."""

import tracemalloc

import pytest
from engines import make_engine
from packets import Packet, build, parse_flags
from script import EPOCH, SECRET, Conversation, Side, backend_side, client_side, config

from kracauer.engine import Engine
from kracauer.wire.buffer import Frame

SYN = """
    0.00  C> S  c    win=64240 mss=1460 sackOK ts=500:0 ws=7
          C< SA s    ack=c+1 win=65535 mss=1440 sackOK ts=t:500 ws=7
"""


@pytest.fixture
def talk() -> Conversation:
    return Conversation()


def test_a_syn_leaves_neither_flow_nor_timer(talk: Conversation) -> None:
    talk.play(SYN).play("?? flows=0")
    assert talk.engine.next_deadline() is None


def test_copies_of_a_syn_get_the_same_cookie(talk: Conversation) -> None:
    """Also when something came between: the client keeps the first SYN-ACK it sees, whichever that is."""
    talk.sides["D"] = client_side(port=40001)
    talk.play(SYN).play("""
        1.00  D> S  c    win=64240 mss=1460
              D< SA *    ack=c+1 win=65535 mss=1440
        3.00  C> S  c    win=64240 mss=1460 sackOK ts=3500:0 ws=7
              C< SA s    ack=c+1 win=65535 mss=1440 sackOK ts=t:3500 ws=7
    """)


@pytest.mark.parametrize(
    "other",
    [client_side(port=40001), client_side(address="192.0.2.8"), client_side(service_port=80)],
    ids=["port", "address", "service port"],
)
def test_each_connection_has_a_cookie_of_its_own(talk: Conversation, other: Side) -> None:
    talk.sides = {"C": client_side(), "D": other}
    talk.play(SYN).play("""
              D> S  c    win=64240 mss=1460 sackOK ts=500:0 ws=7
              D< SA z    ack=c+1 win=65535 mss=1440 sackOK ts=y:500 ws=7
    """)
    assert talk.symbols["z"] != talk.symbols["s"]
    assert talk.symbols["y"] != talk.symbols["t"]
    talk.play("""
              D> A  c+1  ack=s+1 ts=501:t
              !! drop bad_cookie
              ?? flows=0
    """)


def test_a_cookie_is_good_for_one_initial_sequence_number(talk: Conversation) -> None:
    talk.play(SYN).play("""
        0.01  C> A  c+2  ack=s+1 ts=501:t
              !! drop bad_cookie
              ?? flows=0
    """)


@pytest.mark.parametrize("option", ["opt=1312" + "00" * 16, "opt=1d0c0102" + "00" * 8], ids=["MD5", "AO"])
def test_an_authenticated_syn_is_refused_with_a_reset(talk: Conversation, option: str) -> None:
    """RFC 2385, RFC 5925: without the key there is no connection, and a fall-back would be a downgrade."""
    talk.play(f"""
        0.00  C> S  c    win=64240 mss=1460 {option}
              C< RA 0    ack=c+1
              !! drop authenticated_syn
              ?? flows=0
    """)


@pytest.mark.parametrize("flags", ["SF", "SR", "SA", "SFPU"])
def test_a_syn_with_what_does_not_belong_there_is_dropped(talk: Conversation, flags: str) -> None:
    talk.play(f"""
        0.00  C> {flags} c    win=64240 mss=1460
              !! drop illegal_flags
              ?? flows=0
    """)


def test_fast_open_data_is_ignored_and_sent_again_after_the_handshake(talk: Conversation) -> None:
    """RFC 7413 §4.1.3: no TFO option and an acknowledgment of the SYN alone say that the data was not taken."""
    talk.play("""
        0.00  C> S  c    win=64240 mss=1460 opt=220a0102030405060708 data=hello
              C< SA s    ack=c+1 win=65535 mss=1440
              ?? flows=0
        0.05  C> PA c+1  ack=s+1 data=hello
              B< S  c    win=1000 mss=1440
              ?? flows=1 state=dialing
    """)


def test_mptcp_falls_back_cleanly(talk: Conversation) -> None:
    """RFC 8684 §3.7: a SYN-ACK without MP_CAPABLE makes it plain TCP."""
    talk.play("""
        0.00  C> S  c    win=64240 mss=1460 opt=1e040181
              C< SA s    ack=c+1 win=65535 mss=1440
        0.05  C> PA c+1  ack=s+1 data=hello
              B< S  c    win=1000 mss=1440
    """)


def test_an_ack_one_off_the_cookie_makes_no_flow(talk: Conversation) -> None:
    """The low bits are the terms, so a forger who knows a cookie may change them, but not the hash above them."""
    talk.play(SYN).play("""
        0.01  C> A  c+1  ack=s+1+512 ts=501:t
              !! drop bad_cookie
              C> A  c+1  ack=s+1-512 ts=501:t
              !! drop bad_cookie
              ?? flows=0
    """)


def test_a_bare_ack_with_a_cookie_makes_a_flow(talk: Conversation) -> None:
    talk.play(SYN).play("""
        0.01  C> A  c+1  ack=s+1 ts=501:t
              ?? flows=1 state=peeking
    """)


def test_data_with_a_cookie_makes_a_flow_when_the_bare_ack_was_lost(talk: Conversation) -> None:
    talk.play(SYN).play("""
        0.01  C> PA c+1  ack=s+1 ts=501:t data=hello
              B< S  c    win=65535 mss=1440 sackOK ts=501:0 ws=7
              ?? flows=1 state=dialing
    """)


@pytest.mark.parametrize("seconds", [0.02, 59.0, 61.0, 119.9])
def test_a_cookie_lives_for_two_minutes(talk: Conversation, seconds: float) -> None:
    talk.play(SYN).play(f"""
        {seconds}  C> A  c+1  ack=s+1 ts=501:t
              ?? flows=1
    """)


@pytest.mark.parametrize("seconds", [120.0, 180.0, 100000.0])
def test_an_older_cookie_is_stale(talk: Conversation, seconds: float) -> None:
    talk.play(SYN).play(f"""
        {seconds}  C> A  c+1  ack=s+1 ts=501:t
              !! drop bad_cookie
              ?? flows=0
    """)


def test_second_data_segment_that_comes_first_gets_no_reset(talk: Conversation) -> None:
    """A reset would kill a handshake that is about to complete."""
    talk.play(SYN).play("""
        0.01  C> PA c+21 ack=s+1 ts=501:t data=hello[20:]
              !! drop bad_cookie
        0.02  C> A  c+1  ack=s+1 ts=501:t data=hello[:20]
              ?? flows=1 state=peeking
        0.30  C> PA c+21 ack=s+1 ts=780:t data=hello[20:]
              B< S  c    win=65535 mss=1440 sackOK ts=780:0 ws=7
    """)


def test_a_connection_long_gone_is_reset_when_it_goes_on(talk: Conversation) -> None:
    talk.play("""
        0.00  C> PA c+900 ack=b+77 data=bulk(10)
              !! drop bad_cookie
        1.00  C> PA c+900 ack=b+77 data=bulk(10)
              !! drop bad_cookie
        2.95  C> PA c+900 ack=b+77 data=bulk(10)
              !! drop bad_cookie
        3.05  C> PA c+900 ack=b+77 data=bulk(10)
              C< R  b+77
              !! drop bad_cookie
              ?? flows=0
    """)


def test_a_reset_of_no_connection_gets_no_answer(talk: Conversation) -> None:
    """RFC 9293 §3.10.7.1: however long it goes on."""
    for seconds in (0, 2, 4, 6, 8):
        talk.play(f"""
            {seconds}.0  C> R  c+900
                  !! drop no_flow
        """)


def test_a_segment_without_ack_of_no_connection_gets_no_answer(talk: Conversation) -> None:
    talk.play("""
        0.00  C> PF c+1  data=bulk(10)
              !! drop no_flow
              ?? flows=0
    """)


def restarted(talk: Conversation, settings: str = "", secret: bytes = SECRET) -> Conversation:
    """The same conversation with another engine, as after a restart."""
    engine = make_engine(config(settings), secret=secret, now=talk.now)
    return Conversation(engine=engine, **{key: talk.symbols[key] for key in ("s", "t") if key in talk.symbols})


def test_a_handshake_begun_before_a_restart_completes_after_it(talk: Conversation) -> None:
    restarted(talk.play(SYN)).play("""
        0.02  C> PA c+1  ack=s+1 ts=502:t data=hello
              B< S  c    win=65535 mss=1440 sackOK ts=502:0 ws=7
        0.03  B> SA b    ack=c+1 win=64800 mss=1440 sackOK ts=9000:502 ws=7
              B< PA c+1  ack=b+1 ts=502:9000 data=hello
              B> PA b+1  ack=c+1+H ts=9001:502 data=bulk(9)
              C< PA s+1  ack=c+1+H ts=t+1:502 data=bulk(9)
    """)


def test_a_handshake_begun_under_a_learnt_scale_completes_after_a_restart(talk: Conversation) -> None:
    """The new process has learnt nothing yet; what the client was promised, its windows show."""
    talk.sides["D"] = client_side(port=40001)
    talk.play(SYN).play("""
        0.01  C> PA c+1  ack=s+1 ts=501:t data=hello
              B< S  c    win=65535 mss=1440 sackOK ts=501:0 ws=7
        0.02  B> SA b    ack=c+1 win=65535 mss=1220 sackOK ts=9000:501 ws=9
              B< PA c+1  ack=b+1 ts=501:9000 data=hello
        0.03  D> S  c    win=64240 mss=1460 sackOK ts=500:0 ws=7
              D< SA z    ack=c+1 win=65535 mss=1220 sackOK ts=y:500 ws=9
    """)
    after = Conversation(
        engine=make_engine(config(), secret=SECRET, now=talk.now),
        now=talk.now,
        sides={"D": client_side(port=40001), "E": backend_side(client_port=40001)},
        z=talk.symbols["z"],
        y=talk.symbols["y"],
    )
    after.play("""
      119.00  D> PA c+1    ack=z+1 ts=502:y data=hello
              E< S  c      win=65535 mss=1440 sackOK ts=502:0 ws=7
      119.01  E> SA b      ack=c+1 win=65535 mss=1220 sackOK ts=9000:502 ws=9
              E< PA c+1    ack=b+1 ts=502:9000 data=hello
              E> A  b+1    ack=c+1+H win=300 ts=9001:502
              D< A  z+1    ack=c+1+H win=300 ts=y+1:502
    """)


def test_another_secret_knows_no_cookie_of_ours(talk: Conversation) -> None:
    restarted(talk.play(SYN), secret=bytes(32)).play("""
        0.02  C> PA c+1  ack=s+1 ts=502:t data=hello
              !! drop bad_cookie
              ?? flows=0
    """)


def syn_from(number: int) -> bytes:
    return build(
        Packet(
            src=bytes((192, 0, 2, number % 256)),
            dst=bytes((198, 51, 100, 1)),
            src_port=1024 + number,
            dst_port=443,
            flags=parse_flags("S"),
            seq=number * 7919,
            options=("mss=1460", "sackOK", "ws=7"),
        )
    )[1]


def test_ten_thousand_syns_are_all_answered_and_leave_nothing_behind() -> None:
    engine, frame = make_engine(config(), secret=SECRET, now=EPOCH), Frame()
    answered = 0
    tracemalloc.start()
    try:
        for number in range(10_000):
            if number == 1000:
                before = tracemalloc.get_traced_memory()[0]
            frame.load(syn_from(number))
            answered += len(engine.receive(frame, EPOCH + number / 1e4))
            assert engine.next_event() is None
        growth = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert answered == 10_000
    assert len(engine.flows) == 0
    assert engine.next_deadline() is None
    assert growth < 4096


def flood_with_acks(engine: Engine, numbers: range) -> None:
    """Send a segment of as many connections that nobody knows, all of them at the epoch."""
    frame = Frame()
    for number in numbers:
        packet = bytearray(syn_from(number))
        packet[33] = 0x10
        frame.load(bytes(packet), bytes((2, *bytes(9))))  # the kernel has seen to the checksum
        engine.receive(frame, EPOCH)
        engine.next_event()


def test_guessed_cookies_are_bounded_in_what_they_leave_behind() -> None:
    """Strays are remembered, but only 16,384 of them."""
    engine = make_engine(config(), secret=SECRET, now=EPOCH)
    tracemalloc.start()
    try:
        flood_with_acks(engine, range(16_384))
        before = tracemalloc.get_traced_memory()[0]
        flood_with_acks(engine, range(16_384, 32_768))
        growth = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(engine.flows) == 0
    assert growth < 64 * 1024


def test_a_flood_of_syns_costs_no_other_client_its_handshake(talk: Conversation) -> None:
    frame = Frame()
    talk.play(SYN)
    for number in range(2000):
        frame.load(syn_from(number))
        talk.engine.receive(frame, talk.now)
    talk.play("""
        0.02  C> PA c+1  ack=s+1 ts=502:t data=hello
              B< S  c    win=65535 mss=1440 sackOK ts=502:0 ws=7
              ?? flows=1 state=dialing
    """)
