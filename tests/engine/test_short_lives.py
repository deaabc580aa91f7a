"""States whose time counts from their beginning, whatever comes; and what a new connection does to an old one (RFC 6146)."""

import pytest
from openings import PLAIN_SPLICED
from script import Conversation

FINS = "C> FA c+1+H ack=s+1 \n B< FA c+1+H ack=b+1 \n B> FA b+1 ack=c+2+H \n C< FA s+1 ack=c+2+H"
RESET = "C> R c+1+H \n B< R c+1+H"


@pytest.fixture
def talk() -> Conversation:
    """Client and backend are joined, without timestamps."""
    return Conversation().play(PLAIN_SPLICED)


def test_what_comes_after_both_fins_puts_nothing_off(talk: Conversation) -> None:
    """RFC 6146 §3.5.2.2."""
    talk.play(f"0.10 -- \n {FINS}").play("""
      100.00  C> A  c+2+H  ack=s+2
              B< A  c+2+H  ack=b+2
      239.90  ?? state=both_fin
      240.30  !! flow_closed reason=finished
              ?? flows=0
    """)


def test_what_the_other_side_sends_after_a_reset_puts_nothing_off(talk: Conversation) -> None:
    talk.play(f"0.10 -- \n {RESET}").play("""
      100.00  B> A  b+1    ack=c+1+H
              C< A  s+1    ack=c+1+H
      239.90  ?? state=transitory
      240.30  !! flow_closed reason=reset
              ?? flows=0
    """)


def test_one_side_that_answers_a_probe_again_and_again_puts_nothing_off(talk: Conversation) -> None:
    """RFC 6146 §3.5.2.3."""
    talk.play("""
     7440.05  B< A  c      ack=b+1
              C< A  s      ack=c+1
     7600.00  B> A  b+1    ack=c+1+H
              C< A  s+1    ack=c+1+H
     7680.05  B< R  c+1+H
              C< R  s+1
              !! flow_closed reason=idle
    """)


def test_the_backend_of_a_connection_that_is_replaced_is_told_at_once(talk: Conversation) -> None:
    """With the very number that it expects (RFC 5961 §3.2), so that it lets go of it."""
    talk.symbols["d"] = 0x2000_0000
    talk.play("""
        0.10  B> A  b+1    ack=c+1+H
              C< A  s+1    ack=c+1+H
        1.00  C> S  d      mss=1460
              C< SA z      ack=d+1 win=65535 mss=1440
        1.10  C> A  d+1    ack=z+1
              B< R  c+1+H
              !! flow_closed reason=replaced
              ?? flows=1 state=peeking
    """)
