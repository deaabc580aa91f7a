"""What is not plain on a spliced flow: FIN, RST, sizes, what is still ours to deliver (RFC 7915 §4, §5, RFC 5961 §3)."""

from typing import Final

from kracauer.engine.context import Context
from kracauer.engine.ingress import Segment
from kracauer.errors import Dropped, DropReason, IcmpAnswer
from kracauer.events import CloseReason
from kracauer.flows import Flow
from kracauer.replies import build_segment
from kracauer.tcp import sequence
from kracauer.tcp.delivery import Delivery
from kracauer.tcp.splice import BELIEVABLE_WINDOW, Splice
from kracauer.tcp.state import SUPERSEDABLE, Happening, State
from kracauer.translate.fragmenting import fragment_v4, fragment_v6
from kracauer.translate.segmenting import segment_v4
from kracauer.wire import icmpv4, icmpv6, ipv4, ipv6, tcp, vnet_hdr
from kracauer.wire.buffer import Frame
from kracauer.wire.tcp import TcpHeader, TcpOptions

_ENDING: Final = tcp.FIN | tcp.RST
_PROBES: Final = 4  # for each side, before an idle flow is given up


class Spliced:
    """Handles the packets of spliced flows that the fast path leaves alone."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.note_moved = self._note_state
        self._scratch = Frame()

    def receive_from_client(self, flow: Flow, segment: Segment, frame: Frame, now: float) -> None:
        """Translate the client's segment in `frame`, and move the flow on."""
        splice = flow.splice
        assert splice is not None
        self._context.refresh(flow)
        if segment.hop_limit < 2:
            raise Dropped(DropReason.TTL_EXPIRED, answer=IcmpAnswer(icmpv4.TIME_EXCEEDED, 0))
        distance = sequence.distance(splice.client_acked, segment.header.seq)
        if segment.size > splice.max_to_backend and segment.dont_fragment:
            next_hop_mtu = splice.max_to_backend
            answer = IcmpAnswer(icmpv4.DESTINATION_UNREACHABLE, icmpv4.FRAGMENTATION_NEEDED, next_hop_mtu)
            raise Dropped(DropReason.TOO_BIG, f"{segment.size} bytes where {next_hop_mtu} fit", answer)
        if segment.size > splice.unfragmented_to_backend and not segment.dont_fragment:
            self._send_fragments_to_backend(splice, frame, now)
        else:
            packet = splice.to_backend(frame, now, vetted=True)
            if packet is None:
                raise Dropped(DropReason.UNEXPECTED, "offload header does not fit the packet")
            self._context.send(packet)
        if flow.renewal is not None and now > flow.renewal.until:
            flow.renewal = None
        self._move_on(flow, segment.header.flags, now, is_client=True, distance=distance)

    def receive_from_backend(self, flow: Flow, segment: Segment, frame: Frame, now: float) -> None:
        """Translate the backend's segment in `frame`, and move the flow on."""
        splice, header = flow.splice, segment.header
        assert splice is not None
        self._context.refresh(flow)
        if header.flags & tcp.SYN:
            self._answer_repeated_syn_ack(flow, segment)
            return
        if segment.hop_limit < 2:
            raise Dropped(DropReason.TTL_EXPIRED, answer=IcmpAnswer(icmpv6.TIME_EXCEEDED, 0))
        distance = sequence.distance(splice.backend_acked, header.seq)
        is_too_big = segment.size - 20 > splice.max_to_client
        # No IPv6 host makes a packet smaller than 1280 bytes, whatever it is told (RFC 8201 §4): such a one is cut.
        if is_too_big and segment.identification is None and segment.size > ipv6.MIN_MTU:
            mtu = max(splice.max_to_client + 20, ipv6.MIN_MTU)
            answer = IcmpAnswer(icmpv6.PACKET_TOO_BIG, 0, mtu)
            raise Dropped(DropReason.TOO_BIG, f"{segment.size} bytes where {mtu} fit", answer)
        if flow.delivery is not None and header.flags & tcp.ACK:
            self._deliver_on(flow, flow.delivery, header, now)
        packet = splice.to_client(frame, now, vetted=True)
        if packet is None:
            raise Dropped(DropReason.UNEXPECTED, "offload header does not fit the packet, or too big for IPv4")
        if is_too_big or segment.identification is not None:
            self._send_fragments_to_client(packet, segment.identification)
        else:
            self._context.send(packet)
        self._move_on(flow, header.flags, now, is_client=False, distance=distance)

    def resume(self, flow: Flow, now: float) -> None:
        """Take up a flow that an earlier process has left, or end it where it cannot go on."""
        assert flow.splice is not None
        if flow.splice.is_owed:
            # That process had relieved the client of bytes, and took them with it.
            if flow.state is not State.TRANSITORY:
                self._send_to_both(flow, tcp.RST, offset=0)
            self._context.close(flow, CloseReason.UNDELIVERED, now)
            return
        if flow.state is State.PROBING:
            # Who was asked by that process may have answered nobody, and has its time again.
            flow.splice.state_since = now
            self._send_to_both(flow, tcp.ACK, offset=-1)
        if flow.renewal is None and flow.state not in (State.TRANSITORY, State.PROBING):
            self._context.quicken(flow)  # its packets went by a fast path until now, and need not come here for a while
        self._schedule(flow, self.deadline(flow), now)

    def abort(self, flow: Flow, now: float) -> None:
        """Reset both sides."""
        self._context.refresh(flow)
        if flow.delivery is not None:
            self._reset_undelivered(flow, flow.delivery)
        elif flow.state is not State.TRANSITORY:
            self._send_to_both(flow, tcp.RST, offset=0)
        self._context.close(flow, CloseReason.STOPPED, now)

    def handle_timer(self, flow: Flow, now: float) -> None:
        """Repeat what is ours to deliver, probe a flow that has been idle too long, or end it."""
        splice, delivery = flow.splice, flow.delivery
        assert splice is not None
        self._context.refresh(flow)
        if delivery is not None and flow.state is not State.TRANSITORY:
            if now >= delivery.give_up_at:
                self._give_up(flow, now)
                return
            if now >= delivery.deadline:
                assert flow.backend is not None
                self._context.send(delivery.repeat(now, self._context.mss_to_backend(flow.backend, now)))
            self._context.timers.schedule(flow, min(delivery.deadline, delivery.give_up_at))
            return
        deadline = self.deadline(flow)
        if now < deadline:
            if flow.state is State.PROBING:
                self._send_to_both(flow, tcp.ACK, offset=-1)
            self._schedule(flow, deadline, now)
            return
        match flow.state:
            case State.BOTH_FIN:
                self._context.close(flow, CloseReason.FINISHED, now)
            case State.TRANSITORY if delivery is not None:
                # What was ours to deliver has waited for longer than it may.
                self._give_up(flow, now)
            case State.TRANSITORY if splice.is_reset_certain:
                self._context.close(flow, CloseReason.RESET, now)
            case State.PROBING:
                self._send_to_both(flow, tcp.RST, offset=0)
                self._context.close(flow, CloseReason.IDLE, now)
            case _:
                self._probe(flow, now)

    def _deliver_on(self, flow: Flow, delivery: Delivery, header: TcpHeader, now: float) -> None:
        assert flow.backend is not None
        mss = self._context.mss_to_backend(flow.backend, now)
        for packet in delivery.acknowledge(header.ack, header.window, mss, now):
            self._context.send(packet)
        if delivery.is_done:
            flow.delivery = None
            if flow.splice is not None:
                flow.splice.is_owed = False
        else:
            self._context.timers.schedule(flow, delivery.deadline)

    def _move_on(self, flow: Flow, flags: int, now: float, *, is_client: bool, distance: int) -> None:
        """Have the flow follow a segment that lay at `distance` from what its sender had seen acknowledged."""
        splice = flow.splice
        assert splice is not None
        # Deviation: RFC 5961 §3.2 wants the exact number, which only an endpoint knows. Both are sent every RST and FIN and
        # judge them for themselves; here it decides just how long a silent flow is kept.
        is_believed = 0 <= distance <= BELIEVABLE_WINDOW
        happening = self._happening(flow, flags, is_client=is_client) if is_believed or not flags & _ENDING else None
        if happening is Happening.RESET and not distance:
            # As one that answers a probe has it, too (RFC 9293 §3.10.7.1): it is what the probe acknowledged.
            splice.is_reset_certain = True
        if happening is not None and flow.advance(happening, now):
            if happening is Happening.RESET:
                splice.was_reset_by_client = is_client
            elif happening is Happening.REVIVED:
                splice.is_reset_certain = False
            self._note_state(flow, now)
        if flow.state in (State.TRANSITORY, State.PROBING) or flow.delivery is not None:
            self._context.slow(flow)
        else:
            self._context.quicken(flow)

    def _happening(self, flow: Flow, flags: int, *, is_client: bool) -> Happening | None:
        splice = flow.splice
        assert splice is not None
        if flags & tcp.RST:
            return Happening.RESET
        if flags & tcp.FIN:
            return Happening.CLIENT_FIN if is_client else Happening.BACKEND_FIN
        if flow.state is State.PROBING:
            # One live side is not enough: it would keep up a connection whose other side has vanished.
            if is_client:
                splice.has_client_answered = True
            else:
                splice.has_backend_answered = True
            return Happening.REVIVED if splice.has_client_answered and splice.has_backend_answered else None
        if flow.state is State.TRANSITORY and splice.was_reset_by_client is is_client:
            return Happening.REVIVED
        return None

    def deadline(self, flow: Flow) -> float:
        """When `flow`'s time is over, as far as it is known now."""
        splice = flow.splice
        assert splice is not None
        return (splice.state_since if self._is_short_lived(flow) else splice.last_seen) + self._timeout_s(flow)

    def _schedule(self, flow: Flow, deadline: float, now: float) -> None:
        if flow.state is State.PROBING:
            # RFC 1122 §4.2.3.6: that a single probe finds no answer means nothing, it or the answer may have been lost.
            interval_s = self._timeout_s(flow) / _PROBES
            self._context.timers.schedule(flow, deadline - max(round((deadline - now) / interval_s) - 1, 0) * interval_s)
        elif self._is_short_lived(flow):
            self._context.timers.schedule(flow, deadline)
        else:
            self._context.schedule_idle(flow, deadline, now)

    def _note_state(self, flow: Flow, now: float) -> None:
        """Have table and timers go by the state that `flow` has been in since `now`."""
        if flow.state in SUPERSEDABLE:
            self._context.flows.retire(flow)
        else:
            self._context.flows.revive(flow)
        if flow.delivery is not None and flow.state is not State.TRANSITORY:
            # While a RST stands unrefuted nothing is repeated; should it prove forged, all is taken up again.
            self._context.timers.schedule(flow, min(now + self._timeout_s(flow), flow.delivery.deadline))
        else:
            self._schedule(flow, now + self._timeout_s(flow), now)

    def _timeout_s(self, flow: Flow) -> float:
        timeouts = self._context.config.timeouts
        return timeouts.transitory_s if self._is_short_lived(flow) else timeouts.established_idle_s

    @staticmethod
    def _is_short_lived(flow: Flow) -> bool:
        """Whether the flow's time counts from its state on, whatever traffic comes (RFC 6146 §3.5.2.2)."""
        return flow.state in SUPERSEDABLE or flow.state is State.PROBING

    def _probe(self, flow: Flow, now: float) -> None:
        """Ask both sides whether they are still there (RFC 6146 §3.5.2.3), as a keep-alive does (RFC 9293 §3.8.4)."""
        assert flow.splice is not None
        flow.splice.has_client_answered = flow.splice.has_backend_answered = False
        flow.advance(Happening.TIMED_OUT, now)
        self._context.slow(flow)
        self._send_to_both(flow, tcp.ACK, offset=-1)
        self._note_state(flow, now)

    def _send_to_both(self, flow: Flow, flags: int, offset: int) -> None:
        """Send each side a segment at `offset` from what it expects next, in the other side's name."""
        splice, from_backend = flow.splice, flow.from_backend
        assert splice is not None
        assert from_backend is not None
        has_ack = bool(flags & tcp.ACK)
        backend_next, client_next = splice.client_acked, sequence.add(splice.backend_acked, splice.seq_delta)
        client_has_timestamps = splice.has_timestamps or bool(splice.INSERTED_BYTES)
        for endpoints, seq, ack, has_timestamps in (
            (from_backend.reversed, backend_next, splice.backend_acked, splice.has_timestamps),
            (flow.from_client.reversed, client_next, splice.client_acked, client_has_timestamps),
        ):
            # The option has to be there. Of two values half the range apart one passes RFC 7323 §5.3's test, whatever was last:
            # Linux from 6.14 on says nothing to an old acknowledgment that fails it.
            for tsval in (0, 1 << 31) if has_timestamps and has_ack else (None,):
                packet = build_segment(
                    endpoints,
                    seq=sequence.add(seq, offset),
                    ack=ack if has_ack else 0,
                    flags=flags,
                    window=splice.opening_window if has_ack else 0,
                    options=tcp.build_options(TcpOptions(timestamps=None if tsval is None else (tsval, 0))),
                )
                self._context.send(packet)

    def _send_fragments_to_backend(self, splice: Splice, frame: Frame, now: float) -> None:
        """The sender lets its packet be fragmented, so it hears no Packet Too Big: cut it to what every link takes."""
        mtu = self._context.cut_mtu
        for packet in segment_v4(frame):
            identification = ipv4.parse(packet).identification
            self._scratch.load(packet)
            translated = splice.to_backend(self._scratch, now, vetted=True)
            if translated is None:
                raise Dropped(DropReason.UNEXPECTED, "offload header does not fit the packet")
            for fragment in fragment_v6(bytes(translated[vnet_hdr.LENGTH :]), mtu, identification):
                self._context.send(vnet_hdr.EMPTY + fragment)

    def _send_fragments_to_client(self, packet: memoryview, identification: int | None) -> None:
        """Send a result with DF clear, cut to what the link takes; what came in fragments keeps its identification.

        RFC 7915 §5.1.1.
        """
        self._scratch.load(packet[vnet_hdr.LENGTH :], bytes(packet[: vnet_hdr.LENGTH]))
        for part in segment_v4(self._scratch):
            header = ipv4.parse(part)
            number = header.identification if identification is None else identification & 0xFFFF
            plain = ipv4.build(header._replace(dont_fragment=False, identification=number))
            for fragment in fragment_v4(plain + part[header.length :], self._context.config.network.ipv4_mtu):
                self._context.send(vnet_hdr.EMPTY + fragment)

    def _answer_repeated_syn_ack(self, flow: Flow, segment: Segment) -> None:
        """The backend has not seen the end of its handshake: say it again, to the backend alone (RFC 9293 §3.10.7.4)."""
        header, timestamps, splice = segment.header, segment.options.timestamps, flow.splice
        assert splice is not None
        is_repeat = header.seq == splice.backend_isn and header.ack == sequence.add(splice.client_isn, 1)
        if not header.flags & tcp.ACK or not is_repeat:
            raise Dropped(DropReason.UNEXPECTED, "another SYN from the backend of a spliced flow")
        has_timestamps = splice.has_timestamps and timestamps is not None
        # What it echoes is the latest TSval it knows of the client: the one that an ACK of the same time would carry.
        options = TcpOptions(timestamps=(timestamps[1], timestamps[0]) if has_timestamps and timestamps else None)
        self._context.send(
            build_segment(
                segment.endpoints.reversed,
                seq=header.ack,
                ack=sequence.add(header.seq, 1),
                flags=tcp.ACK,
                window=splice.opening_window,
                options=tcp.build_options(options),
            )
        )

    def _give_up(self, flow: Flow, now: float) -> None:
        """The backend never acknowledged bytes that the client has forgotten: the connection cannot be made whole."""
        assert flow.delivery is not None
        self._reset_undelivered(flow, flow.delivery)
        self._context.close(flow, CloseReason.UNDELIVERED, now)

    def _reset_undelivered(self, flow: Flow, delivery: Delivery) -> None:
        assert flow.from_backend is not None
        self._context.send(build_segment(flow.from_backend.reversed, seq=delivery.start, ack=0, flags=tcp.RST))
        self._context.send(delivery.client_reset)
