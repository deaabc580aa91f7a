"""ICMP that is our own: what it quotes, how it is told apart, and that pings leave room for errors (RFC 1122, RFC 1812)."""

from collections import Counter

import pytest
from openings import PLAIN_SPLICED
from packets import parse
from raw_packets import cut_v6, datagram, edit_v4, extend_v6, icmp, icmp_v6
from script import Conversation, Side, client_side

IGMP = 2
UDP = 17


@pytest.fixture
def talk() -> Conversation:
    """Client and backend are joined, without timestamps."""
    return Conversation().play(PLAIN_SPLICED)


def test_each_error_of_our_own_has_an_identification_of_its_own(talk: Conversation) -> None:
    """RFC 6864 §4.2: it may be fragmented on its way."""
    errors = [answer for _ in range(20) for answer in talk.exchange_plain(datagram(client_side(), UDP, bytes(20)))]
    assert all(not error[6] & 0x40 for error in errors)
    assert len({error[4:6] for error in errors}) == 20


def test_an_error_quotes_ip_options_as_they_came(talk: Conversation) -> None:
    """RFC 1122 §3.2.2: the header of the datagram, unchanged."""
    packet = edit_v4(talk.bytes_of("C> A c+1+H ack=s+1"), options=b"\7\7\4\0\0\0\0", ttl=1)
    (answer,) = talk.exchange_plain(packet)
    assert answer[28:] == packet
    talk.play("!! drop ttl_expired")


def test_an_error_quotes_extension_headers_as_they_came(talk: Conversation) -> None:
    """RFC 4443 §3.3: as much of the invoking packet as fits."""
    packet = extend_v6(talk.bytes_of("B> A b+1 ack=c+1+H"), 60, b"\6\0\1\4\0\0\0\0", hop_limit=1)
    (answer,) = talk.exchange_plain(packet)
    assert answer[48:] == packet
    talk.play("!! drop ttl_expired")


def test_a_first_fragment_that_cannot_be_followed_is_answered_with_a_pointer_to_its_length(talk: Conversation) -> None:
    """RFC 8200 §4.5: more is to come, and it would not begin at a multiple of eight."""
    fragment, _ = cut_v6(talk.bytes_of("B> A b+1 ack=c+1+H data=bulk(100)"), 44)
    (answer,) = talk.exchange_plain(fragment)
    assert answer[40:42] == bytes((4, 0))
    assert answer[44:48] == (4).to_bytes(4, "big")
    assert answer[48:] == fragment
    talk.play("!! drop fragment_inconsistent")


def test_igmp_is_dropped_in_silence(talk: Conversation) -> None:
    """RFC 7915 §4.2."""
    assert talk.exchange(datagram(client_side(), IGMP, bytes(8))) == []
    talk.play("!! drop not_tcp")


@pytest.mark.parametrize("is_v4", [True, False])
def test_a_flood_of_pings_leaves_the_errors_alone(talk: Conversation, is_v4: bool) -> None:
    service = Side(talk.sides["B"].src, 0, talk.sides["B"].dst[:12] + client_side().dst, 0)
    ping = datagram(client_side(), 1, icmp(8, 0, 1, b"")) if is_v4 else icmp_v6(service, 128, 0, 1, b"")
    assert sum(len(talk.exchange(ping)) for _ in range(200)) == 50
    assert sum(len(talk.exchange(datagram(client_side(), UDP, bytes(20)))) for _ in range(200)) == 50


def spend(talk: Conversation, packet: bytes, count: int) -> list[bytes]:
    """What `count` such packets are answered with, all at once; the drops are told and forgotten."""
    answers = [answer for _ in range(count) for answer in talk.exchange_plain(packet)]
    take_drops(talk)
    return answers


def take_drops(talk: Conversation) -> Counter[str]:
    """What has been dropped and not asked for yet."""
    drops = Counter(str(event.fields()["reason"]) for event in talk.events if event.event == "packet_dropped")
    talk.events.clear()
    return drops


@pytest.mark.parametrize("protocol", [UDP, 47], ids=["port", "protocol"])
def test_a_flood_of_datagrams_leaves_path_mtu_discovery_alone(talk: Conversation, protocol: int) -> None:
    """Who asks what nobody listens to, and is told so, takes no error from whoever has sent too much at once."""
    assert len(spend(talk, datagram(client_side(), protocol, bytes(20)), 200)) == 50
    (error,) = spend(talk, talk.bytes_of("C> A c+1+H ack=s+1 data=bulk(1500)"), 1)
    assert (error[20:22], int.from_bytes(error[26:28], "big")) == (b"\x03\x04", 1480)
    (error,) = spend(talk, talk.bytes_of("B> A b+1 ack=c+1+H data=bulk(1500)"), 1)
    assert (error[40], int.from_bytes(error[44:48], "big")) == (2, 1520)


def test_a_flood_of_what_is_too_big_leaves_traceroute_its_end(talk: Conversation) -> None:
    assert len(spend(talk, talk.bytes_of("C> A c+1+H ack=s+1 data=bulk(1500)"), 200)) == 50
    (error,) = spend(talk, datagram(client_side(), UDP, bytes(20)), 1)
    assert error[20:22] == b"\x03\x03"


def resets(answers: list[bytes]) -> int:
    return sum(parse(bytes(10) + answer).is_rst for answer in answers)


def test_a_flood_to_closed_ports_leaves_backends_their_resets(talk: Conversation) -> None:
    """They would keep what is no more for hours; a client's flood is nothing to them."""
    talk.sides |= {"X": client_side(service_port=22), "Y": Side(talk.sides["B"].src, 443, talk.sides["B"].dst, 41000)}
    assert resets(spend(talk, talk.bytes_of("X> S c mss=1460"), 1500)) == 1000
    assert resets(spend(talk, talk.bytes_of("Y> A b ack=c"), 1)) == 1


def test_a_flood_of_backends_leaves_clients_their_resets(talk: Conversation) -> None:
    talk.sides |= {"X": client_side(service_port=22), "Y": Side(talk.sides["B"].src, 443, talk.sides["B"].dst, 41000)}
    assert resets(spend(talk, talk.bytes_of("Y> A b ack=c"), 1500)) == 1000
    assert resets(spend(talk, talk.bytes_of("X> S c mss=1460"), 1)) == 1
