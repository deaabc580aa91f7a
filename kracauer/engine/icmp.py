"""ICMPv6 errors about a SYN of ours (RFC 4443 §3.1, RFC 5927 §4)."""

from collections.abc import Mapping
from typing import Final

from kracauer.errors import Dropped, DropReason, ParseError
from kracauer.flows import Flow, backend_key
from kracauer.replies import Endpoints
from kracauer.wire import icmpv6, ipv6
from kracauer.wire.buffer import PACKET_START, Frame

NEXT_HEADER: Final = icmpv6.NEXT_HEADER
_QUOTED_PORTS_AND_SEQ: Final = 8


def find_unreachable(frame: Frame, by_backend: Mapping[bytes, Flow]) -> tuple[Flow, int]:
    """Return the flow that a Destination Unreachable is about, and the sequence number it quotes.

    Raises Dropped for every other ICMPv6 message, and when no flow has sent what it quotes.
    """
    packet = frame.view[PACKET_START : frame.end]
    try:
        header = ipv6.parse(packet)
        message = icmpv6.parse(packet[ipv6.LENGTH : ipv6.LENGTH + header.payload_length], header.src, header.dst)
    except ParseError as error:
        raise Dropped(DropReason.MALFORMED_IPV6, str(error)) from None
    inner = message.body
    if message.type != icmpv6.DESTINATION_UNREACHABLE:
        raise Dropped(DropReason.NOT_TCP, f"ICMPv6 type {message.type}")
    if len(inner) < ipv6.LENGTH + _QUOTED_PORTS_AND_SEQ or inner[6] != ipv6.TCP:
        raise Dropped(DropReason.NOT_TCP, "ICMPv6 error that quotes no TCP segment")
    src_port, dst_port = int.from_bytes(inner[40:42], "big"), int.from_bytes(inner[42:44], "big")
    flow = by_backend.get(backend_key(Endpoints(inner[24:40], inner[8:24], dst_port, src_port)))
    if flow is None:
        raise Dropped(DropReason.NO_FLOW, "ICMPv6 error about no flow")
    return flow, int.from_bytes(inner[44:48], "big")
