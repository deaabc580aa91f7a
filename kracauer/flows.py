"""Flows and the table that finds them: by the client's 12 bytes or the backend's 36, cut from the packet as they stand."""

from collections.abc import Iterator

from kracauer.replies import Endpoints
from kracauer.routes import Backend, Route
from kracauer.tcp.delivery import Delivery
from kracauer.tcp.handshake import Dial, Handshake
from kracauer.tcp.refusal import Refusal
from kracauer.tcp.splice import Splice
from kracauer.tcp.state import Happening, State, next_state


def client_key(to_service: Endpoints) -> bytes:
    """The table's key for packets from the client: both addresses, both ports, as in the packet (12 bytes)."""
    return _key(to_service)


def backend_key(from_backend: Endpoints) -> bytes:
    """The table's key for packets from the backend, likewise (36 bytes)."""
    return _key(from_backend)


def _key(endpoints: Endpoints) -> bytes:
    src, dst, src_port, dst_port = endpoints
    return src + dst + src_port.to_bytes(2, "big") + dst_port.to_bytes(2, "big")


class Flow:
    """One connection of a client, from its first valid ACK to its end.

    `from_client` are the endpoints of the client's packets, `from_backend` those of the backend's once one was dialled. Of
    `handshake`, `dial`, `refusal`, `splice` and `delivery` only what the state needs is there. `fast` is the splice while
    plain packets need no look at all, else None. `opening_window` is the window field that completed the backend's handshake.
    `heard` notes who has answered a probe: 1 for the client, 2 for the backend. While `renewal_isn` is set, a SYN with that
    number may be about to replace the flow.
    """

    __slots__ = (
        "backend",
        "backend_isn",
        "client_isn",
        "created",
        "delivery",
        "dial",
        "fast",
        "from_backend",
        "from_client",
        "handshake",
        "heard",
        "hostname",
        "opening_window",
        "refusal",
        "renewal_guesses",
        "renewal_isn",
        "renewal_until",
        "reset_by_client",
        "route",
        "splice",
        "state",
        "state_since",
        "tick",
    )

    def __init__(self, from_client: Endpoints, handshake: Handshake, now: float) -> None:
        self.from_client = from_client
        self.from_backend: Endpoints | None = None
        self.state = State.PEEKING
        self.state_since = now
        self.client_isn = handshake.client_isn
        self.backend_isn = 0
        self.created = now
        self.tick: int | None = None
        self.handshake: Handshake | None = handshake
        self.dial: Dial | None = None
        self.refusal: Refusal | None = None
        self.splice: Splice | None = None
        self.delivery: Delivery | None = None
        self.fast: Splice | None = None
        self.hostname: str | None = None
        self.route: Route | None = None
        self.backend: Backend | None = None
        self.renewal_isn: int | None = None
        self.renewal_until = 0.0
        self.renewal_guesses = 0
        self.reset_by_client = False
        self.opening_window = 0
        self.heard = 0

    def advance(self, happening: Happening) -> bool:
        """Move on as the state table says; returns whether the state is another one now."""
        before = self.state
        self.state = next_state(before, happening)
        return self.state is not before


class FlowTable:
    """At most `capacity` flows; look-ups are single dictionary accesses on `by_client` and `by_backend`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
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
        if self.by_client.setdefault(client_key(flow.from_client), flow) is not flow:
            raise ValueError("another flow holds this client key")

    def bind(self, flow: Flow, from_backend: Endpoints) -> None:
        """Have `flow` found by its backend's packets too, and by those of no earlier one; raises ValueError when taken."""
        self.unbind(flow)
        if self.by_backend.setdefault(backend_key(from_backend), flow) is not flow:
            raise ValueError("another flow holds this backend key")
        flow.from_backend = from_backend

    def unbind(self, flow: Flow) -> None:
        """Have `flow` no longer found by backend packets."""
        if flow.from_backend is not None:
            del self.by_backend[backend_key(flow.from_backend)]
            flow.from_backend = None

    def retire(self, flow: Flow) -> None:
        """Mark `flow` as one that is kept for stragglers only and may make room for a new one."""
        self._retired[flow] = None

    def revive(self, flow: Flow) -> None:
        """Take that mark back."""
        self._retired.pop(flow, None)

    def remove(self, flow: Flow) -> None:
        """Forget `flow`; no packet finds it any more."""
        self.unbind(flow)
        self.revive(flow)
        del self.by_client[client_key(flow.from_client)]
