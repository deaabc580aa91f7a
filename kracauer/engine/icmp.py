"""ICMP: errors carried to the other side, errors and echo replies of our own (RFC 7915 §4.2, §5.2, RFC 5927, RFC 6791)."""

from collections.abc import Callable
from typing import Final

from kracauer.engine.context import Context
from kracauer.engine.dialing import Dialing
from kracauer.engine.ingress import Packet
from kracauer.errors import Dropped, DropReason, IcmpAnswer, ParseError
from kracauer.flows import Flow, backend_key, client_key
from kracauer.replies import Endpoints
from kracauer.tcp import sequence
from kracauer.translate import addresses, icmp_errors
from kracauer.translate.icmp_errors import Quoted, QuoteMapping, Untranslatable
from kracauer.wire import icmpv4, icmpv6, ipv6
from kracauer.wire.buffer import PACKET_START, Buffer, Frame
from kracauer.wire.checksum import word_sum

_NO_VNET: Final = bytes(10)
_TYPE_AT_V4: Final = PACKET_START + 20
_TYPE_AT_V6: Final = PACKET_START + 40
_REST_OFFSET: Final = 4
# What a reported MTU may talk an MSS down to: below it an attacker would gain from it and no real link would.
_MIN_MTU_V4: Final = 552
# How far beyond what was acknowledged a quoted segment may lie, for its error to be believed (RFC 5927 §4.1).
_BELIEVABLE_WINDOW: Final = 1 << 24


class Icmp:
    """Handles ICMP of both families. No message creates a flow, keeps it alive, or ends one that is spliced."""

    def __init__(self, context: Context, dialing: Dialing) -> None:
        self._context = context
        self._dialing = dialing

    def receive_v4(self, frame: Frame, packet: Packet, now: float) -> None:
        """Answer an echo request to a service address; carry an error about a segment of a backend's to that backend."""
        data = bytes(frame.view[PACKET_START : frame.end])
        if frame.end > _TYPE_AT_V4 and frame.buffer[_TYPE_AT_V4] == icmpv4.ECHO_REQUEST:
            if packet.dst not in self._context.service_addresses:
                raise Dropped(DropReason.NO_LISTENER)
            self._originate(icmp_errors.echo_reply_v4(data), now)
            return
        quoted = self._quoted(icmp_errors.quoted_v4, data, DropReason.MALFORMED_IPV4)
        flow = self._context.flows.by_client.get(
            client_key(Endpoints(quoted.dst, quoted.src, quoted.dst_port, quoted.src_port))
        )
        if flow is None or flow.splice is None or flow.from_backend is None or packet.dst != quoted.src:
            raise Dropped(DropReason.NO_FLOW, "ICMP error about no spliced flow")
        splice = flow.splice
        context, network = self._context, self._context.config.network
        if data[20] == icmpv4.DESTINATION_UNREACHABLE and data[21] == icmpv4.FRAGMENTATION_NEEDED:
            mtu = int.from_bytes(data[26:28], "big")
            if mtu and self._is_in_flight(sequence.add(splice.backend_acked, splice.seq_delta), quoted):
                context.learn_path_mtu(flow.from_client.src, max(mtu, _MIN_MTU_V4), now)
        mapping = QuoteMapping(
            src=flow.from_backend.src,
            dst=flow.from_backend.dst,
            src_port=flow.from_backend.src_port,
            dst_port=flow.from_backend.dst_port,
            seq_delta=-splice.seq_delta,
            ack_delta=0,
        )
        try:
            translated = icmp_errors.v4_error_to_v6(
                data,
                mapping,
                src=addresses.embed(context.prefix, packet.src),
                dst=flow.from_backend.src,
                ipv4_mtu=network.ipv4_mtu,
                ipv6_mtu=network.ipv6_mtu,
            )
        except (ParseError, Untranslatable) as error:
            raise Dropped(DropReason.UNTRANSLATABLE, str(error)) from None
        context.send(_NO_VNET + translated)

    def receive_v6(self, frame: Frame, packet: Packet, now: float) -> None:
        """Answer an echo request to a service's own address in the prefix; carry an error about a client's segment to it."""
        context = self._context
        data = bytes(frame.view[PACKET_START : frame.end])
        if frame.end > _TYPE_AT_V6 and frame.buffer[_TYPE_AT_V6] == icmpv6.ECHO_REQUEST:
            if addresses.extract(context.prefix, packet.dst) not in context.service_addresses:
                raise Dropped(DropReason.NO_LISTENER)
            self._originate(icmp_errors.echo_reply_v6(data), now)
            return
        quoted = self._quoted(icmp_errors.quoted_v6, data, DropReason.MALFORMED_IPV6)
        flow = context.flows.by_backend.get(
            backend_key(Endpoints(quoted.dst, quoted.src, quoted.dst_port, quoted.src_port))
        )
        if flow is None or flow.from_backend is None or packet.dst != quoted.src:
            raise Dropped(DropReason.NO_FLOW, "ICMPv6 error about no flow")
        if flow.splice is None:
            self._receive_while_dialing(flow, data, quoted, now)
            return
        splice, network = flow.splice, context.config.network
        if data[40] == icmpv6.PACKET_TOO_BIG and self._is_in_flight(splice.client_acked, quoted):
            self._learn_from_too_big(flow, data, now)
        mapping = QuoteMapping(
            src=flow.from_client.src,
            dst=flow.from_client.dst,
            src_port=flow.from_client.src_port,
            dst_port=flow.from_client.dst_port,
            seq_delta=0,
            ack_delta=splice.seq_delta,
        )
        try:
            translated = icmp_errors.v6_error_to_v4(
                data,
                mapping,
                src=self._source_v4(flow, packet.src),
                dst=flow.from_client.src,
                ipv4_mtu=network.ipv4_mtu,
                ipv6_mtu=network.ipv6_mtu,
                identification=context.identifications.take(),
            )
        except (ParseError, Untranslatable) as error:
            raise Dropped(DropReason.UNTRANSLATABLE, str(error)) from None
        context.send(_NO_VNET + translated)

    def answer(self, frame: Frame, answer: IcmpAnswer, now: float) -> None:
        """Tell the sender of the packet in `frame` what became of it, where such a packet may be answered at all."""
        context = self._context
        data = bytes(frame.view[PACKET_START : frame.end])
        service = context.first_service
        if data[0] >> 4 == 4:
            if not icmp_errors.may_answer_v4(data):
                return
            # The address that was dialled, where it is ours: the one that the sender's path leads through.
            src = data[16:20] if data[16:20] in context.service_addresses else service
            error = icmp_errors.build_v4_error(answer.type, answer.code, answer.rest, data, src, data[12:16])
        else:
            if not icmp_errors.may_answer_v6(data):
                return
            src = addresses.embed(context.prefix, service)
            error = icmp_errors.build_v6_error(answer.type, answer.code, answer.rest, data, src, data[8:24])
        self._originate(error, now)

    def _receive_while_dialing(self, flow: Flow, data: bytes, quoted: Quoted, now: float) -> None:
        if data[40] == icmpv6.DESTINATION_UNREACHABLE:
            self._dialing.handle_unreachable(flow, quoted.seq, now)
        elif data[40] == icmpv6.PACKET_TOO_BIG:
            self._learn_from_too_big(flow, data, now)
        else:
            raise Dropped(DropReason.UNEXPECTED, f"ICMPv6 type {data[40]} in answer to a SYN")

    def _learn_from_too_big(self, flow: Flow, data: bytes, now: float) -> None:
        at = ipv6.LENGTH + _REST_OFFSET
        # RFC 8201 §4: nothing below the IPv6 minimum is to be believed.
        mtu = max(int.from_bytes(data[at : at + 4], "big"), ipv6.MIN_MTU)
        assert flow.from_backend is not None
        self._context.learn_path_mtu(flow.from_backend.src, mtu, now)

    def _source_v4(self, flow: Flow, src: bytes) -> bytes:
        """The IPv4 address that stands for the sender of an ICMPv6 error (RFC 6791 §3)."""
        context = self._context
        embedded = addresses.extract(context.prefix, src)
        if embedded is not None:
            return embedded
        if context.router_sources and flow.from_backend is not None and src != flow.from_backend.src:
            # Always the same one for the same router, so that a traceroute shows its hops apart.
            return context.router_sources[word_sum(src) % len(context.router_sources)]
        return flow.from_client.dst

    def _originate(self, packet: Buffer | None, now: float) -> None:
        if packet is None:
            raise Dropped(DropReason.UNTRANSLATABLE, "an echo request that cannot be answered")
        if self._context.errors.take(now):
            self._context.send(_NO_VNET + bytes(packet))
        else:
            self._context.drop(DropReason.RATE_LIMITED)

    @staticmethod
    def _is_in_flight(acked: int, quoted: Quoted) -> bool:
        return 0 <= sequence.distance(acked, quoted.seq) <= _BELIEVABLE_WINDOW

    @staticmethod
    def _quoted(parse: Callable[[bytes], Quoted], data: bytes, reason: DropReason) -> Quoted:
        try:
            quoted = parse(data)
        except ParseError as error:
            raise Dropped(reason, str(error)) from None
        except Untranslatable as error:
            raise Dropped(DropReason.UNTRANSLATABLE, str(error)) from None
        if not quoted.is_tcp:
            raise Dropped(DropReason.NOT_TCP, "ICMP error that quotes no TCP segment")
        return quoted
