"""Telling a client no: an alert or an HTTP error, and a clean close (RFC 6066 §3, RFC 9110 §15.5.20)."""

from http import HTTPStatus
from typing import Final

from kracauer.engine.context import Context, client_of, service_of
from kracauer.engine.ingress import Segment
from kracauer.events import CloseReason, FlowRefused, RefusalReason
from kracauer.flows import Flow
from kracauer.peek import Dialect
from kracauer.replies import ALERT_UNRECOGNIZED_NAME, build_segment, http_error, tls_alert
from kracauer.tcp.refusal import Due, Refusal
from kracauer.tcp.state import Happening
from kracauer.wire import tcp
from kracauer.wire.tcp import TcpOptions

_WINDOW: Final = 512  # in whatever scale: enough for what a client may still send and nobody reads


class Refusing:
    """Handles flows in the state REFUSING."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def refuse(
        self,
        flow: Flow,
        reason: RefusalReason,
        dialect: Dialect | None,
        code: int | None,
        now: float,
        *,
        is_head: bool = False,
        detail: str | None = None,
    ) -> None:
        """Answer in `dialect` with `code` (None: that such a name is not served) and close; lets go of the handshake."""
        context, handshake = self._context, flow.handshake
        assert handshake is not None
        match dialect:
            case Dialect.TLS:
                code = ALERT_UNRECOGNIZED_NAME if code is None else code
                answer, shown = tls_alert(code), f"tls alert {code}"
            case Dialect.HTTP:
                code = HTTPStatus.MISDIRECTED_REQUEST if code is None else code
                answer, shown = http_error(code, is_head=is_head), f"http {int(code)}"
            case None:
                answer, shown = b"", "close"
        flow.refusal = Refusal(
            answer=answer,
            seq=handshake.next_isn,
            ack=handshake.held.next_seq,
            has_client_fin=handshake.held.has_ended,
            timestamps=(handshake.tsval, handshake.client_tsval) if handshake.terms.timestamps else None,
            now=now,
        )
        flow.advance(Happening.REFUSED)
        context.end_handshake(flow)
        context.note(FlowRefused(client_of(flow), service_of(flow), reason, shown, flow.hostname, detail))
        self._send_answer(flow, flow.refusal)
        context.timers.schedule(flow, flow.refusal.deadline)

    def receive_from_client(self, flow: Flow, segment: Segment, now: float) -> None:
        """Take in a segment of a client that has been told no."""
        refusal = flow.refusal
        assert refusal is not None
        if segment.header.flags & tcp.RST:
            # Deviation: RFC 5961 §3.2 answers a RST elsewhere in the window with an ACK. This connection ends in seconds.
            if segment.header.seq == refusal.ack:
                self._context.close(flow, CloseReason.REFUSED, now)
            return
        timestamps = segment.options.timestamps
        if refusal.timestamps is not None and timestamps is not None:
            refusal.timestamps = (refusal.timestamps[0], timestamps[0])
        if refusal.receive(segment.header, len(segment.payload), now):
            self._send(flow, refusal, refusal.next_seq, tcp.ACK)
        self._context.timers.schedule(flow, refusal.deadline)

    def handle_timer(self, flow: Flow, now: float) -> None:
        """Repeat the answer, or end the flow."""
        refusal = flow.refusal
        assert refusal is not None
        match refusal.handle_timer(now):
            case Due.REPEAT:
                self._send_answer(flow, refusal)
            case Due.RESET:
                self._send(flow, refusal, refusal.next_seq, tcp.RST | tcp.ACK)
                self._context.close(flow, CloseReason.REFUSED, now)
                return
            case Due.DONE:
                self._context.close(flow, CloseReason.REFUSED, now)
                return
            case Due.NOTHING:
                pass
        self._context.timers.schedule(flow, refusal.deadline)

    def _send_answer(self, flow: Flow, refusal: Refusal) -> None:
        self._send(flow, refusal, refusal.seq, tcp.PSH | tcp.ACK | tcp.FIN, refusal.answer)

    def _send(self, flow: Flow, refusal: Refusal, seq: int, flags: int, payload: bytes = b"") -> None:
        self._context.send(
            build_segment(
                flow.from_client.reversed,
                seq=seq,
                ack=refusal.ack,
                flags=flags,
                window=_WINDOW,
                options=tcp.build_options(TcpOptions(timestamps=refusal.timestamps)),
                payload=payload,
            )
        )
