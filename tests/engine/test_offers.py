"""A SYN-ACK offers what every backend keeps, as configured or learnt, and the offer is kept (RFC 7323, RFC 2018, RFC 3168)."""

from collections.abc import Sequence

import pytest
from hellos import client_hello
from packets import parse
from raw_packets import edit_v4
from script import Conversation, Side, backend_side, client_side

HELLO_2000 = client_hello("www.example.com", 2000)
FULL = "mss=1460 sackOK ts=500:0 ws=7"
ECN = "[backend_profile]\necn = true\n"
# What the listener offers at first.
AGREED = """
    0.00  C> S  c    win=64240 mss=1460 sackOK ts=500:0 ws=7
          C< SA s    ack=c+1 win=65535 mss=1440 sackOK ts=t:500 ws=7
    0.01  C> PA c+1  ack=s+1 ts=501:t data=hello
          B< S  c    win=65535 mss=1440 sackOK ts=501:0 ws=7
"""
PLAIN = """
    0.00  C> S  c    win=64240 mss=1460 sackOK ws=7
          C< SA s    ack=c+1 win=65535 mss=1440 sackOK ws=7
    0.01  C> PA c+1  ack=s+1 data=hello
          B< S  c    win=65535 mss=1440 sackOK ws=7
"""


def with_second_client(settings: str = "", **sides: Side) -> Conversation:
    """A conversation in which D and E are another connection, from the same client to the same backend."""
    return Conversation(settings, sides={"D": client_side(port=40001), "E": backend_side(client_port=40001)} | sides)


def offered(settings: str, syn: str, syn_ack: str, flags: Sequence[str] = ("S", "SA")) -> None:
    Conversation(settings).play(f"""
        0.00  C> {flags[0]} c    win=64240 {syn}
              C< {flags[1]} s    ack=c+1 {syn_ack}
    """)


def test_everything_is_offered_that_the_default_profile_has() -> None:
    offered("", FULL, "win=65535 mss=1440 sackOK ts=t:500 ws=7")


@pytest.mark.parametrize(
    ("syn", "syn_ack"),
    [
        ("mss=1460", ""),
        ("mss=1460 sackOK", "sackOK"),
        ("mss=1460 ws=0", "ws=7"),
        ("mss=1460 ts=1:0", "ts=t:1"),
        ("mss=1460 ts=1:0 ws=14", "ts=t:1 ws=7"),
        ("", ""),
    ],
)
def test_nothing_is_offered_that_the_client_did_not_ask_for(syn: str, syn_ack: str) -> None:
    offered("", syn, f"win=65535 mss=1440 {syn_ack}")


@pytest.mark.parametrize(
    ("profile", "syn_ack"),
    [
        ("timestamps = false", "win=65535 mss=1440 sackOK ws=7"),
        ("window_scale = false", "win=65535 mss=1440 sackOK ts=t:500"),
        ("window_scale = 3", "win=65535 mss=1440 sackOK ts=t:500 ws=3"),
        ("sack = false", "win=65535 mss=1440 ts=t:500 ws=7"),
        ("mss = 1220", "win=65535 mss=1220 sackOK ts=t:500 ws=7"),
        ("mss = 9000", "win=65535 mss=1440 sackOK ts=t:500 ws=7"),
        ("window = 8192", "win=8192 mss=1440 sackOK ts=t:500 ws=7"),
    ],
)
def test_the_configured_profile_is_offered(profile: str, syn_ack: str) -> None:
    offered(f"[backend_profile]\n{profile}\n", FULL, syn_ack)


@pytest.mark.parametrize(
    ("profile", "syn_ack"),
    [
        ("timestamps = false", "win=65535 mss=1440 sackOK ws=7"),
        ("window_scale = false", "win=65535 mss=1440 sackOK ts=t:500"),
        ("sack = false", "win=65535 mss=1440 ts=t:500 ws=7"),
        ("mss = 1220", "win=65535 mss=1220 sackOK ts=t:500 ws=7"),
        ("window = 8192", "win=8192 mss=1440 sackOK ts=t:500 ws=7"),
    ],
)
def test_one_backend_that_lacks_something_takes_it_out_of_the_offer(profile: str, syn_ack: str) -> None:
    offered(f'[backend_profile."2001:db8:1::3"]\n{profile}\n', FULL, syn_ack)


def test_a_larger_scale_of_one_backend_is_offered_for_all() -> None:
    offered('[backend_profile."2001:db8:1::3"]\nwindow_scale = 9\n', FULL, "win=65535 mss=1440 sackOK ts=t:500 ws=9")


@pytest.mark.parametrize(
    ("network", "mss"),
    [
        ("ipv6_mtu = 1400", 1340),
        ("ipv4_mtu = 1300", 1260),
        ("ipv4_mtu = 1000", 960),
        ("ipv6_mtu = 1280", 1220),
        ("ipv4_mtu = 9000\nipv6_mtu = 9000", 1440),
    ],
)
def test_the_mss_fits_both_links_and_every_backend(network: str, mss: int) -> None:
    offered(f"[network]\n{network}\n", FULL, f"win=65535 mss={mss} sackOK ts=t:500 ws=7")


@pytest.mark.parametrize(("mss", "passed_on"), [(1460, 1440), (1459, 1440), (1400, 1400), (1399, 1340), (536, 536), (100, 88)])
def test_the_clients_mss_is_passed_on_and_never_raised_where_it_is_a_sensible_one(mss: int, passed_on: int) -> None:
    Conversation().play(f"""
        0.00  C> S  c    mss={mss}
              C< SA s    ack=c+1 win=65535 mss=1440
        0.01  C> PA c+1  ack=s+1 data=hello
              B< S  c    mss={passed_on}
    """)


def test_a_client_without_an_mss_option_gets_segments_of_536_bytes() -> None:
    """RFC 9293 §3.7.1."""
    Conversation().play("""
        0.00  C> S  c
              C< SA s    ack=c+1 win=65535 mss=1440
        0.01  C> PA c+1  ack=s+1 data=hello
              B< S  c    mss=536
    """)


def test_a_scale_above_14_is_taken_as_14() -> None:
    """RFC 7323 §2.3."""
    Conversation().play("""
        0.00  C> S  c    win=64240 mss=1460 ws=15
              C< SA s    ack=c+1 win=65535 mss=1440 ws=7
        0.01  C> PA c+1  ack=s+1 win=1 data=hello
              B< S  c    win=16384 mss=1440 ws=14
    """)


# What a backend's SYN-ACK says, what of it shows in the client's next SYN-ACK.
DIFFERENT = {
    "no timestamps": ("win=65535 mss=1440 sackOK ws=7", "win=65535 mss=1440 sackOK ws=7"),
    "no scale": ("win=65535 mss=1440 sackOK ts=9000:501", "win=65535 mss=1440 sackOK ts=*:500"),
    "no SACK": ("win=65535 mss=1440 ts=9000:501 ws=7", "win=65535 mss=1440 ts=*:500 ws=7"),
    "smaller MSS": ("win=65535 mss=1220 sackOK ts=9000:501 ws=7", "win=65535 mss=1220 sackOK ts=*:500 ws=7"),
    "no MSS": ("win=65535 sackOK ts=9000:501 ws=7", "win=65535 mss=1220 sackOK ts=*:500 ws=7"),
    "larger scale": ("win=65535 mss=1440 sackOK ts=9000:501 ws=10", "win=65535 mss=1440 sackOK ts=*:500 ws=10"),
    "nothing": ("win=4000", "win=65535 mss=1220"),
}


def delivered(syn_ack: str) -> str:
    """The hello as the backend that sent `syn_ack` gets it."""
    return "B< PA c+1  ack=b+1 data=hello" + (" ts=501:9000" if "ts=" in syn_ack else "") + window_of(syn_ack)


def window_of(syn_ack: str) -> str:
    return "" if "ws=" in syn_ack else " win=65535"


@pytest.mark.parametrize(("syn_ack", "next_offer"), DIFFERENT.values(), ids=DIFFERENT)
def test_the_next_offer_is_what_the_backend_showed(syn_ack: str, next_offer: str) -> None:
    talk = with_second_client()
    talk.play(AGREED).play(f"""
        0.02  B> SA b    ack=c+1 {syn_ack}
              {delivered(syn_ack)}
              !! profile_learnt backend=[2001:db8:1::2]:443
        0.03  D> S  c    win=64240 {FULL}
              D< SA z    ack=c+1 {next_offer}
    """)


@pytest.mark.parametrize(
    ("window", "taken"),
    [(0, "A  c+1 data=b''"), (1, "PA c+1 data=hello[:1]"), (28800, "PA c+1 data=hello"), (64260, "PA c+1 data=hello")],
)
def test_the_window_of_a_backends_syn_ack_is_no_news(window: int, taken: str) -> None:
    """Stacks vary it from one connection to the next; a small one is not for everybody."""
    talk = with_second_client()
    talk.play(AGREED).play(f"""
        0.02  B> SA b    ack=c+1 win={window} mss=1440 sackOK ts=9000:501 ws=7
              B< {taken} ack=b+1 ts=501:9000
        0.03  D> S  c    win=64240 {FULL}
              D< SA z    ack=c+1 win=65535 mss=1440 sackOK ts=*:500 ws=7
    """)
    assert [event.event for event in talk.events] == ["flow_spliced"]


def test_what_a_backend_showed_is_forgotten_after_an_hour() -> None:
    """It may have been short of memory: what it is not asked for again it can not show."""
    talk = with_second_client()
    talk.play(AGREED).play("""
        0.02  B> SA b    ack=c+1 win=65535
              B< PA c+1  ack=b+1 win=65535 data=hello
     3599.00  D> S  c    win=64240 mss=1460 sackOK ts=500:0 ws=7
              D< SA *    ack=c+1 win=65535 mss=1220
     3600.10  D> S  c    win=64240 mss=1460 sackOK ts=500:0 ws=7
              D< SA *    ack=c+1 win=65535 mss=1440 sackOK ts=*:500 ws=7
    """)


@pytest.mark.parametrize(
    ("network", "mss", "mss_of_client"),
    [
        ("", 1220, 1440),
        ("lowest_ipv6_mtu = 1400", 1340, 1440),
        ("ipv6_mtu = 1300", 1220, 1240),
        ("ipv4_mtu = 1200", 1160, 1160),
    ],
)
def test_a_client_whose_packets_may_be_cut_is_offered_segments_that_need_not_be(
    network: str, mss: int, mss_of_client: int
) -> None:
    """It hears of no MTU. What its backend may send it is another matter."""
    talk = Conversation(f"[network]\n{network}\n")
    (sent,) = talk.exchange_plain(edit_v4(talk.bytes_of("C> S c mss=1460 sackOK"), dont_fragment=False))
    syn_ack = parse(bytes(10) + sent)
    assert syn_ack.options == (f"mss={mss}", "sackOK")
    talk.symbols["s"] = syn_ack.seq
    (sent,) = talk.exchange_plain(edit_v4(talk.bytes_of("C> PA c+1 ack=s+1 data=hello"), dont_fragment=False))
    assert parse(bytes(10) + sent).options == (f"mss={mss_of_client}", "sackOK")


@pytest.mark.parametrize("syn_ack", [syn_ack for syn_ack, _ in DIFFERENT.values()], ids=DIFFERENT)
def test_a_handshake_begun_under_the_former_offer_completes(syn_ack: str) -> None:
    """Its client was promised something else, so this is the other order of learning."""
    talk = with_second_client()
    talk.play(f"""
        0.00  D> S  c    win=64240 {FULL}
              D< SA z    ack=c+1 win=65535 mss=1440 sackOK ts=y:500 ws=7
    """).play(AGREED).play(f"""
        0.02  B> SA b    ack=c+1 {syn_ack}
              {delivered(syn_ack)}
        0.03  D> PA c+1  ack=z+1 ts=501:y data=hello
              E< S  c    win=65535 mss=1440 sackOK ts=501:0 ws=7
        0.04  E> SA b    ack=c+1 {syn_ack}
              {delivered(syn_ack).replace("B<", "E<")}
              ?? state=established,established
    """)


def test_what_was_promised_and_contradicted_is_offered_again_once_the_backend_speaks_it() -> None:
    """A backend is upgraded. What it was not asked for it cannot show, so only what a client still asks of it comes back."""
    talk = with_second_client()
    talk.play(AGREED).play("""
        0.02  B> SA b    ack=c+1 win=65535 mss=1220 sackOK ts=9000:501 ws=7
              B< PA c+1  ack=b+1 ts=501:9000 data=hello
        0.03  D> S  c    win=64240 mss=1460 sackOK ts=500:0 ws=7
              D< SA z    ack=c+1 win=65535 mss=1220 sackOK ts=y:500 ws=7
              D> PA c+1  ack=z+1 ts=501:y data=hello
              E< S  c    win=65535 mss=1440 sackOK ts=501:0 ws=7
              E> SA b    ack=c+1 win=65535 mss=1440 sackOK ts=9000:501 ws=7
              E< PA c+1  ack=b+1 ts=501:9000 data=hello
        0.05  C> S  7    win=64240 mss=1460
              C< SA *    ack=8 win=65535 mss=1440
    """)


def test_timestamps_are_made_up_for_a_client_whose_backend_has_none() -> None:
    """RFC 7323 §3.2: once agreed they have to be in every segment, or the client may drop it. They go on by the millisecond."""
    Conversation().play(AGREED).play("""
        0.10  B> SA b    ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< PA c+1  ack=b+1 data=hello
        0.20  B> PA b+1  ack=c+1+H data=bulk(100)
              C< PA s+1  ack=c+1+H ts=t+100:501 data=bulk(100)
        0.25  C> A  c+1+H ack=s+101 ts=740:t+100
              B< A  c+1+H ack=b+101 ts=740:t+100
    """).play("""
        1.20  B> A  b+101 ack=c+1+H
              C< A  s+101 ack=c+1+H ts=t+1100:740
        1.30  B> FA b+101 ack=c+1+H
              C< FA s+101 ack=c+1+H ts=t+1200:740
    """)


def test_made_up_timestamps_leave_room_for_sack_blocks() -> None:
    """Four blocks and the timestamps are more than 40 bytes hold, so the last block gives way."""
    Conversation().play(AGREED).play("""
        0.10  B> SA b    ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< PA c+1  ack=b+1 data=hello
        0.20  B> A  b+1  ack=c+1+H sack=c+300~c+400,c+500~c+600,c+700~c+800,c+900~c+950
              C< A  s+1  ack=c+1+H ts=t+100:501 sack=c+300~c+400,c+500~c+600,c+700~c+800
    """)


def test_a_backend_without_scaling_gets_and_gives_windows_as_they_stand() -> None:
    """The client has scale 7 and was promised 7: its windows grow by it on the way, the backend's shrink."""
    Conversation().play(PLAIN).play("""
        0.10  B> SA b    ack=c+1 win=60000 mss=1440 sackOK
              B< PA c+1  ack=b+1 win=65535 data=hello
        0.20  B> PA b+1  ack=c+1+H win=51200 data=bulk(100)
              C< PA s+1  ack=c+1+H win=400 data=bulk(100)
        0.21  C> A  c+1+H ack=s+101 win=100
              B< A  c+1+H ack=b+101 win=12800
        0.22  C> A  c+1+H ack=s+101 win=501
              B< A  c+1+H ack=b+101 win=64128
        0.23  C> A  c+1+H ack=s+101 win=30000
              B< A  c+1+H ack=b+101 win=65535
    """)


@pytest.mark.parametrize(
    ("scale", "window", "shown"), [(3, 16000, 1000), (3, 7, 0), (7, 1000, 1000), (9, 1000, 4000), (9, 40000, 65535)]
)
def test_a_backends_other_scale_is_made_up_for(scale: int, window: int, shown: int) -> None:
    """Rounded down where something is lost: the client must never send what the backend cannot take."""
    Conversation().play(PLAIN).play(f"""
        0.10  B> SA b    ack=c+1 win=60000 mss=1440 sackOK ws={scale}
              B< PA c+1  ack=b+1 data=hello
        0.20  B> PA b+1  ack=c+1+H win={window} data=bulk(100)
              C< PA s+1  ack=c+1+H win={shown} data=bulk(100)
        0.21  C> A  c+1+H ack=s+101 win=100
              B< A  c+1+H ack=b+101 win=100
    """)


def test_a_client_without_scaling_gets_a_backend_without() -> None:
    Conversation().play("""
        0.00  C> S  c    win=64240 mss=1460
              C< SA s    ack=c+1 win=65535 mss=1440
        0.01  C> PA c+1  ack=s+1 win=5000 data=hello
              B< S  c    win=5000 mss=1440
        0.02  B> SA b    ack=c+1 win=60000 mss=1440
              B< PA c+1  ack=b+1 win=5000 data=hello
        0.20  B> PA b+1  ack=c+1+H win=51200 data=bulk(100)
              C< PA s+1  ack=c+1+H win=51200 data=bulk(100)
    """)


def test_a_hello_is_cut_to_the_smaller_mss_that_the_backend_turns_out_to_have() -> None:
    Conversation(hello=HELLO_2000).play("""
        0.00  C> S  c       mss=1460
              C< SA s       ack=c+1 win=65535 mss=1440
        0.01  C> A  c+1     ack=s+1 data=hello[:1440]
              C> PA c+1441  ack=s+1 data=hello[1440:]
              B< S  c       mss=1440
        0.02  B> SA b       ack=c+1 win=5000 mss=800
              B< A  c+1     ack=b+1 data=hello[:800]
              B< A  c+801   ack=b+1 data=hello[800:1600]
              B< PA c+1601  ack=b+1 data=hello[1600:]
    """)


def test_a_hello_goes_only_as_far_as_the_backends_window() -> None:
    """The rest is the client's to repeat: it was never acknowledged."""
    Conversation(hello=HELLO_2000).play("""
        0.00  C> S  c       mss=1460
              C< SA s       ack=c+1 win=65535 mss=1440
        0.01  C> A  c+1     ack=s+1 data=hello[:1440]
              C> PA c+1441  ack=s+1 data=hello[1440:]
              B< S  c       mss=1440
        0.02  B> SA b       ack=c+1 win=1500 mss=1440
              B< A  c+1     ack=b+1 data=hello[:1440]
              B< PA c+1441  ack=b+1 data=hello[1440:1500]
        0.03  B> A  b+1     ack=c+1501 win=3000
              C< A  s+1     ack=c+1501 win=3000
        0.04  C> PA c+1501  ack=s+1 data=hello[1500:]
              B< PA c+1501  ack=b+1 data=hello[1500:]
    """)


def test_ecn_is_offered_when_all_backends_speak_it() -> None:
    offered(ECN, FULL, "win=65535 mss=1440 sackOK ts=t:500 ws=7", flags=("SEW", "SAE"))


@pytest.mark.parametrize("flags", ["SE", "SW", "S"])
def test_ecn_takes_both_flags_of_the_client(flags: str) -> None:
    """RFC 3168 §6.1.1: only both together are an ECN-setup SYN."""
    offered(ECN, FULL, "win=65535 mss=1440 sackOK ts=t:500 ws=7", flags=(flags, "SA"))


def test_ecn_is_not_offered_when_one_backend_does_not_speak_it() -> None:
    settings = ECN + '[backend_profile."2001:db8:1::3"]\necn = false\n'
    offered(settings, FULL, "win=65535 mss=1440 sackOK ts=t:500 ws=7", flags=("SEW", "SA"))


ECN_AGREED = """
    0.00  C> SEW c   win=64240 mss=1460
          C< SAE s   ack=c+1 win=65535 mss=1440
    0.01  C> PA c+1  ack=s+1 data=hello
          B< SEW c   mss=1440
"""


def test_agreed_ecn_passes_marks_and_echoes_both_ways() -> None:
    """Data segments carry ECT, a mark goes through, its echo comes back (RFC 3168 §6.1)."""
    Conversation(ECN).play(ECN_AGREED).play("""
        0.02  B> SAE b     ack=c+1 win=65535 mss=1440
              B< PA c+1    ack=b+1 data=hello
        0.10  B> PA b+1    ack=c+1+H tos=3 data=bulk(100)
              C< PA s+1    ack=c+1+H tos=3 data=bulk(100)
        0.11  C> AE c+1+H  ack=s+101 tos=0
              B< AE c+1+H  ack=b+101 tos=0
        0.12  B> PAW b+101 ack=c+1+H tos=2 data=bulk(100)
              C< PAW s+101 ack=c+1+H tos=2 data=bulk(100)
    """)


def test_contradicted_ecn_resets_both_and_is_not_offered_again() -> None:
    talk = with_second_client(ECN)
    talk.play(ECN_AGREED).play("""
        0.02  B> SA b    ack=c+1 win=65535 mss=1440
              B< R  c+1
              C< RA s+1  ack=c+1+H
              !! profile_learnt ecn=False
              !! flow_closed reason=backend_contradicted
              ?? flows=0
        0.03  D> SEW c   win=64240 mss=1460
              D< SA *    ack=c+1 win=65535 mss=1440
    """)
