"""Telling a client no: an alert or an HTTP error, and a clean close (RFC 6066 §3, RFC 9110 §15.5.20)."""

from http import HTTPStatus
from typing import Final

from kracauer.engine.context import Context, client_of, service_of
from kracauer.engine.ingress import Segment
from kracauer.events import CloseReason, FlowRedirected, FlowRefused, RefusalReason
from kracauer.flows import Flow
from kracauer.peek import Dialect, Peeked
from kracauer.replies import ALERT_UNRECOGNIZED_NAME, build_segment, http_error, http_redirect, tls_alert
from kracauer.tcp import sequence
from kracauer.tcp.handshake import Handshake
from kracauer.tcp.refusal import Due, Refusal
from kracauer.tcp.state import Happening
from kracauer.wire import tcp
from kracauer.wire.tcp import TcpOptions

_MAX_SEGMENTS: Final = 10  # what an initial window holds (RFC 6928 §2)
_OPTION_BYTES: Final = 12  # of timestamps
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
        match dialect:
            case Dialect.TLS:
                code = ALERT_UNRECOGNIZED_NAME if code is None else code
                answer, shown = tls_alert(code), f"tls alert {code}"
            case Dialect.HTTP:
                code = HTTPStatus.MISDIRECTED_REQUEST if code is None else code
                answer, shown = http_error(code, is_head=is_head), f"http {int(code)}"
            case None:
                answer, shown = b"", "close"
        self._answer(flow, answer, now)
        self._context.note(FlowRefused(client_of(flow), service_of(flow), reason, shown, flow.hostname, detail))

    def redirect(self, flow: Flow, peeked: Peeked, now: float) -> None:
        """Send an HTTP client to the same name and path by HTTPS, and close."""
        handshake = flow.handshake
        assert handshake is not None
        target = "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in peeked.target or b"/")
        answer = http_redirect(f"https://{peeked.hostname}{target}", is_head=peeked.is_head_request)
        if len(answer) > _MAX_SEGMENTS * (self._mss(flow, handshake) - _OPTION_BYTES):
            is_head = peeked.is_head_request
            self.refuse(flow, RefusalReason.MALFORMED, Dialect.HTTP, HTTPStatus.REQUEST_URI_TOO_LONG, now, is_head=is_head)
            return
        self._answer(flow, answer, now, is_redirect=True)
        self._context.note(FlowRedirected(client_of(flow), service_of(flow), flow.hostname))

    def _mss(self, flow: Flow, handshake: Handshake) -> int:
        return min(handshake.terms.mss, self._context.mss_to_client(flow.client, handshake.started))

    def _answer(self, flow: Flow, answer: bytes, now: float, *, is_redirect: bool = False) -> None:
        context, handshake = self._context, flow.handshake
        assert handshake is not None
        flow.refusal = Refusal(
            answer=answer,
            seq=handshake.next_isn,
            ack=handshake.held.next_seq,
            has_client_fin=handshake.held.has_ended,
            timestamps=(handshake.tsval, handshake.client_tsval) if handshake.terms.timestamps else None,
            now=now,
            mss=self._mss(flow, handshake),
            is_redirect=is_redirect,
        )
        flow.advance(Happening.REFUSED)
        context.end_handshake(flow)
        self._send_answer(flow, flow.refusal)
        context.timers.schedule(flow, flow.refusal.deadline)

    def receive_from_client(self, flow: Flow, segment: Segment, now: float) -> None:
        """Take in a segment of a client that has been told no."""
        refusal = flow.refusal
        assert refusal is not None
        if segment.header.flags & tcp.RST:
            # Deviation: RFC 5961 §3.2 answers a RST elsewhere in the window with an ACK. This connection ends in seconds.
            if segment.header.seq == refusal.ack:
                self._close(flow, refusal, now)
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
                self._close(flow, refusal, now)
                return
            case Due.DONE:
                self._close(flow, refusal, now)
                return
            case Due.NOTHING:
                pass
        self._context.timers.schedule(flow, refusal.deadline)

    def _close(self, flow: Flow, refusal: Refusal, now: float) -> None:
        self._context.close(flow, CloseReason.REDIRECTED if refusal.is_redirect else CloseReason.REFUSED, now)

    def _send_answer(self, flow: Flow, refusal: Refusal) -> None:
        room = max(refusal.mss - (_OPTION_BYTES if refusal.timestamps else 0), 1)
        *starts, last = range(0, len(refusal.answer), room) or (0,)
        for start in starts:
            self._send(flow, refusal, sequence.add(refusal.seq, start), tcp.ACK, refusal.answer[start : start + room])
        self._send(flow, refusal, sequence.add(refusal.seq, last), tcp.PSH | tcp.ACK | tcp.FIN, refusal.answer[last:])

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
