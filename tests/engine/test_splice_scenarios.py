"""What is known to go wrong when two handshakes are spliced, scenario by scenario.

The scenarios come from the unit tests of a SYN proxy that splices too, from the packetdrill tests of Linux' connection
tracking, and from RFC 5961, RFC 7323 and RFC 7413. Where Kracauer was designed to do otherwise the test says so.
"""

import pytest
from script import Conversation

HANDSHAKE = """
    0.00  C> S  c    win=64240 mss=1460 sackOK ts=500:0 ws=7
          C< SA s    ack=c+1 win=65535 mss=1440 sackOK ts=t:500 ws=7
    0.01  C> A  c+1  ack=s+1 ts=501:t
"""
HELLO = """
    0.02  C> PA c+1  ack=s+1 ts=502:t data=hello
          B< S  c    win=65535 mss=1440 sackOK ts=502:0 ws=7
"""
BACKEND = """
    0.03  B> SA b    ack=c+1 win=64800 mss=1440 sackOK ts=9000:502 ws=7
          B< PA c+1  ack=b+1 ts=502:9000 data=hello
          !! flow_spliced hostname=www.example.com backend=[2001:db8:1::2]:443 client=192.0.2.7:40000
"""
SPLICED = HANDSHAKE + HELLO + BACKEND


@pytest.fixture
def talk() -> Conversation:
    return Conversation()


@pytest.fixture
def spliced(talk: Conversation) -> Conversation:
    return talk.play(SPLICED)


def test_handshake_1_1_1(talk: Conversation) -> None:
    """By design the first data segment completes the backend's handshake: there is no bare ACK, and none to the client."""
    talk.play(SPLICED).play("?? flows=1 state=established")


def test_syn_retransmit(talk: Conversation) -> None:
    talk.play("""
        0.00  C> S  c    win=64240 mss=1460 sackOK ws=7
              C< SA s    ack=c+1 win=65535 mss=1440 sackOK ws=7
        1.00  C> S  c    win=64240 mss=1460 sackOK ws=7
              C< SA s    ack=c+1 win=65535 mss=1440 sackOK ws=7
              ?? flows=0
    """)


def test_ack_retransmit_before_backend(talk: Conversation) -> None:
    """A repeated hello re-drives the SYN with the same number; a repeated bare ACK is an old one by now."""
    talk.play(HANDSHAKE + HELLO).play("""
        0.10  C> A  c+1  ack=s+1 ts=503:t
              C< A  s+1  ack=c+1 win=640 ts=t:503
        0.30  C> PA c+1  ack=s+1 ts=504:t data=hello
              B< S  c    win=65535 mss=1440 sackOK ts=504:0 ws=7
              ?? flows=1 state=dialing
        0.35  B> SA b    ack=c+1 win=64800 mss=1440 sackOK ts=9000:502 ws=7
              B< PA c+1  ack=b+1 ts=504:9000 data=hello
    """)


def test_synack_duplicate(spliced: Conversation) -> None:
    spliced.play("""
        0.04  B> SA b    ack=c+1 win=64800 mss=1440 sackOK ts=9000:502 ws=7
              B< A  c+1  ack=b+1 ts=502:9000
    """)


def test_keepalive_during_dial(talk: Conversation) -> None:
    """The hello is held, not acknowledged, so the probe's answer acknowledges nothing of it."""
    talk.play(HANDSHAKE + HELLO).play("""
        0.10  C> A  c+H  ack=s+1 ts=600:t
              C< A  s+1  ack=c+1 win=640 ts=t:600
        0.20  B> SA b    ack=c+1 win=64800 mss=1440 sackOK ts=9000:502 ws=7
              B< PA c+1  ack=b+1 ts=600:9000 data=hello
    """)


def test_zero_window_probe_during_dial(talk: Conversation) -> None:
    talk.play(
        HANDSHAKE
        + """
        0.015 C> A  c    ack=s+1 ts=501:t data=b'?'
              C< A  s+1  ack=c+1 win=640 ts=t:501
    """
        + HELLO
        + BACKEND
    )


def test_zero_window_probe_after_the_hello(talk: Conversation) -> None:
    talk.play(HANDSHAKE + HELLO).play("""
        0.025 C> A  c    ack=s+1 ts=502:t data=b'?'
              C< A  s+1  ack=c+1 win=640 ts=t:502
    """).play(BACKEND)


def test_backend_port_closed(talk: Conversation) -> None:
    talk.play(HANDSHAKE + HELLO).play("""
        0.03  B> RA 0    ack=c+1
              C< RA s+1  ack=c+1+H
              !! backend_failed reason=refused backend=[2001:db8:1::2]:443
              !! flow_closed reason=backends_failed
              ?? flows=0
    """)


def test_closed_port_no_proxy(talk: Conversation) -> None:
    """A port of the service's address on which nothing listens is closed, as on any host."""
    talk.sides["X"] = talk.sides["C"].__class__(talk.sides["C"].src, 40000, talk.sides["C"].dst, 22)
    talk.play("""
        0.00  X> S  c    win=64240 mss=1460
              X< RA 0    ack=c+1
              !! drop no_listener
    """)


def test_data_uplink(spliced: Conversation) -> None:
    spliced.play("""
        0.10  B> PA b+1    ack=c+1+H ts=9001:502 data=bulk(100)
              C< PA s+1    ack=c+1+H ts=t+1:502 data=bulk(100)
        0.11  C> A  c+1+H  ack=s+101 ts=510:t+1
              B< A  c+1+H  ack=b+101 ts=510:9001
    """)


def test_data_downlink(spliced: Conversation) -> None:
    spliced.play("""
        0.10  C> PA c+1+H    ack=s+1 ts=510:t data=bulk(100)
              B< PA c+1+H    ack=b+1 ts=510:9000 data=bulk(100)
        0.11  B> A  b+1      ack=c+1+H+100 ts=9010:510
              C< A  s+1      ack=c+1+H+100 ts=t+10:510
    """)


@pytest.mark.parametrize("b", [0xB000_0000, 0xFFFF_FF00, 0xFFFF_FFFF, 0, 0x7FFF_FFF0])
@pytest.mark.parametrize("c", [0x1000_0000, 0xFFFF_FF00, 0xFFFF_FFFE])
def test_data_both(b: int, c: int) -> None:
    """Also where the numbers wrap; the listener's own are as random as its secret."""
    Conversation(b=b, c=c).play(SPLICED).play("""
        0.10  C> PA c+1+H      ack=s+1    ts=510:t    data=bulk(300)
              B< PA c+1+H      ack=b+1    ts=510:9000 data=bulk(300)
        0.10  B> A  b+1        ack=c+1+H  ts=9009:502 data=bulk(700)
              C< A  s+1        ack=c+1+H  ts=t+9:502  data=bulk(700)
        0.11  B> PA b+701      ack=c+301+H ts=9009:510 data=bulk(700,700)
              C< PA s+701      ack=c+301+H ts=t+9:510  data=bulk(700,700)
        0.12  C> PA c+301+H    ack=s+1    ts=520:t+9  data=bulk(300,300) sack=s+701~s+1401
              B< PA c+301+H    ack=b+1    ts=520:9009 data=bulk(300,300) sack=b+701~b+1401
        0.13  C> A  c+601+H    ack=s+1401 ts=521:t+9
              B< A  c+601+H    ack=b+1401 ts=521:9009
    """)


def test_rst_from_client(spliced: Conversation) -> None:
    """By design a RST leads to the transitory state, as in RFC 6146 §3.5.2.2: what comes later is translated for a while."""
    spliced.play("""
        0.10  C> R  c+1+H
              B< R  c+1+H
              ?? flows=1 state=transitory
        0.11  B> PA b+1      ack=c+1+H ts=9001:502 data=bulk(9)
              C< PA s+1      ack=c+1+H ts=t+1:502 data=bulk(9)
              ?? flows=1 state=transitory
      240.10  B< A  c+H      ack=b+1 ts=0:0
              B< A  c+H      ack=b+1 ts=1<<31:0
              C< A  s        ack=c+1+H ts=0:0
              C< A  s        ack=c+1+H ts=1<<31:0
              -- The hello was under way when the RST came: its number might have been guessed
      240.11  C> R  c+1+H
              B< R  c+1+H
              ?? flows=1 state=transitory
      481.00  !! flow_closed reason=reset
              ?? flows=0
    """)


def test_rst_from_backend(spliced: Conversation) -> None:
    """Likewise."""
    spliced.play("""
        0.10  B> R  b+1
              C< R  s+1
              ?? flows=1 state=transitory
        0.11  C> A  c+1+H  ack=s+1 ts=510:t
              B< A  c+1+H  ack=b+1 ts=510:9000
              ?? flows=1 state=transitory
      241.00  !! flow_closed reason=reset
              ?? flows=0
    """)


def test_four_way_fin(spliced: Conversation) -> None:
    spliced.play("""
        0.10  C> FA c+1+H  ack=s+1 ts=510:t
              B< FA c+1+H  ack=b+1 ts=510:9000
              ?? state=client_fin
        0.11  B> A  b+1    ack=c+2+H ts=9001:510
              C< A  s+1    ack=c+2+H ts=t+1:510
        0.12  B> FA b+1    ack=c+2+H ts=9002:510
              C< FA s+1    ack=c+2+H ts=t+2:510
              ?? state=both_fin
        0.13  C> A  c+2+H  ack=s+2 ts=513:t+2
              B< A  c+2+H  ack=b+2 ts=513:9002
        1.13  B> FA b+1    ack=c+2+H ts=9003:510
              C< FA s+1    ack=c+2+H ts=t+3:510
        1.14  C> A  c+2+H  ack=s+2 ts=613:t+3
              B< A  c+2+H  ack=b+2 ts=613:9003
      240.10  ?? flows=1
      240.25  !! flow_closed reason=finished
              ?? flows=0
    """)


def test_fin_retransmit_client(spliced: Conversation) -> None:
    spliced.play("""
        0.10  C> FA c+1+H  ack=s+1 ts=510:t
              B< FA c+1+H  ack=b+1 ts=510:9000
        0.30  C> FA c+1+H  ack=s+1 ts=530:t
              B< FA c+1+H  ack=b+1 ts=530:9000
              ?? state=client_fin
    """)


def test_fin_retransmit_backend(spliced: Conversation) -> None:
    spliced.play("""
        0.10  B> FA b+1    ack=c+1+H ts=9001:502
              C< FA s+1    ack=c+1+H ts=t+1:502
        0.30  B> FA b+1    ack=c+1+H ts=9200:502
              C< FA s+1    ack=c+1+H ts=t+200:502
              ?? state=backend_fin
    """)


def test_retransmit_of_acked_data(spliced: Conversation) -> None:
    """Old data passes, so that the peer acknowledges it once more and the flow does not stall."""
    for number in range(46):
        spliced.symbols["n"] = number * 1400
        spliced.play("""
              C> A  c+1+H+n     ack=s+1 ts=510:t data=bulk(1400,n)
              B< A  c+1+H+n     ack=b+1 ts=510:9000 data=bulk(1400,n)
              B> A  b+1         ack=c+1+H+n+1400 ts=9001:510
              C< A  s+1         ack=c+1+H+n+1400 ts=t+1:510
        """)
    spliced.play("""
        0.50  C> PA c+1+H       ack=s+1 ts=520:t data=bulk(1400)
              B< PA c+1+H       ack=b+1 ts=520:9000 data=bulk(1400)
              B> A  b+1         ack=c+1+H+46*1400 ts=9002:510
              C< A  s+1         ack=c+1+H+46*1400 ts=t+2:510
    """)


def test_inexact_rst_after_fin(spliced: Conversation) -> None:
    spliced.play("""
        0.10  B> A  b+1          ack=c+1+H ts=9001:502 gso=1000 data=bulk(3000)
              C< A  s+1          ack=c+1+H ts=t+1:502 gso=1000 data=bulk(3000)
              C> A  c+1+H        ack=s+3001 ts=511:t+1
              B< A  c+1+H        ack=b+3001 ts=511:9001
        0.12  C> PA c+1+H        ack=s+3001 ts=512:t+1 data=bulk(1000)
              B< PA c+1+H        ack=b+3001 ts=512:9001 data=bulk(1000)
        0.13  B> FA b+3001       ack=c+1+H ts=9003:511
              C< FA s+3001       ack=c+1+H ts=t+3:511
              C> A  c+1+H+1000   ack=s+3002 ts=513:t+3
              B< A  c+1+H+1000   ack=b+3002 ts=513:9003
        0.14  C> RA c+1+H+1000   ack=s+3002
              B< RA c+1+H+1000   ack=b+3002
              B> R  b+2001
              C< R  s+2001
              ?? state=transitory
      240.15  B< A  c+H          ack=b+3002 ts=0:0
              B< A  c+H          ack=b+3002 ts=1<<31:0
              C< A  s+3001       ack=c+1+H ts=0:0
              C< A  s+3001       ack=c+1+H ts=1<<31:0
      240.16  B> R  b+3002
              C< R  s+3002
              C> R  c+1+H
              B< R  c+1+H
              ?? state=transitory
      481.00  ?? flows=0
    """)


def test_rst_out_of_window(spliced: Conversation) -> None:
    """By design every RST is translated for the end to judge; the flow stays while the side that sent it goes on talking."""
    spliced.play("""
        0.10  B> A  b+1          ack=c+1+H ts=9001:502 gso=1000 data=bulk(3000)
              C< A  s+1          ack=c+1+H ts=t+1:502 gso=1000 data=bulk(3000)
              C> A  c+1+H        ack=s+3001 ts=511:t+1
              B< A  c+1+H        ack=b+3001 ts=511:9001
        0.20  B> R  b+1-3001
              C< R  s+1-3001
              B> R  b+1000001
              C< R  s+1000001
              B> R  b+43
              C< R  s+43
              ?? flows=1 state=transitory
        0.21  B> A  b+3001       ack=c+1+H ts=9002:511
              C< A  s+3001       ack=c+1+H ts=t+2:511
              ?? flows=1 state=established
        0.22  C> PA c+1+H        ack=s+3001 ts=522:t+1 data=bulk(50)
              B< PA c+1+H        ack=b+3001 ts=522:9001 data=bulk(50)
        0.30  B> RA b+3000       ack=c+1+H
              C< RA s+3000       ack=c+1+H
        0.31  B> A  b+3001       ack=c+51+H ts=9003:522
              C< A  s+3001       ack=c+51+H ts=t+3:522
              ?? flows=1 state=established
        0.40  B> RA b+3001       ack=c+51+H
              C< RA s+3001       ack=c+51+H
              ?? state=transitory
     7000.00  ?? flows=0
    """)


def test_syn_challenge_ack(talk: Conversation) -> None:
    """The SYN is repeated right behind the RST, not after its timer: waiting would cost the client a second."""
    talk.play(HANDSHAKE + HELLO).play("""
        0.03  B> A  145824453 ack=643160523 ts=77:88
              B< R  643160523
              B< S  c    win=65535 mss=1440 sackOK ts=502:0 ws=7
              ?? state=dialing
        0.04  B> SA b    ack=c+1 win=64800 mss=1440 sackOK ts=9000:502 ws=7
              B< PA c+1  ack=b+1 ts=502:9000 data=hello
    """)


def test_synack_old(talk: Conversation) -> None:
    talk.play(HANDSHAKE + HELLO).play("""
        0.03  B> SA 145824453 ack=643160523 win=64800 mss=1440
              B< R  643160523
              B< S  c    win=65535 mss=1440 sackOK ts=502:0 ws=7
              ?? state=dialing
        0.04  B> SA 145824453 ack=643160523 win=64800 mss=1440
              B< R  643160523
        1.05  B< S  c    win=65535 mss=1440 sackOK ts=502:0 ws=7
        1.10  B> SA b    ack=c+1 win=64800 mss=1440 sackOK ts=9000:502 ws=7
              B< PA c+1  ack=b+1 ts=502:9000 data=hello
    """)


def test_syn_in_established(spliced: Conversation) -> None:
    """A SYN on a known 4-tuple gets a cookie, not a challenge ACK: the old flow goes on until the new handshake completes.

    Only then is it replaced, so that a forged SYN ends nothing (what RFC 5961 §4.2 is about). The backend has a RST where it
    expects one; should that be lost, its challenge ACK clears the way for the SYN all the same.
    """
    spliced.symbols["d"] = 0x1000_0000 + 2000
    spliced.play("""
        1.00  C> S  d        win=64240 mss=1460
              C< SA z        ack=d+1 win=65535 mss=1440
              ?? flows=1 state=established
        1.10  B> PA b+1      ack=c+1+H ts=9001:502 data=bulk(9)
              C< PA s+1      ack=c+1+H ts=t+1:502 data=bulk(9)
        1.20  C> PA c+1+H    ack=s+10 ts=600:t+1 data=bulk(9)
              B< PA c+1+H    ack=b+10 ts=600:9001 data=bulk(9)
        1.30  C> A  d+1      ack=z+1
              B< R  c+1+H
              !! flow_closed reason=replaced
              ?? flows=1 state=peeking
        1.31  C> PA d+1      ack=z+1 data=hello
              B< S  d        win=1000 mss=1440
        1.32  B> A  b+10     ack=c+10+H
              B< R  c+10+H
              B< S  d        win=1000 mss=1440
        1.33  B> SA b+99     ack=d+1 mss=1440
              B< PA d+1      ack=b+100 data=hello
    """)


def test_blind_data(spliced: Conversation) -> None:
    """An impossible ACK reaches the backend translated, which challenges it."""
    spliced.play("""
        0.10  C> PA c+1+H    ack=s+1-2**30 ts=510:t data=bulk(10)
              B< PA c+1+H    ack=b+1-2**30 ts=510:9000 data=bulk(10)
              B> A  b+1      ack=c+1+H ts=9001:502
              C< A  s+1      ack=c+1+H ts=t+1:502
    """)


def test_paws_old_timestamp(spliced: Conversation) -> None:
    spliced.play("""
        0.10  C> PA c+1+H    ack=s+1 ts=510:t data=bulk(10)
              B< PA c+1+H    ack=b+1 ts=510:9000 data=bulk(10)
        0.11  C> PA c+11+H   ack=s+1 ts=410:t data=bulk(10)
              B< PA c+11+H   ack=b+1 ts=410:9000 data=bulk(10)
              B> A  b+1      ack=c+11+H ts=9001:510
              C< A  s+1      ack=c+11+H ts=t+1:510
        0.12  B> A  b+1      ack=c+11+H ts=8901:510
              C< A  s+1      ack=c+11+H ts=t-99:510
    """)


@pytest.mark.parametrize("flags", ["SEW", "SEWN", "SE", "SW"])
def test_ecn_setup(talk: Conversation, flags: str) -> None:
    talk.play(f"""
        0.00  C> {flags} c   win=64240 mss=1460
              C< SA s        ack=c+1 win=65535 mss=1440
        0.01  C> PA c+1      ack=s+1 data=hello
              B< S  c        win=1000 mss=1440
    """)


def test_tfo(talk: Conversation) -> None:
    talk.play("""
        0.00  C> S  c    win=64240 mss=1460 opt=2202
              C< SA s    ack=c+1 win=65535 mss=1440
        0.50  C> S  c    win=64240 mss=1460 opt=220a0102030405060708 data=bulk(100)
              C< SA s    ack=c+1 win=65535 mss=1440
              ?? flows=0
        0.60  C> PA c+1  ack=s+1 data=hello
              B< S  c    win=1000 mss=1440
    """)


def test_urgent(spliced: Conversation) -> None:
    spliced.play("""
        0.10  C> PAU c+1+H   ack=s+1 ts=510:t urg=5 data=bulk(10)
              B< PAU c+1+H   ack=b+1 ts=510:9000 urg=5 data=bulk(10)
    """)
