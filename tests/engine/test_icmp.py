"""ICMP through the engine: each side hears of errors in its own numbers, and no message touches a flow (RFC 7915, RFC 5927)."""

import struct
from typing import NamedTuple

import pytest
from openings import PLAIN_HANDSHAKE, PLAIN_HELLO
from packets import sum_words
from raw_packets import datagram, edit_v4, icmp, icmp_v6
from script import CONFIG, EPOCH, Conversation, Side, backend_side, client_side, config

ROUTER4 = bytes((203, 0, 113, 9))
ROUTER6 = bytes.fromhex("20010db8000200000000000000000001")
PORT = CONFIG.replace('"2001:db8:1::2"\n"two', '"[2001:db8:1::2]:8443"\n"two')
SPLICED = (
    PLAIN_HANDSHAKE
    + PLAIN_HELLO
    + """
    0.03  B> SA b    ack=c+1 win=65535 mss=1440 sackOK ws=7
          B< PA c+1  ack=b+1 data=hello
          !! flow_spliced backend=[2001:db8:1::2]:8443
"""
)
SERVICE, CLIENT = client_side().dst, client_side().src
BACKEND, MAPPED = backend_side().src, backend_side().dst


class Answer(NamedTuple):
    """An ICMP message, its outer addresses, and the segment that it quotes."""

    src: bytes
    dst: bytes
    type: int
    code: int
    rest: int
    quoted_src: bytes
    quoted_dst: bytes
    ports: tuple[int, int]
    seq: int
    segment: bytes


def read(packet: bytes) -> Answer:
    """Take apart an ICMP error of either family, its checksum held against it."""
    if packet[0] >> 4 == 4:
        assert sum_words(packet[:20]) == 0xFFFF
        src, dst, message, start = packet[12:16], packet[16:20], packet[20:], 20
        quote = message[8:]
        quoted_src, quoted_dst = quote[12:16], quote[16:20]
        assert sum_words(message) == 0xFFFF
        assert packet[9] == 1
    else:
        src, dst, message, start = packet[8:24], packet[24:40], packet[40:], 40
        quote = message[8:]
        quoted_src, quoted_dst = quote[8:24], quote[24:40]
        assert sum_words(src + dst + struct.pack("!II", len(message), 58) + message) == 0xFFFF
        assert packet[6] == 58
    kind, code, _, rest = struct.unpack_from("!BBHI", message)
    segment = quote[start:]
    src_port, dst_port, seq = struct.unpack_from("!HHI", segment)
    return Answer(src, dst, kind, code, rest, quoted_src, quoted_dst, (src_port, dst_port), seq, segment)


@pytest.fixture
def talk() -> Conversation:
    """Client and backend are joined, the backend at another port than the service."""
    return spliced()


def spliced(settings: str = "") -> Conversation:
    return Conversation(config(settings, base=PORT), sides={"B": backend_side(port=8443)}).play(SPLICED).play("0.10 --")


def error_from_v4(kind: int, code: int, rest: int, quote: bytes) -> bytes:
    """An error from a router on the client's side, to the service."""
    return datagram(Side(ROUTER4, 0, SERVICE, 0), 1, icmp(kind, code, rest, quote))


def error_from_v6(kind: int, code: int, rest: int, quote: bytes, src: bytes = ROUTER6) -> bytes:
    """An error from a router on the backend's side, to the client as the prefix has it."""
    return icmp_v6(Side(src, 0, MAPPED, 0), kind, code, rest, quote)


def to_client(talk: Conversation, data: str = "bulk(100)", seq: str = "s+1") -> bytes:
    """A segment as the client gets it."""
    talk.sides["X"] = talk.sides["C"].reversed
    return talk.bytes_of(f"X> PA {seq} ack=c+1+H data={data}")


def to_backend(talk: Conversation, data: str = "bulk(100)", seq: str = "c+1+H") -> bytes:
    """A segment as the backend gets it."""
    talk.sides["Y"] = talk.sides["B"].reversed
    return talk.bytes_of(f"Y> PA {seq} ack=b+1 data={data}")


V4_TO_V6 = [
    ((3, 0, 0), (1, 0, 0)),
    ((3, 1, 0), (1, 0, 0)),
    ((3, 2, 0), (4, 1, 6)),
    ((3, 3, 0), (1, 4, 0)),
    ((3, 4, 1400), (2, 0, 1420)),
    ((3, 5, 0), (1, 0, 0)),
    ((3, 9, 0), (1, 1, 0)),
    ((3, 10, 0), (1, 1, 0)),
    ((3, 11, 0), (1, 0, 0)),
    ((3, 13, 0), (1, 1, 0)),
    ((3, 15, 0), (1, 1, 0)),
    ((11, 0, 0), (3, 0, 0)),
    ((11, 1, 0), (3, 1, 0)),
    ((12, 0, 8 << 24), (4, 0, 7)),
    ((12, 2, 12 << 24), (4, 0, 8)),
]
V6_TO_V4 = [
    ((1, 0, 0), (3, 1, 0)),
    ((1, 1, 0), (3, 10, 0)),
    ((1, 2, 0), (3, 1, 0)),
    ((1, 3, 0), (3, 1, 0)),
    ((1, 4, 0), (3, 3, 0)),
    ((2, 0, 1400), (3, 4, 1380)),
    ((3, 0, 0), (11, 0, 0)),
    ((3, 1, 0), (11, 1, 0)),
    ((4, 0, 7), (12, 0, 8 << 24)),
    ((4, 0, 8), (12, 0, 12 << 24)),
    ((4, 1, 6), (3, 2, 0)),
]


@pytest.mark.parametrize(("error", "told"), V4_TO_V6, ids=str)
def test_an_error_from_the_clients_side_reaches_the_backend(
    talk: Conversation, error: tuple[int, int, int], told: tuple[int, int, int]
) -> None:
    """In the backend's own numbers, about a packet from it to the mapped address."""
    (sent,) = talk.exchange_plain(error_from_v4(*error, to_client(talk)))
    answer = read(sent)
    assert (answer.src, answer.dst) == (MAPPED[:12] + ROUTER4, BACKEND)
    assert (answer.type, answer.code, answer.rest) == told
    assert (answer.quoted_src, answer.quoted_dst, answer.ports) == (BACKEND, MAPPED, (8443, 40000))
    assert answer.seq == talk.symbols["b"] + 1
    assert int.from_bytes(answer.segment[8:12], "big") == talk._number("c+1+H")
    assert answer.segment[20:] == talk._value("bulk(100)")
    assert sent[7] == 56


@pytest.mark.parametrize(("error", "told"), V6_TO_V4, ids=str)
def test_an_error_from_the_backends_side_reaches_the_client(
    talk: Conversation, error: tuple[int, int, int], told: tuple[int, int, int]
) -> None:
    """In the client's own numbers, about a packet from it to the service."""
    (sent,) = talk.exchange_plain(error_from_v6(*error, to_backend(talk)))
    answer = read(sent)
    assert (answer.src, answer.dst) == (SERVICE, CLIENT)
    assert (answer.type, answer.code, answer.rest) == told
    assert (answer.quoted_src, answer.quoted_dst, answer.ports) == (CLIENT, SERVICE, (40000, 443))
    assert answer.seq == talk._number("c+1+H")
    assert int.from_bytes(answer.segment[8:12], "big") == talk._number("s+1")
    assert sent[8] == 56
    assert len(sent) <= 576


@pytest.mark.parametrize(("kind", "code"), [(3, 14), (4, 0), (5, 1), (12, 1), (13, 0), (0, 0), (40, 0)])
def test_what_has_no_counterpart_in_icmpv6_is_dropped(talk: Conversation, kind: int, code: int) -> None:
    assert talk.exchange(error_from_v4(kind, code, 0, to_client(talk))) == []
    talk.play("!! drop untranslatable_icmp")


@pytest.mark.parametrize(("kind", "code"), [(1, 5), (1, 6), (4, 2), (133, 0), (135, 0), (129, 0), (100, 0)])
def test_what_has_no_counterpart_in_icmp_is_dropped(talk: Conversation, kind: int, code: int) -> None:
    assert talk.exchange(error_from_v6(kind, code, 0, to_backend(talk))) == []
    talk.play("!! drop untranslatable_icmp")


def test_eight_bytes_of_a_segment_are_enough_for_the_backend(talk: Conversation) -> None:
    """RFC 792 asks routers for no more."""
    (sent,) = talk.exchange_plain(error_from_v4(11, 0, 0, to_client(talk)[:28]))
    answer = read(sent)
    assert (answer.ports, answer.seq, len(answer.segment)) == ((8443, 40000), talk.symbols["b"] + 1, 8)


def test_eight_bytes_of_a_segment_are_enough_for_the_client(talk: Conversation) -> None:
    (sent,) = talk.exchange_plain(error_from_v6(3, 0, 0, to_backend(talk)[:48]))
    answer = read(sent)
    assert (answer.ports, answer.seq, len(answer.segment)) == ((40000, 443), talk._number("c+1+H"), 8)


def test_seven_bytes_are_not(talk: Conversation) -> None:
    assert talk.exchange(error_from_v4(11, 0, 0, to_client(talk)[:27])) == []
    talk.play("!! drop malformed_icmp")
    assert talk.exchange(error_from_v6(3, 0, 0, to_backend(talk)[:47])) == []
    talk.play("!! drop malformed_icmp")


def test_a_wrong_checksum_is_dropped(talk: Conversation) -> None:
    packet = bytearray(error_from_v4(11, 0, 0, to_client(talk)))
    packet[-1] ^= 1
    assert talk.exchange(bytes(packet)) == []
    talk.play("!! drop malformed_icmp")


def test_an_error_about_no_flow_is_dropped(talk: Conversation) -> None:
    talk.sides["C"] = client_side(port=40001)
    assert talk.exchange(error_from_v4(11, 0, 0, to_client(talk))) == []
    talk.play("!! drop no_flow")
    talk.sides["B"] = backend_side(port=8443, client_port=40001)
    assert talk.exchange(error_from_v6(3, 0, 0, to_backend(talk))) == []
    talk.play("!! drop no_flow")


def test_an_error_for_another_than_the_quoted_sender_is_dropped(talk: Conversation) -> None:
    """RFC 5927 §4: it was never on its way back."""
    side = Side(ROUTER4, 0, bytes((198, 51, 100, 2)), 0)
    assert talk.exchange(datagram(side, 1, icmp(11, 0, 0, to_client(talk)))) == []
    talk.play("!! drop no_flow")


def test_an_error_about_an_error_is_dropped(talk: Conversation) -> None:
    assert talk.exchange(error_from_v4(3, 1, 0, error_from_v4(3, 1, 0, to_client(talk)))) == []
    talk.play("!! drop not_tcp")


@pytest.mark.parametrize(("kind", "code", "rest"), [(3, 1, 0), (3, 2, 0), (3, 3, 0), (3, 4, 600), (11, 0, 0), (12, 0, 0)])
def test_no_error_from_the_clients_side_keeps_or_ends_a_flow(talk: Conversation, kind: int, code: int, rest: int) -> None:
    """RFC 5382 §7 REQ-9, RFC 6146 §3.5.2: nor does it create one."""
    talk.run_until(7000)
    talk.exchange(error_from_v4(kind, code, rest, to_client(talk)))
    talk.exchange(error_from_v4(kind, code, rest, to_client(talk, seq="s+99999")))
    talk.play(f"?? flows=1 state=established \n {7440.05} B< A c ack=b+1 \n C< A s ack=c+1 \n ?? state=probing")


@pytest.mark.parametrize(("kind", "code", "rest"), [(1, 0, 0), (1, 4, 0), (2, 0, 1280), (3, 0, 0), (4, 1, 6)])
def test_no_error_from_the_backends_side_keeps_or_ends_a_flow(talk: Conversation, kind: int, code: int, rest: int) -> None:
    talk.run_until(7000)
    talk.exchange(error_from_v6(kind, code, rest, to_backend(talk)))
    talk.play(f"?? flows=1 state=established \n {7440.05} B< A c ack=b+1 \n C< A s ack=c+1 \n ?? state=probing")


def offered_mss(talk: Conversation, number: int = 1) -> int:
    """What the next SYN-ACK offers."""
    talk.sides["D"] = client_side(port=41000 + number)
    talk.inject(talk.bytes_of("D> S c mss=1460"))
    (syn_ack,) = talk.take_sent()
    return int(syn_ack.options[0].removeprefix("mss="))


@pytest.mark.parametrize(("mtu", "mss"), [(1400, 1340), (1280, 1220), (1279, 1440), (0, 1440), (1500, 1440), (9000, 1440)])
def test_packet_too_big_lowers_the_next_offer(talk: Conversation, mtu: int, mss: int) -> None:
    """RFC 8201 §4: what tells less than 1280 is ignored, and nothing raises it."""
    talk.exchange(error_from_v6(2, 0, mtu, to_backend(talk, "bulk(1400)")[:1000]))
    assert offered_mss(talk) == mss


def test_the_offer_grows_again_after_ten_minutes(talk: Conversation) -> None:
    """RFC 8201 §5.2."""
    talk.exchange(error_from_v6(2, 0, 1400, to_backend(talk)))
    talk.run_until(600.0)
    assert offered_mss(talk, 1) == 1340
    talk.run_until(600.2)
    assert offered_mss(talk, 2) == 1440


def test_fragmentation_needed_lowers_what_the_backend_is_told_of_that_client(talk: Conversation) -> None:
    """RFC 1191 §3: of this client alone; the MSS option of the SYN to the backend."""
    talk.exchange(error_from_v4(3, 4, 1000, to_client(talk, "bulk(1400)")[:500]))
    talk.sides |= {"D": client_side(port=41000), "E": backend_side(port=8443, client_port=41000)}
    talk.sides |= {"F": client_side(address="192.0.2.8"), "G": backend_side(port=8443, client="192.0.2.8")}
    talk.play("""
        0.20  D> S  c      mss=1460
              D< SA x      ack=c+1 win=65535 mss=1440
              D> PA c+1    ack=x+1 data=hello
              E< S  c      mss=960
              F> S  c      mss=1460
              F< SA y      ack=c+1 win=65535 mss=1440
              F> PA c+1    ack=y+1 data=hello
              G< S  c      mss=1440
    """)


def test_an_absurd_mtu_is_taken_as_one_that_a_real_link_may_have(talk: Conversation) -> None:
    """Below 552 bytes only an attacker would gain (as Linux' min_pmtu has it)."""
    talk.exchange(error_from_v4(3, 4, 68, to_client(talk, "bulk(1400)")[:500]))
    talk.sides |= {"D": client_side(port=41000), "E": backend_side(port=8443, client_port=41000)}
    talk.play("""
        0.20  D> S  c      mss=1460
              D< SA x      ack=c+1 win=65535 mss=1440
              D> PA c+1    ack=x+1 data=hello
              E< S  c      mss=512
    """)


def test_what_lies_within_a_mebibyte_of_what_was_acknowledged_is_taken_for_under_way(talk: Conversation) -> None:
    talk.exchange(error_from_v6(2, 0, 1400, to_backend(talk, seq="c+1+2**20")))
    assert offered_mss(talk) == 1340


def test_the_least_that_anybody_can_talk_an_offer_down_to_is_1220(talk: Conversation) -> None:
    """Whoever hits the numbers, one guess in 4096; and nobody is offered less for longer than ten minutes."""
    for mtu in (1400, 1280, 1279, 552, 68, 0):
        talk.exchange(error_from_v6(2, 0, mtu, to_backend(talk)))
    assert offered_mss(talk) == 1220
    talk.run_until(700)
    assert offered_mss(talk, 2) == 1440


@pytest.mark.parametrize("seq", ["c", "c-1000", "c+2+2**20", "c+1+2**24", "c+1+2**25", "c+2**31"])
def test_a_forged_packet_too_big_is_not_learnt(talk: Conversation, seq: str) -> None:
    """RFC 5927 §4.1: whoever does not know what is in flight."""
    talk.exchange(error_from_v6(2, 0, 1280, to_backend(talk, seq=seq)))
    assert offered_mss(talk) == 1440


@pytest.mark.parametrize("seq", ["s", "s-1000", "s+2+2**20", "s+1+2**24", "s+1+2**25", "s+2**31"])
def test_a_forged_fragmentation_needed_is_not_learnt(talk: Conversation, seq: str) -> None:
    talk.exchange(error_from_v4(3, 4, 600, to_client(talk, seq=seq)))
    talk.sides |= {"D": client_side(port=41000), "E": backend_side(port=8443, client_port=41000)}
    talk.play("""
        0.20  D> S  c      mss=1460
              D< SA x      ack=c+1 win=65535 mss=1440
              D> PA c+1    ack=x+1 data=hello
              E< S  c      mss=1440
    """)


def test_a_router_without_an_mtu_means_the_next_plateau(talk: Conversation) -> None:
    """RFC 1191 §5, RFC 7915 §4.2: below 1440 bytes that is 1006, in IPv6 never less than 1280."""
    (sent,) = talk.exchange_plain(error_from_v4(3, 4, 0, to_client(talk, "bulk(1400)")[:500]))
    assert (read(sent).type, read(sent).rest) == (2, 1280)


SOURCES = '[network]\nrouter_sources = ["203.0.113.100", "203.0.113.101"]\n'


def test_a_router_without_ipv4_speaks_from_an_address_of_the_pool() -> None:
    """RFC 6791 §3: the same for the same router, so that a traceroute tells hops apart."""
    talk = spliced(SOURCES)
    found = set()
    for last in range(8):
        error = error_from_v6(3, 0, 0, to_backend(talk), src=ROUTER6[:15] + bytes((last,)))
        (first,), (second,) = talk.exchange_plain(error), talk.exchange_plain(error)
        assert read(first).src == read(second).src
        found.add(read(first).src)
    assert found == {bytes((203, 0, 113, 100)), bytes((203, 0, 113, 101))}


def test_the_backends_own_errors_come_from_the_service() -> None:
    talk = spliced(SOURCES)
    (sent,) = talk.exchange_plain(error_from_v6(1, 4, 0, to_backend(talk), src=BACKEND))
    assert read(sent).src == SERVICE


def test_an_error_from_inside_the_prefix_is_dropped(talk: Conversation) -> None:
    """It would be one of our own packets, or forged to look like one."""
    assert talk.exchange(error_from_v6(3, 0, 0, to_backend(talk), src=MAPPED[:12] + ROUTER4)) == []
    talk.play("!! drop illegal_source")


def test_a_ping_to_the_service_is_answered(talk: Conversation) -> None:
    request = datagram(client_side(), 1, icmp(8, 0, 0x00010002, b"abcdefgh"))
    (reply,) = talk.exchange_plain(request)
    assert reply[12:20] == SERVICE + CLIENT
    assert reply[20:] == icmp(0, 0, 0x00010002, b"abcdefgh")
    assert sum_words(reply[:20]) == 0xFFFF


def test_a_ping_to_the_services_address_in_the_prefix_is_answered(talk: Conversation) -> None:
    side = Side(BACKEND, 0, MAPPED[:12] + SERVICE, 0)
    (reply,) = talk.exchange_plain(icmp_v6(side, 128, 0, 0x00010002, b"abcdefgh"))
    assert reply == icmp_v6(side.reversed, 129, 0, 0x00010002, b"abcdefgh", hop_limit=64)


@pytest.mark.parametrize("is_v4", [True, False])
def test_a_ping_to_anybody_else_is_not(talk: Conversation, is_v4: bool) -> None:
    if is_v4:
        request = datagram(Side(CLIENT, 0, bytes((198, 51, 100, 9)), 0), 1, icmp(8, 0, 1, b""))
    else:
        request = icmp_v6(Side(BACKEND, 0, MAPPED, 0), 128, 0, 1, b"")
    assert talk.exchange(request) == []
    talk.play("!! drop no_listener")


def test_a_ping_with_options_is_answered_without(talk: Conversation) -> None:
    request = edit_v4(datagram(client_side(), 1, icmp(8, 0, 1, b"abcd")), options=b"\x94\x04\0\0")
    (reply,) = talk.exchange_plain(request)
    assert reply[20:] == icmp(0, 0, 1, b"abcd")


def test_pings_are_limited_in_number(talk: Conversation) -> None:
    request = datagram(client_side(), 1, icmp(8, 0, 1, b""))
    assert sum(len(talk.exchange(request)) for _ in range(200)) == 50


def test_carried_errors_are_not_limited_by_what_we_originate(talk: Conversation) -> None:
    for _ in range(100):
        talk.exchange(datagram(client_side(), 1, icmp(8, 0, 1, b"")))
    assert len(talk.exchange(error_from_v6(2, 0, 1400, to_backend(talk)))) == 1
    assert talk.now < EPOCH + 1


@pytest.mark.parametrize("ttl", [0, 1])
def test_an_error_whose_ttl_is_spent_goes_no_further(talk: Conversation, ttl: int) -> None:
    """And nobody is told: it is an error."""
    error = edit_v4(error_from_v4(11, 0, 0, to_client(talk)), ttl=ttl)
    assert talk.exchange(error) == []
    talk.play("!! drop ttl_expired")
