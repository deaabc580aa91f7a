"""Packets in somebody else's name, blind to what that one sends: open connections go on (RFC 5961, RFC 5927)."""

import socket
from collections.abc import Sequence
from random import Random
from threading import Event

import pytest
from attackers import (
    ATTACKER_V4,
    CLIENT_V4,
    MAPPED_V6,
    MIB,
    NAME,
    ORIGIN_1_V6,
    ORIGIN_2_V6,
    PREFIX_V6,
    SERVICE_V4,
    Siege,
    Talk,
    offered_mss,
)

from kracauer.lab import attacks, content
from kracauer.lab.transfers import download
from kracauer.replies import Endpoints
from kracauer.wire import icmpv4, icmpv6, tcp

pytestmark = pytest.mark.lab

RATE = 5000
PACKETS = 20_000
LENGTH = 12 * MIB
FAR = 1 << 26  # beyond any window, wherever the connection gets to meanwhile


def outside(seq: int) -> list[range]:
    """Sequence numbers that are in no window of a connection which is at `seq`."""
    return [range(seq + FAR, seq + (1 << 31)), range(seq + (1 << 31), seq + (1 << 32) - FAR)]


def numbers(siege: Siege, talk: Talk) -> tuple[int, int]:
    """Where client and service are on the connection of `talk`, in the client's terms."""
    with siege.lab.client.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as tap:
        tap.settimeout(5)
        talk.ask()
        while True:
            segment = tap.recv(65_535)[20:]
            if int.from_bytes(segment[2:4], "big") == talk.port:
                return int.from_bytes(segment[8:12], "big"), int.from_bytes(segment[4:8], "big")


@pytest.mark.parametrize(
    ("flags", "payload"),
    [
        pytest.param(tcp.RST, b"", id="resets"),
        pytest.param(tcp.ACK, b"x" * 100, id="data"),
        pytest.param(tcp.SYN, b"", id="syns"),
    ],
)
def test_segments_outside_the_window_do_not_disturb_a_transfer(siege: Siege, flags: int, payload: bytes) -> None:
    random = Random(1)
    talk = siege.talk()
    client_seq, service_seq = numbers(siege, talk)
    upward = Endpoints(CLIENT_V4, SERVICE_V4, talk.port, 80)
    downward = Endpoints(ORIGIN_1_V6, MAPPED_V6, 80, talk.port)
    # The backend's own numbers are not known here; most guesses lie outside any window of its
    floods = [
        ("attacker", list(attacks.injections(random, upward, flags, outside(client_seq), PACKETS, payload))),
        ("origin2", list(attacks.injections(random, downward, flags, outside(service_seq), PACKETS, payload))),
    ]
    digests: list[str] = []

    def transfer(_: Event) -> None:
        digests.append(download(talk.connection, NAME, LENGTH, LENGTH // 3))

    with siege.in_background(transfer):
        damage = siege.withstand(lambda: [siege.flood(packets, RATE / 2, end=end) for end, packets in floods])
    damage.check_visitors()
    damage.check_daemon()
    assert digests == [content.digest(LENGTH)]


def errors_v4(random: Random, quoted: Sequence[Endpoints], kind: int, code: int, rest: int = 0) -> list[bytes]:
    sources = (attacks.random_v4(random) for _ in range(PACKETS))
    return list(attacks.icmp_errors_v4(random, sources, quoted, kind, code, rest))


def errors_v6(random: Random, quoted: Sequence[Endpoints], kind: int, code: int, rest: int = 0) -> list[bytes]:
    sources = (attacks.random_v6(random, ORIGIN_2_V6[:8]) for _ in range(PACKETS))
    return list(attacks.icmp_errors_v6(random, sources, quoted, kind, code, rest))


def test_icmp_errors_about_connections_that_are_not_there_keep_nobody_out(siege: Siege) -> None:
    random = Random(2)
    nowhere_v4 = [ends.reversed for ends in attacks.spoofed(random, 1000, SERVICE_V4, 80)]
    nowhere_v6 = [ends.reversed for ends in attacks.mapped_clients(random, 1000, PREFIX_V6, ORIGIN_1_V6, 80)]
    floods = [
        ("attacker", errors_v4(random, nowhere_v4, icmpv4.DESTINATION_UNREACHABLE, 1)),
        ("origin2", errors_v6(random, nowhere_v6, icmpv6.DESTINATION_UNREACHABLE, 0)),
    ]
    damage = siege.withstand(lambda: [siege.flood(packets, RATE, end=end) for end, packets in floods])
    damage.check_visitors()
    damage.check_daemon()
    assert damage.dropped["no_flow"] > RATE, damage


def test_icmp_errors_about_an_open_connection_do_not_disturb_it(siege: Siege) -> None:
    random = Random(3)
    talk = siege.talk()
    quoted_v4 = [Endpoints(SERVICE_V4, CLIENT_V4, 80, talk.port)]
    quoted_v6 = [Endpoints(MAPPED_V6, ORIGIN_1_V6, talk.port, 80)]
    floods = [
        ("attacker", errors_v4(random, quoted_v4, icmpv4.DESTINATION_UNREACHABLE, 3)),
        ("origin2", errors_v6(random, quoted_v6, icmpv6.DESTINATION_UNREACHABLE, 4)),
    ]
    with siege.in_background(talk.go_on):
        damage = siege.withstand(lambda: [siege.flood(packets, RATE / 2, end=end) for end, packets in floods])
    damage.check_visitors()
    damage.check_daemon()


def test_packets_too_big_that_were_made_up_bring_segments_to_1220_bytes_at_worst_and_disturb_nobody(siege: Siege) -> None:
    """Of a connection whose ends are known, as the attacker's own are, but not its numbers; one guess in 4,096 is near them.

    What is learnt is forgotten after ten minutes (engine/test_icmp.py).
    """
    random = Random(4)
    talk = siege.talk()
    before = offered_mss(siege.lab.client)
    quoted_v6 = [Endpoints(MAPPED_V6, ORIGIN_1_V6, talk.port, 80)]
    packets = [
        packet for mtu in (0, 68, 552, 1279, 1280) for packet in errors_v6(random, quoted_v6, icmpv6.PACKET_TOO_BIG, 0, mtu)
    ]
    random.shuffle(packets)
    with siege.in_background(talk.go_on):
        damage = siege.withstand(lambda: [siege.flood(packets, RATE, end="origin2")])
    damage.check_visitors()
    damage.check_daemon()
    assert 1220 <= offered_mss(siege.lab.client) <= before


def test_pings_and_datagrams_of_another_protocol_keep_nobody_out(siege: Siege) -> None:
    random = Random(5)
    sources = [ATTACKER_V4, *(attacks.random_v4(random) for _ in range(5000))]
    packets = list(attacks.datagrams_v4(random, sources, SERVICE_V4, 443, 1200)) + list(attacks.pings_v4(sources, SERVICE_V4))
    random.shuffle(packets)
    damage = siege.withstand(lambda: [siege.flood(packets, 2 * RATE)])
    damage.check_visitors()
    damage.check_daemon()
    assert damage.dropped["not_tcp"] > RATE, damage
    assert damage.dropped["rate_limited"] > RATE, damage
