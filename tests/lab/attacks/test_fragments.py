"""Floods of fragments: whole packets pass beside them (RFC 5722 §4, RFC 8200 §4.5, RFC 6274 §4.1)."""

from collections.abc import Iterator, Sequence
from random import Random

import pytest
from attackers import ATTACKER_V4, MAPPED_V6, MIB, ORIGIN_2_V6, SERVICE_V4, Siege

from kracauer.lab import attacks

pytestmark = pytest.mark.lab

RATE = 10_000
DATAGRAMS = 4000
# What reassembly may hold for a family (4 MiB), and what its measure may be off by
MOST_BYTES = 2 * 4 * MIB + 16 * MIB

SHAPES = {
    "never-completed": ([(0, 1400)], "fragments_full"),
    "later-ones-alone": ([(1400, 1400)], "fragments_full"),
    "overlapping": ([(0, 800), (400, 800), (1200, 400)], "fragment_overlap"),
    "tiny": ([(0, 8), (8, 8), (16, 8)], "fragment_tiny"),
    "in-many-pieces": (attacks.pieces_of(1600, 8)[3:], "fragments_full"),
}


def sources_v4(random: Random, is_one: bool) -> Iterator[bytes]:
    for _ in range(DATAGRAMS):
        yield ATTACKER_V4 if is_one else attacks.random_v4(random)


def sources_v6(random: Random, is_one: bool) -> Iterator[bytes]:
    for _ in range(DATAGRAMS):
        yield ORIGIN_2_V6 if is_one else attacks.random_v6(random, ORIGIN_2_V6[:8])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_flood_of_ipv4_fragments_keeps_nobody_out(siege: Siege, shape: str) -> None:
    pieces, reason = SHAPES[shape]
    random = Random(1)
    sources = sources_v4(random, shape == "tiny")
    check(siege, list(attacks.fragments_v4(random, sources, SERVICE_V4, pieces)), "attacker", reason)


@pytest.mark.parametrize("shape", ["never-completed", "overlapping"])
def test_a_flood_of_ipv6_fragments_keeps_nobody_out(siege: Siege, shape: str) -> None:
    pieces, reason = SHAPES[shape]
    random = Random(2)
    sources = sources_v6(random, shape == "never-completed")
    check(siege, list(attacks.fragments_v6(random, sources, MAPPED_V6, pieces)), "origin2", reason)


def check(siege: Siege, packets: Sequence[bytes], end: str, reason: str) -> None:
    damage = siege.withstand(lambda: [siege.flood(packets, RATE, end=end)])
    damage.check_visitors()
    damage.check_daemon(most_bytes=MOST_BYTES)
    assert damage.dropped[reason] > RATE / 10, damage
