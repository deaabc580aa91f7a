"""Two ends of a connection as plain as can be, and a faulty network between each of them and the engine (RFC 9293 §3.10).

The ends check what they receive to the letter: numbers, timestamps, bytes. What a correct peer would never send goes into
`complaints`. They retransmit by timer alone, acknowledge each segment at once, and know no congestion.
"""

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from packets import Packet, build, parse, parse_flags
from script import Side

from kracauer.engine import Engine
from kracauer.events import Event
from kracauer.wire.buffer import Frame

RTO_S = 0.4
MAX_RTO_S = 3.0
LINK_S = 0.01


class Close(Enum):
    """When an end sends its FIN."""

    AT_ONCE = auto()  # behind its last byte
    AFTER_PEER = auto()  # when the other end's FIN has come, too


@dataclass(frozen=True, slots=True)
class Stack:
    """What an end's TCP does; `burst` is how many segments it has under way at most."""

    mss: int = 1440
    window_scale: int | None = 7
    sack: bool = True
    timestamps: bool = True
    window: int = 64_000
    burst: int = 10


class State(Enum):
    LISTEN = auto()
    SYN_SENT = auto()
    SYN_RECEIVED = auto()
    ESTABLISHED = auto()


def distance(start: int, end: int) -> int:
    return (end - start + 2**31) % 2**32 - 2**31


class End:
    """One TCP endpoint with `data` to send once it has received `awaits` bytes; `receive` and `handle_timer` return packets."""

    def __init__(
        self, side: Side, iss: int, data: bytes, stack: Stack, close: Close, *, is_client: bool, awaits: int = 0
    ) -> None:
        self.side, self.stack, self.data, self.awaits = side, stack, data, awaits
        self.received = bytearray()
        self.complaints: list[str] = []
        self.connections = 0
        self.is_reset = False
        self.deadline: float | None = None
        self._close = close
        self._is_client = is_client
        self._rto = RTO_S
        self._next_iss = iss
        self._open(State.SYN_SENT if is_client else State.LISTEN)

    @property
    def is_done(self) -> bool:
        """Whether everything was sent, acknowledged and received, FINs included."""
        return self._fin_received and self._una == len(self.data) + 1

    def connect(self, now: float) -> list[Packet]:
        return self._send_syn(now)

    def handle_timer(self, now: float) -> list[Packet]:
        self.deadline = None
        self._rto = min(self._rto * 2, MAX_RTO_S)
        if self.state in (State.SYN_SENT, State.SYN_RECEIVED):
            return self._send_syn(now)
        self._arm(now)
        return self._segments(self._una, now)[:1]

    def receive(self, packet: Packet, now: float) -> list[Packet]:
        if self.is_reset:
            return []
        match self.state:
            case State.LISTEN:
                return self._listen(packet, now)
            case State.SYN_SENT:
                return self._receive_syn_ack(packet, now)
            case _:
                return self._receive_segment(packet, now)

    def _open(self, state: State) -> None:
        """Begin with nothing sent or received; `_una` and `_nxt` are offsets in `data`, whose FIN is one byte behind it."""
        self.state = state
        self.iss = self._next_iss
        self._next_iss = (self.iss + 1_000_003) % 2**32
        self._una = self._nxt = 0
        self._irs: int | None = None
        self._later: dict[int, bytes] = {}
        self._fin_at: int | None = None
        self._fin_received = False
        self._rto = RTO_S
        self._has_timestamps = self.stack.timestamps
        self._has_scale = self.stack.window_scale is not None
        self._peer_scale = 0
        self._peer_mss = 536
        self._peer_window = 0
        self._ts_recent = 0

    def _listen(self, packet: Packet, now: float) -> list[Packet]:
        if not packet.is_syn or packet.is_ack or packet.is_rst:
            return [] if packet.is_rst else [self._stray_reset(packet)]
        self._open(State.SYN_RECEIVED)
        self._take_syn(packet)
        return self._send_syn(now)

    def _receive_syn_ack(self, packet: Packet, now: float) -> list[Packet]:
        if packet.is_ack and packet.ack != (self.iss + 1) % 2**32:
            return [] if packet.is_rst else [self._stray_reset(packet)]
        if packet.is_rst:
            self.is_reset = packet.is_ack
            return []
        if not packet.is_syn or not packet.is_ack:
            return []
        self._take_syn(packet)
        return self._establish(packet, now)

    def _take_syn(self, packet: Packet) -> None:
        options = dict(token.partition("=")[::2] for token in packet.options)
        self._irs = packet.seq
        self._peer_mss = int(options.get("mss", "536"))
        self._has_timestamps &= "ts" in options
        self._has_scale &= "ws" in options
        self._peer_scale = int(options["ws"]) if self._has_scale else 0
        self._ts_recent = int(options["ts"].partition(":")[0]) if self._has_timestamps else 0
        if self.state is State.SYN_SENT:
            self._has_sack = "sackOK" in options

    def _establish(self, packet: Packet, now: float) -> list[Packet]:
        self.state = State.ESTABLISHED
        self.connections += 1
        self.deadline = None
        self._rto = RTO_S
        self._peer_window = packet.window << (0 if packet.is_syn else self._peer_scale)
        return [self._packet("A", 0, now), *self._send_more(now)] if self._is_client else []

    def _receive_segment(self, packet: Packet, now: float) -> list[Packet]:
        assert self._irs is not None
        offset = distance((self._irs + 1 + len(self.received)) % 2**32, packet.seq)
        if packet.is_syn:
            is_repeated = packet.seq == self._irs and self.state is State.SYN_RECEIVED
            return self._send_syn(now) if is_repeated else [self._packet("A", self._nxt, now)]
        if packet.is_rst:
            return self._take_reset(offset - self._fin_received, now)
        timestamps = next((token for token in packet.options if token.startswith("ts=")), None)
        if self._has_timestamps and timestamps is None:
            # RFC 7323 §3.2 lets a receiver drop such a segment, and some do.
            self.complaints.append(f"timestamps missing: {packet}")
            return []
        if self._has_timestamps and timestamps is not None:
            tsval, tsecr = map(int, timestamps[3:].split(":"))
            if distance(self._ts_recent, tsval) < 0:
                return [self._packet("A", self._nxt, now)]
            if offset <= 0:
                self._ts_recent = tsval
            if distance(self._clock(now), tsecr) > 0:
                self.complaints.append(f"echoes a time to come: {packet}")
        return self._take_ack(packet, offset, now)

    def _take_reset(self, offset: int, now: float) -> list[Packet]:
        if offset:
            return [self._packet("A", self._nxt, now)] if 0 < offset < self.stack.window else []
        if self.state is State.SYN_RECEIVED:
            self.state, self.deadline = State.LISTEN, None
        else:
            self.is_reset, self.deadline = True, None
        return []

    def _take_ack(self, packet: Packet, offset: int, now: float) -> list[Packet]:
        acked = distance((self.iss + 1) % 2**32, packet.ack)
        if not packet.is_ack or acked > self._nxt:
            self.complaints.append(f"acknowledges {acked} of {self._nxt}: {packet}")
            return [self._packet("A", self._nxt, now)]
        sent: list[Packet] = []
        if self.state is State.SYN_RECEIVED:
            if acked < 0:
                return [self._stray_reset(packet)]
            sent = self._establish(packet, now)
        self._peer_window = packet.window << self._peer_scale
        if acked > self._una:
            self._una, self._rto = acked, RTO_S
            self._arm(now)
        has_news = bool(packet.payload) or packet.is_fin
        self._take_payload(packet, offset)
        sent += self._send_more(now)
        if has_news and not any(other.is_ack for other in sent):
            sent.append(self._packet("A", self._nxt, now))
        return sent

    def _take_payload(self, packet: Packet, offset: int) -> None:
        at = len(self.received) + offset
        if packet.payload:
            kept = self._later.get(at, b"")
            self._later[at] = max(kept, packet.payload, key=len)
        if packet.is_fin:
            self._fin_at = at + len(packet.payload)
        while True:
            usable = [start for start, data in self._later.items() if start <= len(self.received) < start + len(data)]
            if not usable:
                break
            piece = self._later.pop(usable[0])
            known = piece[: len(self.received) - usable[0]]
            if bytes(self.received[usable[0] : usable[0] + len(known)]) != known:
                self.complaints.append(f"bytes from {usable[0]} on are not what they were")
            self.received += piece[len(known) :]
        self._fin_received = self._fin_at == len(self.received)

    def _send_syn(self, now: float) -> list[Packet]:
        stack = self.stack
        options = [f"mss={stack.mss}"]
        if stack.sack:
            options.append("sackOK")
        if self._has_timestamps:
            options.append(f"ts={self._clock(now)}:{self._ts_recent}")
        if self._has_scale:
            options.append(f"ws={stack.window_scale}")
        self.deadline = now + self._rto
        flags, ack = ("S", 0) if self._irs is None else ("SA", self._irs + 1)
        return [self._raw(flags, self.iss, ack, min(stack.window, 65535), tuple(options))]

    def _send_more(self, now: float) -> list[Packet]:
        if len(self.received) < self.awaits:
            return []
        sent = self._segments(self._nxt, now)
        if sent:
            last = sent[-1]
            self._nxt = distance((self.iss + 1) % 2**32, last.seq) + len(last.payload) + last.is_fin
            self._arm(now)
        return sent

    def _segments(self, start: int, now: float) -> list[Packet]:
        """What may be under way from `start` on."""
        step = min(self._peer_mss, self.stack.mss) - 12 * self._has_timestamps
        end = min(len(self.data), self._una + min(self._peer_window, self.stack.burst * step))
        packets = []
        for at in range(start, end, step):
            piece = self.data[at : min(at + step, end)]
            packets.append(self._packet("PA" if at + len(piece) == len(self.data) else "A", at, now, piece))
        may_close = self._close is Close.AT_ONCE or self._fin_received
        if may_close and end == len(self.data) and start <= len(self.data) and len(packets) < self.stack.burst:
            packets.append(self._packet("FA", len(self.data), now))
        return packets

    def _arm(self, now: float) -> None:
        self.deadline = now + self._rto if self._una < self._nxt else None

    def _packet(self, flags: str, at: int, now: float, payload: bytes = b"") -> Packet:
        assert self._irs is not None
        ack = self._irs + 1 + len(self.received) + self._fin_received
        options = (f"ts={self._clock(now)}:{self._ts_recent}",) if self._has_timestamps else ()
        scale = (self.stack.window_scale or 0) if self._has_scale else 0
        return self._raw(flags, self.iss + 1 + at, ack, min(self.stack.window >> scale, 65535), options, payload)

    def _stray_reset(self, packet: Packet) -> Packet:
        return self._raw("R", packet.ack, 0, 0)

    def _raw(self, flags: str, seq: int, ack: int, window: int, options: tuple[str, ...] = (), payload: bytes = b"") -> Packet:
        side = self.side
        return Packet(
            src=side.src,
            dst=side.dst,
            src_port=side.src_port,
            dst_port=side.dst_port,
            flags=parse_flags(flags),
            seq=seq % 2**32,
            ack=ack % 2**32,
            window=window,
            options=options,
            payload=payload,
        )

    def _clock(self, now: float) -> int:
        return (self.iss + int(now * 1000)) % 2**32


Fate = tuple[float, ...]
"""When the copies of one packet arrive, in seconds from now: none for a loss, several for duplicates."""

USUAL: Fate = (LINK_S,)


@dataclass
class Network:
    """The engine with ends around it; each packet on each of the four ways meets the next of `fates`, then only good ones."""

    engine: Engine
    ends: list[End]
    fates: Iterable[Fate]
    now: float
    events: list[Event] = field(default_factory=list)
    strangers: list[Packet] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._fates: Iterator[Fate] = iter(self.fates)
        self._queue: list[tuple[float, int, Packet, bool]] = []
        self._count = itertools.count()
        self._frame = Frame()

    def run(self, seconds: float) -> None:
        """Let everything happen until all is quiet, or until `seconds` are over."""
        end = self.now + seconds
        for one in self.ends:
            if one.state is State.SYN_SENT:
                self._put(one.connect(self.now), to_engine=True)
        while (due := self._next_time()) is not None and due <= end:
            self.now = max(self.now, due)
            if self._queue and self._queue[0][0] <= self.now:
                _, _, packet, to_engine = heapq.heappop(self._queue)
                self._arrive(packet, to_engine=to_engine)
            else:
                self._fire()

    def drain_timers(self) -> None:
        """Let the engine's own timers run until it has none."""
        for _ in range(10_000):
            deadline = self.engine.next_deadline()
            if deadline is None:
                return
            self.now = max(self.now, deadline)
            self._take(self.engine.handle_timer(self.now))
        raise AssertionError("the engine's timers never end")

    def _next_time(self) -> float | None:
        times = [one.deadline for one in self.ends if one.deadline is not None]
        if self._queue:
            times.append(self._queue[0][0])
        # The engine's timers alone, hours away, keep nothing going.
        deadline = self.engine.next_deadline()
        if deadline is not None and (times or any(not one.is_done and not one.is_reset for one in self.ends)):
            times.append(deadline)
        return min(times, default=None)

    def _fire(self) -> None:
        deadline = self.engine.next_deadline()
        if deadline is not None and deadline <= self.now:
            self._take(self.engine.handle_timer(self.now))
        for one in self.ends:
            if one.deadline is not None and one.deadline <= self.now:
                self._put(one.handle_timer(self.now), to_engine=True)

    def _arrive(self, packet: Packet, *, to_engine: bool) -> None:
        if to_engine:
            vnet, data = build(packet)
            self._frame.load(data, vnet)
            self._take(self.engine.receive(self._frame, self.now))
            return
        for one in self.ends:
            if Side(packet.src, packet.src_port, packet.dst, packet.dst_port) == one.side.reversed:
                self._put(one.receive(packet, self.now), to_engine=True)
                return
        self.strangers.append(packet)

    def _take(self, sent: Iterable[bytes | bytearray | memoryview]) -> None:
        self._put([parse(bytes(data)) for data in sent], to_engine=False)
        while (event := self.engine.next_event()) is not None:
            self.log.append(f"{self.now:.3f}   !! {event.event} {event.fields()}")
            self.events.append(event)

    def _put(self, packets: Iterable[Packet], *, to_engine: bool) -> None:
        for packet in packets:
            fate = next(self._fates, USUAL)
            letters = "".join(letter for letter in "FSRPAU" if packet.flags & parse_flags(letter))
            family, way = "CB"[packet.version == 6], ">" if to_engine else "<"
            numbers = f"{packet.seq:#x} ack={packet.ack:#x} len={len(packet.payload)}"
            self.log.append(f"{self.now:.3f} {family}{way} {letters:3} {numbers} fate={fate}")
            for delay in fate:
                heapq.heappush(self._queue, (self.now + delay, next(self._count), packet, to_engine))
