"""A service that stops for good: nobody goes on with its flows, so either side is told."""

from openings import PLAIN_HANDSHAKE, PLAIN_HELLO, PLAIN_SPLICED
from script import Conversation


def test_both_sides_of_a_spliced_flow_are_reset_where_each_expects_it() -> None:
    """A RST counts only at the number that was acknowledged last (RFC 5961 §3.2), whatever is under way."""
    Conversation().play(PLAIN_SPLICED).play("""
        0.30  B> A b+1 ack=c+1+H
              C< A s+1 ack=c+1+H
        0.40  C> PA c+1+H ack=s+1 data=hello
              B< PA c+1+H ack=b+1 data=hello
        0.50  ** abort
              B< R c+1+H
              C< R s+1
              !! flow_closed reason=stopped
              ?? flows=0
    """)


def test_a_client_whose_name_is_not_known_yet_is_reset() -> None:
    Conversation().play(PLAIN_HANDSHAKE).play("""
        0.50  ** abort
              C< RA s+1 ack=c+1 win=0
              !! flow_closed reason=stopped
              ?? flows=0
    """)


def test_a_backend_that_is_being_dialled_is_reset_too() -> None:
    Conversation().play(PLAIN_HANDSHAKE + PLAIN_HELLO).play("""
        0.50  ** abort
              B< R c+1
              C< RA s+1 ack=c+1+H win=0
              !! flow_closed reason=stopped
              ?? flows=0
    """)


def test_a_flow_that_was_reset_is_not_reset_again() -> None:
    Conversation().play(PLAIN_SPLICED).play("""
        0.30  C> R c+1+H
              B< R c+1+H
        0.50  ** abort
              !! flow_closed reason=stopped
              ?? flows=0
    """)
