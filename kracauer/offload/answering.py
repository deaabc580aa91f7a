"""What the program answers SYNs by, as syns.bpf.h has it: offers, the key of the cookies, and which flows there may be."""

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

from kracauer.fast_path import Promise, Promises
from kracauer.offload import midstate
from kracauer.tcp.cookie import DIGEST_BYTES
from kracauer.tcp.terms import encode_scale

ANSWERS_S: Final = 3.0  # how long SYNs are still answered after the last sweep
LISTENERS: Final = 4096  # as many as all listeners and their addresses together may be
# By how many counters a flow may be missed: with all places of the table taken, one SYN in sixteen goes to the process for it.
_COUNTERS_PER_FLOW: Final = 16

LISTENER: Final = struct.Struct("=4s2sH")
OFFER: Final = struct.Struct("=HHHBB")
ANSWERING: Final = struct.Struct("=8Q4QI4xq")
# Until when (ns), and how many have been; how many guesses the process is still to be shown, and how many it was not shown.
ANSWERED: Final = struct.Struct("=QQqQ32x")
ANSWERED_UNTIL: Final = struct.Struct("=Q")
SPARE: Final = struct.Struct("=q")
SPARE_AT: Final = 16
# So many segments a second that belong to nothing may come to the process: it has an answer for some, see `engine.strays`.
GUESSES_PER_SWEEP: Final = 1000
KNOWN_BYTES: Final = 8

_SACK, _TIMESTAMPS, _ECN, _SCALE = 1, 2, 4, 8
_KEY: Final = struct.Struct("=III")
_STEPS: Final = struct.Struct("=4Q")
STEPS_BYTES: Final = _STEPS.size
_MASK: Final = 0xFFFFFFFFFFFFFFFF
_MOST: Final = 255

Counters: TypeAlias = memoryview | bytearray


def build_listeners(promises: Promises, worker: int = 0) -> dict[bytes, bytes]:
    """What the map of listeners is to hold: an offer for each, and the service addresses by themselves, with port 0."""
    entries = {LISTENER.pack(address, bytes(2), worker): bytes(OFFER.size) for address in promises.service_addresses}
    for (address, port), promise in promises.listeners.items():
        entries[LISTENER.pack(address, port.to_bytes(2, "big"), worker)] = _build_offer(promise)
    return entries


def _build_offer(promise: Promise) -> bytes:
    offer = promise.offer
    grants = offer.sack * _SACK | offer.timestamps * _TIMESTAMPS | offer.ecn * _ECN
    grants |= (offer.window_scale is not None) * _SCALE
    return OFFER.pack(offer.mss, promise.cut_mss, offer.window, encode_scale(offer.window_scale), grants)


def build_answering(secret: bytes, known: "KnownFlows", ahead_ns: int = 0) -> bytes:
    """By what cookies are baked, and flows looked for; `ahead_ns` is how far our clock is of the kernel's."""
    return ANSWERING.pack(*midstate.keyed_state(secret, DIGEST_BYTES), *known.steps, known.shift, ahead_ns)


def counters_for(capacity: int) -> int:
    """How many counters so many flows are given: a power of two."""
    return 1 << max(capacity * _COUNTERS_PER_FLOW - 1, KNOWN_BYTES - 1).bit_length()


class KnownFlows:
    """Counts flows by a hash of their client's key: none that is here has a counter that is 0 (a counting Bloom filter).

    A counter that has come to 255 stays there. The hash is keyed with 32 random bytes, so that nobody can tell which other
    connections share a counter with his. `counters` are a power of two.
    """

    __slots__ = ("_counters", "_step_0", "_step_1", "_step_2", "_step_3", "shift")

    def __init__(self, counters: Counters, random: bytes) -> None:
        self._counters = counters
        self.shift = 65 - len(counters).bit_length()
        self._step_0, self._step_1, self._step_2, self._step_3 = _STEPS.unpack(random)

    @property
    def steps(self) -> Sequence[int]:
        """What the hash is keyed with."""
        return self._step_0, self._step_1, self._step_2, self._step_3

    def __contains__(self, key: bytes) -> bool:
        return self._counters[self._index(key)] != 0

    def add(self, key: bytes) -> None:
        """Count the flow of this client's key."""
        index = self._index(key)
        count = self._counters[index]
        if count != _MOST:
            self._counters[index] = count + 1

    def discard(self, key: bytes) -> None:
        """Take one `add` back."""
        index = self._index(key)
        count = self._counters[index]
        if 0 < count < _MOST:
            self._counters[index] = count - 1

    def _index(self, key: bytes) -> int:
        first, second, third = _KEY.unpack(key)
        number: int = self._step_0 + self._step_1 * first + self._step_2 * second + self._step_3 * third
        return (number & _MASK) >> self.shift
