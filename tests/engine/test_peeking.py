"""Until the hostname is known the client's bytes are held, not acknowledged, in any order (RFC 9293 §3.10.7.4)."""

import pytest
from hellos import client_hello
from openings import PLAIN_BACKEND, PLAIN_HANDSHAKE, PLAIN_HELLO, PLAIN_SPLICED
from script import Conversation, backend_side, client_side

from kracauer.tcp.held import MAX_GAPS

LONG = client_hello("www.example.com", 3500)
SYN = "B< S c win=65535 mss=1440 sackOK ws=7"


@pytest.fixture
def talk() -> Conversation:
    """The client has been let in and has said nothing yet."""
    return Conversation(long=LONG, L=len(LONG)).play(PLAIN_HANDSHAKE)


FIRST = "C> A  c+1    ack=s+1 data=long[:1200]"
SECOND = "C> A  c+1201 ack=s+1 data=long[1200:2400]"
THIRD = "C> PA c+2401 ack=s+1 data=long[2400:]"


@pytest.mark.parametrize(
    "arrivals",
    [
        [FIRST, SECOND, THIRD, SYN],
        [FIRST, THIRD, "C< A s+1 ack=c+1 win=* sack=c+2401~c+1+L", SECOND, SYN],
        [SECOND, "C< A s+1 ack=c+1 win=* sack=c+1201~c+2401", FIRST, THIRD, SYN],
        [
            SECOND,
            "C< A s+1 ack=c+1 win=* sack=c+1201~c+2401",
            THIRD,
            "C< A s+1 ack=c+1 win=* sack=c+1201~c+1+L",
            FIRST,
            SYN,
        ],
        [THIRD, "C< A s+1 ack=c+1 win=* sack=c+2401~c+1+L", FIRST, SECOND, SYN],
        [THIRD, "C< A s+1 ack=c+1 win=* sack=c+2401~c+1+L", SECOND, "C< A s+1 ack=c+1 win=* sack=c+1201~c+1+L", FIRST, SYN],
    ],
    ids=["123", "132", "213", "231", "312", "321"],
)
def test_a_hello_in_three_segments_is_read_in_any_order(talk: Conversation, arrivals: list[str]) -> None:
    talk.play("\n".join(["0.02 -- in a moment", *arrivals])).play("""
        0.03  B> SA b       ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< A  c+1     ack=b+1 data=long[:1440]
              B< A  c+1441  ack=b+1 data=long[1440:2880]
              B< PA c+2881  ack=b+1 data=long[2880:]
    """)


def test_segments_that_overlap_make_one_hello(talk: Conversation) -> None:
    talk.play("""
        0.02  C> A  c+1     ack=s+1 data=long[:1200]
              C> A  c+801   ack=s+1 data=long[800:2000]
              C> A  c+2401  ack=s+1 data=long[2400:3000]
              C< A  s+1     ack=c+1 win=* sack=c+2401~c+3001
              C> PA c+1901  ack=s+1 data=long[1900:]
              B< S  c       win=65535 mss=1440 sackOK ws=7
    """)


def test_the_bytes_that_came_first_stay() -> None:
    """Two names for one connection: what was looked at is what the backend gets."""
    talk = Conversation(first=client_hello("www.example.com"), other=client_hello("two.example.com"))
    talk.play(PLAIN_HANDSHAKE).play("""
        0.02  C> A  c+41    ack=s+1 data=first[40:]
              C< A  s+1     ack=c+1 win=* sack=c+41~c+1+len(first)
              C> PA c+1     ack=s+1 data=other
              B< S  c       win=65535 mss=1440 sackOK ws=7
        0.03  B> SA b       ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< PA c+1     ack=b+1 data=other[:40]+first[40:]
              !! flow_spliced hostname=www.example.com
    """)


def test_three_gaps_are_reported_the_latest_first(talk: Conversation) -> None:
    """RFC 2018 §4."""
    talk.play("""
        0.02  C> A  c+101  ack=s+1 data=long[100:200]
              C< A  s+1    ack=c+1 win=* sack=c+101~c+201
              C> A  c+501  ack=s+1 data=long[500:600]
              C< A  s+1    ack=c+1 win=* sack=c+501~c+601,c+101~c+201
              C> A  c+301  ack=s+1 data=long[300:400]
              C< A  s+1    ack=c+1 win=* sack=c+301~c+401,c+101~c+201,c+501~c+601
    """)


def test_a_client_that_makes_thousands_of_gaps_has_few_of_them_held(talk: Conversation) -> None:
    """It costs neither memory nor the time to look through them all."""
    for number in range(1, 8001):
        talk.symbols["n"] = 2 * number
        talk.exchange(talk.bytes_of("C> A c+1+n ack=s+1 data=b'x'"))
    (flow,) = talk.engine.flows
    assert flow.handshake is not None
    assert len(flow.handshake.held.blocks()) == MAX_GAPS == 64
    dropped = [str(event.fields()["reason"]) for event in talk.events if event.event == "packet_dropped"]
    assert dropped == ["out_of_window"] * (8000 - 64)


def test_such_a_client_is_read_all_the_same(talk: Conversation) -> None:
    """What comes in order is taken, and the gaps close."""
    for number in range(1, 101):
        talk.symbols["n"] = 2 * number
        talk.exchange(talk.bytes_of("C> A c+1+n ack=s+1 data=long[n:n+1]"))
    talk._untold.clear()
    talk.play(
        """
        0.03  C> A  c+1     ack=s+1 data=long[:1440]
              C> A  c+1441  ack=s+1 data=long[1440:2880]
              C> PA c+2881  ack=s+1 data=long[2880:]
    """
        + SYN
    )


def test_without_sack_a_duplicate_ack_says_only_that_something_is_missing() -> None:
    Conversation(long=LONG).play("""
        0.00  C> S  c      mss=1460
              C< SA s      ack=c+1 win=65535 mss=1440
        0.01  C> A  c+1201 ack=s+1 data=long[1200:2400]
              !! drop bad_cookie
              C> A  c+1    ack=s+1
              C> A  c+1201 ack=s+1 data=long[1200:2400]
              C< A  s+1    ack=c+1 win=*
    """)


def test_bytes_in_order_are_not_acknowledged(talk: Conversation) -> None:
    """The client's own TCP stays responsible for them."""
    talk.play("""
        0.02  C> A  c+1    ack=s+1 data=long[:1200]
        0.03  C> A  c+1201 ack=s+1 data=long[1200:2400]
        5.00  ?? state=peeking
    """)


def test_a_client_that_repeats_itself_is_relieved_and_each_further_piece_acknowledged(talk: Conversation) -> None:
    talk.play("""
        0.02  C> A  c+1    ack=s+1 data=long[:536]
        0.32  C> A  c+1    ack=s+1 data=long[:536]
              C< A  s+1    ack=c+537 win=room
        0.33  C> A  c+537  ack=s+1 data=long[536:1072]
              C< A  s+1    ack=c+1073 win=room-4
        0.34  C> A  c+1073 ack=s+1 data=long[1072:1608]
              C< A  s+1    ack=c+1609 win=room-8
        0.35  C> PA c+1609 ack=s+1 data=long[1608:]
              B< S  c      win=65535 mss=1440 sackOK ws=7
    """)


def test_a_repetition_of_a_part_relieves_the_client_of_all_that_is_there(talk: Conversation) -> None:
    talk.play("""
        0.02  C> A  c+1    ack=s+1 data=long[:1200]
              C> A  c+1201 ack=s+1 data=long[1200:2400]
        0.32  C> A  c+1    ack=s+1 data=long[:1200]
              C< A  s+1    ack=c+2401 win=*
    """)


def test_relief_reaches_only_to_the_first_gap(talk: Conversation) -> None:
    talk.play("""
        0.02  C> A  c+1    ack=s+1 data=long[:1200]
              C> PA c+2401 ack=s+1 data=long[2400:]
              C< A  s+1    ack=c+1 win=* sack=c+2401~c+1+L
        0.32  C> A  c+1    ack=s+1 data=long[:1200]
              C< A  s+1    ack=c+1201 win=* sack=c+2401~c+1+L
    """)


def test_a_keep_alive_is_answered(talk: Conversation) -> None:
    """RFC 9293 §3.8.4."""
    talk.play("""
        5.00  C> A  c      ack=s+1
              C< A  s+1    ack=c+1 win=*
    """)


def test_a_keep_alive_with_a_byte_is_answered_and_the_byte_forgotten(talk: Conversation) -> None:
    talk.play("""
        5.00  C> A  c      ack=s+1 data=b'?'
              C< A  s+1    ack=c+1 win=*
    """).play(PLAIN_HELLO.replace("0.02", "5.02")).play(PLAIN_BACKEND.replace("0.03", "5.03"))


def test_a_pure_ack_at_the_right_place_is_not_answered(talk: Conversation) -> None:
    """Two ends that acknowledge acknowledgments never stop."""
    talk.play("""
        1.00  C> A  c+1    ack=s+1
        1.01  C> A  c+1    ack=s+1 win=2000
              ?? state=peeking
    """)


def test_the_latest_window_is_what_the_backend_is_told(talk: Conversation) -> None:
    talk.play("""
        0.02  C> A  c+1    ack=s+1 win=10
        0.03  C> PA c+1    ack=s+1 win=20 data=hello
              B< S  c      win=2560 mss=1440 sackOK ws=7
        0.04  B> SA b      ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< PA c+1    ack=b+1 win=20 data=hello
    """)


def test_data_beyond_the_window_is_not_held(talk: Conversation) -> None:
    talk.play("""
        0.02  C> A  c+1+99999 ack=s+1 data=long[:100]
              C< A  s+1    ack=c+1 win=*
              !! drop out_of_window
              C> A  c+1-2**30 ack=s+1 data=long[:100]
              C< A  s+1    ack=c+1 win=*
              ?? state=peeking
    """)


@pytest.mark.parametrize("ack", ["s", "s+2", "s+1-2**31", "0"])
def test_what_was_never_sent_cannot_be_acknowledged(talk: Conversation, ack: str) -> None:
    """RFC 9293 §3.10.7.4: an ACK, and the segment dropped."""
    talk.play(f"""
        0.02  C> PA c+1    ack={ack} data=hello
              C< A  s+1    ack=c+1 win=*
              !! drop out_of_window
              ?? state=peeking
    """)


def test_a_reset_ends_it(talk: Conversation) -> None:
    talk.play("""
        0.02  C> R  c+1
              !! flow_closed reason=client_aborted
              ?? flows=0
    """)


def test_a_reset_right_behind_what_was_sent_ends_it(talk: Conversation) -> None:
    talk.play("""
        0.02  C> A  c+1    ack=s+1 data=long[:1200]
              C> R  c+1201
              !! flow_closed reason=client_aborted
              ?? flows=0
    """)


def test_a_reset_inside_the_window_is_challenged(talk: Conversation) -> None:
    """RFC 5961 §3.2."""
    talk.play("""
        0.02  C> R  c+100
              C< A  s+1    ack=c+1 win=*
              ?? state=peeking
    """)


def test_a_fin_without_a_word_is_answered_with_a_fin(talk: Conversation) -> None:
    talk.play("""
        0.02  C> FA c+1    ack=s+1
              C< FPA s+1   ack=c+2 win=512
              !! flow_refused reason=empty answer=close
        0.03  C> A  c+2    ack=s+2
        1.10  !! flow_closed reason=refused
              ?? flows=0
    """)


def test_a_fin_behind_half_a_hello_is_answered_with_an_alert(talk: Conversation) -> None:
    talk.play("""
        0.02  C> FPA c+1   ack=s+1 data=hello[:30]
              C< FPA s+1   ack=c+32 win=512 data=bytes((21,3,3,0,2,2,50))
              !! flow_refused reason=malformed
    """)


def test_a_fin_that_comes_before_its_data_waits_for_it(talk: Conversation) -> None:
    talk.play("""
        0.02  C> FA c+1+H  ack=s+1
              C< A  s+1    ack=c+1 win=*
              ?? state=peeking
        0.03  C> PA c+1    ack=s+1 data=hello
              B< S  c      win=65535 mss=1440 sackOK ws=7
        0.04  B> SA b      ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< FPA c+1   ack=b+1 data=hello
              ?? state=client_fin
    """)


def test_a_silent_client_is_reset_after_half_a_minute(talk: Conversation) -> None:
    talk.play("""
        30.00  ?? state=peeking
        30.05  C< RA s+1   ack=c+1
               !! flow_closed reason=peek_timeout
               ?? flows=0
    """)


def test_a_drip_of_bytes_does_not_put_the_timeout_off(talk: Conversation) -> None:
    for second in range(1, 30):
        talk.symbols["i"] = second - 1
        talk.play(f"{second}.0  C> A c+1+i ack=s+1 data=long[i:i+1]")
    talk.play("""
        30.05  C< RA s+1   ack=c+30
               !! flow_closed reason=peek_timeout
    """)


def test_the_peek_timeout_is_configurable() -> None:
    Conversation("[timeouts]\npeek_s = 2\n").play(PLAIN_HANDSHAKE).play("""
        2.05  C< RA s+1   ack=c+1
              !! flow_closed reason=peek_timeout
    """)


def test_a_hello_that_says_it_passes_the_limit_is_refused_at_once() -> None:
    """With illegal_parameter: its lengths are known before its bytes are here."""
    talk = Conversation("[limits]\npeek_bytes = 2048\n", long=client_hello("www.example.com", 4000))
    talk.play(PLAIN_HANDSHAKE).play("""
        0.02  C> A  c+1    ack=s+1 data=long[:1440]
              C< FPA s+1   ack=c+1441 win=512 data=bytes((21,3,3,0,2,2,47))
              !! flow_refused reason=malformed
    """)


def two_clients(settings: str, huge: bytes = b"") -> Conversation:
    sides = {"D": client_side(port=40001), "E": backend_side(client_port=40001)}
    return Conversation(settings, sides=sides, huge=huge)


SECOND_CLIENT = """
          D> S  c    win=64240 mss=1460 sackOK ws=7
          D< SA z    ack=c+1 win=65535 mss=1440 sackOK ws=7
"""


def test_all_clients_together_hold_no_more_than_the_limit() -> None:
    """The one whose bytes do not fit repeats them when there is room again."""
    message = client_hello("www.example.com", 65000)[5:]
    records = [message[start : start + 16000] for start in range(0, len(message), 16000)]
    huge = b"".join(b"\x16\x03\x01" + len(record).to_bytes(2, "big") + record for record in records)
    talk = two_clients("[limits]\nheld_bytes = 65536\n", huge=huge)
    talk.play(PLAIN_HANDSHAKE + SECOND_CLIENT)
    for start in range(0, 64000, 1280):
        talk.symbols["i"] = start
        talk.play("C> A c+1+i ack=s+1 data=huge[i:i+1280]")
    talk.play("""
        0.02  D> A  c+1    ack=z+1
              D> A  c+1    ack=z+1 data=huge[:1280]
              !! drop held_bytes_full
              ?? flows=2
        0.10  C> R  c+64001
              !! flow_closed reason=client_aborted
        0.20  D> A  c+1    ack=z+1 data=huge[:1280]
              D> A  c+1    ack=z+1 data=huge[:1280]
              D< A  z+1    ack=c+1281 win=*
    """)


def test_a_full_table_admits_nobody_and_says_so() -> None:
    two_clients("[limits]\nflows = 1\n").play(PLAIN_SPLICED).play("0.10 --" + SECOND_CLIENT).play("""
        0.11  D> A  c+1    ack=z+1
              !! drop table_full
              ?? flows=1
        0.12  C> PA c+1+H  ack=s+1 data=bulk(10)
              B< PA c+1+H  ack=b+1 data=bulk(10)
    """)


@pytest.mark.parametrize(
    "end",
    [
        "C> R c+1+H \n B< R c+1+H",
        "B> R b+1 \n C< R s+1",
        "C> FA c+1+H ack=s+1 \n B< FA c+1+H ack=b+1 \n B> FA b+1 ack=c+2+H \n C< FA s+1 ack=c+2+H",
    ],
    ids=["client's RST", "backend's RST", "both FINs"],
)
def test_a_retired_flow_makes_room_in_a_full_table(end: str) -> None:
    talk = two_clients("[limits]\nflows = 1\n").play(PLAIN_SPLICED).play("0.10 --\n" + end)
    talk.play("0.20 --" + SECOND_CLIENT).play("""
        0.21  D> A  c+1    ack=z+1
              !! flow_closed reason=superseded
              ?? flows=1 state=peeking
    """)


def test_a_flow_that_was_reset_and_goes_on_is_not_retired() -> None:
    """The RST was forged: its sender still talks."""
    talk = (
        two_clients("[limits]\nflows = 1\n")
        .play(PLAIN_SPLICED)
        .play("""
        0.10  C> R  c+1+H
              B< R  c+1+H
        0.11  C> A  c+1+H  ack=s+1
              B< A  c+1+H  ack=b+1
              ?? state=established
    """)
    )
    talk.play("0.20 --" + SECOND_CLIENT).play("""
        0.21  D> A  c+1    ack=z+1
              !! drop table_full
              ?? state=established
    """)


def test_a_forged_cookie_makes_no_room_for_itself() -> None:
    (
        two_clients("[limits]\nflows = 1\n")
        .play(PLAIN_SPLICED)
        .play("""
        0.10  C> R  c+1+H
              B< R  c+1+H
        0.11  D> A  c+1    ack=77
              !! drop bad_cookie
              ?? flows=1 state=transitory
    """)
    )


def test_a_hello_in_a_super_packet_is_read_at_once(talk: Conversation) -> None:
    """The kernel's receive offload has merged its segments; the backend gets them cut again."""
    talk.play("""
        0.02  C> PA c+1    ack=s+1 gso=1200 data=long
              B< S  c      win=65535 mss=1440 sackOK ws=7
        0.03  B> SA b      ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< A  c+1    ack=b+1 data=long[:1440]
              B< A  c+1441 ack=b+1 data=long[1440:2880]
              B< PA c+2881 ack=b+1 data=long[2880:]
    """)


def test_one_address_cannot_take_all_the_room_there_is_for_beginners() -> None:
    """Nor does it matter to another address that it tries; with its backend found, a connection no longer counts."""
    talk = Conversation(
        "[limits]\nunproven_per_client = 1\n",
        sides={"D": client_side(port=40001), "E": client_side(address="192.0.2.8", port=40000)},
    )
    talk.play(PLAIN_HANDSHAKE + SECOND_CLIENT).play("""
        0.02  D> A  c+1    ack=z+1
              !! drop client_full
              E> S  c      win=64240 mss=1460 sackOK ws=7
              E< SA y      ack=c+1 win=65535 mss=1440 sackOK ws=7
              E> A  c+1    ack=y+1
              ?? flows=2
    """).play(PLAIN_HELLO + PLAIN_BACKEND).play("""
        0.10  D> A  c+1    ack=z+1
              ?? flows=3
    """)
