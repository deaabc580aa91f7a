"""What is not plain on a spliced flow: FIN, RST, what is still ours to deliver, and the timers (RFC 5382 §5, RFC 7857 §2)."""

from kracauer.engine.context import Context
from kracauer.engine.ingress import Segment
from kracauer.errors import Dropped, DropReason
from kracauer.events import CloseReason
from kracauer.flows import Flow
from kracauer.replies import build_segment
from kracauer.tcp import sequence
from kracauer.tcp.state import SUPERSEDABLE, Happening, State
from kracauer.wire import tcp
from kracauer.wire.buffer import Frame


class Spliced:
    """Handles the packets of spliced flows that the fast path leaves alone."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def receive_from_client(self, flow: Flow, segment: Segment, frame: Frame, now: float) -> None:
        """Translate the client's segment in `frame`, and move the flow on."""
        splice = flow.splice
        assert splice is not None
        packet = splice.to_backend(frame, now, any_flags=True)
        if packet is None:
            raise Dropped(DropReason.UNEXPECTED, "offload header does not fit the packet")
        self._context.send(packet)
        if flow.renewal_isn is not None and now > flow.renewal_until:
            flow.renewal_isn = None
        self._move_on(flow, segment.header.flags, now, is_client=True)

    def receive_from_backend(self, flow: Flow, segment: Segment, frame: Frame, now: float) -> None:
        """Translate the backend's segment in `frame`, and move the flow on."""
        splice, header = flow.splice, segment.header
        assert splice is not None
        if header.flags & tcp.SYN:
            self._answer_repeated_syn_ack(flow, segment)
            return
        delivery = flow.delivery
        if delivery is not None and header.flags & tcp.ACK:
            delivery.acknowledge(header.ack, now)
            if delivery.is_done:
                flow.delivery = None
            else:
                self._context.timers.schedule(flow, delivery.deadline)
        packet = splice.to_client(frame, now, any_flags=True)
        if packet is None:
            raise Dropped(DropReason.UNEXPECTED, "offload header does not fit the packet, or too big for IPv4")
        self._context.send(packet)
        self._move_on(flow, header.flags, now, is_client=False)

    def handle_timer(self, flow: Flow, now: float) -> None:
        """Repeat what is ours to deliver, or end a flow that has been idle too long."""
        splice, delivery = flow.splice, flow.delivery
        assert splice is not None
        if delivery is not None:
            if now >= delivery.give_up_at:
                self._give_up(flow, now)
                return
            if now >= delivery.deadline:
                self._context.send(delivery.repeat(now))
            self._context.timers.schedule(flow, min(delivery.deadline, delivery.give_up_at))
            return
        deadline = splice.last_seen + self._timeout_s(flow)
        if now < deadline:
            self._context.timers.schedule(flow, deadline)
            return
        match flow.state:
            case State.BOTH_FIN:
                reason = CloseReason.FINISHED
            case State.TRANSITORY:
                reason = CloseReason.RESET
            case _:
                reason = CloseReason.IDLE
        self._context.close(flow, reason, now)

    def _move_on(self, flow: Flow, flags: int, now: float, *, is_client: bool) -> None:
        if flags & tcp.RST:
            flow.reset_by_client = is_client
            happening = Happening.RESET
        elif flags & tcp.FIN:
            happening = Happening.CLIENT_FIN if is_client else Happening.BACKEND_FIN
        elif flow.state is State.TRANSITORY and flow.reset_by_client is is_client:
            happening = Happening.REVIVED
        else:
            happening = None
        if happening is not None and flow.advance(happening):
            if flow.state in SUPERSEDABLE:
                self._context.flows.retire(flow)
            else:
                self._context.flows.revive(flow)
            self._context.timers.schedule(flow, now + self._timeout_s(flow))
        needs_a_look = flow.state is State.TRANSITORY or flow.delivery is not None or flow.renewal_isn is not None
        flow.fast = None if needs_a_look else flow.splice

    def _timeout_s(self, flow: Flow) -> float:
        timeouts = self._context.config.timeouts
        return timeouts.transitory_s if flow.state in SUPERSEDABLE else timeouts.established_idle_s

    def _answer_repeated_syn_ack(self, flow: Flow, segment: Segment) -> None:
        """The backend has not seen the end of its handshake: say it again, to the backend alone (RFC 9293 §3.10.7.4)."""
        header = segment.header
        if not header.flags & tcp.ACK:
            raise Dropped(DropReason.UNEXPECTED, "SYN from the backend of a spliced flow")
        self._context.send(
            build_segment(
                segment.endpoints.reversed,
                seq=header.ack,
                ack=sequence.add(header.seq, 1),
                flags=tcp.ACK,
                window=flow.opening_window,
            )
        )

    def _give_up(self, flow: Flow, now: float) -> None:
        """The backend never acknowledged bytes that the client has forgotten: the connection cannot be made whole."""
        delivery, splice = flow.delivery, flow.splice
        assert delivery is not None
        assert splice is not None
        assert flow.from_backend is not None
        self._context.send(build_segment(flow.from_backend.reversed, seq=delivery.start, ack=0, flags=tcp.RST))
        self._context.send(delivery.client_reset)
        self._context.close(flow, CloseReason.UNDELIVERED, now)
