"""The held bytes on their way to the backend, and those that are ours to repeat until it has them (RFC 6298 §5)."""

from typing import Final

from kracauer.replies import Endpoints, build_segment
from kracauer.tcp import sequence
from kracauer.wire import tcp
from kracauer.wire.tcp import TcpOptions

INITIAL_RTO_S: Final = 1.0
MAX_RTO_S: Final = 16.0
BURST_SEGMENTS: Final = 10  # what an initial window holds (RFC 6928 §2)
GIVE_UP_S: Final = 60.0


class BackendSender:
    """Segments for a backend, on the client's behalf: the numbers they all share.

    `mss` is before options, in bytes; `window_scale` is the backend's.

    Deviation: RFC 7915 §4.1 copies the whole TOS octet and counts the TTL down. What was held is cut anew, so of the segments
    that the client sent there remain the service class alone and 64 hops; sent for a second time, it is not ECN-capable (RFC
    3168 §6.1.5).
    """

    __slots__ = ("_ack", "_endpoints", "_mss", "_options", "_traffic_class", "_window", "window_scale")

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        ack: int,
        window: int,
        timestamps: tuple[int, int] | None,
        mss: int,
        window_scale: int = 0,
        traffic_class: int = 0,
    ) -> None:
        self._endpoints = endpoints
        self._ack = ack
        self._window = window
        self._options = b"" if timestamps is None else tcp.build_options(TcpOptions(timestamps=timestamps))
        self._mss = mss
        self.window_scale = window_scale
        self._traffic_class = traffic_class

    def segments(self, seq: int, data: bytes, *, has_fin: bool, mss: int | None = None) -> list[bytes]:
        """Cut `data`, which begins at `seq`, into packets; the last one pushes, and carries the FIN where `has_fin`.

        `mss`, where given, is what the path has turned out to take.
        """
        step = self.room(mss)
        starts = range(0, len(data), step)
        packets = []
        for start in starts:
            is_last = start + step >= len(data)
            flags = tcp.ACK | (tcp.PSH if is_last else 0) | (tcp.FIN if is_last and has_fin else 0)
            packets.append(self._build(sequence.add(seq, start), flags, data[start : start + step]))
        if has_fin and not data:
            packets.append(self._build(seq, tcp.ACK | tcp.FIN, b""))
        return packets

    def segment(self, seq: int, data: bytes) -> bytes:
        """All of `data` in one packet, which there has to be room for."""
        return self._build(seq, tcp.ACK | tcp.PSH, data)

    def room(self, mss: int | None = None) -> int:
        """How many bytes a segment carries behind its options."""
        return max((self._mss if mss is None else min(self._mss, mss)) - len(self._options), 1)

    def acknowledgment(self, seq: int) -> bytes:
        """A bare ACK."""
        return self._build(seq, tcp.ACK, b"")

    def _build(self, seq: int, flags: int, payload: bytes) -> bytes:
        return build_segment(
            self._endpoints,
            seq=seq,
            ack=self._ack,
            flags=flags,
            window=self._window,
            options=self._options,
            payload=payload,
            traffic_class=self._traffic_class,
        )


class Delivery:
    """What is still to be delivered of `data`, which begins at `start`; `has_fin` says that the client's FIN stands behind it.

    The client has been told that these bytes arrived and has forgotten them. `sent_bytes` of them have gone out already.
    `client_reset` is the packet that owns up, should they never be acknowledged: it holds as long as the backend has sent
    nothing, and one that acknowledges nothing has not.
    """

    __slots__ = ("_interval_s", "_sender", "_sent_bytes", "client_reset", "data", "deadline", "give_up_at", "has_fin", "start")

    def __init__(
        self,
        data: bytes,
        start: int,
        sender: BackendSender,
        *,
        sent_bytes: int,
        has_fin: bool,
        client_reset: bytes,
        now: float,
    ) -> None:
        self.data = data
        self.start = start
        self.has_fin = has_fin
        self._sender = sender
        self._sent_bytes = sent_bytes
        self.client_reset = client_reset
        self._interval_s = INITIAL_RTO_S
        self.deadline = now + INITIAL_RTO_S
        self.give_up_at = now + GIVE_UP_S

    @property
    def is_done(self) -> bool:
        """Whether the backend has acknowledged everything."""
        return not self.data and not self.has_fin

    def acknowledge(self, ack: int, window: int, mss: int, now: float) -> list[bytes]:
        """Take in the backend's acknowledgment number and window field; returns what may go out now.

        Progress starts the timer afresh (RFC 6298 §5.3) and lets a few more segments follow, as far as the window goes. `mss`
        is what the path takes by now: the client has forgotten these bytes, so no ICMP error would make it send less.
        """
        advanced = sequence.distance(self.start, ack)
        if advanced < 0:
            # An old one, whose window ended before where we are.
            return []
        if advanced > 0:
            # Beyond what was ours the client's own bytes have been acknowledged, so all of ours have.
            self.has_fin = self.has_fin and advanced <= len(self.data)
            self.data = self.data[advanced:]
            self.start = ack
            self._sent_bytes = max(self._sent_bytes - advanced, 0)
            self._interval_s = INITIAL_RTO_S
            self.deadline = now + INITIAL_RTO_S
            self.give_up_at = now + GIVE_UP_S
        unsent = self._sent_bytes
        end = min(len(self.data), window << self._sender.window_scale, unsent + BURST_SEGMENTS * self._sender.room(mss))
        if end <= unsent:
            return []
        self._sent_bytes = end
        return self._segments(unsent, end, mss)

    def repeat(self, now: float, mss: int) -> bytes:
        """Return the first segment that is not acknowledged, and double the time to its next repeat (RFC 6298 §5.4, §5.5).

        All behind it counts as lost: progress will send it again.
        """
        self._interval_s = min(self._interval_s * 2, MAX_RTO_S)
        self.deadline = now + self._interval_s
        self._sent_bytes = min(self._sender.room(mss), len(self.data))
        return self._segments(0, self._sent_bytes, mss)[0]

    def _segments(self, begin: int, end: int, mss: int) -> list[bytes]:
        has_fin = self.has_fin and end == len(self.data)
        return self._sender.segments(sequence.add(self.start, begin), self.data[begin:end], has_fin=has_fin, mss=mss)
