"""The SYN-ACK of one offer, made once and filled in for each SYN that asks for the same (RFC 9293 §3.10.7.2)."""

import struct
from typing import Final

from kracauer.replies import Endpoints, build_segment
from kracauer.tcp.terms import Offer, syn_ack_options
from kracauer.wire import ipv4, tcp, vnet_hdr
from kracauer.wire.checksum import MODULUS, word_sum
from kracauer.wire.tcp import TcpOptions

# From the IPv4 header's checksum to the TCP header's.
_FILLED: Final = struct.Struct("!H4s4s2s2sIIHHH")
_FILLED_AT: Final = vnet_hdr.LENGTH + 10
_SEGMENT_AT: Final = vnet_hdr.LENGTH + ipv4.MIN_LENGTH
_TIMESTAMPS: Final = struct.Struct("!II")
# `tcp.build_options` puts eight bytes before them, whatever else there is.
_TIMESTAMPS_AT: Final = vnet_hdr.LENGTH + ipv4.MIN_LENGTH + tcp.MIN_LENGTH + 8
_NOWHERE: Final = Endpoints(bytes(4), bytes(4), 0, 0)


class SynAck:
    """A SYN-ACK with all in it but addresses, ports, numbers and timestamps, which make a whole packet of it.

    It grants of `offer` what a SYN with the options `asked` asks for; of those only which ones are there matters.
    """

    __slots__ = ("_has_timestamps", "_ip_sum", "_offset_flags", "_packet", "_tcp_sum", "_window")

    def __init__(self, offer: Offer, asked: TcpOptions, *, asks_ecn: bool) -> None:
        granted = syn_ack_options(offer, asked, 0)
        self._has_timestamps = granted.timestamps is not None
        options = tcp.build_options(granted._replace(timestamps=(0, 0) if self._has_timestamps else None))
        flags = tcp.SYN | tcp.ACK | (tcp.ECE if offer.ecn and asks_ecn else 0)
        self._offset_flags = (tcp.MIN_LENGTH + len(options)) // 4 << 12 | flags
        self._window = offer.window
        packet = bytearray(build_segment(_NOWHERE, seq=0, ack=0, flags=flags, window=offer.window, options=options))
        # What is filled in must not be in the sums yet, the checksums least of all.
        packet[_FILLED_AT : _FILLED_AT + _FILLED.size] = bytes(_FILLED.size)
        segment = packet[_SEGMENT_AT:]
        self._ip_sum = word_sum(packet[vnet_hdr.LENGTH : _SEGMENT_AT])
        self._tcp_sum = word_sum(segment) + self._offset_flags + self._window + ipv4.PROTOCOL_TCP + len(segment)
        self._packet = packet

    def fill(self, client_key: bytes, seq: int, ack: int, tsval: int, timestamps: tuple[int, int] | None) -> bytearray:
        """Return the answer, behind an empty vnet header, to a SYN that carried `timestamps`.

        `client_key` is the 12 bytes of client address, service address, client port, service port.
        """
        packet = self._packet[:]
        total = self._tcp_sum + int.from_bytes(client_key, "big") + seq + ack
        if self._has_timestamps and timestamps is not None:
            _TIMESTAMPS.pack_into(packet, _TIMESTAMPS_AT, tsval, timestamps[0])
            total += tsval + timestamps[0]
        _FILLED.pack_into(
            packet,
            _FILLED_AT,
            -(self._ip_sum + int.from_bytes(client_key[:8], "big")) % MODULUS,
            client_key[4:8],
            client_key[:4],
            client_key[10:],
            client_key[8:10],
            seq,
            ack,
            self._offset_flags,
            self._window,
            -total % MODULUS,
        )
        return packet
