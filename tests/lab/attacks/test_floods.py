"""Floods of packets that nobody waits for an answer to: visitors do not feel them (RFC 4987 §2, RFC 4953 §2)."""

from collections.abc import Iterator
from random import Random

import pytest
from attackers import (
    ATTACKER_V4,
    BACKEND_NETWORK_V6,
    CLIENT_V4,
    MIB,
    ORIGIN_1_V6,
    PREFIX_V6,
    SECONDS,
    SERVICE_V4,
    Siege,
    link_counts,
)

from kracauer.lab import attacks, flood
from kracauer.lab.processes import BackgroundProcess
from kracauer.replies import Endpoints

pytestmark = pytest.mark.lab

RATE = 10_000
RESETS_PER_SECOND, RESET_BURST = 500, 1000
# Two of the backends are none, and are found out (attackers.HOSTS).
OUR_OWN = {"flow_spliced", "flow_closed", "profile_learnt", "backend_down"}


def spoofed(random: Random, count: int = 30_000, port: int = 80) -> Iterator[Endpoints]:
    return attacks.spoofed(random, count, SERVICE_V4, port)


def test_a_flood_of_syns_from_everywhere_keeps_nobody_out(siege: Siege) -> None:
    random = Random(1)
    packets = list(attacks.syns(random, spoofed(random, 100_000)))
    before = link_counts(siege.lab.attacker)
    floods: list[BackgroundProcess] = []

    def attack() -> list[BackgroundProcess]:
        floods.append(siege.flood(packets, 20_000, 5.6))
        return floods

    damage = siege.withstand(attack, 5.0)
    damage.check_visitors()
    damage.check_daemon(most_bytes=16 * MIB)
    sent = flood.outcome(floods[0])
    assert sent.per_second > 15_000, "the attacker was too slow for this to prove anything"
    after = link_counts(siege.lab.attacker)
    answers = after["received"] - before["received"]
    assert 0.9 * sent.sent < answers < sent.sent + 1000
    # Neighbour discovery is in these, too
    assert after["received_bytes"] - before["received_bytes"] < 1.01 * (after["sent_bytes"] - before["sent_bytes"])
    assert set(damage.events) <= OUR_OWN, damage
    assert siege.unproven_flows() == 0
    assert damage.events["flow_spliced"] == len(damage.visits.latencies_s), damage


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        pytest.param(attacks.ACK, "bad_cookie", id="ack"),
        pytest.param(attacks.RST, "no_flow", id="rst"),
        pytest.param(attacks.SYN_ACK, "illegal_flags", id="syn-ack"),
    ],
)
def test_a_flood_of_segments_of_no_connection_keeps_nobody_out(siege: Siege, flags: int, reason: str) -> None:
    random = Random(2)
    packets = list(attacks.segments(random, spoofed(random), flags, b"x" * 100))
    before = link_counts(siege.lab.attacker)
    damage = siege.withstand(lambda: [siege.flood(packets, RATE)])
    damage.check_visitors()
    damage.check_daemon()
    assert damage.dropped[reason] > RATE * SECONDS / 2, damage
    after = link_counts(siege.lab.attacker)
    assert after["received"] - before["received"] < RESET_BURST + (SECONDS + 4) * RESETS_PER_SECOND
    assert set(damage.events) <= OUR_OWN, damage
    assert siege.unproven_flows() == 0


def test_a_flood_to_a_port_where_nobody_listens_keeps_nobody_out(siege: Siege) -> None:
    random = Random(3)
    packets = list(attacks.segments(random, spoofed(random, port=81), attacks.ACK, b"x" * 100))
    before = link_counts(siege.lab.attacker)
    damage = siege.withstand(lambda: [siege.flood(packets, RATE)])
    damage.check_visitors()
    damage.check_daemon()
    assert damage.dropped["no_listener"] > RATE * SECONDS / 2, damage
    after = link_counts(siege.lab.attacker)
    assert after["received"] - before["received"] < RESET_BURST + (SECONDS + 4) * RESETS_PER_SECOND


@pytest.mark.parametrize(
    ("source", "flags"),
    [
        pytest.param(ORIGIN_1_V6, attacks.SYN_ACK, id="syn-acks of a backend"),
        pytest.param(BACKEND_NETWORK_V6, attacks.SYN_ACK, id="syn-acks of strangers"),
    ],
)
def test_a_flood_from_the_backends_side_keeps_nobody_out(siege: Siege, source: bytes, flags: int) -> None:
    random = Random(4)
    ends = [next(attacks.mapped_clients(random, 1, PREFIX_V6, attacks.random_v6(random, source), 80)) for _ in range(30_000)]
    packets = list(attacks.segments(random, ends, flags))
    before = siege.counters()["packets_written"]
    damage = siege.withstand(lambda: [siege.flood(packets, RATE, end="origin2")])
    damage.check_visitors()
    damage.check_daemon()
    assert damage.dropped["no_flow"] > RATE * SECONDS / 2, damage
    answers = (
        siege.counters()["packets_written"] - before - 30 * (len(damage.visits.latencies_s) + len(damage.quiet.latencies_s))
    )
    assert answers < RESET_BURST + (SECONDS + 4) * RESETS_PER_SECOND
    assert set(damage.events) <= OUR_OWN, damage
    assert siege.unproven_flows() == 0


def test_a_flood_of_guesses_at_a_cookie_keeps_nobody_out(siege: Siege) -> None:
    random = Random(5)
    ends = Endpoints(ATTACKER_V4, SERVICE_V4, 40_000, 80)
    packets = list(attacks.guesses(random, ends, 50_000))
    damage = siege.withstand(lambda: [siege.flood(packets, RATE)])
    damage.check_visitors()
    damage.check_daemon()
    assert damage.dropped["bad_cookie"] > RATE * SECONDS / 2, damage


def test_guesses_at_a_cookie_in_a_visitors_name_do_not_disturb_its_connection(siege: Siege) -> None:
    random = Random(6)
    talk = siege.talk()
    ends = Endpoints(CLIENT_V4, SERVICE_V4, talk.port, 80)
    packets: list[bytes] = []
    for _ in range(2000):
        seq = random.getrandbits(32)
        packets += attacks.injections(random, ends, attacks.SYN, [range(seq, seq + 1)], 1)
        packets += attacks.injections(random, ends, attacks.ACK, [range(seq + 1, seq + 2)], 19, b"x" * 100)
    with siege.in_background(talk.go_on):
        damage = siege.withstand(lambda: [siege.flood(packets, 5000)])
    damage.check_visitors()
    damage.check_daemon()
    talk.ask()


def test_a_scan_of_all_ports_keeps_nobody_out(siege: Siege) -> None:
    packets = list(attacks.port_scan(Random(7), ATTACKER_V4, SERVICE_V4))
    before = link_counts(siege.lab.attacker)
    damage = siege.withstand(lambda: [siege.flood(packets, 22_000)])
    damage.check_visitors()
    damage.check_daemon()
    assert damage.dropped["no_listener"] > len(packets) / 2, damage
    after = link_counts(siege.lab.attacker)
    assert after["received"] - before["received"] < RESET_BURST + (SECONDS + 4) * RESETS_PER_SECOND
