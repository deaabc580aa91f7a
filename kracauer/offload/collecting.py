"""Carrying over into a flow's record what a fast path has counted of it."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from kracauer.fast_path import Carried
from kracauer.offload.clock import ahead_ns
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
from kracauer.tcp.state import BY_CODE, CODES, Happening, State, next_state

LEASE_S: Final = 600.0  # how long packets are still taken after the last sweep
NANOSECONDS: Final = 1_000_000_000
# In all others a FIN is for the engine to judge, which has taken the flow away before it came to them.
_CARRIED_STATES: Final = frozenset((State.ESTABLISHED, State.CLIENT_FIN, State.BACKEND_FIN))


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


def add_fins(splice: Splice, client_fin_seen: float, backend_fin_seen: float) -> bool:
    """Have the record say that these FINs have passed, as `Flow.advance` does; 0 for one that has not, again is no error.

    Returns whether the state is another one now, which counts from the FIN on that has led there.
    """
    before = splice.state
    for seen, happening in ((client_fin_seen, Happening.CLIENT_FIN), (backend_fin_seen, Happening.BACKEND_FIN)):
        state = BY_CODE.get(splice.state)
        if not seen or state not in _CARRIED_STATES:
            continue
        following = next_state(state, happening)
        if following is not state:
            splice.state_since = max(splice.state_since, seen)
            splice.state = CODES[following]
    return splice.state != before


def in_order(moved: Iterable[Splice]) -> list[Splice]:
    """These in the order in which they have come into the states that they are in."""
    return sorted(moved, key=lambda splice: splice.state_since)


def carry_over(traffic: Memory | memoryview, at: int, splice: Splice, carried: Carried) -> bool:
    """Have the record, and `carried`, say what the kernel has counted at `at` since this was done last.

    Returns whether the flow is in another state by that.
    """
    fins, ahead = [], ahead_ns()
    for part, add in ((at, add_to_backend), (at + CARRIED.size, add_to_client)):
        packets, size, last_seen, acked, _, packets_before, size_before, fin_seen = CARRIED.unpack_from(traffic, part)
        fins.append((fin_seen + ahead) / NANOSECONDS if fin_seen else 0.0)
        if packets != packets_before:
            add(splice, Gain(packets - packets_before, size - size_before, acked, (last_seen + ahead) / NANOSECONDS))
            carried.add(packets - packets_before, size - size_before)
            COLLECTED.pack_into(traffic, part + COLLECTED_AT, packets, size)
    return any(fins) and add_fins(splice, *fins)
