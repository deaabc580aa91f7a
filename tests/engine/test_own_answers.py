"""ICMP that is our own: what it quotes, how it is told apart, and that pings leave room for errors (RFC 1122, RFC 1812)."""

import pytest
from openings import PLAIN_SPLICED
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
