"""One process's part in the answering of SYNs by the program: its offers, its known flows, and for how long it is answered."""

import errno
import os
from typing import Final

from kracauer.fast_path import Carried, Promises
from kracauer.offload import bpf
from kracauer.offload.answering import (
    ANSWERED,
    ANSWERED_UNTIL,
    ANSWERING,
    ANSWERS_S,
    GUESSES_PER_SWEEP,
    LISTENER,
    LISTENERS,
    SPARE,
    SPARE_AT,
    STEPS_BYTES,
    KnownFlows,
    build_answering,
    build_listeners,
    counters_for,
)
from kracauer.offload.clock import ahead_ns
from kracauer.offload.collecting import NANOSECONDS

_MAPS: Final = ("answering", "answered", "known_flows")


class Answers:
    """What worker `number` has in the maps for it, each of which has a part for every worker; `capacity` flows are its own."""

    def __init__(self, maps: dict[str, bpf.Map], number: int, capacity: int) -> None:
        self._number = number
        self._map = maps["listeners"]
        self._memories = [maps[name].map_memory() for name in _MAPS]
        sizes = (ANSWERING.size, ANSWERED.size, counters_for(capacity))
        self._parts = [
            memoryview(memory)[number * size : (number + 1) * size] for memory, size in zip(self._memories, sizes, strict=True)
        ]
        self._answering, self._answered, self._counters = self._parts
        self._listeners: dict[bytes, bytes] = {}
        self._is_answering = False
        self.known = KnownFlows(self._counters, os.urandom(STEPS_BYTES))
        self._seen = self._count()

    def reclaim(self) -> None:
        """Begin anew where a predecessor has left off: nothing is answered by what it knew."""
        self.stop()
        self._counters[:] = bytes(len(self._counters))
        own = ((key, value) for key, value in self._map.items() if LISTENER.unpack(key)[2] == self._number)
        self._listeners = dict(own)

    def promise(self, promises: Promises) -> int:
        """Answer by these from now on; returns 0, or the errno for which nothing is answered."""
        entries = build_listeners(promises, self._number)
        self._answering[:] = build_answering(promises.secret, self.known, ahead_ns())
        self._is_answering = False
        problem = 0
        try:
            for key in self._listeners.keys() - entries.keys():
                self._map.delete(key)
                del self._listeners[key]
            if len(entries) > LISTENERS:
                raise OSError(errno.E2BIG, "too many listeners")
            for key, value in entries.items():
                if self._listeners.get(key) != value:
                    self._map.update(key, value)
                    self._listeners[key] = value
            self._is_answering = bool(promises.listeners)
        except OSError as error:
            problem = error.errno or errno.EIO
        if not self._is_answering:
            self.stop()
        return problem

    def renew(self, now: float) -> None:
        """Have SYNs answered for three seconds more, if there is something to promise."""
        if self._is_answering:
            SPARE.pack_into(self._answered, SPARE_AT, GUESSES_PER_SWEEP)
            ANSWERED_UNTIL.pack_into(self._answered, 0, int((now + ANSWERS_S) * NANOSECONDS) - ahead_ns())

    def stop(self) -> None:
        """Leave all SYNs to the process, at once."""
        ANSWERED_UNTIL.pack_into(self._answered, 0, 0)

    def collect(self, carried: Carried) -> None:
        """Add to `carried` how many have been answered, and how many guesses kept away, since this was last asked."""
        (syns, guesses), self._seen = self._seen, self._count()
        carried.syns += self._seen[0] - syns
        carried.guesses += self._seen[1] - guesses

    def close(self) -> None:
        """Leave all SYNs to whoever comes, and let go of the memory."""
        self.stop()
        for part in self._parts:
            part.release()
        for memory in self._memories:
            memory.close()

    def _count(self) -> tuple[int, int]:
        _, syns, _, guesses = ANSWERED.unpack_from(self._answered)
        return syns, guesses
