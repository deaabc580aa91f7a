"""Paths narrower than the packets: who is told which MTU, what is cut, what is believed (RFC 7915 §4, §5, RFC 8201 §4)."""

import pytest
from hellos import bulk
from icmp_quotes import error_v6
from openings import HANDSHAKE, HELLO, PLAIN_BACKEND, PLAIN_HANDSHAKE, PLAIN_SPLICED
from raw_packets import datagram, edit_v4, icmp, icmp_v6, join_v4, join_v6
from script import Conversation, Side, client_side

ROUTER4 = bytes((203, 0, 113, 9))
ROUTER6 = bytes.fromhex("20010db8000200000000000000000001")


def spliced(network: str, mss: int) -> Conversation:
    """Client and backend joined over links on which neither offers more than `mss`."""
    script = PLAIN_SPLICED.replace("C< SA s    ack=c+1 win=65535 mss=1440", f"C< SA s    ack=c+1 win=65535 mss={mss}")
    script = script.replace("B< S  c    win=65535 mss=1440", f"B< S  c    win=65535 mss={mss}")
    return Conversation(f"[network]\n{network}\n").play(script)


def told_mtu(message: bytes) -> int:
    """The MTU of a Packet Too Big that is all of `message`."""
    assert message[40:42] == bytes((2, 0))
    return int.from_bytes(message[44:48], "big")


def packet_too_big(talk: Conversation, side: str, quoted: bytes, mtu: int) -> bytes:
    """One from a router on the way to the backend at `side`."""
    return icmp_v6(Side(ROUTER6, 0, talk.sides[side].dst, 0), 2, 0, mtu, quoted)


def offered_mss(talk: Conversation) -> str:
    """What the next SYN-ACK offers."""
    talk.sides["D"] = client_side(port=41000)
    talk.inject(talk.bytes_of("D> S c mss=1460"))
    (syn_ack,) = talk.take_sent()
    return syn_ack.options[0]


def test_what_may_be_cut_is_cut_for_the_link_where_the_paths_are_said_to_carry_more() -> None:
    talk = spliced("lowest_ipv6_mtu = 1500\nipv6_mtu = 1400", 1340)
    packet = edit_v4(talk.bytes_of("C> A c+1+H ack=s+1 data=bulk(1400)"), dont_fragment=False)
    fragments = talk.exchange_plain(packet)
    assert [len(fragment) <= 1400 for fragment in fragments] == [True, True]
    assert join_v6(fragments)[0][60:] == bulk(1400)


@pytest.mark.parametrize(("ipv4_mtu", "told"), [(1261, 1281), (1260, 1280), (1259, 1280), (600, 1280)])
def test_no_packet_too_big_of_our_own_tells_less_than_1280(ipv4_mtu: int, told: int) -> None:
    talk = spliced(f"ipv4_mtu = {ipv4_mtu}", ipv4_mtu - 40)
    (answer,) = talk.exchange_plain(talk.bytes_of("B> A b+1 ack=c+1+H data=bulk(1400)"))
    assert told_mtu(answer) == told
    talk.play("!! drop too_big")


@pytest.mark.parametrize("ipv4_mtu", [1259, 1000, 576])
def test_what_an_ipv6_host_makes_no_smaller_is_cut_for_a_narrow_ipv4_link(ipv4_mtu: int) -> None:
    talk = spliced(f"ipv4_mtu = {ipv4_mtu}", ipv4_mtu - 40)
    packet = talk.bytes_of("B> A b+1 ack=c+1+H data=bulk(1220)")
    assert len(packet) == 1280
    fragments = talk.exchange_plain(packet)
    assert all(len(fragment) <= ipv4_mtu and not fragment[6] & 0x40 for fragment in fragments)
    assert join_v4(fragments)[40:] == bulk(1220)


def test_made_timestamps_are_taken_off_the_mtu_that_a_backend_is_told() -> None:
    talk = Conversation().play(HANDSHAKE + HELLO)
    talk.play("""
        0.03  B> SA b    ack=c+1 win=64800 mss=1440 sackOK ws=7
              B< PA c+1  ack=b+1 data=hello
    """)
    (sent,) = talk.exchange_plain(talk.bytes_of("B> A b+1 ack=c+1+H data=bulk(1400)"))
    error = datagram(Side(ROUTER4, 0, talk.sides["C"].dst, 0), 1, icmp(3, 4, 1400, sent[:60]))
    (answer,) = talk.exchange_plain(error)
    assert told_mtu(answer) == 1400 + 20 - 12
    fits = talk.bytes_of(f"B> A b+1 ack=c+1+H data=bulk({told_mtu(answer) - 60})")
    assert [len(packet) for packet in talk.exchange_plain(fits)] == [1400]


def test_a_packet_too_big_about_a_syn_changes_nothing() -> None:
    """No SYN of ours comes near what every IPv6 link takes."""
    talk = Conversation().play(PLAIN_HANDSHAKE)
    talk.inject(talk.bytes_of("C> PA c+1 ack=s+1 data=hello"))
    (syn,) = talk.take_sent()
    talk.sides["Y"] = talk.sides["B"].reversed
    quoted = talk.bytes_of(f"Y> S {syn.seq} mss=1440")
    talk.inject(error_v6(2, 0, quoted, rest=1280))
    talk.play("!! drop unexpected \n ?? state=dialing").play(PLAIN_BACKEND)
    assert offered_mss(talk) == "mss=1440"


@pytest.mark.parametrize(("dont_fragment", "mss"), [(True, 1440), (False, 1220)])
def test_a_client_that_hears_of_no_mtu_is_offered_segments_that_need_no_cutting(dont_fragment: bool, mss: int) -> None:
    talk = Conversation()
    talk.inject(edit_v4(talk.bytes_of("C> S c mss=1460"), dont_fragment=dont_fragment))
    (syn_ack,) = talk.take_sent()
    assert syn_ack.options == (f"mss={mss}",)


def test_the_held_bytes_of_such_a_client_are_cut_like_the_rest_of_theirs() -> None:
    talk = Conversation(hello=b"GET / HTTP/1.1\r\nHost: www.example.com\r\nX: " + bytes(48 for _ in range(3000)) + b"\r\n\r\n")
    talk.play("""
        0.00  H> S  c    mss=1460
              H< SA s    ack=c+1 win=65535 mss=1440
    """)
    talk.inject(edit_v4(talk.bytes_of("H> PA c+1 ack=s+1 data=hello"), dont_fragment=False))
    talk.play("HB< S c mss=1440").inject(talk.bytes_of("HB> SA b ack=c+1 win=65535 mss=1440"))
    assert [len(packet.payload) for packet in talk.take_sent()][:2] == [1220, 1220]


def test_bytes_that_a_client_was_relieved_of_are_repeated_as_the_path_takes_them() -> None:
    """The client has forgotten them, so no ICMP error would make it send less (RFC 8201 §4)."""
    hello = b"GET / HTTP/1.1\r\nHost: www.example.com\r\nX: " + bytes(48 for _ in range(1600)) + b"\r\n\r\n"
    talk = Conversation(hello=hello).play("""
        0.00  H> S  c       mss=1460
              H< SA s       ack=c+1 win=65535 mss=1440
        0.01  H> A  c+1     ack=s+1 data=hello[:1440]
        0.31  H> A  c+1     ack=s+1 data=hello[:1440]
              H< A  s+1     ack=c+1441 win=*
        0.32  H> PA c+1441  ack=s+1 data=hello[1440:]
              HB< S c       mss=1440
        0.33  HB> SA b      ack=c+1 win=65535 mss=1440
              HB< A c+1     ack=b+1 data=hello[:1440]
              HB< PA c+1441 ack=b+1 data=hello[1440:]
    """)
    talk.sides["Y"] = talk.sides["HB"].reversed
    talk.exchange(packet_too_big(talk, "HB", talk.bytes_of("Y> A c+1 ack=b+1 data=hello[:1440]")[:1000], 1300))
    talk.play("""
        1.33  HB< PA c+1    ack=b+1 data=hello[:1240]
        1.40  HB> A b+1     ack=c+1241
              HB< PA c+1241 ack=b+1 data=hello[1240:1440]
              H< A  s+1     ack=c+1241
    """)
