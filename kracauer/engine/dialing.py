"""From the hostname to the splice: a SYN to one backend after the other (RFC 9293 §3.10.7.3, RFC 6298 §5)."""

from typing import Final

from kracauer.engine.balance import Choice
from kracauer.engine.context import Context, backend_endpoint, client_of, service_of
from kracauer.engine.ingress import Segment
from kracauer.errors import Dropped, DropReason
from kracauer.events import BackendFailed, CloseReason, FailureReason, FlowSpliced, ProfileLearnt
from kracauer.flows import Flow, backend_key
from kracauer.profile import DEFAULT_MSS_V6
from kracauer.replies import Endpoints, build_segment
from kracauer.routes import Backend, Route
from kracauer.tcp import sequence
from kracauer.tcp.delivery import BackendSender, Delivery
from kracauer.tcp.handshake import Dial, Handshake
from kracauer.tcp.splice import Splice
from kracauer.tcp.state import SUPERSEDABLE, Happening
from kracauer.tcp.terms import backend_syn_options, learn
from kracauer.tcp.timestamping import TimestampingSplice
from kracauer.translate import addresses
from kracauer.wire import tcp
from kracauer.wire.tcp import TcpOptions

INITIAL_RTO_S: Final = 1.0
# A client that repeats itself has a SYN of ours repeated too, but no more often than this.
MIN_REDRIVE_S: Final = 0.2


class Dialing:
    """Handles flows in the state DIALING, as far as the backend goes, and joins them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def dial(self, flow: Flow, now: float) -> None:
        """Begin with the backend that is the first for this client of those that the flow's route has."""
        route = flow.route
        assert route is not None
        first = route.backends[0]
        if len(route.backends) == 1 and isinstance(first, Backend):
            backends = [self._context.resolve(first, flow.service_port)]
        else:
            choices = self._choices(route, flow.service_port)
            backends = self._context.balancer.order(choices, route.balance, flow.client, now)
        flow.dial = Dial(backends, now + self._context.config.timeouts.dial_s)
        self._dial_next(flow, flow.dial, now)

    def _choices(self, route: Route, port: int) -> list[Choice]:
        """The backends that `route` has now, each once; the addresses of a name share its weight."""
        choices: dict[Backend, Choice] = {}
        for index, backend in enumerate(route.backends):
            found = self._context.expand(backend, port)
            weight = route.weights[index] if route.weights else 1
            for address in found:
                choices.setdefault(address, Choice(address, weight / len(found), backend in route.draining))
        return list(choices.values())

    def redrive(self, flow: Flow, now: float) -> None:
        """Repeat the pending SYN, because the client has repeated itself."""
        if flow.dial is not None and now - flow.dial.sent_at >= MIN_REDRIVE_S:
            self._send_syn(flow, flow.dial, now)

    def handle_timer(self, flow: Flow, now: float) -> None:
        """Repeat the SYN, or go on to the next backend."""
        dial = flow.dial
        assert dial is not None
        if now >= dial.attempt_ends_at:
            self._fail(flow, dial, FailureReason.SILENT, now)
        else:
            if now >= dial.retransmit_at:
                dial.retransmit_interval_s *= 2
                self._send_syn(flow, dial, now)
            self._schedule(flow, dial)

    def receive_from_backend(self, flow: Flow, segment: Segment, now: float) -> None:
        """Take in a segment of the backend that is being dialled."""
        dial, handshake, header = flow.dial, flow.handshake, segment.header
        assert dial is not None
        assert handshake is not None
        acknowledges_syn = bool(header.flags & tcp.ACK) and header.ack == sequence.add(handshake.client_isn, 1)
        if header.flags & tcp.RST:
            if not acknowledges_syn:
                raise Dropped(DropReason.OUT_OF_WINDOW, "RST that does not acknowledge the SYN")
            self._fail(flow, dial, FailureReason.REFUSED, now)
        elif header.flags & tcp.ACK and not acknowledges_syn:
            self._clear_old_connection(flow, dial, segment, now)
        elif header.flags & tcp.SYN and acknowledges_syn:
            self._join(flow, handshake, segment, now)
        else:
            raise Dropped(DropReason.UNEXPECTED, f"flags {header.flags:#05x} in answer to a SYN")

    def handle_unreachable(self, flow: Flow, seq: int, now: float) -> None:
        """Take in an ICMPv6 error about the SYN with `seq`; raises Dropped when that is not the SYN that was sent.

        Deviation: RFC 5382 §7.3 lets no ICMP message end a connection. This one ends an attempt to open one, on the word of an
        error that quotes its secret number (RFC 5927 §4.1), and the next backend is tried.
        """
        if flow.dial is None or flow.handshake is None or flow.handshake.client_isn != seq:
            raise Dropped(DropReason.UNEXPECTED, "ICMPv6 error about another segment")
        self._fail(flow, flow.dial, FailureReason.UNREACHABLE, now)

    def hang_up(self, flow: Flow) -> None:
        """Have the backend let go of a flow that ends without it: of the SYN it may have answered by now, or of the whole."""
        from_backend = flow.from_backend
        if from_backend is None:
            return
        self._context.refresh(flow)
        # A RST has to lie exactly at what the backend expects next (RFC 5961 §3.2).
        seq = sequence.add(flow.client_isn, 1) if flow.splice is None else flow.splice.client_acked
        if flow.delivery is not None:
            seq = flow.delivery.start
        self._context.send(build_segment(from_backend.reversed, seq=seq, ack=0, flags=tcp.RST))

    def reset_client(self, flow: Flow) -> None:
        """Send the client a RST in the numbers it knows."""
        self._context.send(self._client_reset(flow))

    @staticmethod
    def _client_reset(flow: Flow) -> bytes:
        handshake = flow.handshake
        assert handshake is not None
        return build_segment(
            flow.from_client.reversed,
            seq=handshake.next_isn,
            ack=handshake.held.next_seq,
            flags=tcp.RST | tcp.ACK,
        )

    def _dial_next(self, flow: Flow, dial: Dial, now: float) -> None:
        context = self._context
        mapped, client_port = addresses.embed(context.prefix, flow.client), flow.client_port
        while dial.remaining and now < dial.give_up_at:
            backend = dial.remaining.pop(0)
            assert backend.port is not None
            flow.backend = backend
            key = backend_key(Endpoints(backend.address.packed, mapped, backend.port, client_port))
            holder = context.flows.by_backend.get(key)
            if holder is not None and holder is not flow:
                # The client has another flow from this port to this backend, through another service address or port.
                context.refresh(holder)
                if holder.state not in SUPERSEDABLE:
                    self._note_failure(flow, FailureReason.TUPLE_IN_USE)
                    continue
                context.close(holder, CloseReason.SUPERSEDED, now)
            context.flows.bind(flow, key)
            attempt_s = context.config.timeouts.dial_attempt_s
            is_last = not dial.remaining
            dial.attempt_ends_at = dial.give_up_at if is_last else min(now + attempt_s, dial.give_up_at)
            # With another backend waiting there is no time for RFC 6298's whole second: one repeat, then the next one.
            dial.retransmit_interval_s = INITIAL_RTO_S if is_last else min(INITIAL_RTO_S, attempt_s / 2)
            dial.has_cleared_old = False
            self._send_syn(flow, dial, now)
            return
        self.reset_client(flow)
        context.close(flow, CloseReason.BACKENDS_FAILED, now)

    def _send_syn(self, flow: Flow, dial: Dial, now: float) -> None:
        handshake = flow.handshake
        from_backend = flow.from_backend
        assert handshake is not None
        assert from_backend is not None
        terms = handshake.terms
        options = backend_syn_options(
            terms, self._context.mss_to_client(flow.client, now), handshake.client_tsval if terms.timestamps else None
        )
        self._context.send(
            build_segment(
                from_backend.reversed,
                seq=handshake.client_isn,
                ack=0,
                flags=tcp.SYN | (tcp.ECE | tcp.CWR if terms.ecn else 0),
                # A SYN's window is never scaled (RFC 7323 §2.2).
                window=min(handshake.client_window << (terms.client_window_scale or 0), 0xFFFF),
                options=tcp.build_options(options),
                traffic_class=handshake.traffic_class,
            )
        )
        dial.sent_at = now
        dial.retransmit_at = now + dial.retransmit_interval_s
        self._schedule(flow, dial)

    def _schedule(self, flow: Flow, dial: Dial) -> None:
        self._context.timers.schedule(flow, min(dial.retransmit_at, dial.attempt_ends_at))

    def _note_failure(self, flow: Flow, reason: FailureReason) -> None:
        assert flow.backend is not None
        self._context.note(BackendFailed(client_of(flow), backend_endpoint(flow.backend), reason, flow.hostname))

    def _fail(self, flow: Flow, dial: Dial, reason: FailureReason, now: float) -> None:
        self._note_failure(flow, reason)
        if flow.backend is not None:
            self._context.health.note_failure(flow.backend, reason, flow.client, now)
        if reason is not FailureReason.REFUSED:
            self.hang_up(flow)
        self._context.flows.unbind(flow)
        self._dial_next(flow, dial, now)

    def _clear_old_connection(self, flow: Flow, dial: Dial, segment: Segment, now: float) -> None:
        """The backend still holds a connection of an earlier life of this port: end that one, then ask again."""
        self._context.send(build_segment(segment.endpoints.reversed, seq=segment.header.ack, ack=0, flags=tcp.RST))
        if not dial.has_cleared_old:
            # The RST goes first, on the same way; waiting out the timer would cost the client a second.
            dial.has_cleared_old = True
            self._send_syn(flow, dial, now)

    def _join(self, flow: Flow, handshake: Handshake, segment: Segment, now: float) -> None:
        context, terms, options = self._context, handshake.terms, segment.options
        assert flow.backend is not None
        context.health.note_answer(flow.backend, now)
        # RFC 3168 §6.1.1: ECE alone. A stack that sends both back just mirrors what it does not know.
        has_ecn = segment.header.flags & (tcp.ECE | tcp.CWR) == tcp.ECE
        known = context.profile(flow.backend)
        profile = learn(known, terms, options, has_ecn)
        if profile is not known and context.learn(flow.backend, profile, now):
            context.note(ProfileLearnt(backend_endpoint(flow.backend), profile))
        if terms.ecn and not has_ecn:
            # The client will mark its packets as ECN-capable and take no loss as a signal; the backend would never tell it of
            # a mark. There is no mending that from the middle.
            self.hang_up(flow)
            self.reset_client(flow)
            context.close(flow, CloseReason.BACKEND_CONTRADICTED, now)
            return
        splice = flow.splice = self._make_splice(flow, handshake, segment, options, now)
        splice.is_owed = handshake.is_relieved
        context.shares.count_unproven(flow.client, -1)
        flow.advance(Happening.ACCEPTED)
        if self._deliver(flow, handshake, segment, options, now):
            flow.advance(Happening.CLIENT_FIN)
        if flow.delivery is None:
            context.quicken(flow)
            context.schedule_idle(flow, now + context.config.timeouts.established_idle_s, now)
        else:
            context.timers.schedule(flow, flow.delivery.deadline)
        context.note(
            FlowSpliced(
                client=client_of(flow),
                service=service_of(flow),
                backend=backend_endpoint(flow.backend),
                hostname=flow.hostname,
                pattern=flow.route.pattern if flow.route else "",
                setup_s=round(now - handshake.started, 6),
            )
        )
        context.end_handshake(flow)

    def _make_splice(self, flow: Flow, handshake: Handshake, segment: Segment, options: TcpOptions, now: float) -> Splice:
        terms, from_client, from_backend = handshake.terms, flow.from_client, segment.endpoints
        client_scale, backend_scale, offered_scale = terms.client_window_scale, options.window_scale, terms.window_scale
        lacks_timestamps = terms.timestamps and options.timestamps is None
        tsval = options.timestamps[0] if terms.timestamps and options.timestamps is not None else None
        window_shift = client_scale if client_scale is not None and backend_scale is None else 0
        splice = (TimestampingSplice if lacks_timestamps else Splice).begin(
            self._context.records.take(),
            self._context.identifications,
            v4_addresses=from_client.dst + from_client.src,
            v6_addresses=from_backend.dst + from_backend.src,
            service_port=from_client.dst_port,
            backend_port=from_backend.src_port,
            client_port=from_client.src_port,
            seq_delta=handshake.isn - segment.header.seq,
            ts_delta=0 if tsval is None else handshake.tsval - tsval,
            has_timestamps=tsval is not None,
            backend_acked=sequence.add(segment.header.seq, 1),
            client_acked=handshake.acknowledged,
            # A backend without scaling takes window fields as they stand, and means its own so.
            window_shift_to_backend=window_shift,
            window_shift_to_client=0 if client_scale is None else (backend_scale or 0) - (offered_scale or 0),
            **self._context.size_limits,
            client_isn=handshake.client_isn,
            backend_isn=segment.header.seq,
            opening_window=min(handshake.client_window << window_shift, 0xFFFF),
            created=flow.created,
            hostname=flow.hostname,
            now=now,
        )
        if isinstance(splice, TimestampingSplice):
            splice.start_clock(handshake.tsval, handshake.client_tsval, now)
        return splice

    def _deliver(self, flow: Flow, handshake: Handshake, segment: Segment, options: TcpOptions, now: float) -> bool:
        """Complete the backend's handshake with the bytes held for it, as far as its window goes.

        Returns whether the client's FIN went with them.
        """
        splice, held = flow.splice, handshake.held
        assert splice is not None
        assert flow.backend is not None
        has_timestamps = handshake.terms.timestamps and options.timestamps is not None
        sender = BackendSender(
            segment.endpoints.reversed,
            ack=sequence.add(segment.header.seq, 1),
            window=splice.opening_window,
            timestamps=(handshake.client_tsval, options.timestamps[0]) if has_timestamps and options.timestamps else None,
            mss=min(options.mss or DEFAULT_MSS_V6, self._context.mss_to_backend(flow.backend, now), handshake.mss_limit),
            window_scale=(options.window_scale or 0) if handshake.terms.client_window_scale is not None else 0,
            traffic_class=handshake.traffic_class,
        )
        data, window = held.contiguous, segment.header.window
        if not (handshake.is_relieved or held.has_more) and 0 < len(data) <= min(window, sender.room()):
            # As nearly always: one message in one segment, and nothing behind it yet.
            self._context.send(sender.segment(held.start, bytes(data)))
            splice.bytes_to_backend, splice.packets_to_backend = len(data), 1
            return False
        packets: list[bytes] = []
        has_sent_fin = False
        for offset, block in held.blocks():
            sendable = block[: max(window - offset, 0)]
            has_fin = held.has_ended and offset + len(sendable) == len(held.contiguous)
            packets += sender.segments(sequence.add(held.start, offset), sendable, has_fin=has_fin)
            splice.bytes_to_backend += len(sendable)
            has_sent_fin |= has_fin
        for packet in packets or [sender.acknowledgment(held.start)]:
            self._context.send(packet)
        splice.packets_to_backend += max(len(packets), 1)
        if handshake.is_relieved:
            length = sequence.distance(held.start, handshake.acknowledged)
            owed = bytes(held.contiguous[:length])
            flow.delivery = Delivery(
                owed,
                held.start,
                sender,
                sent_bytes=min(len(owed), window),
                has_fin=length > len(owed),
                client_reset=self._client_reset(flow),
                now=now,
            )
        return has_sent_fin
