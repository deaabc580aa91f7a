"""Every fuzz target by name: what plays one input to it, what it begins with, and inputs that once were findings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import engine_target
import peek_targets
import wire_targets

CORPUS: Final = Path(__file__).parent / "corpus"


@dataclass(frozen=True, slots=True)
class Target:
    """`play` takes one input and returns how often it called what is under test; whatever it raises is a finding."""

    play: Callable[[bytes], int]
    seeds: Callable[[], list[bytes]]
    max_bytes: int = 4096


TARGETS: Final = {
    "ipv4": Target(wire_targets.play_ipv4, wire_targets.seeds_ipv4, 128),
    "ipv6": Target(wire_targets.play_ipv6, wire_targets.seeds_ipv6, 256),
    "tcp": Target(wire_targets.play_tcp, wire_targets.seeds_tcp, 128),
    "icmp": Target(wire_targets.play_icmp, wire_targets.seeds_icmp, 256),
    "vnet": Target(wire_targets.play_vnet, wire_targets.seeds_vnet, 16),
    "tls": Target(peek_targets.play_tls, peek_targets.seeds_tls),
    "http": Target(peek_targets.play_http, peek_targets.seeds_http),
    "auto": Target(peek_targets.play_auto, peek_targets.seeds_auto),
    "engine": Target(engine_target.play, engine_target.seeds, 2048),
}


def findings(name: str) -> list[bytes]:
    """The inputs of `name` that have once found something, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
