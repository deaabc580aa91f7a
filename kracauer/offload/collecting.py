"""Carrying over into a flow's record what a fast path has counted of it."""

from typing import Final, NamedTuple

from kracauer.fast_path import Carried
from kracauer.offload.layout import CARRIED, COLLECTED, COLLECTED_AT
from kracauer.tcp.record import (
    MAKES_TIMESTAMPS,
    WRITE_TO_BACKEND,
    WRITE_TO_BACKEND_AT,
    WRITE_TO_CLIENT,
    WRITE_TO_CLIENT_AT,
    Memory,
)
from kracauer.tcp.splice import Splice

LEASE_S: Final = 600.0  # how long packets are still taken after the last sweep
NANOSECONDS: Final = 1_000_000_000


class Gain(NamedTuple):
    """What one direction has carried since it was last asked; `acked` and `last_seen` (s) are of the latest packet."""

    packets: int
    bytes: int
    acked: int
    last_seen: float


def is_suited(splice: Splice) -> bool:
    """Whether a fast path can do all that this splice does: timestamps are made in userspace alone."""
    return not splice.constants.kind & MAKES_TIMESTAMPS


def add_to_backend(splice: Splice, gain: Gain) -> None:
    """Have the record say that this, too, went to the backend."""
    at = splice.at + WRITE_TO_BACKEND_AT
    _, packets, size, last_seen = WRITE_TO_BACKEND.unpack_from(splice.memory, at)
    last_seen = max(last_seen, gain.last_seen)
    WRITE_TO_BACKEND.pack_into(splice.memory, at, gain.acked, packets + gain.packets, size + gain.bytes, last_seen)


def add_to_client(splice: Splice, gain: Gain) -> None:
    """Likewise to the client."""
    at = splice.at + WRITE_TO_CLIENT_AT
    last_seen, _, packets, size = WRITE_TO_CLIENT.unpack_from(splice.memory, at)
    last_seen = max(last_seen, gain.last_seen)
    WRITE_TO_CLIENT.pack_into(splice.memory, at, last_seen, gain.acked, packets + gain.packets, size + gain.bytes)


def carry_over(traffic: Memory | memoryview, at: int, splice: Splice, carried: Carried) -> None:
    """Have the record, and `carried`, say what the kernel has counted at `at` since this was done last."""
    for part, add in ((at, add_to_backend), (at + CARRIED.size, add_to_client)):
        packets, size, last_seen, acked, packets_before, size_before = CARRIED.unpack_from(traffic, part)
        if packets != packets_before:
            add(splice, Gain(packets - packets_before, size - size_before, acked, last_seen / NANOSECONDS))
            carried.add(packets - packets_before, size - size_before)
            COLLECTED.pack_into(traffic, part + COLLECTED_AT, packets, size)
