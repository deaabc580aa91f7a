"""What is known of a connection between the client's first ACK and the splice, and what is still to be done."""

from dataclasses import dataclass, field

from kracauer.peek import Peeker
from kracauer.routes import Backend
from kracauer.tcp import sequence
from kracauer.tcp.held import HeldStream
from kracauer.tcp.terms import Terms


@dataclass(slots=True)
class Handshake:
    """The client's half of a splice; dropped as soon as the backend's half has joined it.

    `isn` is our own initial sequence number (the cookie), `tsval` the one TSval that the client has seen of us, if any.
    `client_window` is the field as last received, in the client's own scale, `traffic_class` its DSCP. The held bytes go out
    in segments of `mss_limit` at most: what no link has to cut, where the client hears of no MTU.
    """

    client_isn: int
    isn: int
    tsval: int
    terms: Terms
    held: HeldStream
    peeker: Peeker
    client_window: int
    client_tsval: int
    started: float
    traffic_class: int = 0
    mss_limit: int = 0xFFFF
    acknowledged: int = field(init=False)

    def __post_init__(self) -> None:
        self.acknowledged = self.held.start

    @property
    def next_isn(self) -> int:
        """The sequence number of the first byte towards the client."""
        return sequence.add(self.isn, 1)

    @property
    def is_relieved(self) -> bool:
        """Whether bytes were acknowledged to the client that the backend has not got: ours to deliver now."""
        return self.acknowledged != self.held.start


@dataclass(slots=True)
class Dial:
    """The attempts to reach one of a name's backends, in order; times in seconds of the engine's clock."""

    remaining: list[Backend]
    give_up_at: float
    attempt_ends_at: float = 0.0
    retransmit_at: float = 0.0
    retransmit_interval_s: float = 1.0
    sent_at: float = 0.0
    has_cleared_old: bool = False
