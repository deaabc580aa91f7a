"""States whose time counts from their beginning, whatever comes; and what a new connection does to an old one (RFC 6146)."""

import pytest
from openings import PLAIN_SPLICED
from script import Conversation

FINS = "C> FA c+1+H ack=s+1 \n B< FA c+1+H ack=b+1 \n B> FA b+1 ack=c+2+H \n C< FA s+1 ack=c+2+H"
HEARD = "B> A b+1 ack=c+1+H \n C< A s+1 ack=c+1+H"  # all that the client has said
RESET = f"{HEARD} \n C> R c+1+H \n B< R c+1+H"
INEXACT = "C> R c+1+H \n B< R c+1+H"  # the same, with what it has said still under way
ASKED = "B< A c ack=b+1 \n C< A s ack=c+1"


def believed(state: str) -> list[tuple[int, str]]:
    """How far from what was acknowledged a segment may lie that leads to `state`, and which no longer do."""
    return [(-1, "established"), (0, state), (1 << 24, state), ((1 << 24) + 1, "established")]


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


def test_a_reset_whose_number_may_have_been_guessed_has_both_sides_asked(talk: Conversation) -> None:
    """One guess in 256 lies within the largest windows, and the ends do not believe it: they answer, and all goes on."""
    talk.play(f"0.10 -- \n {INEXACT}").play(f"""
      239.90  ?? state=transitory
      240.10  {ASKED}
              ?? state=probing
      240.20  C> A  c+1+H  ack=s+1
              B< A  c+1+H  ack=b+1
              B> A  b+1    ack=c+1+H
              C< A  s+1    ack=c+1+H
              ?? state=established
     7000.00  ?? state=established
    """)


def test_a_side_that_has_reset_with_bytes_under_way_says_so_again_when_it_is_asked(talk: Conversation) -> None:
    """What answers a probe has the exact number, and needs no further question."""
    talk.play(f"0.10 -- \n {INEXACT}").play(f"""
      240.10  {ASKED}
      240.20  C> R  c+1
              B< R  c+1
              ?? state=transitory
      480.00  ?? state=transitory
      480.30  !! flow_closed reason=reset
              ?? flows=0
    """)


def test_a_flow_whose_ends_are_both_gone_after_a_guessable_reset_ends(talk: Conversation) -> None:
    talk.play(f"0.10 -- \n {INEXACT}").play(f"""
      240.10  {ASKED}
      300.10  {ASKED}
      360.10  {ASKED}
      420.10  {ASKED}
      480.10  B< R  c+1
              C< R  s+1
              !! flow_closed reason=idle
              ?? flows=0
    """)


def test_a_reset_that_is_guessed_while_the_ends_are_asked_is_no_proof(talk: Conversation) -> None:
    """Else two of them, four minutes apart, would end a connection that is silent."""
    talk.play(f"0.10 -- \n {HEARD} \n C> R c+1+H+500 \n B< R c+1+H+500").play("""
      240.10  B< A  c+H    ack=b+1
              C< A  s      ack=c+1+H
      240.11  C> A  c+1+H  ack=s+1
              B< A  c+1+H  ack=b+1
      240.12  C> R  c+1+H+500
              B< R  c+1+H+500
              ?? state=transitory
      480.15  B< A  c+H    ack=b+1
              C< A  s      ack=c+1+H
              ?? state=probing
    """)


def test_an_exact_reset_behind_one_that_is_not_needs_no_question(talk: Conversation) -> None:
    talk.play(f"0.10 -- \n {INEXACT} \n {RESET}").play("""
      240.20  !! flow_closed reason=reset
              ?? flows=0
    """)


def test_an_exact_reset_that_proved_forged_is_forgotten(talk: Conversation) -> None:
    """The next one is judged by its own number."""
    talk.play(f"0.10 -- \n {RESET}").play("""
        0.20  C> A  c+1+H  ack=s+1
              B< A  c+1+H  ack=b+1
              ?? state=established
        0.30  C> R  c+2+H
              B< R  c+2+H
              ?? state=transitory
      240.30  B< A  c+H    ack=b+1
              C< A  s      ack=c+1+H
              ?? state=probing
    """)


def test_a_reset_with_the_number_that_was_acknowledged_is_certain_whoever_sends_it(talk: Conversation) -> None:
    talk.play(f"0.10 -- \n {HEARD}").play("""
        0.20  B> R  b+1
              C< R  s+1
      239.90  ?? state=transitory
      240.30  !! flow_closed reason=reset
    """)


@pytest.mark.parametrize(("distance", "state"), believed("client_fin"))
def test_a_fin_counts_where_it_could_be_the_clients_own(talk: Conversation, distance: int, state: str) -> None:
    """It is passed on in any case."""
    talk.play(f"0.10 -- \n {HEARD} \n C> FA c+1+H+{distance} ack=s+1 \n B< FA c+1+H+{distance} ack=b+1 \n ?? state={state}")


@pytest.mark.parametrize(("distance", "state"), believed("backend_fin"))
def test_a_fin_counts_where_it_could_be_the_backends_own(talk: Conversation, distance: int, state: str) -> None:
    talk.play(f"0.10 -- \n B> FA b+1+{distance} ack=c+1+H \n C< FA s+1+{distance} ack=c+1+H \n ?? state={state}")


@pytest.mark.parametrize(("distance", "state"), believed("transitory"))
def test_a_reset_counts_where_it_could_be_its_senders_own(talk: Conversation, distance: int, state: str) -> None:
    talk.play(f"0.10 -- \n B> R b+1+{distance} \n C< R s+1+{distance} \n ?? state={state}")


def test_one_side_that_answers_a_probe_again_and_again_puts_nothing_off(talk: Conversation) -> None:
    """RFC 6146 §3.5.2.3."""
    talk.play("""
     7440.05  B< A  c      ack=b+1
              C< A  s      ack=c+1
     7450.00  B> A  b+1    ack=c+1+H
              C< A  s+1    ack=c+1+H
     7500.05  B< A  c+H    ack=b+1
              C< A  s      ack=c+1+H
     7560.05  B< A  c+H    ack=b+1
              C< A  s      ack=c+1+H
     7561.00  B> A  b+1    ack=c+1+H
              C< A  s+1    ack=c+1+H
     7620.05  B< A  c+H    ack=b+1
              C< A  s      ack=c+1+H
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
