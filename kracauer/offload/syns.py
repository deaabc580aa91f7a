"""SYNs answered as syns.bpf.h does it, by the engine's own means: for the fast path in memory."""

from typing import Final

from kracauer.engine.ingress import plain_v4
from kracauer.fast_path import Promises
from kracauer.flows import client_key
from kracauer.offload.answering import ANSWERS_S, KnownFlows
from kracauer.offload.options import is_walked_syn
from kracauer.tcp import sequence
from kracauer.tcp.cookie import CookieJar
from kracauer.tcp.syn_ack import SynAck
from kracauer.tcp.terms import encode_scale, encode_terms
from kracauer.wire.buffer import VNET_START, Frame
from kracauer.wire.tcp import ACK, CWR, ECE, FIN, RST, SYN, parse_options

_DECISIVE: Final = FIN | SYN | RST | ACK
_ECN_SETUP: Final = ECE | CWR


class SynAnswers:
    """Answers plain SYNs of flows that are not `known`, for a while after each `sweep`."""

    def __init__(self, known: KnownFlows) -> None:
        self.known = known
        self._promises: Promises | None = None
        self._answers_until = 0.0

    def promise(self, promises: Promises) -> None:
        """Go by these from now on."""
        self._promises = promises
        self._cookies = CookieJar(promises.secret)

    def sweep(self, now: float) -> None:
        """Somebody is there."""
        self._answers_until = now + ANSWERS_S

    def close(self) -> None:
        """Answer nothing any more."""
        self._answers_until = 0.0

    def receive(self, frame: Frame, now: float) -> memoryview | None:
        """The SYN-ACK, behind its vnet header; None, with the frame untouched, for all that is not answered here."""
        promises = self._promises
        if promises is None or now >= self._answers_until:
            return None
        segment = plain_v4(frame)
        if segment is None or segment.payload or frame.buffer[VNET_START + 1]:
            return None
        header, endpoints, key = segment.header, segment.endpoints, client_key(segment.endpoints)
        promise = promises.listeners.get((endpoints.dst, endpoints.dst_port))
        if (
            promise is None
            or header.flags & _DECISIVE != SYN
            or not endpoints.src_port
            or endpoints.src in promises.service_addresses
            or key in self.known
            or not is_walked_syn(header.options)
        ):
            return None
        offer, asked = promise.offer, parse_options(header.options)
        asks_ecn = header.flags & _ECN_SETUP == _ECN_SETUP
        terms = encode_terms(offer, asked, asks_ecn)
        cookie = self._cookies.bake(key, header.seq, terms, encode_scale(offer.window_scale), now)
        shown = offer if segment.dont_fragment else offer._replace(mss=promise.cut_mss)
        syn_ack = SynAck(shown, asked, asks_ecn=asks_ecn)
        return memoryview(syn_ack.fill(key, cookie.isn, sequence.add(header.seq, 1), cookie.tsval, asked.timestamps))
