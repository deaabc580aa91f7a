"""Fragments are put together before anything looks at them, within bounds (RFC 791 §3.2, RFC 8200 §4.5, RFC 5722)."""

import itertools

import pytest
from openings import PLAIN_HANDSHAKE, PLAIN_SPLICED
from packets import parse
from raw_packets import cut_v4, cut_v6, datagram, icmp, icmp_v6, join_v4, join_v6
from script import Conversation, Side, client_side

SERVICE, CLIENT = client_side().dst, client_side().src
ORDERS = list(itertools.permutations(range(3)))


@pytest.fixture
def talk() -> Conversation:
    """Client and backend are joined, without timestamps."""
    return Conversation().play(PLAIN_SPLICED).play("0.10 --")


def exchange_all(talk: Conversation, fragments: list[bytes]) -> list[bytes]:
    """What the last of `fragments` brings about; the others must bring nothing."""
    *first, last = fragments
    for fragment in first:
        assert talk.exchange(fragment) == []
    return talk.exchange_plain(last)


def line_of(talk: Conversation, packet: bytes) -> str:
    return " ".join(talk.render(parse(bytes(10) + packet)).split())


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_clients_fragments_are_translated_in_any_order(talk: Conversation, order: tuple[int, ...]) -> None:
    pieces = cut_v4(talk.bytes_of("C> PA c+1+H ack=s+1 data=hello"), 32, 64)
    (sent,) = exchange_all(talk, [pieces[index] for index in order])
    assert line_of(talk, sent) == "B< PA c+77 ack=b+1 win=1000 data=hello"


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_backends_fragments_are_translated_in_any_order(talk: Conversation, order: tuple[int, ...]) -> None:
    pieces = cut_v6(talk.bytes_of("B> PA b+1 ack=c+1+H data=hello"), 32, 64)
    (sent,) = exchange_all(talk, [pieces[index] for index in order])
    assert line_of(talk, sent) == "C< PA s+1 ack=c+77 win=1000 data=hello"
    assert sent[4:8] == b"\x56\x78\x00\x00"


def test_a_hello_in_fragments_is_read() -> None:
    talk = Conversation().play(PLAIN_HANDSHAKE)
    first, second = cut_v4(talk.bytes_of("C> PA c+1 ack=s+1 data=hello"), 40)
    assert talk.exchange(second) == []
    (sent,) = talk.exchange_plain(first)
    assert line_of(talk, sent) == "B< S c win=65535 mss=1440 ws=7 sackOK"


def test_a_syn_in_fragments_is_answered() -> None:
    """RFC 1858 asks for whole TCP headers in first fragments, and this is one."""
    talk = Conversation(s=0)
    fragments = cut_v4(talk.bytes_of("C> S c mss=1460 data=hello"), 24)
    (sent,) = exchange_all(talk, fragments)
    assert sent[33] == 0x12


def test_a_large_datagram_is_cut_again_for_the_next_link(talk: Conversation) -> None:
    """RFC 7915 §4.1: no fragment above 1280 bytes, the identification carried over."""
    packet = talk.bytes_of("C> A c+1+H ack=s+1 data=bulk(3000)")
    sent = exchange_all(talk, cut_v4(packet, 1480, 2960, identification=0xBEEF))
    assert len(sent) == 3
    assert max(map(len, sent)) <= 1280
    whole, identification = join_v6(sent)
    assert identification == 0xBEEF
    assert whole[60:] == packet[40:]


def test_a_backends_large_datagram_is_cut_again_for_the_next_link(talk: Conversation) -> None:
    packet = talk.bytes_of("B> A b+1 ack=c+1+H data=bulk(3000)")
    sent = exchange_all(talk, cut_v6(packet, 1232, 2464))
    assert max(map(len, sent)) <= 1500
    whole = join_v4(sent)
    assert whole[4:6] == b"\x56\x78"
    assert whole[40:] == packet[60:]


def test_an_exact_duplicate_of_a_fragment_changes_nothing(talk: Conversation) -> None:
    """RFC 8200 §4.5 lets it pass."""
    first, second = cut_v4(talk.bytes_of("C> PA c+1+H ack=s+1 data=hello"), 40)
    (sent,) = exchange_all(talk, [first, first, second])
    assert line_of(talk, sent) == "B< PA c+77 ack=b+1 win=1000 data=hello"


@pytest.mark.parametrize("version", [4, 6])
def test_an_overlap_gives_the_datagram_up(talk: Conversation, version: int) -> None:
    """RFC 5722 §4: and with it what comes of it later."""
    line, cut = ("C> PA c+1+H ack=s+1 data=hello", cut_v4) if version == 4 else ("B> PA b+1 ack=c+1+H data=hello", cut_v6)
    packet = talk.bytes_of(line)
    first, second = cut(packet, 40)
    _, overlapping = cut(packet, 32)
    assert talk.exchange(first) == []
    assert talk.exchange(overlapping) == []
    talk.play("!! drop fragment_overlap")
    assert talk.exchange(second) == []
    talk.play("!! drop fragment_overlap")


@pytest.mark.parametrize("version", [4, 6])
def test_a_tiny_first_fragment_is_dropped(talk: Conversation, version: int) -> None:
    """RFC 1858 §3: it hides the ports or flags from filters."""
    line, cut = ("C> PA c+1+H ack=s+1 data=hello", cut_v4) if version == 4 else ("B> PA b+1 ack=c+1+H data=hello", cut_v6)
    first, _ = cut(talk.bytes_of(line), 16)
    assert talk.exchange(first) == []
    talk.play("!! drop fragment_tiny")


def test_fragments_of_two_datagrams_do_not_mix(talk: Conversation) -> None:
    packet, other = (talk.bytes_of(f"C> PA c+1+H ack=s+1 data=bulk(100,{first})") for first in (0, 400))
    first, _ = cut_v4(packet, 40, identification=1)
    _, second = cut_v4(other, 40, identification=2)
    assert talk.exchange(first) == []
    assert talk.exchange(second) == []


def test_a_client_that_lacks_a_fragment_is_told_after_fifteen_seconds(talk: Conversation) -> None:
    """RFC 792: Time Exceeded, code 1, with the first fragment."""
    first, _ = cut_v4(talk.bytes_of("C> PA c+1+H ack=s+1 data=hello"), 40)
    assert talk.exchange(first) == []
    assert talk.engine.next_deadline() == pytest.approx(talk.now + 15)
    assert talk.fire(15.0) == []
    (answer,) = talk.fire(15.2)
    assert answer[12:20] == SERVICE + CLIENT
    assert answer[20:22] == bytes((11, 1))
    assert answer[28:] == first
    talk.play("!! drop fragment_timeout")


def test_a_backend_that_lacks_a_fragment_is_told(talk: Conversation) -> None:
    """RFC 8200 §4.5."""
    first, _ = cut_v6(talk.bytes_of("B> PA b+1 ack=c+1+H data=hello"), 40)
    assert talk.exchange(first) == []
    (answer,) = talk.fire(15.2)
    assert answer[24:40] == talk.sides["B"].src
    assert answer[40:42] == bytes((3, 1))
    assert answer[48:] == first
    talk.play("!! drop fragment_timeout")


def test_nobody_is_told_when_the_first_fragment_is_what_lacks(talk: Conversation) -> None:
    _, second = cut_v4(talk.bytes_of("C> PA c+1+H ack=s+1 data=hello"), 40)
    assert talk.exchange(second) == []
    assert talk.fire(15.2) == []
    talk.play("!! drop fragment_timeout")


def test_the_rest_that_comes_too_late_makes_nothing_whole(talk: Conversation) -> None:
    first, second = cut_v4(talk.bytes_of("C> PA c+1+H ack=s+1 data=hello"), 40)
    assert talk.exchange(first) == []
    talk.fire(15.2)
    assert talk.exchange(second) == []
    talk.play("!! drop fragment_timeout")


def test_a_large_ping_in_fragments_is_answered_in_fragments(talk: Conversation) -> None:
    message = icmp(8, 0, 0x0001_0002, bytes(range(256)) * 12)
    sent = exchange_all(talk, cut_v4(datagram(client_side(), 1, message), 1480, 2960))
    assert max(map(len, sent)) <= 1500
    whole = join_v4(sent)
    assert whole[12:20] == SERVICE + CLIENT
    assert whole[20:] == icmp(0, 0, 0x0001_0002, bytes(range(256)) * 12)


def test_a_large_ping_from_a_backend_is_answered_in_fragments(talk: Conversation) -> None:
    backend = talk.sides["B"]
    side = Side(backend.src, 0, backend.dst[:12] + SERVICE, 0)
    request = icmp_v6(side, 128, 0, 7, bytes(range(256)) * 12)
    sent = exchange_all(talk, cut_v6(request, 1232, 2464))
    whole, _ = join_v6(sent)
    assert max(map(len, sent)) <= 1500
    assert whole[40:] == icmp_v6(side.reversed, 129, 0, 7, bytes(range(256)) * 12)[40:]


@pytest.mark.parametrize("version", [4, 6])
def test_a_flood_of_incomplete_datagrams_costs_nobody_else(talk: Conversation, version: int) -> None:
    """An attacker fills what one source may have; the client's fragments and everybody's segments still get through."""
    backend = talk.sides["B"]
    for number in range(3000):
        if version == 4:
            side = Side(bytes((192, 0, 2, 200)), 40000, SERVICE, 443)
            talk.exchange(cut_v4(datagram(side, 6, bytes(1400)), 1000, identification=number)[0])
        else:
            side = Side(backend.src[:15] + b"\xee", 443, backend.dst, 40000)
            talk.exchange(cut_v6(datagram(side, 6, bytes(1400)), 1000, identification=number)[0])
        if number == 1500:
            first, second = cut_v4(talk.bytes_of("C> PA c+1+H ack=s+1 data=hello"), 40)
            third, fourth = cut_v6(talk.bytes_of("B> PA b+1 ack=c+1+H data=hello"), 40)
            assert talk.exchange(first) == []
            assert talk.exchange(third) == []
    assert len(talk.exchange(second)) == 1
    assert len(talk.exchange(fourth)) == 1
    take_drops(talk)
    talk.play("""
              C> A c+1+H   ack=s+1
              B< A c+1+H   ack=b+1
    """)


def take_drops(talk: Conversation) -> list[str]:
    """Have the script expect every drop that has been told; returns their reasons."""
    reasons = [str(event.fields()["reason"]) for event in talk.events if event.event == "packet_dropped"]
    talk.play("\n".join(f"!! drop {reason}" for reason in reasons))
    talk.events.clear()
    return reasons


@pytest.mark.parametrize("version", [4, 6])
def test_who_loses_fragments_to_a_full_memory_is_told_of_at_once(talk: Conversation, version: int) -> None:
    """A flood is seen in the drops while it lasts, not when its fragments would have been too old."""
    backend = talk.sides["B"]
    for number in range(200):
        if version == 4:
            side = Side(bytes((192, 0, 2, 200)), 40000, SERVICE, 443)
            talk.exchange(cut_v4(datagram(side, 6, bytes(1400)), 1000, identification=number)[0])
        else:
            side = Side(backend.src[:15] + b"\xee", 443, backend.dst, 40000)
            talk.exchange(cut_v6(datagram(side, 6, bytes(1400)), 1000, identification=number)[0])
        # A source may have an eighth of 1,024
        assert take_drops(talk) == ["fragments_full"] * (number >= 128)
