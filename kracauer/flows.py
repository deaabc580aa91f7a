"""Flows and the table that finds them: by the client's 12 bytes or the backend's 36, cut from the packet as they stand."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from kracauer.replies import Endpoints
from kracauer.routes import Backend, Route
from kracauer.tcp import sequence
from kracauer.tcp.delivery import Delivery
from kracauer.tcp.handshake import Dial, Handshake
from kracauer.tcp.refusal import Refusal
from kracauer.tcp.splice import Splice
from kracauer.tcp.state import CODES, Happening, State, next_state
from kracauer.wire.buffer import PACKET_START, Frame

_CLIENT_KEY: Final = struct.Struct("!4s4sHH")
_BACKEND_KEY: Final = struct.Struct("!16s16sHH")
_SEQ: Final = slice(PACKET_START + 24, PACKET_START + 28)  # behind an IPv4 header without options
# A client whose handshake it is would hit at once, and its next SYN begins anew. Whoever forges both SYN and ACK gets this many
# tries for each SYN, and for all of a cookie's life (RFC 5961 §5 asks for no less than guessing the window).
_MAX_GUESSES: Final = 16
_MAX_SPENT: Final = 64


def client_key(to_service: Endpoints) -> bytes:
    """The table's key for packets from the client: both addresses, both ports, as in the packet (12 bytes)."""
    return _CLIENT_KEY.pack(*to_service)


def backend_key(from_backend: Endpoints) -> bytes:
    """The table's key for packets from the backend, likewise (36 bytes)."""
    return _BACKEND_KEY.pack(*from_backend)


@dataclass(slots=True)
class Renewal:
    """A SYN with the number `isn` may be about to replace a flow; so many forged ACKs have been tried on it.

    `isn` None: a process before this one may have answered such a SYN, whatever its number. `spent` are the guesses at this one
    and those before it, from `since` on.
    """

    isn: int | None
    until: float
    since: float
    spent: int = 0
    guesses: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more is believed of it."""
        return self.guesses >= _MAX_GUESSES or self.spent >= _MAX_SPENT

    def note_guess(self) -> None:
        """Count one that was wrong."""
        self.guesses += 1
        self.spent += 1


class WatchedSplice:
    """The fast path of a flow that a SYN may be about to replace: what could complete that handshake is left alone."""

    __slots__ = ("_next_seq", "_splice", "_until")

    def __init__(self, splice: Splice, isn: int, until: float) -> None:
        self._splice = splice
        self._next_seq = sequence.add(isn, 1).to_bytes(4, "big")
        self._until = until

    def to_backend(self, frame: Frame, now: float) -> memoryview | None:
        """As the splice's, for a packet that begins with 0x45."""
        if frame.buffer[_SEQ] == self._next_seq or now > self._until:
            return None
        return self._splice.to_backend(frame, now)

    def to_client(self, frame: Frame, now: float) -> memoryview | None:
        """As the splice's."""
        return self._splice.to_client(frame, now)


class SharedSplice:
    """The fast path of a flow that another one carries, too, ahead of the engine: what that one left comes here.

    `refresh` has the record say what was carried there, which was before. Carried over later, it would put older acknowledgment
    numbers in the place of these.
    """

    __slots__ = ("_refresh", "_splice")

    def __init__(self, splice: Splice, refresh: Callable[[Splice], None]) -> None:
        self._splice = splice
        self._refresh = refresh

    def to_backend(self, frame: Frame, now: float) -> memoryview | None:
        """As the splice's."""
        self._refresh(self._splice)
        return self._splice.to_backend(frame, now)

    def to_client(self, frame: Frame, now: float) -> memoryview | None:
        """As the splice's."""
        self._refresh(self._splice)
        return self._splice.to_client(frame, now)


class Flow:
    """One connection of a client, from its first valid ACK to its end.

    `from_client` are the endpoints of the client's packets, `from_backend` those of the backend's once one was dialled. Of
    `handshake`, `dial`, `refusal`, `splice` and `delivery` only what the state needs is there. `fast` is what plain packets
    go through that need no look at all: the splice, or what stands before it; else None. There may be hundreds of thousands,
    mostly idle: what a spliced one has to remember stands in its splice's record.
    """

    __slots__ = (
        "backend",
        "backend_key",
        "client_key",
        "created",
        "delivery",
        "dial",
        "fast",
        "handshake",
        "hostname",
        "refusal",
        "renewal",
        "route",
        "splice",
        "state",
        "tick",
    )

    def __init__(self, from_client: Endpoints, handshake: Handshake | None, now: float) -> None:
        self.client_key = client_key(from_client)
        self.backend_key: bytes | None = None
        self.state = State.PEEKING
        self.created = now
        self.tick: int | None = None
        self.handshake = handshake
        self.dial: Dial | None = None
        self.refusal: Refusal | None = None
        self.splice: Splice | None = None
        self.delivery: Delivery | None = None
        self.fast: Splice | WatchedSplice | SharedSplice | None = None
        self.hostname: str | None = None
        self.route: Route | None = None
        self.backend: Backend | None = None
        self.renewal: Renewal | None = None

    @classmethod
    def resume(cls, splice: Splice, state: State, backend: Backend) -> Self:
        """The flow that `splice`, which an earlier process has left, is the splice of."""
        constants = splice.constants
        service, client = constants.v4_addresses[:4], constants.v4_addresses[4:]
        flow = cls(Endpoints(client, service, constants.client_port, constants.service_port), None, constants.created)
        flow.state = state
        flow.splice = splice
        flow.hostname = constants.hostname
        flow.backend = backend
        return flow

    @property
    def from_client(self) -> Endpoints:
        """Source and destination of the client's packets."""
        return Endpoints(*_CLIENT_KEY.unpack(self.client_key))

    @property
    def from_backend(self) -> Endpoints | None:
        """Source and destination of the backend's packets."""
        return None if self.backend_key is None else Endpoints(*_BACKEND_KEY.unpack(self.backend_key))

    @property
    def client(self) -> bytes:
        """The client's address."""
        return self.client_key[:4]

    @property
    def service(self) -> bytes:
        """The address that the client dialled."""
        return self.client_key[4:8]

    @property
    def client_port(self) -> int:
        """The port that the client dialled from."""
        return int.from_bytes(self.client_key[8:10], "big")

    @property
    def service_port(self) -> int:
        """The port that the client dialled."""
        return int.from_bytes(self.client_key[10:], "big")

    @property
    def client_isn(self) -> int:
        """The initial sequence number of the client, which its backend knows too; 0 for a client that is told no."""
        if self.splice is not None:
            return self.splice.client_isn
        return 0 if self.handshake is None else self.handshake.client_isn

    def take_fast_path(self) -> None:
        """Have plain packets need no look, as far as a new handshake on the flow's addresses and ports allows that."""
        renewal = self.renewal
        if renewal is None or renewal.is_over:
            self.fast = self.splice
        elif renewal.isn is None or self.splice is None:
            self.fast = None
        else:
            self.fast = WatchedSplice(self.splice, renewal.isn, renewal.until)

    def advance(self, happening: Happening, now: float | None = None) -> bool:
        """Move on as the state table says; returns whether the state is another one now, which counts from `now` on."""
        before = self.state
        self.state = next_state(before, happening)
        if self.state is before:
            return False
        if self.splice is not None:
            # In this order: whoever finds the record must not find the new state with the old one's time.
            if now is not None:
                self.splice.state_since = now
            self.splice.state = CODES.get(self.state, 0)
        return True


class FlowTable:
    """At most `capacity` flows; look-ups are single dictionary accesses on `by_client` and `by_backend`.

    `note_live` is called with each flow that becomes one (1) or ceases to be one (-1) that is in the table and not retired.
    """

    def __init__(self, capacity: int, note_live: Callable[[Flow, int], None] | None = None) -> None:
        self.capacity = capacity
        self._note_live: Callable[[Flow, int], None] = (lambda _flow, _change: None) if note_live is None else note_live
        self.by_client: dict[bytes, Flow] = {}
        self.by_backend: dict[bytes, Flow] = {}
        self._retired: dict[Flow, None] = {}

    def __len__(self) -> int:
        return len(self.by_client)

    def __iter__(self) -> Iterator[Flow]:
        return iter(self.by_client.values())

    @property
    def is_full(self) -> bool:
        """Whether no further flow fits."""
        return len(self.by_client) >= self.capacity

    @property
    def oldest_retired(self) -> Flow | None:
        """The flow that was marked by `retire` first and is still here, or None."""
        return next(iter(self._retired), None)

    def insert(self, flow: Flow) -> None:
        """Have `flow` found by its client's packets; raises ValueError when another one holds that key."""
        if self.by_client.setdefault(flow.client_key, flow) is not flow:
            raise ValueError("another flow holds this client key")
        self._note_live(flow, 1)

    def bind(self, flow: Flow, key: bytes) -> None:
        """Have `flow` found by its backend's packets too, whose `backend_key` is `key`, and by those of no earlier one.

        Raises ValueError when another flow has it.
        """
        self.unbind(flow)
        if self.by_backend.setdefault(key, flow) is not flow:
            raise ValueError("another flow holds this backend key")
        flow.backend_key = key

    def unbind(self, flow: Flow) -> None:
        """Have `flow` no longer found by backend packets."""
        if flow.backend_key is not None:
            del self.by_backend[flow.backend_key]
            flow.backend_key = None

    def retire(self, flow: Flow) -> None:
        """Mark `flow` as one that is kept for stragglers only and may make room for a new one."""
        if flow not in self._retired:
            self._retired[flow] = None
            self._note_live(flow, -1)

    def is_retired(self, flow: Flow) -> bool:
        """Whether `flow` bears that mark."""
        return flow in self._retired

    def revive(self, flow: Flow) -> None:
        """Take that mark back."""
        if flow in self._retired:
            del self._retired[flow]
            self._note_live(flow, 1)

    def remove(self, flow: Flow) -> None:
        """Forget `flow`; no packet finds it any more."""
        self.unbind(flow)
        self.revive(flow)
        del self.by_client[flow.client_key]
        self._note_live(flow, -1)
