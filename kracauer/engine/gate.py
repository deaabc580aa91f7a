"""A client's packets that belong to no flow, the short way: SYNs answered, all else turned away (RFC 4987 §3.6).

A flood is made of these, and what one of them costs decides how large a flood may be before real connections notice it. So this
is written flat on purpose, like the splice: one unpack, and hardly an object. It is for plain packets to service addresses; all
others, and whatever belongs to a flow, go the long way. That is complete, and does the same to what is handled here; the tests
hold one to the other. Whoever has brought the right cookie is handed on to `Opening`.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from kracauer.engine.context import Context, ListenerState
from kracauer.engine.ingress import Segment, size_of
from kracauer.errors import DropReason, ParseError
from kracauer.events import PacketDropped
from kracauer.replies import Endpoints, build_reset
from kracauer.tcp import sequence
from kracauer.tcp.cookie import Found
from kracauer.tcp.syn_ack import SynAck
from kracauer.tcp.terms import IPV6_OVERHEAD, Offer, encode_terms
from kracauer.translate import addresses
from kracauer.wire import ipv4, vnet_hdr
from kracauer.wire.buffer import PACKET_START, VNET_START, Buffer, Frame
from kracauer.wire.checksum import MODULUS
from kracauer.wire.tcp import ACK, CWR, ECE, FIN, FLAGS_MASK, RST, SYN, TcpHeader, parse_options

Answer: TypeAlias = Sequence[Buffer]

_V4_TCP: Final = struct.Struct("!xBH2xHBB2x4s4sHHIIHHHH")
_ADDRESSES_AT: Final = PACKET_START + 12
_TCP_AT: Final = PACKET_START + ipv4.MIN_LENGTH
_OPTIONS_AT: Final = _TCP_AT + 20
_FRAGMENTED: Final = ipv4.MORE_FRAGMENTS | ipv4.OFFSET_MASK
_CHECKED: Final = vnet_hdr.NEEDS_CSUM | vnet_hdr.DATA_VALID
_ECN_SETUP: Final = ECE | CWR
_NOT_OF_A_SYN: Final = ACK | RST | FIN
_NO_PORT: Final = bytes(2)
_MASK: Final = sequence.MASK

# Events are values: at a flood's rate one object of each has to do.
_BAD_CHECKSUM: Final = PacketDropped(DropReason.BAD_CHECKSUM)
_BAD_COOKIE: Final = PacketDropped(DropReason.BAD_COOKIE)
_DENIED: Final = PacketDropped(DropReason.DENIED)
_NO_FLOW: Final = PacketDropped(DropReason.NO_FLOW)
_NO_LISTENER: Final = PacketDropped(DropReason.NO_LISTENER)
_SILENCE: Final[Answer] = ()

# SYN-ACKs that are kept made: for each offer with each MSS there are 16 at most.
_MAX_MADE: Final = 1024


class Admission(NamedTuple):
    """A segment that completes a handshake with `listener`, and the cookie that was `found` in it."""

    segment: Segment
    listener: ListenerState
    found: Found


class Gate:
    """Answers or drops plain packets of clients that no flow is known for."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._made: dict[tuple[Offer, int, bool, bool, bool, bool], SynAck] = {}

    def receive(self, frame: Frame, key: bytes, now: float) -> Answer | Admission | None:
        """Return what the packet in `frame` is answered with; None, and nothing is done, for one that has to go the long way.

        An Admission where its cookie is right: then nothing is done either.

        The packet has 40 bytes at least and begins with 0x45. `key` is the client key that it has and no flow.
        """
        buffer, end, context = frame.buffer, frame.end, self._context
        (
            tos, total_length, fragment, ttl, protocol, client, service,
            client_port, service_port, seq, ack, offset_flags, window, checksum, urgent,
        ) = _V4_TCP.unpack_from(buffer, PACKET_START)  # fmt: skip
        data_at = _TCP_AT + (offset_flags >> 10 & 0x3C)
        if (
            service not in context.service_addresses
            or protocol != ipv4.PROTOCOL_TCP
            or fragment & _FRAGMENTED
            or total_length != end - PACKET_START
            or not _OPTIONS_AT <= data_at <= end
            or int.from_bytes(buffer[PACKET_START:_TCP_AT], "big") % MODULUS
            or not addresses.is_legal_source_v4(client)
            or client in context.service_addresses
        ):
            return None
        if not buffer[VNET_START] & _CHECKED:
            # The addresses are all of the pseudo-header but the protocol and the length.
            total = int.from_bytes(buffer[_ADDRESSES_AT:end], "big")
            if ((total << 8 if end & 1 else total) + ipv4.PROTOCOL_TCP + end - _TCP_AT) % MODULUS:
                context.note(_BAD_CHECKSUM)
                return _SILENCE
        flags = offset_flags & FLAGS_MASK
        listener = context.listeners.get((service, service_port))
        if listener is None:
            answer = _SILENCE if flags & RST else self._reset(key, seq, ack, flags, end - data_at, now)
            context.note(_NO_LISTENER)
            return answer
        if flags & SYN:
            context.forget(now)
        if listener.access is not None and not listener.access.permits(client):
            context.note(_DENIED)
            return _SILENCE
        if flags & SYN:
            options = bytes(buffer[_OPTIONS_AT:data_at])
            return self._answer_syn(listener, key, seq, flags, options, now, dont_fragment=fragment & ipv4.DONT_FRAGMENT)
        if flags & RST or not flags & ACK:
            context.note(_NO_FLOW)
            return _SILENCE
        found = context.cookies.check(key, (seq - 1) & _MASK, (ack - 1) & _MASK, listener.offers.candidates(now), now)
        if found is not None:
            options = bytes(buffer[_OPTIONS_AT:data_at])
            header = TcpHeader(client_port, service_port, seq, ack, flags, window, checksum, urgent, options)
            segment = Segment(
                Endpoints(client, service, client_port, service_port),
                header,
                frame.view[data_at:end],
                size_of(buffer, total_length, data_at - PACKET_START),
                tos,
                ttl,
                bool(fragment & ipv4.DONT_FRAGMENT),
                None,
            )
            return Admission(segment, listener, found)
        answer = self._reset(key, seq, ack, flags, end - data_at, now) if context.strays.is_stale(key, now) else _SILENCE
        context.note(_BAD_COOKIE)
        return answer

    def _answer_syn(
        self, listener: ListenerState, key: bytes, seq: int, flags: int, options: bytes, now: float, *, dont_fragment: int
    ) -> Answer | None:
        context = self._context
        if flags & _NOT_OF_A_SYN or key[8:10] == _NO_PORT:
            context.drop(DropReason.ILLEGAL_FLAGS, f"flags {flags:#05x}")
            return _SILENCE
        try:
            asked = parse_options(options)
        except ParseError as error:
            context.drop(DropReason.MALFORMED_TCP, str(error))
            return _SILENCE
        if asked.is_authenticated:
            return None
        offer = listener.offers.current
        asks_ecn = flags & _ECN_SETUP == _ECN_SETUP
        mss = offer.mss if dont_fragment else min(offer.mss, context.cut_mtu - IPV6_OVERHEAD)
        kind = (offer, mss, asked.window_scale is not None, asked.sack_permitted, asked.timestamps is not None, asks_ecn)
        syn_ack = self._made.get(kind)
        if syn_ack is None:
            if len(self._made) >= _MAX_MADE:
                self._made.clear()
            syn_ack = self._made[kind] = SynAck(offer._replace(mss=mss), asked, asks_ecn=asks_ecn)
        terms = encode_terms(offer, asked, asks_ecn)
        isn, tsval = context.cookies.bake(key, seq, terms, listener.offers.scale_code, now)
        return (syn_ack.fill(key, isn, (seq + 1) & _MASK, tsval, asked.timestamps),)

    def _reset(self, key: bytes, seq: int, ack: int, flags: int, payload_length: int, now: float) -> Answer:
        """A RST to the client, as far as the rate limit goes."""
        if not self._context.resets.take(now):
            self._context.drop(DropReason.RATE_LIMITED)
            return _SILENCE
        to_client = Endpoints(key[4:8], key[:4], int.from_bytes(key[10:], "big"), int.from_bytes(key[8:10], "big"))
        return (build_reset(to_client, TcpHeader(0, 0, seq, ack, flags, 0), payload_length),)
