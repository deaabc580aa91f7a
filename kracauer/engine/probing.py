"""Probes: a SYN to every backend in use again and again, from an address of the prefix that no client can have.

What comes back tells that the backend is there, what its TCP does, and that its way back into the prefix leads here. The
handshake is never completed: a SYN-ACK gets its RST, and no program at the backend hears of it.
"""

import hashlib
import math
import struct
from ipaddress import IPv6Address
from typing import Final

from kracauer.engine.context import Context, backend_endpoint
from kracauer.engine.health import BackendHealth
from kracauer.engine.ingress import Segment
from kracauer.errors import Dropped, DropReason
from kracauer.events import FailureReason, ProfileLearnt
from kracauer.replies import Endpoints, build_reset, build_segment
from kracauer.routes import Backend
from kracauer.steering import Share
from kracauer.tcp import sequence
from kracauer.tcp.terms import IPV6_OVERHEAD, Terms, backend_syn_options, learn
from kracauer.timers import TICKS_PER_SECOND, TimerWheel
from kracauer.translate import addresses
from kracauer.wire import tcp

# Below 0.0.0.0/8, which no packet comes from (RFC 1122 §3.2.1.3): no client is ever mapped to it.
PROBE_CLIENT: Final = bytes((0, 0, 0, 1))
# With more backends than this allows each is probed less often than it was asked for. A probe with its answer costs 0.05 ms.
PROBES_PER_SECOND: Final = 500.0
# In one call of the timer, however many are due: a process that was suspended must not send them all at once.
_AT_ONCE: Final = int(2 * PROBES_PER_SECOND / TICKS_PER_SECOND)
_REMEMBERED: Final = 4  # probes without an answer about which an ICMPv6 error may still come
_WINDOW_SCALE: Final = 7
_WINDOW: Final = 65535
_FIRST_PORT: Final = 1024
_PORTS: Final = 65536 - _FIRST_PORT
_SECRETS: Final = struct.Struct("!III")
_COVERED: Final = struct.Struct("!16sHd")


class Probing:
    """Probes the backends that `context.health` knows of, as the configuration in force says.

    Each has its own moment within the interval, so that they are spread over it; whose state is in question is asked once more
    as soon as the last probe's time is over.
    """

    def __init__(self, context: Context, secret: bytes, share: Share) -> None:
        self._context = context
        self._share = share
        self._health = context.health
        self._wheel: TimerWheel[BackendHealth] = TimerWheel()
        self._key = hashlib.blake2b(b"probes", key=secret, digest_size=32).digest()
        self.address = addresses.embed(context.prefix, PROBE_CLIENT)

    def next_deadline(self) -> float | None:
        """When there is a probe to send or to give up."""
        if self._health.suspects and self._context.config.probes.enabled:
            return 0.0
        return self._wheel.next_deadline()

    def handle_timer(self, now: float) -> None:
        """Send what is due, and give up what has had its time."""
        due = self._wheel.pop_due(now)
        sent = 0
        for health in due:
            if not health.is_in_use or not self._context.config.probes.enabled:
                health.is_asked = False
            elif sent < _AT_ONCE:
                sent += 1
                self._handle_due(health, now)
            else:
                sent += 1
                self._wheel.schedule(health, now + (sent // _AT_ONCE) / TICKS_PER_SECOND)
        self._take_suspects(now)

    def receive(self, segment: Segment, now: float) -> None:
        """Take in a segment to the probe address; raises Dropped for what answers no probe."""
        endpoints, header = segment.endpoints, segment.header
        health = self._health.get(Backend(IPv6Address(endpoints.src), endpoints.src_port))
        is_answer = (
            health is not None
            and health.is_asked
            and endpoints.dst_port == health.port
            and header.flags & tcp.ACK
            and header.ack == sequence.add(health.seq, 1)
        )
        if health is None or not is_answer:
            self._refuse(segment, now)
            raise Dropped(DropReason.NO_FLOW, "answers no probe")
        if header.flags & tcp.RST:
            self._conclude(health, now)
            self._health.note_silence(health, FailureReason.REFUSED, now)
        elif header.flags & tcp.SYN:
            self._conclude(health, now)
            self._hang_up(health)
            self._health.note_success(health, now, now - health.sent_at)
            self._learn(health, segment, now)
        else:
            raise Dropped(DropReason.UNEXPECTED, f"flags {header.flags:#05x} in answer to a probe")

    def handle_unreachable(self, backend: Backend, port: int, seq: int, now: float) -> None:
        """Take in an ICMPv6 error about the probe to `backend` from `port` with `seq`; raises Dropped where there is none."""
        health = self._health.get(backend)
        if health is not None and health.is_asked and (port, seq) == (health.port, health.seq):
            self._conclude(health, now)
            self._health.note_silence(health, FailureReason.UNREACHABLE, now)
        elif health is not None and (port, seq) in health.unanswered:
            self._health.note_unreachable(health, now)
        else:
            raise Dropped(DropReason.NO_FLOW, "ICMPv6 error about no probe")

    def _handle_due(self, health: BackendHealth, now: float) -> None:
        if health.is_asked:
            self._conclude(health, now)
            # The SYN may have arrived and its answer have no way back: the backend would repeat that for a minute.
            self._hang_up(health)
            health.unanswered = (*health.unanswered, (health.port, health.seq))[-_REMEMBERED:]
            self._health.note_silence(health, FailureReason.SILENT, now)
        else:
            self._ask(health, now)

    def _take_suspects(self, now: float) -> None:
        """Have those in question probed soon, one after the other, and none more often than an answer is waited for."""
        timeout_s = self._context.config.probes.timeout_s
        for index, health in enumerate(self._health.suspects):
            if not health.is_asked:
                soon = now + index / PROBES_PER_SECOND
                self._wheel.schedule(health, max(soon, health.sent_at + timeout_s))
        self._health.suspects.clear()

    def _ask(self, health: BackendHealth, now: float) -> None:
        context, backend = self._context, health.backend
        assert backend.port is not None
        covered = _COVERED.pack(backend.address.packed, backend.port, now)
        # Who answers without having seen the SYN has to guess all of 47 bits (RFC 5961 §1.2, RFC 6056 §3).
        seq, port, tsval = _SECRETS.unpack(hashlib.blake2b(covered, key=self._key, digest_size=_SECRETS.size).digest())
        health.seq, health.port = seq, self._own_port(port)
        health.is_asked, health.sent_at = True, now
        health.asks_ecn = context.config.profile_of(backend.address).ecn
        terms = self._terms(health)
        context.send(
            build_segment(
                self._to_backend(health),
                seq=seq,
                ack=0,
                flags=tcp.SYN | (tcp.ECE | tcp.CWR if terms.ecn else 0),
                window=_WINDOW,
                options=tcp.build_options(backend_syn_options(terms, terms.mss, tsval)),
            )
        )
        self._wheel.schedule(health, now + context.config.probes.timeout_s)

    def _own_port(self, number: int) -> int:
        """The port that `number` stands for, or the first after it whose answers come to this worker."""
        while not self._share.owns(PROBE_CLIENT, port := _FIRST_PORT + number % _PORTS):
            number += 1
        return port

    def _terms(self, health: BackendHealth) -> Terms:
        """All that a client could agree on, so that the answer tells all of the backend's TCP."""
        mss = self._context.config.network.ipv6_mtu - IPV6_OVERHEAD
        return Terms(mss, _WINDOW_SCALE, _WINDOW_SCALE, sack=True, timestamps=True, ecn=health.asks_ecn)

    def _to_backend(self, health: BackendHealth) -> Endpoints:
        assert health.backend.port is not None
        return Endpoints(self.address, health.backend.address.packed, health.port, health.backend.port)

    def _conclude(self, health: BackendHealth, now: float) -> None:
        """The probe under way is over; the next one comes in its time."""
        health.is_asked = False
        interval_s = max(self._context.config.probes.interval_s, len(self._health) / PROBES_PER_SECOND)
        if health.phase is None:
            digest = hashlib.blake2b(health.backend.address.packed, key=self._key, digest_size=4).digest()
            health.phase = int.from_bytes(digest, "big") / 2**32
        turn = math.ceil((now + interval_s / 2) / interval_s - health.phase)
        self._wheel.schedule(health, (turn + health.phase) * interval_s)

    def _hang_up(self, health: BackendHealth) -> None:
        # A RST has to lie exactly at what the backend expects next (RFC 5961 §3.2).
        self._context.send(build_segment(self._to_backend(health), seq=sequence.add(health.seq, 1), ack=0, flags=tcp.RST))

    def _refuse(self, segment: Segment, now: float) -> None:
        """A late answer, to a probe that has been given up: the backend would repeat it for a minute."""
        context, endpoints = self._context, segment.endpoints
        if segment.header.flags & tcp.RST or endpoints.src not in context.backend_addresses:
            return
        if context.backend_resets.take(now):
            context.send(build_reset(endpoints.reversed, segment.header, len(segment.payload)))

    def _learn(self, health: BackendHealth, segment: Segment, now: float) -> None:
        context, backend = self._context, health.backend
        has_ecn = segment.header.flags & (tcp.ECE | tcp.CWR) == tcp.ECE
        profile = learn(context.profile(backend), self._terms(health), segment.options, has_ecn)
        if context.learn(backend, profile, now, is_whole=True):
            context.note(ProfileLearnt(backend_endpoint(backend), profile))
