"""A connection up to the hostname: SYN cookies, the client's first ACK, the peek (RFC 4987 §3.6, RFC 9293 §3.10.7)."""

from http import HTTPStatus
from typing import Final

from kracauer.engine.context import Context, ListenerState
from kracauer.engine.dialing import Dialing
from kracauer.engine.following import Following
from kracauer.engine.gate import Admission
from kracauer.engine.ingress import Segment
from kracauer.engine.refusing import Refusing
from kracauer.engine.resolving import Resolving
from kracauer.errors import Dropped, DropReason, ParseError
from kracauer.events import CloseReason, RefusalReason
from kracauer.flows import Flow, Renewal, client_key
from kracauer.peek import Dialect, Peeked, Peeker, PeekError, Protocol
from kracauer.ratelimit import TokenBucket
from kracauer.replies import build_reset, build_segment
from kracauer.routes import Route
from kracauer.tcp import sequence
from kracauer.tcp.cookie import LIFETIME_S
from kracauer.tcp.handshake import Handshake
from kracauer.tcp.held import Arrival, HeldStream
from kracauer.tcp.state import State
from kracauer.tcp.terms import IPV6_OVERHEAD, decode_scale, decode_terms, encode_terms, syn_ack_options
from kracauer.wire import tcp
from kracauer.wire.buffer import Frame
from kracauer.wire.tcp import NO_OPTIONS, TcpOptions

_DSCP: Final = 0xFC  # of the traffic class; the rest is ECN, which is each packet's own (RFC 3168 §5)
_ECN_SETUP: Final = tcp.ECE | tcp.CWR
_TLS_HANDSHAKE: Final = 0x16
_ALERT_DECODE_ERROR: Final = 50
_ALERT_INTERNAL_ERROR: Final = 80  # RFC 8446 §6.2 has none for a server that is full
_ACME_PATH: Final = b"/.well-known/acme-challenge/"
_ALERT_ACCESS_DENIED: Final = 49  # RFC 8446 §6.2
# What the listener's window lets a client send before a backend is there; the peek's own limit may be smaller.
_WINDOW_BYTES: Final = 65535
# A client stops short of a window that ends within a segment. With this much beyond the peek's limit, what is too long shows.
_BEYOND_BYTES: Final = 16384


class Opening:
    """Handles a client's packets until its hostname is known, and while its backend is being dialled."""

    def __init__(
        self, context: Context, resolving: Resolving, dialing: Dialing, refusing: Refusing, following: Following
    ) -> None:
        self._context = context
        self._resolving = resolving
        self._dialing = dialing
        self._refusing = refusing
        self._following = following

    def answer_syn(self, segment: Segment, listener: ListenerState, flow: Flow | None, now: float) -> None:
        """Answer a SYN with a cookie and keep nothing of it; a flow it may be about to replace is only marked."""
        context, header, endpoints = self._context, segment.header, segment.endpoints
        self._check_access(segment, listener)
        # Deviation: RFC 5382 §4.2 wants simultaneous opens supported. No backend dials a client, so none meets a SYN half way.
        if header.flags & (tcp.ACK | tcp.RST | tcp.FIN) or not endpoints.src_port:
            raise Dropped(DropReason.ILLEGAL_FLAGS, f"flags {header.flags:#05x}")
        try:
            options = tcp.parse_options(header.options)
        except ParseError as error:
            raise Dropped(DropReason.MALFORMED_TCP, str(error)) from None
        if options.is_authenticated:
            # Only an endpoint holds the key (RFC 2385 §2, RFC 5925 §4), and Kracauer is none.
            self.reset(segment, now)
            raise Dropped(DropReason.AUTHENTICATED_SYN)
        offer = listener.offers.current
        asks_ecn = header.flags & _ECN_SETUP == _ECN_SETUP
        # A client that clears DF hears of no MTU, and what it sends is cut where it is longer than this (RFC 7915 §4): better
        # that it sends no such segments.
        shown = offer if segment.dont_fragment else offer._replace(mss=min(offer.mss, context.cut_mtu - IPV6_OVERHEAD))
        code = encode_terms(offer, options, asks_ecn)
        cookie = context.cookies.bake(client_key(endpoints), header.seq, code, listener.offers.scale_code, now)
        context.send(
            build_segment(
                endpoints.reversed,
                seq=cookie.isn,
                ack=sequence.add(header.seq, 1),
                flags=tcp.SYN | tcp.ACK | (tcp.ECE if offer.ecn and asks_ecn else 0),
                window=offer.window,
                options=tcp.build_options(syn_ack_options(shown, options, cookie.tsval)),
            )
        )
        # Deviation: RFC 5961 §4.2 answers a SYN on an open connection with an ACK, so that a client that has lost its own end
        # resets it first. The cookie proves the client as well as that reset would, and saves it a round trip.
        if flow is not None and flow.client_isn != header.seq:
            # From here each of the flow's segments is held against this SYN, until one completes the new handshake or the
            # cookie is too old for that. An attacker who forges SYNs costs the flow nothing but that.
            former = flow.renewal
            flow.renewal = Renewal(header.seq, now + LIFETIME_S, since=now)
            if former is not None and now - former.since <= LIFETIME_S:
                flow.renewal.since, flow.renewal.spent = former.since, former.spent
            if flow.fast is not None:
                self._context.quicken(flow)

    def completes_renewal(self, flow: Flow, segment: Segment, listener: ListenerState, now: float) -> bool:
        """Whether `segment` completes the handshake that a SYN on `flow`'s own addresses and ports has begun."""
        renewal, header = flow.renewal, segment.header
        if renewal is None or renewal.is_over:
            return False
        if renewal.isn is None:
            self._context.refresh(flow)
            if flow.splice is None or flow.splice.may_be_next(header.seq):
                flow.renewal = None
                return False
            if header.seq == sequence.add(flow.client_isn, 1):
                return False  # the flow's own first segment, late: its cookie may still be good
        elif header.seq != sequence.add(renewal.isn, 1):
            return False
        client_isn = sequence.add(header.seq, -1)
        offers = listener.offers.candidates(now)
        isn = sequence.add(header.ack, -1)
        if self._context.cookies.check(flow.client_key, client_isn, isn, offers, now) is not None:
            return True
        renewal.note_guess()
        return False

    def admit(self, segment: Segment, listener: ListenerState, now: float) -> None:
        """Make a flow of a client whose ACK carries a cookie of ours; raises Dropped for any other segment."""
        context, header = self._context, segment.header
        self._check_access(segment, listener)
        key = client_key(segment.endpoints)
        if header.flags & tcp.RST or not header.flags & tcp.ACK:
            raise Dropped(DropReason.NO_FLOW)
        client_isn, isn = sequence.add(header.seq, -1), sequence.add(header.ack, -1)
        offers = listener.offers.candidates(now)
        found = context.cookies.check(key, client_isn, isn, offers, now)
        if found is None:
            if context.strays.is_stale(key, now):
                self.reset(segment, now)
            raise Dropped(DropReason.BAD_COOKIE)
        self.open(Admission(segment, listener, found), None, now)

    def open(self, admission: Admission, _frame: Frame | None, now: float) -> None:
        """Make a flow of a client that has brought the right cookie; raises Dropped where there is no room for it."""
        context, (segment, listener, found) = self._context, admission
        header = segment.header
        client_isn, isn = sequence.add(header.seq, -1), sequence.add(header.ack, -1)
        self._check_room(segment.endpoints.src, now)
        retired = context.flows.oldest_retired
        if context.flows.is_full and retired is not None:
            context.close(retired, CloseReason.SUPERSEDED, now)
        options = segment.options
        terms = decode_terms(found.terms, decode_scale(found.scale_code), options.timestamps is not None)
        limits = context.config.limits
        handshake = Handshake(
            client_isn=client_isn,
            isn=isn,
            tsval=found.tsval,
            terms=terms,
            held=HeldStream(header.seq, max(limits.peek_bytes, _WINDOW_BYTES) + _BEYOND_BYTES),
            peeker=Peeker(listener.config.protocol, limits.peek_bytes),
            client_window=header.window,
            client_tsval=options.timestamps[0] if options.timestamps else 0,
            started=now,
            traffic_class=segment.tos & _DSCP,
            mss_limit=0xFFFF if segment.dont_fragment else context.cut_mtu - IPV6_OVERHEAD,
        )
        flow = Flow(segment.endpoints, handshake, now)
        context.enter(flow)
        context.shares.count_unproven(segment.endpoints.src, 1)
        context.shares.note_opening(segment.endpoints.src, now)
        context.timers.schedule(flow, now + context.config.timeouts.peek_s)
        if segment.payload or header.flags & tcp.FIN:
            self._hold(flow, handshake, segment, now)

    def _check_room(self, client: bytes, now: float) -> None:
        shares = self._context.shares
        try:
            shares.check_opening(client, now)
        except Dropped:
            # Of what counts as open, some may have ended on the fast path.
            if not self._following.look(now):
                raise
            shares.check_opening(client, now)

    @staticmethod
    def _check_access(segment: Segment, listener: ListenerState) -> None:
        # In silence: an answer would tell a scanner that there is something to be had, and cost a packet for each of a flood.
        if listener.access is not None and not listener.access.permits(segment.endpoints.src):
            raise Dropped(DropReason.DENIED)

    def receive_from_client(self, flow: Flow, segment: Segment, now: float) -> None:
        """Take in a segment of a client that waits for its backend."""
        handshake, header = flow.handshake, segment.header
        assert handshake is not None
        if header.flags & tcp.RST:
            held = handshake.held
            # Deviation: RFC 5961 §3.2 wants the exact number. The client's RST carries the end of what it sent, of which some
            # may be lost, or what an ACK of ours named. Anything else gets a challenge, in the window or out of it.
            if 0 <= sequence.distance(held.start, header.seq) <= sequence.distance(held.start, held.end_seq):
                self._dialing.hang_up(flow)
                self._context.close(flow, CloseReason.CLIENT_ABORTED, now)
            else:
                self._acknowledge(flow, handshake)
        elif not header.flags & tcp.ACK or header.ack != handshake.next_isn:
            # We have sent nothing that could be acknowledged (RFC 9293 §3.10.7.4).
            self._acknowledge(flow, handshake)
            raise Dropped(DropReason.OUT_OF_WINDOW, "acknowledges what was never sent")
        else:
            self._hold(flow, handshake, segment, now)

    def expire_peek(self, flow: Flow, now: float) -> None:
        """Give up on a client that has not said whom it wants.

        Deviation: RFC 5382 §5 gives a connection that is still opening four minutes. It protects endpoints from a translator
        that forgets in silence; until the splice Kracauer is an endpoint itself, and says that it gives up.
        """
        self._dialing.reset_client(flow)
        self._context.close(flow, CloseReason.PEEK_TIMEOUT, now)

    def reset(self, segment: Segment, now: float, limit: TokenBucket | None = None) -> None:
        """Answer `segment` with a RST, as far as the rate limit goes: a client's, or the one given."""
        if (limit or self._context.resets).take(now):
            self._context.send(build_reset(segment.endpoints.reversed, segment.header, len(segment.payload)))
        else:
            self._context.drop(DropReason.RATE_LIMITED)

    def _hold(self, flow: Flow, handshake: Handshake, segment: Segment, now: float) -> None:
        context, header, held = self._context, segment.header, handshake.held
        if segment.payload:
            context.shares.check_holding(flow, len(segment.payload))
        handshake.client_window = header.window
        options = segment.options if handshake.terms.timestamps else NO_OPTIONS
        if options.timestamps is not None and sequence.distance(handshake.client_tsval, options.timestamps[0]) > 0:
            handshake.client_tsval = options.timestamps[0]
        before = held.held_bytes
        arrival = held.add(header.seq, segment.payload, bool(header.flags & tcp.FIN))
        context.shares.count_held(flow.client, held.held_bytes - before)
        match arrival:
            case Arrival.IN_ORDER if flow.state is State.PEEKING:
                self._peek(flow, handshake, now)
            case Arrival.IN_ORDER:
                # Deviation: RFC 9293 §3.8.6.3 has an ACK wait half a second at most. What is acknowledged the client forgets;
                # what is not stays its own to repeat, until a backend has it.
                pass
            case Arrival.OUT_OF_ORDER:
                # The duplicate ACK has the client repeat what is missing at once (RFC 5681 §4.2) and relieves it of nothing.
                self._acknowledge(flow, handshake)
            case Arrival.REPEATED:
                self._handle_repeat(flow, handshake, segment, now)
            case Arrival.BEYOND:
                self._acknowledge(flow, handshake)
                raise Dropped(DropReason.OUT_OF_WINDOW, "beyond the window")
            case Arrival.NOTHING:
                if header.seq != held.next_seq:
                    # A keep-alive or an old duplicate: not acceptable, so acknowledged (RFC 9293 §3.8.4).
                    self._acknowledge(flow, handshake)

    def _handle_repeat(self, flow: Flow, handshake: Handshake, segment: Segment, now: float) -> None:
        """The client sends again what is held: it has lost patience, or its small first window is spent."""
        end = sequence.add(segment.header.seq, len(segment.payload))
        if sequence.distance(handshake.held.start, end) <= 0:
            # A probe of the byte before the first one (RFC 9293 §3.8.6.1).
            self._acknowledge(flow, handshake)
        elif flow.state is State.PEEKING:
            handshake.acknowledged = handshake.held.next_seq
            self._acknowledge(flow, handshake)
        else:
            self._dialing.redrive(flow, now)

    def _peek(self, flow: Flow, handshake: Handshake, now: float) -> None:
        held = handshake.held
        try:
            outcome = handshake.peeker.update(held.contiguous)
        except PeekError as error:
            self._refusing.refuse(
                flow,
                RefusalReason.MALFORMED,
                error.dialect,
                error.code,
                now,
                is_head=error.is_head_request,
                detail=str(error),
            )
            return
        if isinstance(outcome, Peeked):
            self._route(flow, outcome, now)
        elif held.has_ended:
            self._refuse_incomplete(flow, handshake, now)
        elif handshake.is_relieved:
            # Its window is small: each further piece has to be acknowledged too, or each would cost the client a timeout.
            handshake.acknowledged = held.next_seq
            self._acknowledge(flow, handshake)

    def _route(self, flow: Flow, peeked: Peeked, now: float) -> None:
        context, is_head = self._context, peeked.is_head_request
        flow.hostname = peeked.hostname
        route = self._resolving.route(peeked.hostname)
        if route is None:
            reason = RefusalReason.NO_HOSTNAME if peeked.hostname is None else RefusalReason.NO_ROUTE
            self._refusing.refuse(flow, reason, peeked.dialect, None, now, is_head=is_head)
            return
        if route.pattern == peeked.hostname:
            flow.hostname = route.pattern  # one string for all of a name's flows, of which there may be a hundred thousand
        is_tls = peeked.dialect is Dialect.TLS
        if not route.access.is_open and not route.access.permits(flow.client):
            code = _ALERT_ACCESS_DENIED if is_tls else HTTPStatus.FORBIDDEN
            self._refusing.refuse(flow, RefusalReason.DENIED, peeked.dialect, code, now, is_head=is_head)
        elif self._is_redirected(flow, route, peeked):
            self._refusing.redirect(flow, peeked, now)
        elif route.max_flows and context.route_flows[route.pattern] >= route.max_flows:
            code = _ALERT_INTERNAL_ERROR if is_tls else HTTPStatus.SERVICE_UNAVAILABLE
            detail = f"max_flows: {route.max_flows}"
            self._refusing.refuse(flow, RefusalReason.HOST_FULL, peeked.dialect, code, now, is_head=is_head, detail=detail)
        else:
            context.take_route(flow, route)
            self._resolving.begin(flow, peeked, now)

    def _is_redirected(self, flow: Flow, route: Route, peeked: Peeked) -> bool:
        """Whether this request is to be made by HTTPS; not where a certificate is being asked for (RFC 8555 §8.3)."""
        if peeked.dialect is not Dialect.HTTP or peeked.hostname is None or peeked.target is None:
            return False
        listener = self._context.listeners.get((flow.service, flow.service_port))
        is_wanted = route.redirect or (listener is not None and listener.config.redirect)
        return is_wanted and not peeked.target.startswith(_ACME_PATH)

    def _refuse_incomplete(self, flow: Flow, handshake: Handshake, now: float) -> None:
        data = handshake.held.contiguous
        if not data:
            self._refusing.refuse(flow, RefusalReason.EMPTY, None, None, now)
            return
        listener = self._context.listeners.get((flow.from_client.dst, flow.from_client.dst_port))
        protocol = Protocol.AUTO if listener is None else listener.config.protocol
        is_tls = protocol is Protocol.TLS or (protocol is Protocol.AUTO and data[0] == _TLS_HANDSHAKE)
        dialect, code = (Dialect.TLS, _ALERT_DECODE_ERROR) if is_tls else (Dialect.HTTP, 400)
        self._refusing.refuse(flow, RefusalReason.MALFORMED, dialect, code, now, detail="ends before it is complete")

    def _acknowledge(self, flow: Flow, handshake: Handshake) -> None:
        """Send an ACK of what the client has been relieved of, with what is held beyond it as SACK blocks."""
        terms, held = handshake.terms, handshake.held
        room = held.limit_bytes - sequence.distance(held.start, handshake.acknowledged)
        options = TcpOptions(
            timestamps=(handshake.tsval, handshake.client_tsval) if terms.timestamps else None,
            sack=held.sack_blocks() if terms.sack else (),
        )
        self._context.send(
            build_segment(
                flow.from_client.reversed,
                seq=handshake.next_isn,
                ack=handshake.acknowledged,
                flags=tcp.ACK,
                window=min(max(room, 0) >> (terms.window_scale or 0), 0xFFFF),
                options=tcp.build_options(options),
            )
        )
