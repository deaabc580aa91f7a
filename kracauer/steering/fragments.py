"""Fragments on their way to the worker that has the flow: the first one tells its ports, the others wait for it.

They are handed on as they came, and put together where they arrive (`kracauer.translate.fragments`). What is kept here is
bounded in time, number and bytes; the oldest datagram gives way.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from kracauer.errors import ParseError
from kracauer.steering.flows import find_worker_of_datagram
from kracauer.wire import ipv4, ipv6
from kracauer.wire.buffer import Buffer

TIMEOUT_S: Final = 15.0  # as long as it is put together
MAX_DATAGRAMS: Final = 1024
MAX_BYTES: Final = 1 << 20

_V4: Final = b"\x04"
_V6: Final = b"\x06"


class Directed(NamedTuple):
    """A fragment, and the worker it belongs to."""

    worker: int
    fragment: bytes


class _Datagram:
    """What is known of one: its worker, or until then the fragments that wait."""

    __slots__ = ("began", "held_bytes", "waiting", "worker")

    def __init__(self, now: float) -> None:
        self.began = now
        self.held_bytes = 0
        self.waiting: list[bytes] = []
        self.worker: int | None = None


class FragmentSteering:
    """Directs fragments among so many `workers`. `lost` counts those given up; the reader may set it to 0."""

    def __init__(self, workers: int) -> None:
        self.lost = 0
        self._workers = workers
        self._held_bytes = 0
        self._datagrams: OrderedDict[bytes, _Datagram] = OrderedDict()

    def receive(self, fragment: bytes, now: float, *, behind: bytes = b"") -> list[Directed]:
        """Take a fragment; returns those that can go on now, in the order in which they came.

        `behind` is what lies before the packet in what is handed on. A packet that is no fragment after all goes to worker 0.
        """
        self._expire(now)
        whole = behind + fragment
        try:
            key, is_first = _describe(fragment)
        except ParseError:
            return [Directed(0, whole)]
        datagram = self._datagrams.get(key)
        if datagram is None:
            datagram = self._datagrams[key] = _Datagram(now)
            if len(self._datagrams) > MAX_DATAGRAMS:
                self._drop_oldest()
        if is_first and datagram.worker is None:
            datagram.worker = find_worker_of_datagram(fragment, self._workers)
        if datagram.worker is None:
            self._hold(datagram, whole)
            return []
        released = [*datagram.waiting, whole]
        self._held_bytes -= datagram.held_bytes
        datagram.held_bytes, datagram.waiting = 0, []
        return [Directed(datagram.worker, each) for each in released]

    def _hold(self, datagram: _Datagram, fragment: bytes) -> None:
        datagram.waiting.append(fragment)
        datagram.held_bytes += len(fragment)
        self._held_bytes += len(fragment)
        while self._held_bytes > MAX_BYTES:
            self._drop_oldest()

    def _expire(self, now: float) -> None:
        while self._datagrams and now - next(iter(self._datagrams.values())).began > TIMEOUT_S:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, oldest = self._datagrams.popitem(last=False)
        self._held_bytes -= oldest.held_bytes
        self.lost += len(oldest.waiting)


def _describe(fragment: Buffer) -> tuple[bytes, bool]:
    """What all fragments of the datagram have in common, and whether this is the first; raises ParseError."""
    if fragment and fragment[0] >> 4 == 6:
        header = ipv6.parse(fragment)
        found = ipv6.find_upper_layer(fragment, header).fragment
        if found is None:
            raise ParseError("IPv6: no fragment")
        # Of IPv6 the next header does not tell datagrams apart (RFC 8200 §4.5).
        return _V6 + header.src + header.dst + found.identification.to_bytes(4, "big"), not found.fragment_offset
    v4 = ipv4.parse(fragment)
    number = v4.identification.to_bytes(2, "big") + bytes((v4.protocol,))
    return _V4 + v4.src + v4.dst + number, not v4.fragment_offset
