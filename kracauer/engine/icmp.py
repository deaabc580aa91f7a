"""ICMP: errors carried to the other side, errors and echo replies of our own (RFC 7915 §4.2, §5.2, RFC 5927, RFC 6791)."""

from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Final

from kracauer.engine.context import Context
from kracauer.engine.dialing import Dialing
from kracauer.engine.ingress import Packet
from kracauer.engine.probing import Probing
from kracauer.errors import Dropped, DropReason, IcmpAnswer, ParseError
from kracauer.flows import Flow, backend_key, client_key
from kracauer.ratelimit import TokenBucket
from kracauer.replies import Endpoints
from kracauer.routes import Backend
from kracauer.tcp import sequence
from kracauer.translate import addresses, icmp_answers, icmp_errors
from kracauer.translate.fragmenting import fragment_v4, fragment_v6
from kracauer.translate.icmp_errors import Quoted, QuoteMapping
from kracauer.wire import icmpv4, icmpv6, ipv4, ipv6, vnet_hdr
from kracauer.wire.buffer import PACKET_START, Frame
from kracauer.wire.checksum import word_sum

_TYPE_AT_V4: Final = PACKET_START + 20
_TYPE_AT_V6: Final = PACKET_START + 40
# What a reported MTU may talk an MSS down to: below it an attacker would gain from it and no real link would.
_MIN_MTU_V4: Final = 552
_LEAST_MTU_V4: Final = 68  # of any IPv4 link (RFC 791 §3.2); zero would mean that none is told
# How far beyond what was acknowledged a quoted segment may lie, for its error to be believed.
# Deviation: RFC 5927 §4.1 takes what was sent as the bound. Nothing here keeps that number, so the largest windows in use are
# the bound; the endpoint, which is sent the translated error in any case, holds it to the exact one.
_BELIEVABLE_WINDOW: Final = 1 << 20
_REFUSALS: Final = frozenset(
    (4, icmpv4.DESTINATION_UNREACHABLE, code) for code in (icmpv4.PORT_UNREACHABLE, icmpv4.PROTOCOL_UNREACHABLE)
)


class Icmp:
    """Handles ICMP of both families. No message creates a flow, keeps it alive, or ends one that is spliced.

    Deviation: RFC 7915 §4.2 translates an Echo Request. A service address stands for many backends, none of which is meant, so
    it is answered here.

    Deviation: RFC 7915 §5.2 likewise; nothing listens on the clients' side that a backend would have to ping.
    """

    def __init__(self, context: Context, dialing: Dialing, probing: Probing) -> None:
        self._context = context
        self._dialing = dialing
        self._probing = probing

    def receive_v4(self, frame: Frame, packet: Packet, now: float) -> None:
        """Answer an echo request to a service address; carry an error about a segment of a backend's to that backend."""
        data = bytes(frame.view[PACKET_START : frame.end])
        if frame.end > _TYPE_AT_V4 and frame.buffer[_TYPE_AT_V4] == icmpv4.ECHO_REQUEST:
            if packet.dst not in self._context.service_addresses:
                raise Dropped(DropReason.NO_LISTENER)
            reply = icmp_answers.echo_reply_v4(data)
            packets = [] if reply is None else fragment_v4(reply, self._context.config.network.ipv4_mtu)
            self._originate(packets, self._context.echoes, now)
            return
        quoted = self._parse(icmp_errors.quoted_v4, data)
        flow = self._context.flows.by_client.get(
            client_key(Endpoints(quoted.dst, quoted.src, quoted.dst_port, quoted.src_port))
        )
        if flow is None or flow.splice is None or flow.from_backend is None or packet.dst != quoted.src:
            raise Dropped(DropReason.NO_FLOW, "ICMP error about no spliced flow")
        splice = flow.splice
        self._context.refresh(flow)
        context, network = self._context, self._context.config.network
        if quoted.mtu is not None and self._is_in_flight(sequence.add(splice.backend_acked, splice.seq_delta), quoted):
            context.learn_path_mtu(flow.from_client.src, max(quoted.mtu, _MIN_MTU_V4), now)
        if quoted.mtu is not None and splice.INSERTED_BYTES:
            # The backend has to make room for what its packets gain on the way, too.
            data = _tell_mtu_v4(data, quoted.mtu - splice.INSERTED_BYTES)
        mapping = QuoteMapping(
            src=flow.from_backend.src,
            dst=flow.from_backend.dst,
            src_port=flow.from_backend.src_port,
            dst_port=flow.from_backend.dst_port,
            seq_delta=-splice.seq_delta,
            ack_delta=0,
        )
        translated = icmp_errors.v4_error_to_v6(
            data,
            mapping,
            src=addresses.embed(context.prefix, packet.src),
            dst=flow.from_backend.src,
            ipv4_mtu=network.ipv4_mtu,
            ipv6_mtu=network.ipv6_mtu,
        )
        context.send(vnet_hdr.EMPTY + translated)

    def receive_v6(self, frame: Frame, packet: Packet, now: float) -> None:
        """Answer an echo request to a service's own address in the prefix; carry an error about a client's segment to it."""
        context = self._context
        data = bytes(frame.view[PACKET_START : frame.end])
        if frame.end > _TYPE_AT_V6 and frame.buffer[_TYPE_AT_V6] == icmpv6.ECHO_REQUEST:
            if addresses.extract(context.prefix, packet.dst) not in context.service_addresses:
                raise Dropped(DropReason.NO_LISTENER)
            reply = icmp_answers.echo_reply_v6(data)
            mtu, identification = context.config.network.ipv6_mtu, context.identifications.take()
            packets = [] if reply is None else fragment_v6(reply, mtu, identification)
            self._originate(packets, context.echoes, now)
            return
        quoted = self._parse(icmp_errors.quoted_v6, data)
        if packet.dst == self._probing.address == quoted.src:
            if data[40] != icmpv6.DESTINATION_UNREACHABLE:
                raise Dropped(DropReason.UNEXPECTED, f"ICMPv6 type {data[40]} in answer to a probe")
            backend = Backend(IPv6Address(quoted.dst), quoted.dst_port)
            self._probing.handle_unreachable(backend, quoted.src_port, quoted.seq, now)
            return
        flow = context.flows.by_backend.get(backend_key(Endpoints(quoted.dst, quoted.src, quoted.dst_port, quoted.src_port)))
        if flow is None or flow.from_backend is None or packet.dst != quoted.src:
            raise Dropped(DropReason.NO_FLOW, "ICMPv6 error about no flow")
        if flow.splice is None:
            self._receive_while_dialing(flow, data, quoted, now)
            return
        context.refresh(flow)
        splice, network = flow.splice, context.config.network
        # What was acknowledged to the client for a backend that was not there yet is in flight all the same.
        in_flight_from = splice.client_acked if flow.delivery is None else flow.delivery.start
        if quoted.mtu is not None and self._is_in_flight(in_flight_from, quoted):
            self._learn_path_mtu_v6(flow, quoted.mtu, now)
        mapping = QuoteMapping(
            src=flow.from_client.src,
            dst=flow.from_client.dst,
            src_port=flow.from_client.src_port,
            dst_port=flow.from_client.dst_port,
            seq_delta=0,
            ack_delta=splice.seq_delta,
        )
        translated = icmp_errors.v6_error_to_v4(
            data,
            mapping,
            src=self._source_v4(flow, packet.src),
            dst=flow.from_client.src,
            ipv4_mtu=network.ipv4_mtu,
            ipv6_mtu=network.ipv6_mtu,
            identification=context.identifications.take(),
        )
        context.send(vnet_hdr.EMPTY + translated)

    def answer(self, data: bytes, answer: IcmpAnswer, now: float) -> None:
        """Tell the sender of the packet `data` what became of it, where such a packet may be answered at all.

        Deviation: RFC 7915 §4.4 sends Communication Administratively Prohibited about any other discarded packet, and lets an
        administrator choose. What is dropped without an answer here is malformed, forged or nobody's, and an answer to a forged
        source serves the forger.

        Deviation: RFC 7915 §5.4 likewise.
        """
        context = self._context
        service = context.first_service
        if data[0] >> 4 == 4:
            if not icmp_answers.may_answer_v4(data):
                return
            # The address that was dialled, where it is ours: the one that the sender's path leads through.
            src = data[16:20] if data[16:20] in context.service_addresses else service
            identification = context.identifications.take()
            error = icmp_answers.build_v4_error(answer.type, answer.code, answer.rest, data, src, data[12:16], identification)
        else:
            if not icmp_answers.may_answer_v6(data):
                return
            src = addresses.embed(context.prefix, service)
            error = icmp_answers.build_v6_error(answer.type, answer.code, answer.rest, data, src, data[8:24])
        # What says that nobody listens may be asked for at any rate; what says how large a packet may be must get through.
        is_refusal = (data[0] >> 4, answer.type, answer.code) in _REFUSALS
        self._originate([error], context.unreachables if is_refusal else context.errors, now)

    def _receive_while_dialing(self, flow: Flow, data: bytes, quoted: Quoted, now: float) -> None:
        if data[40] == icmpv6.DESTINATION_UNREACHABLE:
            self._dialing.handle_unreachable(flow, quoted.seq, now)
        else:
            raise Dropped(DropReason.UNEXPECTED, f"ICMPv6 type {data[40]} in answer to a SYN")

    def _learn_path_mtu_v6(self, flow: Flow, mtu: int, now: float) -> None:
        assert flow.from_backend is not None
        # RFC 8201 §4: nothing below the IPv6 minimum is to be believed.
        if mtu >= ipv6.MIN_MTU:
            self._context.learn_path_mtu(flow.from_backend.src, mtu, now)

    def _source_v4(self, flow: Flow, src: bytes) -> bytes:
        """The IPv4 address that stands for the sender of an ICMPv6 error (RFC 6791 §3).

        Deviation: RFC 6791 §4 recommends an extension with the IPv6 address. It would tell every client how the network behind
        the service is built.
        """
        context = self._context
        if context.router_sources and flow.from_backend is not None and src != flow.from_backend.src:
            # Deviation: RFC 6791 §5 recommends a random one. Always the same one for the same router, so that a traceroute
            # shows the same hop thrice and its hops apart.
            return context.router_sources[word_sum(src) % len(context.router_sources)]
        return flow.from_client.dst

    def _originate(self, packets: list[bytes], limit: TokenBucket, now: float) -> None:
        """Send one message of our own, in as many `packets` as it takes, where `limit` allows it."""
        if not limit.take(now):
            self._context.drop(DropReason.RATE_LIMITED)
            return
        for packet in packets:
            self._context.send(vnet_hdr.EMPTY + packet)

    @staticmethod
    def _is_in_flight(acked: int, quoted: Quoted) -> bool:
        return 0 <= sequence.distance(acked, quoted.seq) <= _BELIEVABLE_WINDOW

    @staticmethod
    def _parse(parse: Callable[[bytes], Quoted], data: bytes) -> Quoted:
        try:
            return parse(data)
        except ParseError as error:
            raise Dropped(DropReason.MALFORMED_ICMP, str(error)) from None


def _tell_mtu_v4(packet: bytes, mtu: int) -> bytes:
    """Return the Fragmentation Needed that is all of `packet`, without IP options, with another next-hop MTU."""
    message = icmpv4.parse(packet[ipv4.MIN_LENGTH :])
    return packet[: ipv4.MIN_LENGTH] + icmpv4.build(message._replace(rest=message.rest & ~0xFFFF | max(mtu, _LEAST_MTU_V4)))
