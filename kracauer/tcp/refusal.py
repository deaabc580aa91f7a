"""Saying no properly: one answer, a FIN, and what it takes until the client has both (RFC 9293 §3.6, RFC 6298 §2)."""

from enum import Enum, auto
from typing import Final

from kracauer.tcp import sequence
from kracauer.wire import tcp
from kracauer.wire.tcp import TcpHeader

INITIAL_RTO_S: Final = 1.0
GIVE_UP_S: Final = 10.0
# Deviation: RFC 9293 §3.6.1 has the side that closes first wait for twice the segment lifetime. A second is enough to repeat a
# lost ACK; the client chooses the ports, and a new connection is told from an old one by its cookie.
LINGER_S: Final = 1.0


class Due(Enum):
    """What a refusal's timer asks for."""

    NOTHING = auto()
    REPEAT = auto()  # the answer was not acknowledged in time
    RESET = auto()  # nor will it be
    DONE = auto()


class Refusal:
    """Our side of a connection that ends with `answer`: its send state, its receive state and its one timer.

    The answer goes out in segments of `mss` bytes at most, options included. `is_redirect` tells that it is no real refusal.

    `seq` is the sequence number of the answer's first byte, `ack` what the client is acknowledged up to, `timestamps` what our
    segments carry (TSval, TSecr). What the client still sends is acknowledged and thrown away, so that its TCP reads the answer
    instead of a reset.
    """

    __slots__ = (
        "_give_up_at",
        "_has_client_fin",
        "_interval_s",
        "_is_acknowledged",
        "_linger_until",
        "ack",
        "answer",
        "deadline",
        "is_redirect",
        "mss",
        "seq",
        "timestamps",
    )

    def __init__(
        self,
        *,
        answer: bytes,
        seq: int,
        ack: int,
        has_client_fin: bool,
        timestamps: tuple[int, int] | None,
        now: float,
        mss: int = tcp.DEFAULT_MSS,
        is_redirect: bool = False,
    ) -> None:
        self.mss = mss
        self.is_redirect = is_redirect
        self.answer = answer
        self.seq = seq
        self.ack = ack
        self.timestamps = timestamps
        self._has_client_fin = has_client_fin
        self._is_acknowledged = False
        self._interval_s = INITIAL_RTO_S
        self._give_up_at = now + GIVE_UP_S
        self._linger_until: float | None = None
        self.deadline = now + INITIAL_RTO_S

    @property
    def next_seq(self) -> int:
        """The sequence number past our FIN, which went out with the answer."""
        return sequence.add(self.seq, len(self.answer) + 1)

    def receive(self, header: TcpHeader, payload_length: int, now: float) -> bool:
        """Take in a segment of the client's; returns whether it is owed an ACK."""
        if header.flags & tcp.ACK and header.ack == self.next_seq and not self._is_acknowledged:
            self._is_acknowledged = True
            self.deadline = self._give_up_at
        length = payload_length + bool(header.flags & tcp.FIN)
        if 0 <= sequence.distance(header.seq, self.ack) < length:
            self.ack = sequence.add(header.seq, length)
            self._has_client_fin |= bool(header.flags & tcp.FIN)
        if self._is_acknowledged and self._has_client_fin and self._linger_until is None:
            # Both directions are closed. Stay just long enough to acknowledge the FIN once more, should that ACK be lost.
            self._linger_until = self.deadline = now + LINGER_S
        return length > 0

    def handle_timer(self, now: float) -> Due:
        """Say what is due at `now`, and set the next deadline."""
        if self._linger_until is not None:
            return Due.DONE if now >= self._linger_until else Due.NOTHING
        if now >= self._give_up_at:
            return Due.RESET
        if self._is_acknowledged or now < self.deadline:
            return Due.NOTHING
        self._interval_s *= 2
        self.deadline = min(now + self._interval_s, self._give_up_at)
        return Due.REPEAT
