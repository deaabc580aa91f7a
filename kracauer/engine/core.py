"""The engine: one packet in, packets and events out; the fast path, and who looks at everything else."""

import struct
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address
from typing import Final, TypeVar

from kracauer.config import Config
from kracauer.engine import ingress
from kracauer.engine.adopting import Adoption, adopt
from kracauer.engine.context import DIALLED_BEFORE_S, Context
from kracauer.engine.dialing import Dialing
from kracauer.engine.following import Following
from kracauer.engine.gate import Admission, Gate
from kracauer.engine.health import BackendStatus
from kracauer.engine.icmp import Icmp
from kracauer.engine.ingress import Segment
from kracauer.engine.opening import Opening
from kracauer.engine.probing import Probing
from kracauer.engine.refusing import Refusing
from kracauer.engine.resolving import Resolving
from kracauer.engine.spliced import Spliced
from kracauer.engine.status import backend_statuses
from kracauer.errors import Dropped, DropReason, IcmpAnswer
from kracauer.events import CloseReason, Event
from kracauer.fast_path import FastPath
from kracauer.flows import Flow, FlowTable, backend_key, client_key
from kracauer.steering import ALL, Share
from kracauer.tcp.record import Records
from kracauer.tcp.splice import Splice
from kracauer.tcp.state import SPLICED, State
from kracauer.translate import addresses
from kracauer.translate.fragments import Reassembler
from kracauer.wire import icmpv4, icmpv6, ipv4, ipv6, tcp
from kracauer.wire.buffer import PACKET_START, Buffer, Frame

_V4_KEY: Final = struct.Struct("12s")
_V6_KEY: Final = struct.Struct("36s")
_MIN_V4: Final = PACKET_START + 40
_MIN_V6: Final = PACKET_START + 60
_V6_DST_AT: Final = PACKET_START + 24
_MULTICAST: Final = 0xFF
_RETRY_AFTER_ERROR_S: Final = 60.0
_IGMP: Final = 2
_UDP: Final = 17

Taken = TypeVar("Taken")  # what of a packet its handler goes by


class Engine:
    """Translates and splices. Takes packets and `now` (monotonic seconds), returns packets, keeps events for its owner.

    `secret` (16 to 32 bytes) makes the SYN cookies; an engine with the same one completes handshakes that another has begun.
    Spliced flows stand in `records`; an engine that is given those of another one can `adopt` its flows. `fast_path` is told
    whose packets need no look, and may take them before they get here. `share` says of which packets this is the engine, where
    there are several.
    Nothing that a packet holds makes any method raise.
    """

    def __init__(
        self,
        config: Config,
        *,
        secret: bytes,
        now: float,
        records: Records | None = None,
        fast_path: FastPath | None = None,
        share: Share = ALL,
    ) -> None:
        context = self._context = Context(config, secret, now, Records() if records is None else records, fast_path)
        self._by_client = context.flows.by_client
        self._by_backend = context.flows.by_backend
        self._following = Following(context)
        self._gate = Gate(context)
        self._dialing = Dialing(context)
        self._refusing = Refusing(context)
        self._resolving = Resolving(context, self._dialing, self._refusing)
        self._opening = Opening(context, self._resolving, self._dialing, self._refusing, self._following)
        self._spliced = Spliced(context)
        self._probing = Probing(context, secret, share)
        self._icmp = Icmp(context, self._dialing, self._probing)
        self._quotable: bytes | None = None

    @property
    def flows(self) -> FlowTable:
        """Every flow there is; not to be altered."""
        return self._context.flows

    @property
    def holdings(self) -> dict[str, int]:
        """What is held of what all clients share, by name; all of it is 0 where no connection is open and none is beginning."""
        context = self._context
        return {
            "unproven": context.shares.unproven,
            "held_bytes": context.shares.held_bytes,
            "fragment_bytes": context.reassembler_v4.held_bytes + context.reassembler_v6.held_bytes,
            "clients": len(context.shares),
        }

    def backends(self) -> tuple[BackendStatus, ...]:
        """What is known of each backend in use, in the order in which they came into it."""
        return backend_statuses(self._context)

    def adopt(self, now: float) -> Adoption:
        """Go on with the flows that an earlier engine has left in the records; call it once, before anything else."""
        self._context.dialled_before_until = now + DIALLED_BEFORE_S
        return adopt(self._context, self._spliced, now)

    def reconfigure(self, config: Config, now: float) -> None:
        """Go by `config` from now on. Spliced flows keep their backend, those under way find theirs by the new routes.

        The prefix and the sizes and names of `config.network` have to be what they were.
        """
        self._context.configure(config, now)
        self._resolving.reconfigure(now)

    def note_addresses(self, name: str, addresses: Iterable[IPv6Address] | None, now: float) -> Sequence[Buffer]:
        """Take `addresses` for those of the DNS name `name` from now on; returns packets to write.

        None of them: it has none. None: nothing is known of it, for which those who wait are told no. Whatever is said, nothing
        outside of the configuration's `backend_networks` is dialled. Who asked is told by the event `NameWanted`.
        """
        self._resolving.note_addresses(name, addresses, now)
        return self._take_outgoing()

    def follow(self, moved: Iterable[Splice]) -> None:
        """Go by what the fast path has seen of these flows: what its `sweep` has returned, before anything else."""
        self._following.follow(moved)

    def abort(self, now: float) -> Sequence[Buffer]:
        """End every flow, because nobody will go on with it; returns a RST for each side that has one to lose."""
        for flow in list(self._context.flows):
            if flow.state in SPLICED:
                self._spliced.abort(flow, now)
            else:
                self._dialing.hang_up(flow)
                if flow.handshake is not None:
                    self._dialing.reset_client(flow)
                self._context.close(flow, CloseReason.STOPPED, now)
        return self._take_outgoing()

    def receive(self, frame: Frame, now: float) -> Sequence[Buffer]:
        """Take in the packet in `frame`; returns packets to write, each behind its vnet header.

        They may borrow the frame: write them before it is used again. The frame itself is overwritten.
        """
        buffer = frame.buffer
        version_ihl = buffer[PACKET_START]
        if version_ihl == 0x45:
            if frame.end >= _MIN_V4:
                key: bytes = _V4_KEY.unpack_from(buffer, PACKET_START + 12)[0]
                flow = self._by_client.get(key)
                if flow is None:
                    answer = self._gate.receive(frame, key, now)
                    if isinstance(answer, Admission):
                        return self._attempt(self._opening.open, answer, frame, now)
                    if answer is not None:
                        return answer
                elif flow.fast is not None:
                    packet = flow.fast.to_backend(frame, now)
                    if packet is not None:
                        return (packet,)
                segment = ingress.plain_v4(frame)
                if segment is not None and not self._is_from_here(segment.endpoints.src):
                    return self._attempt(self._receive_client_segment, segment, frame, now)
        elif version_ihl >> 4 == 6 and frame.end >= _MIN_V6:
            flow = self._by_backend.get(_V6_KEY.unpack_from(buffer, PACKET_START + 8)[0])
            if flow is not None:
                if flow.fast is not None:
                    packet = flow.fast.to_client(frame, now)
                    if packet is not None:
                        return (packet,)
                segment = ingress.plain_v6(frame)
                if segment is not None:
                    return self._attempt(self._receive_backend_segment, segment, frame, now)
        return self.receive_at_length(frame, now)

    def handle_timer(self, now: float) -> Sequence[Buffer]:
        """Do what has come due by `now`; returns packets to write."""
        self._expire_fragments(now)
        timers = self._context.timers
        due = timers.pop_due(now)
        while due:
            flow = due.pop()
            try:
                self._handle_due(flow, now)
            except BaseException:
                # A mistake of ours: it must cost neither the other flows their time nor this one its end.
                for other in due:
                    timers.schedule(other, now)
                if flow.state is not State.CLOSED:
                    timers.schedule(flow, now + _RETRY_AFTER_ERROR_S)
                raise
        self._probing.handle_timer(now)
        return self._take_outgoing()

    def age(self, now: float) -> None:
        """Let what was learnt age where a fast path answers SYNs: each that comes here does it, and there may be none."""
        if self._context.has_fast_path:
            self._context.forget(now)

    def _handle_due(self, flow: Flow, now: float) -> None:
        if flow.state is State.PEEKING:
            self._opening.expire_peek(flow, now)
        elif flow.state is State.RESOLVING:
            self._resolving.handle_timer(flow, now)
        elif flow.state is State.DIALING:
            self._dialing.handle_timer(flow, now)
        elif flow.state is State.REFUSING:
            self._refusing.handle_timer(flow, now)
        elif flow.state in SPLICED:
            self._spliced.handle_timer(flow, now)

    def next_deadline(self) -> float | None:
        """When `handle_timer` is next to be called, on the clock of `now`; None when nothing is pending."""
        context = self._context
        if context.outgoing:
            return 0.0  # what there was to say of flows that were adopted
        earliest = context.timers.next_deadline()
        for other in (context.reassembler_v4, context.reassembler_v6, self._probing):
            deadline = other.next_deadline()
            if deadline is not None and (earliest is None or deadline < earliest):
                earliest = deadline
        return earliest

    def next_event(self) -> Event | None:
        """The oldest event not yet fetched, or None."""
        events = self._context.events
        return events.popleft() if events else None

    def _take_outgoing(self) -> Sequence[Buffer]:
        outgoing, self._context.outgoing = self._context.outgoing, []
        return outgoing

    def _expire_fragments(self, now: float) -> None:
        """Give up datagrams that never became whole, and say so to the sender of a first fragment (RFC 792, RFC 4443 §3.3)."""
        for reassembler, answer in (
            (self._context.reassembler_v4, IcmpAnswer(icmpv4.TIME_EXCEEDED, icmpv4.REASSEMBLY_TIME_EXCEEDED)),
            (self._context.reassembler_v6, IcmpAnswer(icmpv6.TIME_EXCEEDED, icmpv6.REASSEMBLY_TIME_EXCEEDED)),
        ):
            self._note_evicted(reassembler)
            for expired in reassembler.expire(now):
                self._context.drop(DropReason.FRAGMENT_TIMEOUT)
                if expired.first_fragment is not None:
                    self._icmp.answer(expired.first_fragment, answer, now)

    def _note_evicted(self, reassembler: Reassembler) -> None:
        for _ in range(reassembler.take_evicted()):
            self._context.drop(DropReason.FRAGMENTS_FULL)

    def receive_at_length(self, frame: Frame, now: float) -> Sequence[Buffer]:
        """As `receive`, for every packet the long way: what the short ones are held to."""
        version = frame.buffer[PACKET_START] >> 4 if frame.end > PACKET_START else 0
        return self._attempt(self._receive_any, version, frame, now)

    def _attempt(
        self, handle: Callable[[Taken, Frame, float], None], taken: Taken, frame: Frame, now: float
    ) -> Sequence[Buffer]:
        """Have `handle` look at what was `taken` out of `frame`, and say what became of it."""
        self._quotable = None
        try:
            handle(taken, frame, now)
        except Dropped as dropped:
            self._context.drop(dropped.reason, dropped.detail)
            if dropped.answer is not None:
                self._icmp.answer(self._quote(frame), dropped.answer, now)
        except BaseException:
            # A mistake of ours: what was to be sent may lie in the frame, which the caller is going to use again.
            self._context.outgoing.clear()
            raise
        return self._take_outgoing()

    def _quote(self, frame: Frame) -> bytes:
        """The packet as it came, for an ICMP error."""
        return self._quotable or bytes(frame.view[PACKET_START : frame.end])

    def _receive_any(self, version: int, frame: Frame, now: float) -> None:
        if version == 4:
            self._receive_v4(frame, now)
        elif version == 6:
            self._receive_v6(frame, now)
        else:
            raise Dropped(DropReason.NOT_IP)

    def _is_from_here(self, src: bytes) -> bool:
        """Whether no packet may come from `src`, because it is one of the service's own addresses.

        One that is shared with this host is the source of the host's own connections, too; the kernel keeps forged ones out.
        """
        context = self._context
        return src in context.service_addresses and context.config.network.ownership != "shared"

    def _receive_v4(self, frame: Frame, now: float) -> None:
        context = self._context
        packet = ingress.take_v4(frame, context.reassembler_v4, context.service_addresses, now)
        if packet is None:
            self._note_evicted(context.reassembler_v4)
            return
        self._quotable = packet.original
        if self._is_from_here(packet.src):
            raise Dropped(DropReason.ILLEGAL_SOURCE, "a service address")
        if packet.protocol == ipv4.PROTOCOL_ICMP:
            self._icmp.receive_v4(frame, packet, now)
        elif packet.protocol == ipv4.PROTOCOL_TCP:
            self._receive_client_segment(ingress.parse_tcp(frame, packet), frame, now)
        else:
            # Deviation: RFC 7915 §4.5 has every transport protocol forwarded. A backend is chosen by a name in a TCP stream; no
            # other protocol says which host it is for.
            # RFC 1122 §3.2.2.1: a host tells what it does not speak; a traceroute over UDP ends with this.
            code = icmpv4.PORT_UNREACHABLE if packet.protocol == _UDP else icmpv4.PROTOCOL_UNREACHABLE
            answer = IcmpAnswer(icmpv4.DESTINATION_UNREACHABLE, code)
            # IGMP is between neighbours: RFC 7915 §4.2 has it dropped in silence.
            is_ours = packet.dst in context.service_addresses and packet.protocol != _IGMP
            raise Dropped(DropReason.NOT_TCP, f"protocol {packet.protocol}", answer if is_ours else None)

    def _receive_client_segment(self, segment: Segment, frame: Frame, now: float) -> None:
        context, endpoints, flags = self._context, segment.endpoints, segment.header.flags
        flow = self._by_client.get(client_key(endpoints))
        listener = context.listeners.get((endpoints.dst, endpoints.dst_port))
        if listener is not None:
            if flags & tcp.SYN:
                context.forget(now)
                self._opening.answer_syn(segment, listener, flow, now)
                return
            if flow is not None and self._opening.completes_renewal(flow, segment, listener, now):
                self._dialing.hang_up(flow)
                context.close(flow, CloseReason.REPLACED, now)
                flow = None
            if flow is None:
                self._opening.admit(segment, listener, now)
                return
        if flow is None or flags & tcp.SYN:
            if endpoints.dst in context.service_addresses and not flags & tcp.RST:
                # A closed port says so, as on any host (RFC 9293 §3.10.7.1).
                self._opening.reset(segment, now)
            raise Dropped(DropReason.NO_LISTENER)
        if flow.state is State.REFUSING:
            self._refusing.receive_from_client(flow, segment, now)
        elif flow.state in SPLICED:
            self._spliced.receive_from_client(flow, segment, frame, now)
        else:
            self._opening.receive_from_client(flow, segment, now)

    def _receive_v6(self, frame: Frame, now: float) -> None:
        if frame.end > _V6_DST_AT and frame.buffer[_V6_DST_AT] == _MULTICAST:
            # The kernel's own chatter on the link, multicast listener reports above all: nobody's mistake, so nobody is told.
            return
        context = self._context
        packet = ingress.take_v6(frame, context.reassembler_v6, context.prefix, now)
        if packet is None:
            self._note_evicted(context.reassembler_v6)
            return
        self._quotable = packet.original
        # What comes from inside the prefix would be one of our own packets, or forged to look like one.
        if addresses.extract(context.prefix, packet.src) is not None:
            raise Dropped(DropReason.ILLEGAL_SOURCE, "inside the prefix")
        if packet.protocol == ipv6.ICMPV6:
            self._icmp.receive_v6(frame, packet, now)
            return
        if packet.protocol != ipv6.TCP:
            # Deviation: RFC 7915 §5.5 has every transport protocol forwarded; what has no way to a backend has none back.
            raise Dropped(DropReason.NOT_TCP, f"next header {packet.protocol}")
        segment = ingress.parse_tcp(frame, packet)
        if segment.endpoints.dst == self._probing.address:
            self._probing.receive(segment, now)
        else:
            self._receive_backend_segment(segment, frame, now)

    def _receive_backend_segment(self, segment: Segment, frame: Frame, now: float) -> None:
        context, endpoints = self._context, segment.endpoints
        flow = self._by_backend.get(backend_key(endpoints))
        if flow is None:
            is_stale = endpoints.dst[:12] == context.prefix and context.is_backend(endpoints.src)
            flags = segment.header.flags
            # What an earlier process has dialled goes on once its client repeats itself, unless a RST comes between.
            is_awaited = flags & tcp.SYN and now < context.dialled_before_until
            if is_stale and not flags & tcp.RST and not is_awaited:
                # The backend keeps a connection that is no more; left alone it would keep it for hours.
                # Deviation: RFC 5382 §4.3 leaves a SYN from this side unanswered for six seconds, in case the other side sends
                # one too. No client expects to be dialled, so it is refused at once.
                # Deviation: RFC 5382 §7.2 wants hairpinning. Backends reach each other without a translator.
                self._opening.reset(segment, now, context.backend_resets)
            raise Dropped(DropReason.NO_FLOW)
        if flow.state in SPLICED:
            self._spliced.receive_from_backend(flow, segment, frame, now)
        else:
            self._dialing.receive_from_backend(flow, segment, now)
