"""The two halves of the traffic class where Kracauer speaks for a client: service class and ECN (RFC 2474, RFC 3168)."""

from openings import PLAIN_HANDSHAKE
from script import Conversation


def test_the_clients_service_class_is_that_of_its_syn_and_first_message_too() -> None:
    """The six bits of RFC 2474; the two of ECN are each packet's own (RFC 3168 §5)."""
    Conversation().play(PLAIN_HANDSHAKE.partition("0.01")[0]).play("""
        0.01  C> A  c+1    ack=s+1 tos=0xBB
        0.02  C> PA c+1    ack=s+1 data=hello tos=0xBA
              B< S  c      mss=1440 sackOK ws=7 win=65535 tos=0xB8
        0.03  B> SA b      ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< PA c+1    ack=b+1 data=hello tos=0xB8
    """)


def test_a_syn_ack_that_mirrors_both_flags_agrees_to_no_ecn() -> None:
    """RFC 3168 §6.1.1: an ECN-setup SYN-ACK has ECE alone."""
    Conversation("[backend_profile]\necn = true\n").play("""
        0.00  C> SEW c     mss=1460
              C< SAE s     ack=c+1 win=65535 mss=1440
        0.01  C> PA c+1    ack=s+1 data=hello
              B< SEW c     mss=1440
        0.02  B> SAEW b    ack=c+1 win=65535 mss=1440
              B< R  c+1
              C< RA s+1    ack=c+1+H
              !! profile_learnt ecn=False
              !! flow_closed reason=backend_contradicted
    """)
