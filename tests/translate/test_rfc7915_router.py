"""What RFC 7915 asks of a translator as a router, on a spliced flow: hops, sizes, fragments, ICMP both ways."""

from collections.abc import Iterator, Sequence

import pytest
from icmp_quotes import (
    BACKEND6,
    CLIENT4,
    MAPPED6,
    ROUTER4,
    ROUTER6,
    SERVICE4,
    error_v4,
    error_v6,
    icmp_checksum_holds,
    packed,
    tcp_checksum_holds,
)
from scapy_oracle import IP, TCP, IPv6, Raw
from script import Conversation

from kracauer.translate.fragmenting import fragment_v4, fragment_v6
from kracauer.translate.fragments import Reassembler
from kracauer.wire import icmpv4, icmpv6, ipv4, ipv6
from kracauer.wire.buffer import Frame
from kracauer.wire.icmpv4 import Icmpv4Message
from kracauer.wire.icmpv6 import Icmpv6Message

SERVICE6 = "2001:db8:46::198.51.100.1"
OPENING = """
    0.00  C> S  c    win=64240 mss=1460
          C< SA s    ack=c+1 win=* mss={mss}
    0.01  C> PA c+1  ack=s+1 data=hello
          B< S  c    win=* mss={mss}
    0.02  B> SA b    ack=c+1 win=64800 mss=1440
          B< PA c+1  ack=b+1 data=hello
"""


class Talk:
    """A spliced flow, and whole packets in and out."""

    def __init__(self, network: str = "", mss: int = 1440) -> None:
        self.conversation = Conversation(f"\n[network]\n{network}\n")
        self.engine = self.conversation.engine
        self.conversation.play(OPENING.format(mss=mss))
        (self.flow,) = self.engine.flows
        self.client_seq = self._symbol("c") + 1 + self._symbol("H")
        self.backend_seq = self._symbol("b") + 1
        self.delta = (self._symbol("s") - self._symbol("b")) % 2**32

    def receive(self, packet: bytes) -> list[bytes]:
        frame = Frame()
        frame.load(packet)
        return [bytes(sent)[10:] for sent in self.engine.receive(frame, self.conversation.now)]

    def events(self) -> Iterator[str]:
        while (event := self.engine.next_event()) is not None:
            yield str(event.fields().get("reason", event.event))

    def from_client(self, payload: bytes = b"", flags: str = "A", ttl: int = 57, **header: object) -> bytes:
        segment = TCP(sport=40000, dport=443, seq=self.client_seq, ack=self._symbol("s") + 1, flags=flags)
        return bytes(IP(src=CLIENT4, dst=SERVICE4, ttl=ttl, **header) / segment / Raw(payload))

    def from_backend(self, payload: bytes = b"", flags: str = "A", **header: object) -> bytes:
        segment = TCP(sport=443, dport=40000, seq=self.backend_seq, ack=self.client_seq, flags=flags)
        return bytes(IPv6(src=BACKEND6, dst=MAPPED6, **{"hlim": 57} | header) / segment / Raw(payload))

    def seen_by_backend(self, payload: bytes = b"", seq_offset: int = 0) -> bytes:
        """A client's segment as it travels on the IPv6 side."""
        segment = TCP(sport=40000, dport=443, seq=(self.client_seq + seq_offset) % 2**32, ack=self.backend_seq, flags="A")
        return bytes(IPv6(src=MAPPED6, dst=BACKEND6) / segment / Raw(payload))

    def seen_by_client(self, payload: bytes = b"", seq_offset: int = 0) -> bytes:
        """A backend's segment as it travels on the IPv4 side."""
        seq = (self.backend_seq + self.delta + seq_offset) % 2**32
        segment = TCP(sport=443, dport=40000, seq=seq, ack=self.client_seq, flags="A")
        return bytes(IP(src=SERVICE4, dst=CLIENT4, flags="DF") / segment / Raw(payload))

    def offered_mss(self) -> int:
        """The MSS of the answer to another client's SYN."""
        syn = IP(src="192.0.2.99", dst=SERVICE4, flags="DF") / TCP(sport=50000, dport=443, flags="S", options=[("MSS", 1460)])
        (answer,) = self.receive(bytes(syn))
        return int.from_bytes(answer[42:44], "big")

    def _symbol(self, name: str) -> int:
        value = self.conversation.symbols[name]
        assert isinstance(value, int)
        return value


@pytest.fixture
def talk() -> Talk:
    return Talk()


def icmp_v4(packets: Sequence[bytes]) -> tuple[ipv4.IPv4Header, Icmpv4Message]:
    """The one packet there is, an ICMP message."""
    (packet,) = packets
    header = ipv4.parse(packet)
    assert header.protocol == 1
    assert icmp_checksum_holds(packet)
    return header, icmpv4.parse(packet[20:])


def icmp_v6(packets: Sequence[bytes]) -> tuple[ipv6.IPv6Header, Icmpv6Message]:
    (packet,) = packets
    header = ipv6.parse(packet)
    assert header.next_header == 58
    assert icmp_checksum_holds(packet)
    return header, icmpv6.parse(packet[40:], header.src, header.dst)


# Hops.


def test_a_spent_ttl_is_answered_from_the_address_that_was_dialled(talk: Talk) -> None:
    header, message = icmp_v4(talk.receive(talk.from_client(ttl=1)))
    assert (message.type, message.code) == (11, 0)
    assert (header.src, header.dst) == (packed(SERVICE4), packed(CLIENT4))
    assert list(talk.events())[-1] == "ttl_expired"


def test_a_spent_hop_limit_is_answered_from_inside_the_prefix(talk: Talk) -> None:
    header, message = icmp_v6(talk.receive(talk.from_backend(hlim=1)))
    assert (message.type, message.code) == (3, 0)
    assert (header.src, header.dst) == (packed(SERVICE6), packed(BACKEND6))


# Sizes.


def test_a_packet_with_df_that_no_longer_fits_is_answered_with_what_does() -> None:
    talk = Talk("ipv6_mtu = 1400", mss=1340)
    _, message = icmp_v4(talk.receive(with_df(talk, 1341)))
    assert (message.type, message.code, message.rest) == (3, 4, 1380)
    assert len(talk.receive(with_df(talk, 1340))) == 1


def with_df(talk: Talk, length: int) -> bytes:
    segment = TCP(sport=40000, dport=443, seq=talk.client_seq, ack=(talk.backend_seq + talk.delta) % 2**32, flags="A")
    return bytes(IP(src=CLIENT4, dst=SERVICE4, flags="DF") / segment / Raw(bytes(length)))


def test_an_ipv6_packet_that_no_longer_fits_is_answered_with_what_does() -> None:
    talk = Talk("ipv4_mtu = 1400", mss=1360)
    _, message = icmp_v6(talk.receive(talk.from_backend(bytes(1361))))
    assert (message.type, message.code, message.rest) == (2, 0, 1420)
    assert len(talk.receive(talk.from_backend(bytes(1360)))) == 1


@pytest.mark.parametrize(("network", "lowest"), [("", 1280), ("lowest_ipv6_mtu = 1400", 1400)])
def test_a_packet_without_df_is_cut_to_the_lowest_ipv6_mtu(network: str, lowest: int) -> None:
    talk = Talk(network)
    fragments = talk.receive(talk.from_client(bytes(range(256)) * 5 + bytes(150), id=0x1234))
    assert [len(fragment) <= lowest for fragment in fragments] == [True, True]
    parsed = [ipv6.find_upper_layer(fragment, ipv6.parse(fragment)).fragment for fragment in fragments]
    assert [part.identification if part else None for part in parsed] == [0x1234, 0x1234]
    whole = reassemble_v6(fragments)
    assert tcp_checksum_holds(whole)
    assert whole[60:] == bytes(range(256)) * 5 + bytes(150)


def test_a_packet_without_df_that_fits_is_not_cut(talk: Talk) -> None:
    (packet,) = talk.receive(talk.from_client(bytes(1220)))
    assert (len(packet), ipv6.parse(packet).next_header) == (1280, ipv6.TCP)


def reassemble_v6(fragments: Sequence[bytes]) -> bytes:
    reassembler = Reassembler()
    whole = [reassembler.add_v6(fragment, 0.0) for fragment in fragments][-1]
    assert whole is not None
    return whole.packet


# Fragments.


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_ipv4_fragments_reach_the_backend_under_their_identification(talk: Talk, order: slice) -> None:
    data = bytes(range(256)) * 8
    outcome: list[bytes] = []
    for fragment in fragment_v4(talk.from_client(data, id=0xBEEF), 600)[order]:
        outcome += talk.receive(fragment)
    parsed = [ipv6.find_upper_layer(part, ipv6.parse(part)).fragment for part in outcome]
    assert [part.identification if part else None for part in parsed] == [0xBEEF, 0xBEEF]
    assert max(map(len, outcome)) <= 1280
    assert reassemble_v6(outcome)[60:] == data


def test_ipv6_fragments_reach_the_client_with_df_clear_under_the_low_half_of_their_identification(talk: Talk) -> None:
    outcome: list[bytes] = []
    for fragment in fragment_v6(talk.from_backend(bytes(1400)), 1280, 0xABCD1234):
        outcome += talk.receive(fragment)
    (packet,) = outcome
    header = ipv4.parse(packet)
    assert (header.identification, header.dont_fragment, header.more_fragments) == (0x1234, False, False)
    assert tcp_checksum_holds(packet)


def test_an_ipv6_datagram_too_long_for_the_ipv4_link_is_cut_for_it() -> None:
    talk = Talk("ipv4_mtu = 1300", mss=1260)
    outcome: list[bytes] = []
    for fragment in fragment_v6(talk.from_backend(bytes(1400)), 1280, 0xABCD1234):
        outcome += talk.receive(fragment)
    assert [(len(part) <= 1300, ipv4.parse(part).identification) for part in outcome] == [(True, 0x1234)] * 2


# ICMP from either side.


def test_an_error_from_the_ipv4_side_reaches_the_backend_as_its_own_affair(talk: Talk) -> None:
    header, message = icmp_v6(talk.receive(error_v4(3, 1, talk.seen_by_client(bytes(100)))))
    assert (header.src, header.dst) == (packed("2001:db8:46::203.0.113.9"), packed(BACKEND6))
    assert (message.type, message.code) == (1, 0)
    inner = ipv6.parse(message.body)
    assert (inner.src, inner.dst) == (packed(BACKEND6), packed(MAPPED6))
    assert int.from_bytes(message.body[44:48], "big") == talk.backend_seq
    assert tcp_checksum_holds(message.body)


def test_an_error_from_the_ipv6_side_reaches_the_client_as_its_own_affair(talk: Talk) -> None:
    header, message = icmp_v4(talk.receive(error_v6(1, 0, talk.seen_by_backend(bytes(100)))))
    assert (header.src, header.dst) == (packed(SERVICE4), packed(CLIENT4))
    assert (message.type, message.code) == (3, 1)
    inner = ipv4.parse(message.body)
    assert (inner.src, inner.dst) == (packed(CLIENT4), packed(SERVICE4))
    assert int.from_bytes(message.body[24:28], "big") == talk.client_seq
    assert tcp_checksum_holds(message.body)


def test_an_ipv6_router_is_shown_as_one_of_the_addresses_set_aside_always_the_same() -> None:
    talk = Talk('router_sources = ["203.0.113.1", "203.0.113.2"]')
    allowed = {packed("203.0.113.1"), packed("203.0.113.2")}
    sources = [icmp_v4(talk.receive(error_v6(3, 0, talk.seen_by_backend(), src=ROUTER6)))[0].src for _ in range(3)]
    other = icmp_v4(talk.receive(error_v6(3, 0, talk.seen_by_backend(), src="2001:db8:2::2")))[0].src
    assert {*sources} < allowed
    assert {*sources, other} == allowed


def test_an_error_of_the_backends_own_comes_from_the_service() -> None:
    talk = Talk('router_sources = ["203.0.113.1"]')
    header, _ = icmp_v4(talk.receive(error_v6(1, 4, talk.seen_by_backend(), src=BACKEND6)))
    assert header.src == packed(SERVICE4)


@pytest.mark.parametrize(("kind", "code"), [(0, 0), (4, 0), (5, 1), (9, 0), (10, 0), (13, 0), (15, 0), (17, 0), (40, 0)])
def test_other_icmp_is_dropped_in_silence(talk: Talk, kind: int, code: int) -> None:
    assert talk.receive(error_v4(kind, code, talk.seen_by_client(bytes(100)))) == []


@pytest.mark.parametrize("kind", [129, 130, 131, 132, 133, 134, 135, 136, 137, 200])
def test_other_icmpv6_is_dropped_in_silence(talk: Talk, kind: int) -> None:
    assert talk.receive(error_v6(kind, 0, talk.seen_by_backend(bytes(100)))) == []


def test_an_error_about_no_flow_is_dropped_in_silence(talk: Talk) -> None:
    nobody = bytes(IP(src=SERVICE4, dst="192.0.2.99") / TCP(sport=443, dport=40000, seq=1, flags="A"))
    assert talk.receive(error_v4(3, 1, nobody)) == []
    assert list(talk.events())[-1] == "no_flow"


def test_no_error_refreshes_a_flow_or_changes_its_state(talk: Talk) -> None:
    assert talk.flow.splice is not None
    before = (talk.flow.state, talk.flow.splice.last_seen, talk.flow.fast)
    talk.conversation.now += 100
    for code in range(16):
        talk.receive(error_v4(3, code, talk.seen_by_client()))
    for code in range(8):
        talk.receive(error_v6(1, code, talk.seen_by_backend()))
    assert (talk.flow.state, talk.flow.splice.last_seen, talk.flow.fast) == before
    assert len(talk.engine.flows) == 1


def test_nothing_comes_from_inside_the_prefix(talk: Talk) -> None:
    assert talk.receive(bytes(IPv6(src="2001:db8:46::192.0.2.8", dst=MAPPED6) / TCP(sport=443, dport=40000, flags="S"))) == []
    assert list(talk.events())[-1] == "illegal_source"


def test_no_icmpv6_comes_from_inside_the_prefix(talk: Talk) -> None:
    assert talk.receive(error_v6(1, 0, talk.seen_by_backend(), src="2001:db8:46::192.0.2.8")) == []
    assert list(talk.events())[-1] == "illegal_source"


# Path MTUs.


def test_a_reported_mtu_shapes_the_offer_for_ten_minutes(talk: Talk) -> None:
    talk.receive(error_v6(2, 0, talk.seen_by_backend(bytes(1000)), rest=1340))
    assert talk.offered_mss() == 1280
    talk.conversation.now += 599
    assert talk.offered_mss() == 1280
    talk.conversation.now += 2
    assert talk.offered_mss() == 1440


@pytest.mark.parametrize("seq_offset", [-1, (1 << 24) + 1])
def test_an_mtu_about_what_cannot_be_under_way_is_not_learnt(talk: Talk, seq_offset: int) -> None:
    talk.receive(talk.from_backend())  # acknowledges all the client has sent
    talk.receive(error_v6(2, 0, talk.seen_by_backend(bytes(1000), seq_offset), rest=1340))
    assert talk.offered_mss() == 1440


def test_packet_too_big_and_fragmentation_needed_cross_with_twenty_bytes_between_them(talk: Talk) -> None:
    _, to_client = icmp_v4(talk.receive(error_v6(2, 0, talk.seen_by_backend(bytes(1000)), rest=1400)))
    assert (to_client.type, to_client.code, to_client.rest) == (3, 4, 1380)
    _, to_backend = icmp_v6(talk.receive(error_v4(3, 4, talk.seen_by_client(bytes(1000)), rest=1300)))
    assert (to_backend.type, to_backend.code, to_backend.rest) == (2, 0, 1320)


def test_an_ipv4_path_below_1260_is_told_as_1280(talk: Talk) -> None:
    _, message = icmp_v6(talk.receive(error_v4(3, 4, talk.seen_by_client(bytes(1000)), rest=1000)))
    assert message.rest == 1280


# What we say ourselves.


def test_udp_to_a_service_is_answered_with_port_unreachable(talk: Talk) -> None:
    header, message = icmp_v4(talk.receive(bytes(IP(src=CLIENT4, dst=SERVICE4, proto=17) / Raw(bytes(20)))))
    assert (message.type, message.code) == (3, 3)
    assert (header.src, header.dst) == (packed(SERVICE4), packed(CLIENT4))


def test_another_protocol_to_a_service_is_answered_with_protocol_unreachable(talk: Talk) -> None:
    _, message = icmp_v4(talk.receive(bytes(IP(src=CLIENT4, dst=SERVICE4, proto=33) / Raw(bytes(20)))))
    assert (message.type, message.code) == (3, 2)


def test_an_echo_request_to_a_service_is_answered(talk: Talk) -> None:
    header, message = icmp_v4(talk.receive(error_v4(8, 0, b"ping", rest=0x00070001, src=CLIENT4)))
    assert (message.type, message.code, message.rest, message.body) == (0, 0, 0x00070001, b"ping")
    assert (header.src, header.dst) == (packed(SERVICE4), packed(CLIENT4))


def test_an_echo_request_to_a_services_address_in_the_prefix_is_answered(talk: Talk) -> None:
    header, message = icmp_v6(talk.receive(error_v6(128, 0, b"ping", rest=0x00070001, src=BACKEND6, dst=SERVICE6)))
    assert (message.type, message.rest, message.body) == (129, 0x00070001, b"ping")
    assert (header.src, header.dst) == (packed(SERVICE6), packed(BACKEND6))


def test_what_we_say_ourselves_is_rate_limited(talk: Talk) -> None:
    request = error_v4(8, 0, b"ping", src=ROUTER4)
    assert sum(len(talk.receive(request)) for _ in range(200)) == 50
    assert "rate_limited" in list(talk.events())


def test_the_first_fragments_sender_hears_when_the_rest_never_came(talk: Talk) -> None:
    first, _ = fragment_v4(talk.from_client(bytes(1000), id=9), 700)
    assert talk.receive(first) == []
    sent = [bytes(packet)[10:] for packet in talk.engine.handle_timer(talk.conversation.now + 15.1)]
    _, message = icmp_v4(sent)
    assert (message.type, message.code) == (11, 1)


# RSTs and idle flows.


@pytest.mark.parametrize(("offset", "state"), [(0, "transitory"), (1 << 24, "transitory"), ((1 << 24) + 1, "established")])
def test_a_rst_counts_only_where_it_could_be_its_senders_own(talk: Talk, offset: int, state: str) -> None:
    talk.receive(talk.from_backend())
    talk.client_seq += offset
    assert len(talk.receive(talk.from_client(flags="R"))) == 1
    assert talk.flow.state == state


def test_an_idle_flow_is_probed_on_both_sides_and_then_reset(talk: Talk) -> None:
    sent = [bytes(packet)[10:] for packet in talk.engine.handle_timer(talk.conversation.now + 7440.1)]
    assert sorted(packet[0] >> 4 for packet in sent) == [4, 6]
    assert talk.flow.state == "probing"
    sent = [bytes(packet)[10:] for packet in talk.engine.handle_timer(talk.conversation.now + 7440.1 + 240.1)]
    assert sorted(packet[0] >> 4 for packet in sent) == [4, 6]
    assert len(talk.engine.flows) == 0
