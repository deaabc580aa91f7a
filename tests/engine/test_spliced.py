"""A spliced flow: what ends it, what does not, how a port is used again, what is not plain (RFC 7915, RFC 5961)."""

import struct

import pytest
from openings import PLAIN_SPLICED, SPLICED
from packets import parse
from raw_packets import cut_v6, datagram, edit_v4, extend_v6, join_v4, join_v6
from script import Conversation, Side, client_side

from kracauer.wire.buffer import Frame

RESET = "C> R c+1+H \n B< R c+1+H"
FINS = "C> FA c+1+H ack=s+1 \n B< FA c+1+H ack=b+1 \n B> FA b+1 ack=c+2+H \n C< FA s+1 ack=c+2+H"
SERVICE, CLIENT = client_side().dst, client_side().src


@pytest.fixture
def talk() -> Conversation:
    """Client and backend are joined, without timestamps."""
    return Conversation().play(PLAIN_SPLICED).play("0.10 --")


def test_a_client_that_has_closed_gets_the_rest(talk: Conversation) -> None:
    talk.play("""
        0.10  C> FA c+1+H  ack=s+1
              B< FA c+1+H  ack=b+1
        0.11  B> A  b+1    ack=c+2+H data=bulk(500)
              C< A  s+1    ack=c+2+H data=bulk(500)
        0.12  C> A  c+2+H  ack=s+501
              B< A  c+2+H  ack=b+501
       7000.0 ?? state=client_fin
    """)


def test_a_backend_that_has_closed_gets_the_rest(talk: Conversation) -> None:
    talk.play("""
        0.10  B> FA b+1    ack=c+1+H
              C< FA s+1    ack=c+1+H
        0.11  C> A  c+1+H  ack=s+2 data=bulk(500)
              B< A  c+1+H  ack=b+2 data=bulk(500)
       7000.0 ?? state=backend_fin
    """)


def test_both_may_close_at_once(talk: Conversation) -> None:
    """RFC 9293 §3.6, case 3."""
    talk.play("""
        0.10  C> FA c+1+H  ack=s+1
              B< FA c+1+H  ack=b+1
              B> FA b+1    ack=c+1+H
              C< FA s+1    ack=c+1+H
              ?? state=both_fin
        0.11  C> A  c+2+H  ack=s+2
              B< A  c+2+H  ack=b+2
              B> A  b+2    ack=c+2+H
              C< A  s+2    ack=c+2+H
              ?? state=both_fin
      241.00  !! flow_closed reason=finished
    """)


def test_a_reset_shortens_nothing_after_both_fins(talk: Conversation) -> None:
    talk.play("0.10 --\n" + FINS).play("""
              C> R c+2+H
              B< R c+2+H
              ?? state=both_fin
      239.00  ?? flows=1
      241.00  !! flow_closed reason=finished
    """)


@pytest.mark.parametrize("offset", ["0", "1", "100000", "2**24"])
def test_a_reset_ahead_of_what_was_acknowledged_is_believed(talk: Conversation, offset: str) -> None:
    talk.play(f"C> R c+1+H+{offset} \n B< R c+1+H+{offset}".replace("+H", "")).play("?? state=transitory")


@pytest.mark.parametrize("offset", ["-1", "2**24+1", "2**31", "-2**30"])
def test_a_reset_elsewhere_is_passed_on_and_not_believed(talk: Conversation, offset: str) -> None:
    """The endpoint judges for itself (RFC 5961 §3.2); a blind attacker should not shorten the flow's life."""
    talk.symbols["o"] = talk._number(offset)
    talk.play("C> R c+1+o \n B< R c+1+o \n ?? state=established")
    talk.play("B> R b+1+o \n C< R s+1+o \n ?? state=established")


def test_only_who_sent_the_reset_revives_the_flow(talk: Conversation) -> None:
    talk.play("0.10 --\n" + RESET).play("""
        0.11  B> PA b+1    ack=c+1+H data=bulk(10)
              C< PA s+1    ack=c+1+H data=bulk(10)
              ?? state=transitory
        0.12  C> A  c+1+H  ack=s+11
              B< A  c+1+H  ack=b+11
              ?? state=established
     7000.00  ?? state=established
    """)


def test_the_same_the_other_way_round(talk: Conversation) -> None:
    talk.play("""
        0.10  B> R  b+1
              C< R  s+1
        0.11  C> A  c+1+H  ack=s+1
              B< A  c+1+H  ack=b+1
              ?? state=transitory
        0.12  B> A  b+1    ack=c+1+H
              C< A  s+1    ack=c+1+H
              ?? state=established
    """)


def test_a_fin_after_a_reset_changes_nothing(talk: Conversation) -> None:
    talk.play("0.10 --\n" + RESET).play("""
        0.11  B> FA b+1    ack=c+1+H
              C< FA s+1    ack=c+1+H
              ?? state=transitory
    """)


STATES = {
    "established": "",
    "client_fin": "C> FA c+1+H ack=s+1 \n B< FA c+1+H ack=b+1",
    "backend_fin": "B> FA b+1 ack=c+1+H \n C< FA s+1 ack=c+1+H",
    "both_fin": FINS,
    "transitory": RESET,
}
each_state = pytest.mark.parametrize("state", sorted(STATES))


@each_state
def test_a_port_can_be_used_again_in_every_state(talk: Conversation, state: str) -> None:
    """RFC 6191, and beyond: the client's word is enough once it has proved its address.

    The backend is reset at what it has acknowledged (RFC 5961 §3.2): it might answer the SYN with a challenge otherwise.
    """
    talk.symbols["d"] = 0x5000_0000
    acknowledged = {"backend_fin": "c+1+H", "both_fin": "c+2+H"}.get(state, "c+1")
    talk.play("0.10 --\n" + STATES[state]).play(f"""
              ?? state={state}
        0.20  C> S  d      win=64240 mss=1460
              C< SA z      ack=d+1 win=65535 mss=1440
              ?? state={state}
        0.21  C> PA d+1    ack=z+1 data=hello
              B< R  {acknowledged}
              B< S  d      mss=1440
              !! flow_closed reason=replaced
              ?? flows=1 state=dialing
        0.22  B> SA b+999  ack=d+1 win=65535 mss=1440
              B< PA d+1    ack=b+1000 data=hello
        0.23  B> PA b+1000 ack=d+1+H data=bulk(10)
              C< PA z+1    ack=d+1+H data=bulk(10)
    """)


@each_state
def test_a_forged_syn_ends_nothing(talk: Conversation, state: str) -> None:
    talk.play("0.10 --\n" + STATES[state]).play(f"""
        0.20  C> S  77     win=64240 mss=1460
              C< SA *      ack=78 win=65535 mss=1440
        0.21  B> PA b+5    ack=c+2+H data=bulk(10)
              C< PA s+5    ack=c+2+H data=bulk(10)
              ?? state={state}
      100.00  B> PA b+5    ack=c+2+H data=bulk(10)
              C< PA s+5    ack=c+2+H data=bulk(10)
              ?? state={state}
    """)


@each_state
def test_a_late_duplicate_of_the_syn_ends_nothing(talk: Conversation, state: str) -> None:
    talk.play("0.10 --\n" + STATES[state]).play(f"""
        0.20  C> S  c      win=64240 mss=1460 sackOK ws=7
              C< SA s      ack=c+1 win=65535 mss=1440 sackOK ws=7
        0.21  B> PA b+5    ack=c+2+H data=bulk(10)
              C< PA s+5    ack=c+2+H data=bulk(10)
              ?? state={state}
    """)


def test_a_new_syn_may_take_two_minutes_to_complete_but_no_longer(talk: Conversation) -> None:
    talk.play("""
        0.20  C> S  77     win=64240 mss=1460
              C< SA z      ack=78 win=65535 mss=1440
      130.00  C> A  78     ack=z+1
              B< A  78     ack=z+1-s+b
              ?? state=established
    """)


def passes_unseen(talk: Conversation, line: str) -> bool:
    """Whether the packet of this line would take the fast path; that it does is not told to anybody."""
    (flow,) = talk.engine.flows
    frame = Frame(talk.bytes_of(line))
    rewrite = flow.fast and (flow.fast.to_backend if line.startswith("C") else flow.fast.to_client)
    return bool(rewrite and rewrite(frame, talk.now))


def test_a_forged_syn_costs_a_flow_no_fast_path(talk: Conversation) -> None:
    """Just what could complete that handshake is looked at."""
    talk.play("0.20 C> S 77 win=64240 mss=1460 \n C< SA * ack=78 win=65535 mss=1440")
    assert passes_unseen(talk, "C> A c+1+H ack=s+1")
    assert passes_unseen(talk, "B> A b+1 ack=c+1+H")
    assert not passes_unseen(talk, "C> A 78 ack=s+1")
    assert passes_unseen(talk, "C> A 79 ack=s+1")
    talk.play("0.30 C> S 88 win=64240 mss=1460 \n C< SA * ack=89 win=65535 mss=1440")
    assert not passes_unseen(talk, "C> A 89 ack=s+1")
    assert passes_unseen(talk, "C> A 78 ack=s+1")


def test_nothing_is_looked_at_any_more_when_a_syn_is_too_old(talk: Conversation) -> None:
    talk.play("""
        0.20  C> S  77     win=64240 mss=1460
              C< SA *      ack=78 win=65535 mss=1440
      119.00  C> FA c+1+H  ack=s+1
              B< FA c+1+H  ack=b+1
    """)
    assert not passes_unseen(talk, "C> A 78 ack=s+1")
    talk.play("121.00 C> A c+2+H ack=s+1 \n B< A c+2+H ack=b+1")
    assert passes_unseen(talk, "C> A 78 ack=s+1")


@pytest.mark.parametrize("state", [RESET, "7440.05 B< A c ack=b+1 \n C< A s ack=c+1"], ids=["transitory", "probing"])
def test_a_syn_gives_no_fast_path_to_a_flow_that_has_none(talk: Conversation, state: str) -> None:
    talk.play(state).play("C> S 77 win=64240 mss=1460 \n C< SA * ack=78 win=65535 mss=1440")
    assert not passes_unseen(talk, "C> A c+1+H ack=s+1")


def guess(talk: Conversation, count: int, isn: int = 77) -> None:
    """The client, or somebody in its name, sends a SYN, then `count` ACKs that are not of its cookie."""
    talk.symbols.pop("z", None)
    talk.play(f"0.20 C> S {isn} win=64240 mss=1460 \n C< SA z ack={isn + 1} win=65535 mss=1440")
    for number in range(count):
        talk.symbols["g"] = talk.symbols["z"] + 1 + 512 * (number + 1)
        talk.play(f"C> A {isn + 1} ack=g \n B< A {isn + 1} ack=g-s+b \n ?? state=established")


def test_sixteen_guesses_at_a_syns_cookie_are_taken_and_no_more(talk: Conversation) -> None:
    """What fits no cookie is the open connection's own, for the backend to judge."""
    guess(talk, 15)
    assert not passes_unseen(talk, "C> A 78 ack=1")
    talk.play("C> A 78 ack=z+1+77*512 \n B< A 78 ack=z+1+77*512-s+b")
    assert passes_unseen(talk, "C> A 78 ack=1")
    talk.play("C> A 78 ack=z+1 \n B< A 78 ack=z+1-s+b \n ?? state=established")


def test_sixty_four_guesses_are_taken_in_two_minutes_however_many_syns_there_are(talk: Conversation) -> None:
    for number in range(21):
        guess(talk, 3, isn=1000 + number)
    guess(talk, 1, isn=2000)
    assert passes_unseen(talk, "C> A 2001 ack=1")
    talk.play("C> A 2001 ack=z+1 \n B< A 2001 ack=z+1-s+b \n ?? state=established")


def test_sixty_three_guesses_do_not_keep_the_client_out(talk: Conversation) -> None:
    for number in range(21):
        guess(talk, 3, isn=1000 + number)
    guess(talk, 0, isn=2000)
    talk.play("C> A 2001 ack=z+1 \n B< R c+1 \n !! flow_closed reason=replaced \n ?? state=peeking")


def test_a_client_whose_guesses_are_spent_for_it_waits_two_minutes_or_takes_another_port(talk: Conversation) -> None:
    """All that an attacker can reach who knows its address and port: that the very same port is no good for so long.

    Its SYN is answered, so it takes the connection for open; what it says then is the old connection's, whose backend tells it
    where that one stands. Hardly a client uses a port again so soon, unless it has been restarted.
    """
    for number in range(4):
        guess(talk, 16, isn=1000 + number)
    talk.sides["D"] = client_side(port=40001)
    talk.play("""
        1.00  C> S  500000 win=64240 mss=1460
              C< SA y      ack=500001 win=65535 mss=1440
              C> PA 500001 ack=y+1 data=hello
              B< PA 500001 ack=y+1-s+b data=hello
              B> A  b+1    ack=c+1+H
              C< A  s+1    ack=c+1+H
              ?? state=established
        2.00  D> S  c      mss=1460
              D< SA x      ack=c+1 win=65535 mss=1440
              D> A  c+1    ack=x+1
              ?? flows=2
              D> R  c+1
              !! flow_closed reason=client_aborted
      120.50  C> S  600000 win=64240 mss=1460
              C< SA w      ack=600001 win=65535 mss=1440
              C> A  600001 ack=w+1
              B< R  c+1+H
              !! flow_closed reason=replaced
              ?? flows=1 state=peeking
    """)


def test_fifteen_wrong_guesses_do_not_keep_the_client_out(talk: Conversation) -> None:
    guess(talk, 15)
    talk.play("""
              C> A  78     ack=z+1
              B< R  c+1
              !! flow_closed reason=replaced
              ?? state=peeking
    """)


def test_each_syn_may_be_guessed_at_anew(talk: Conversation) -> None:
    guess(talk, 16)
    talk.play("""
        0.30  C> S  99     win=64240 mss=1460
              C< SA y      ack=100 win=65535 mss=1440
              C> A  100    ack=y+1+512
              B< A  100    ack=y+1+512-s+b
              C> A  100    ack=y+1
              B< R  c+1
              !! flow_closed reason=replaced
              ?? state=peeking
    """)


def test_urgent_data_keeps_its_pointer(talk: Conversation) -> None:
    talk.play("""
        0.10  B> PAU b+1   ack=c+1+H urg=3 data=bulk(10)
              C< PAU s+1   ack=c+1+H urg=3 data=bulk(10)
              C> PAU c+1+H ack=s+11 urg=9 data=bulk(10)
              B< PAU c+1+H ack=b+11 urg=9 data=bulk(10)
    """)


@pytest.mark.parametrize("option", ["opt=1e0c2081" + "00" * 8, "opt=fd080102030405ff", "opt=0e03ff"])
def test_unknown_options_pass(talk: Conversation, option: str) -> None:
    talk.play(f"""
        0.10  C> PA c+1+H  ack=s+1 {option} data=bulk(10)
              B< PA c+1+H  ack=b+1 {option} data=bulk(10)
              B> PA b+1    ack=c+11+H {option} data=bulk(10)
              C< PA s+1    ack=c+11+H {option} data=bulk(10)
    """)


def test_keep_alives_pass_both_ways(talk: Conversation) -> None:
    talk.play("""
        0.10  C> A  c+H    ack=s+1
              B< A  c+H    ack=b+1
              B> A  b      ack=c+1+H data=b'?'
              C< A  s      ack=c+1+H data=b'?'
    """)


def test_the_class_and_its_ecn_bits_pass_both_ways(talk: Conversation) -> None:
    talk.play("""
        0.10  C> A  c+1+H  ack=s+1 tos=0xb9 data=bulk(10)
              B< A  c+1+H  ack=b+1 tos=0xb9 data=bulk(10)
              B> A  b+1    ack=c+11+H tos=0x2b data=bulk(10)
              C< A  s+1    ack=c+11+H tos=0x2b data=bulk(10)
    """)


def received(talk: Conversation, packet: bytes) -> str:
    """The one packet that comes of `packet`, as a script's line."""
    (sent,) = talk.exchange(packet)
    return " ".join(talk.render(parse(sent)).split())


@pytest.mark.parametrize(
    "options", [b"\x01", b"\x94\x04\x00\x00", b"\x07\x07\x04" + bytes(4), b"\x83\x07\x08" + bytes(4), b"\x00"]
)
def test_ipv4_options_are_left_out(talk: Conversation, options: bytes) -> None:
    """RFC 7915 §4.1: also a source route that has been gone all along."""
    packet = talk.bytes_of("C> PA c+1+H ack=s+1 data=hello")
    assert received(talk, edit_v4(packet, options=options)) == "B< PA c+77 ack=b+1 win=1000 data=hello"


@pytest.mark.parametrize("kind", [0x83, 0x89], ids=["loose", "strict"])
def test_an_unexpired_source_route_is_answered(talk: Conversation, kind: int) -> None:
    """RFC 7915 §4.1: Destination Unreachable, Source Route Failed."""
    packet = edit_v4(talk.bytes_of("C> A c+1+H ack=s+1 data=hello"), options=bytes((kind, 7, 4, 192, 0, 2, 9)))
    (answer,) = talk.exchange_plain(packet)
    assert answer[9] == 1
    assert answer[12:20] == SERVICE + CLIENT
    assert answer[20:22] == bytes((3, 5))
    assert answer[28:] == packet
    talk.play("!! drop source_route")


HOP_BY_HOP = bytes((60, 0, 1, 4, 0, 0, 0, 0))
DESTINATION = bytes((6, 0, 1, 4, 0, 0, 0, 0))
SPENT_ROUTING = bytes((6, 2, 4, 0)) + bytes(20)


@pytest.mark.parametrize(
    ("first", "extensions"),
    [(60, DESTINATION), (0, HOP_BY_HOP + DESTINATION), (43, SPENT_ROUTING), (44, bytes((6, 0, 0, 0, 1, 2, 3, 4)))],
    ids=["destination", "hop-by-hop", "spent routing", "atomic fragment"],
)
def test_ipv6_extension_headers_are_left_out(talk: Conversation, first: int, extensions: bytes) -> None:
    packet = extend_v6(talk.bytes_of("B> PA b+1 ack=c+1+H data=hello"), first, extensions)
    assert received(talk, packet) == "C< PA s+1 ack=c+77 win=1000 data=hello"


def test_an_unfinished_route_is_answered_with_a_pointer_to_its_segments_left(talk: Conversation) -> None:
    """RFC 7915 §5.1: Parameter Problem 0, pointing at byte 40 + 8 + 3."""
    routing = bytes((6, 2, 4, 1)) + bytes(20)
    packet = extend_v6(talk.bytes_of("B> A b+1 ack=c+1+H data=hello"), 60, bytes((43, *DESTINATION[1:])) + routing)
    (answer,) = talk.exchange_plain(packet)
    assert answer[24:40] == talk.sides["B"].src
    assert answer[40:42] == bytes((4, 0))
    assert answer[44:48] == bytes((0, 0, 0, 51))
    assert answer[48:] == packet
    talk.play("!! drop source_route")


@pytest.mark.parametrize("ttl", [0, 1])
def test_a_spent_ttl_is_told_to_the_client(talk: Conversation, ttl: int) -> None:
    """From the address it dialled, so that a traceroute shows it (RFC 1812 §4.3.2.4)."""
    packet = edit_v4(talk.bytes_of("C> A c+1+H ack=s+1 data=hello"), ttl=ttl)
    (answer,) = talk.exchange_plain(packet)
    assert answer[12:20] == SERVICE + CLIENT
    assert answer[20:22] == bytes((11, 0))
    assert answer[28:] == packet
    talk.play("!! drop ttl_expired")


@pytest.mark.parametrize("hop_limit", [0, 1])
def test_a_spent_hop_limit_is_told_to_the_backend(talk: Conversation, hop_limit: int) -> None:
    """From the service's address as the prefix has it."""
    packet = extend_v6(talk.bytes_of("B> A b+1 ack=c+1+H data=hello"), 6, b"", hop_limit=hop_limit)
    (answer,) = talk.exchange_plain(packet)
    assert answer[8:24] == talk.sides["B"].dst[:12] + SERVICE
    assert answer[24:40] == talk.sides["B"].src
    assert answer[40:42] == bytes((3, 0))
    assert answer[48:] == packet
    talk.play("!! drop ttl_expired")


def test_the_client_is_quoted_its_packet_with_its_options(talk: Conversation) -> None:
    """RFC 1812 §4.3.2.3: as it came, though they are left out on the way on."""
    packet = edit_v4(talk.bytes_of("C> A c+1+H ack=s+1 data=hello"), options=b"\x94\x04\0\0", ttl=1)
    (answer,) = talk.exchange_plain(packet)
    assert answer[20:22] == bytes((11, 0))
    assert answer[28:] == packet
    talk.play("!! drop ttl_expired")


def test_the_backend_is_quoted_its_packet_with_its_extension_headers(talk: Conversation) -> None:
    """RFC 4443 §2.4 (c): as much as fits of the invoking packet."""
    packet = extend_v6(talk.bytes_of("B> A b+1 ack=c+1+H data=bulk(1300)"), 60, DESTINATION, hop_limit=1)
    (answer,) = talk.exchange_plain(packet)
    assert answer[40:42] == bytes((3, 0))
    assert answer[48:] == packet[: 1280 - 48]
    talk.play("!! drop ttl_expired")


def test_no_packet_is_quoted_in_place_of_the_next_one(talk: Conversation) -> None:
    talk.exchange(edit_v4(talk.bytes_of("C> A c+1+H ack=s+1 data=hello"), options=b"\x94\x04\0\0"))
    packet = edit_v4(talk.bytes_of("C> A c+1+H ack=s+1 data=hello"), options=bytes((0x83, 7, 4, 192, 0, 2, 9)))
    assert talk.exchange_plain(packet)[0][28:] == packet
    talk.exchange(extend_v6(talk.bytes_of("B> A b+1 ack=c+1+H data=hello"), 60, DESTINATION))
    packet = extend_v6(talk.bytes_of("B> A b+1 ack=c+1+H data=hello"), 43, bytes((6, 2, 4, 1)) + bytes(20))
    assert talk.exchange_plain(packet)[0][48:] == packet


def test_the_last_hop_but_one_is_taken(talk: Conversation) -> None:
    (sent,) = talk.exchange_plain(edit_v4(talk.bytes_of("C> A c+1+H ack=s+1 data=hello"), ttl=2))
    assert sent[7] == 1
    (sent,) = talk.exchange_plain(extend_v6(talk.bytes_of("B> A b+1 ack=c+1+H data=hello"), 6, b"", hop_limit=2))
    assert sent[8] == 1


def test_a_fragmentable_packet_that_fits_every_link_goes_whole(talk: Conversation) -> None:
    """RFC 7915 §4: 1280 bytes, and no Fragment header (RFC 8021)."""
    packet = edit_v4(talk.bytes_of("C> A c+1+H ack=s+1 data=bulk(1220)"), dont_fragment=False)
    (sent,) = talk.exchange_plain(packet)
    assert len(sent) == 1280
    assert sent[6] == 6


def test_a_larger_fragmentable_packet_goes_in_fragments(talk: Conversation) -> None:
    """RFC 7915 §4.1: the identification in the lower half of the new one."""
    packet = edit_v4(talk.bytes_of("C> A c+1+H ack=s+1 data=bulk(1221)"), dont_fragment=False, identification=0xABCD)
    sent = talk.exchange_plain(packet)
    assert len(sent) == 2
    assert all(len(fragment) <= 1280 for fragment in sent)
    whole, identification = join_v6(sent)
    assert identification == 0x0000_ABCD
    assert talk.render(parse(bytes(10) + whole)).startswith("B< A c+77 ack=b+1 win=1000")
    assert parse(bytes(10) + whole).payload == talk._value("bulk(1221)")


def test_the_links_smallest_mtu_is_configurable() -> None:
    talk = Conversation("[network]\nlowest_ipv6_mtu = 1400\n").play(PLAIN_SPLICED)
    packet = edit_v4(talk.bytes_of("C> A c+1+H ack=s+1 data=bulk(1340)"), dont_fragment=False)
    assert [len(sent) for sent in talk.exchange_plain(packet)] == [1400]


def test_a_fragmentable_super_packet_goes_as_the_segments_it_stands_for(talk: Conversation) -> None:
    """Each with its own identification and numbers, PSH on the last alone."""
    whole = talk.bytes_of("C> PA c+1+H ack=s+1 data=bulk(3500)")
    length = len(whole) - 20
    pseudo = CLIENT + SERVICE + struct.pack("!HH", 6, length)
    total = sum(struct.unpack("!6H", pseudo))
    total = (total & 0xFFFF) + (total >> 16)
    partial = whole[:36] + total.to_bytes(2, "big") + whole[38:]
    packet = edit_v4(partial, dont_fragment=False, identification=9)
    sent = [data[10:] for data in talk.exchange(packet, struct.pack("=BBHHHH", 1, 1, 40, 1440, 20, 16))]
    assert len(sent) == 5
    segments = [parse(bytes(10) + join_v6(sent[index : index + 2])[0]) for index in (0, 2)]
    segments.append(parse(bytes(10) + sent[4]))
    assert [join_v6(sent[index : index + 2])[1] for index in (0, 2)] == [9, 10]
    assert b"".join(segment.payload for segment in segments) == talk._value("bulk(3500)")
    assert [segment.seq - talk._number("c+1+H") for segment in segments] == [0, 1440, 2880]
    assert [segment.flags & 8 for segment in segments] == [0, 0, 8]


@pytest.mark.parametrize(("ipv6_mtu", "told"), [(1400, 1380), (1280, 1260)])
def test_too_big_for_ipv6_is_told_to_the_client(ipv6_mtu: int, told: int) -> None:
    """RFC 7915 §4: Fragmentation Needed with the MTU in IPv4's terms."""
    mss = ipv6_mtu - 60
    script = PLAIN_SPLICED.replace("C< SA s    ack=c+1 win=65535 mss=1440", f"C< SA s    ack=c+1 win=65535 mss={mss}")
    script = script.replace("B< S  c    win=65535 mss=1440", f"B< S  c    win=65535 mss={mss}")
    talk = Conversation(f"[network]\nipv6_mtu = {ipv6_mtu}\n").play(script)
    packet = talk.bytes_of(f"C> A c+1+H ack=s+1 data=bulk({mss + 1})")
    (answer,) = talk.exchange_plain(packet)
    assert answer[12:20] == SERVICE + CLIENT
    assert answer[20:22] == bytes((3, 4))
    assert answer[24:28] == told.to_bytes(4, "big")
    assert answer[28:] == packet[: len(answer) - 28]
    assert len(answer) <= 576
    talk.play("!! drop too_big")
    (sent,) = talk.exchange_plain(talk.bytes_of(f"C> A c+1+H ack=s+1 data=bulk({mss})"))
    assert len(sent) == ipv6_mtu


def narrow_v4(ipv4_mtu: int) -> Conversation:
    mss = ipv4_mtu - 40
    script = PLAIN_SPLICED.replace("C< SA s    ack=c+1 win=65535 mss=1440", f"C< SA s    ack=c+1 win=65535 mss={mss}")
    script = script.replace("B< S  c    win=65535 mss=1440", f"B< S  c    win=65535 mss={mss}")
    return Conversation(f"[network]\nipv4_mtu = {ipv4_mtu}\n").play(script)


def test_too_big_for_ipv4_is_told_to_the_backend() -> None:
    """RFC 7915 §5.1: Packet Too Big with the MTU in IPv6's terms."""
    talk = narrow_v4(1300)
    packet = talk.bytes_of("B> A b+1 ack=c+1+H data=bulk(1261)")
    (answer,) = talk.exchange_plain(packet)
    assert answer[24:40] == talk.sides["B"].src
    assert answer[40:42] == bytes((2, 0))
    assert answer[44:48] == (1320).to_bytes(4, "big")
    assert answer[48:] == packet[: 1280 - 48]
    assert len(answer) == 1280
    talk.play("!! drop too_big")
    (sent,) = talk.exchange_plain(talk.bytes_of("B> A b+1 ack=c+1+H data=bulk(1260)"))
    assert len(sent) == 1300
    assert sent[6] == 0x40


def test_the_too_big_packet_is_quoted_with_its_extension_headers() -> None:
    talk = narrow_v4(1300)
    packet = extend_v6(talk.bytes_of("B> A b+1 ack=c+1+H data=bulk(1300)"), 60, DESTINATION)
    (answer,) = talk.exchange_plain(packet)
    assert answer[40:42] == bytes((2, 0))
    assert answer[48:] == packet[: 1280 - 48]


def test_a_too_big_super_packet_is_told_by_its_segments() -> None:
    talk = narrow_v4(1300)
    talk.play("""
        0.10  B> A b+1     ack=c+1+H gso=1260 data=bulk(5000)
              C< A s+1     ack=c+1+H gso=1260 data=bulk(5000)
    """)
    packet = talk.bytes_of("B> A b+1 ack=c+1+H data=bulk(5000)")
    (answer,) = talk.exchange(packet, struct.pack("=BBHHHH", 1, 4, 60, 1261, 40, 16))
    assert answer[50:52] == bytes((2, 0))
    assert answer[54:58] == (1320).to_bytes(4, "big")


def test_what_came_in_fragments_goes_on_in_fragments() -> None:
    """RFC 7915 §5.1.1: DF clear, and the lower half of the identification."""
    talk = narrow_v4(1300)
    packet = talk.bytes_of("B> PA b+1 ack=c+1+H data=bulk(1400)")
    first, second = cut_v6(packet, 1232)
    assert talk.exchange(first) == []
    sent = talk.exchange_plain(second)
    assert [len(fragment) <= 1300 for fragment in sent] == [True, True]
    whole = join_v4(sent)
    assert whole[4:6] == b"\x56\x78"
    assert whole[40:] == packet[60:]


@pytest.mark.parametrize(("protocol", "code"), [(17, 3), (132, 2), (47, 2), (41, 2)])
def test_other_protocols_are_unreachable_at_the_service(talk: Conversation, protocol: int, code: int) -> None:
    """RFC 1122 §3.2.2.1: the port for UDP, the protocol for any other."""
    packet = datagram(client_side(), protocol, bytes(20))
    (answer,) = talk.exchange_plain(packet)
    assert answer[12:20] == SERVICE + CLIENT
    assert answer[20:22] == bytes((3, code))
    assert answer[28:] == packet
    talk.play("!! drop not_tcp")


def test_other_protocols_from_a_backend_are_dropped_in_silence(talk: Conversation) -> None:
    assert talk.exchange(datagram(talk.sides["B"], 17, bytes(20))) == []
    talk.play("!! drop not_tcp")


def test_errors_are_limited_in_number(talk: Conversation) -> None:
    """RFC 1812 §4.3.2.8: fifty at once, then as many as there are milliseconds; what is not answered is told."""
    packet = datagram(client_side(), 17, bytes(20))
    assert sum(len(talk.exchange(packet)) for _ in range(200)) == 50
    talk.now += 0.0205
    assert sum(len(talk.exchange(packet)) for _ in range(200)) == 20
    reasons = [str(event.fields().get("reason")) for event in talk.events]
    assert reasons.count("rate_limited") == 330
    assert reasons.count("not_tcp") == 400


def test_exhausted_errors_hold_up_no_segment(talk: Conversation) -> None:
    for _ in range(60):
        talk.exchange(datagram(client_side(), 17, bytes(20)))
    assert received(talk, talk.bytes_of("C> A c+1+H ack=s+1 data=hello")) == "B< A c+77 ack=b+1 win=1000 data=hello"


@pytest.mark.parametrize(
    "source", [bytes((127, 0, 0, 1)), bytes((224, 0, 0, 1)), bytes(4), b"\xff" * 4, bytes((198, 51, 100, 1))]
)
def test_an_illegal_source_is_dropped_in_silence(talk: Conversation, source: bytes) -> None:
    side = Side(source, 40000, SERVICE, 443)
    talk.sides["X"] = side
    assert talk.exchange(talk.bytes_of("X> S c mss=1460")) == []
    talk.play("!! drop illegal_source")


def test_a_packet_from_inside_the_prefix_is_dropped_in_silence(talk: Conversation) -> None:
    backend = talk.sides["B"]
    talk.sides["X"] = Side(backend.dst[:12] + bytes((192, 0, 2, 99)), 443, backend.dst, 40000)
    assert talk.exchange(talk.bytes_of("X> A b+1 ack=c+1+H")) == []
    talk.play("!! drop illegal_source")


def test_a_backends_segment_of_no_flow_is_reset(talk: Conversation) -> None:
    """It keeps a connection that is no more."""
    talk.sides["X"] = Side(talk.sides["B"].src, 443, talk.sides["B"].dst, 41000)
    talk.play("""
        0.10  X> A  b+1    ack=99
              X< R  99
              !! drop no_flow
              X> R  b+1
              !! drop no_flow
    """)


def test_a_stranger_gets_no_reset(talk: Conversation) -> None:
    talk.sides["X"] = Side(bytes.fromhex("20010db8000900000000000000000001"), 443, talk.sides["B"].dst, 40000)
    talk.play("""
        0.10  X> A  b+1    ack=99
              !! drop no_flow
    """)


def test_an_unknown_sack_and_timestamps_mix_passes() -> None:
    """Options in an unusual order, and NOPs where nobody puts them."""
    Conversation().play(SPLICED).play("""
        0.10  C> A  c+1+H  ack=s+1 sack=s+5~s+9 ts=510:t data=bulk(10)
              B< A  c+1+H  ack=b+1 sack=b+5~b+9 ts=510:9000 data=bulk(10)
    """)
