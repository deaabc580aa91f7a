"""The deltas that join two handshakes, and the header rewrite they make of each packet (RFC 7915 §4.1, §5.1, RFC 1624 §3).

The client's own sequence numbers, window scale and TSval reach the backend as they are; only the backend's numbers differ:

    towards the client    seq += δ    TSval += τ    window by the difference of the two scales the backend is believed to have
    towards the backend   ack −= δ    TSecr −= τ    SACK edges −= δ    window unscaled where the backend knows no scaling

Deviation: RFC 7915 §4.1 wants an option to ignore the TOS octet, for networks that give it its old meaning. None has asked.

Deviation: RFC 7915 §5.1 likewise for the traffic class.

This is the hot path: `to_backend` and `to_client` take a frame apart with one unpack, put the new headers in place with one
pack each way, and never touch the payload. They are written flat on purpose; the tests hold them to a twin made of the codec.
"""

import struct
from typing import Final, Self, TypedDict

from kracauer.tcp import sequence
from kracauer.tcp.record import (
    HAS_TIMESTAMPS,
    MAKES_TIMESTAMPS,
    READ_TO_BACKEND,
    READ_TO_BACKEND_AT,
    READ_TO_CLIENT,
    READ_TO_CLIENT_AT,
    WRITE_TO_BACKEND,
    WRITE_TO_BACKEND_AT,
    WRITE_TO_CLIENT,
    WRITE_TO_CLIENT_AT,
    Constants,
    Fields,
    Place,
    get_constants,
    write_beginning,
    write_constants,
)
from kracauer.translate.identification import Identifications
from kracauer.wire import vnet_hdr
from kracauer.wire.buffer import Frame
from kracauer.wire.checksum import MODULUS, word_sum
from kracauer.wire.ipv4 import DONT_FRAGMENT, OFFSET_MASK
from kracauer.wire.ipv4 import MORE_FRAGMENTS as _MORE_FRAGMENTS
from kracauer.wire.tcp import ACK, FIN, RST, SYN

_FRAGMENTED: Final = _MORE_FRAGMENTS | OFFSET_MASK
# Of these flags a plain segment has just ACK.
_DECISIVE: Final = SYN | FIN | RST | ACK
_MASK: Final = sequence.MASK

_V4_TCP: Final = struct.Struct("!BBHHHBBH8sHHIIHHHH")
_V6_TCP: Final = struct.Struct("!IHBB32sHHIIHHHH")
_PUT_V4_TCP: Final = struct.Struct("!BBHHHBBH8sHHIIHHH")
_PUT_V6_TCP: Final = struct.Struct("!IHBB32sHHIIHHH")
_NO_VNET: Final = vnet_hdr.EMPTY
VNET: Final = struct.Struct("=BBHHHH")
TIMESTAMPS: Final = struct.Struct("!II")
TIMESTAMP_LAYOUT: Final = b"\x01\x01\x08\x0a"
# The same and what follows it in one go, for the layout that nearly all segments have.
_PADDED_TIMESTAMPS: Final = struct.Struct("!III")
_PADDING: Final = int.from_bytes(TIMESTAMP_LAYOUT, "big")
_NOVNET: Final = bytes(10)

# Offsets in a Frame's buffer. The TCP header of an IPv4 packet that comes in begins at 50, of an IPv6 packet at 70; each stays
# where it is, and the other family's IP header is written before it: IPv6 from 10, IPv4 from 50.
_VNET_AT: Final = 20
_PACKET_AT: Final = 30
_V4_TCP_AT: Final = 50
V6_TCP_AT: Final = 70

# Above this an IPv4 result goes out with DF set, so that path MTU discovery works; at or below it, it may be fragmented
# (RFC 7915 §5.1): an IPv6 host makes no packet smaller than 1280 bytes, whatever it is told. What is inserted later does not
# count, for the same reason.
_DF_ABOVE: Final = 1260
MAX_TOTAL_LENGTH: Final = 0xFFFF
IPV6_GROWTH: Final = 20  # how much longer an IPv6 header is than an IPv4 one
# How far from what was acknowledged a segment may lie to be believed: what the largest windows in use have in flight.
BELIEVABLE_WINDOW: Final = 1 << 24


class SizeLimits(TypedDict):
    """The largest packets that may pass, in bytes of their IPv4 form; with DF clear only `unfragmented_to_backend` bytes do."""

    max_to_backend: int
    max_to_client: int
    unfragmented_to_backend: int


class Splice(Fields):
    """One joined flow: addresses, ports and deltas, the traffic it has carried, and how long ago; all of it in its record.

    `backend_acked` is the last acknowledgment number sent to the backend, `client_acked` the last one sent to the client, each
    in its receiver's own numbers: what a probe or a RST is held against.
    """

    INSERTED_BYTES = 0  # how much longer a packet to the client gets than its translation alone makes it

    __slots__ = ("_identifications", "at", "memory", "page")

    def __init__(self, place: Place, identifications: Identifications) -> None:
        self.page, self.at = place
        self.memory = self.page.memory
        self._identifications = identifications

    @classmethod
    def begin(  # noqa: PLR0913  a handful of integers is what a flow is
        cls,
        place: Place,
        identifications: Identifications,
        *,
        v4_addresses: bytes,
        v6_addresses: bytes,
        service_port: int,
        backend_port: int,
        client_port: int,
        seq_delta: int,
        ts_delta: int,
        has_timestamps: bool,
        backend_acked: int,
        client_acked: int,
        window_shift_to_backend: int,
        window_shift_to_client: int,
        max_to_backend: int,
        max_to_client: int,
        unfragmented_to_backend: int,
        now: float,
        client_isn: int = 0,
        backend_isn: int = 0,
        opening_window: int = 0,
        created: float | None = None,
        hostname: str | None = None,
    ) -> Self:
        """Write the record of a new flow at `place`; it counts as free until its `state` is set.

        `v4_addresses` is service then client (8 bytes), as packets to the client have them; `v6_addresses` mapped then backend
        (32 bytes), as packets to the backend have them. `window_shift_*` is how far left a window field moves; towards the
        client it may be negative: to the right. `max_to_*` are the largest packets that may pass, in bytes of their IPv4 form;
        with DF clear only `unfragmented_to_backend` bytes do.
        """
        sum_v4, sum_v6 = word_sum(v4_addresses), word_sum(v6_addresses)
        constants = Constants(
            seq_delta=seq_delta & _MASK,
            ts_delta=ts_delta & _MASK,
            address_difference=(sum_v6 - sum_v4) % MODULUS,
            # What the TCP checksum sees of addresses and ports: removed minus added (RFC 1624 §3).
            whole_difference=(sum_v4 + service_port - sum_v6 - backend_port) % MODULUS,
            service_port=service_port,
            backend_port=backend_port,
            client_port=client_port,
            max_to_backend=max_to_backend,
            unfragmented_to_backend=unfragmented_to_backend,
            max_to_client=max_to_client - cls.INSERTED_BYTES,
            window_shift_to_backend=window_shift_to_backend,
            window_shift_to_client=window_shift_to_client,
            kind=(HAS_TIMESTAMPS if has_timestamps else 0) | (MAKES_TIMESTAMPS if cls.INSERTED_BYTES else 0),
            sum_v4=sum_v4,
            v4_addresses=v4_addresses,
            v6_addresses=v6_addresses,
            client_isn=client_isn,
            backend_isn=backend_isn,
            opening_window=opening_window,
            created=now if created is None else created,
            clock_origin=0,
            hostname=hostname,
        )
        memory, at = place.page.memory, place.at
        write_constants(memory, at, constants)
        write_beginning(memory, at, backend_acked=backend_acked, client_acked=client_acked, now=now)
        return cls(place, identifications)

    @property
    def constants(self) -> Constants:
        """All that never changes of the flow."""
        return get_constants(self.memory, self.at)

    @property
    def has_timestamps(self) -> bool:
        """Whether both ends speak timestamps of their own."""
        return bool(self.constants.kind & HAS_TIMESTAMPS)

    def may_be_next(self, seq: int) -> bool:
        """Whether a client's segment at `seq` may belong to this connection, as far as the backend has acknowledged it."""
        return abs(sequence.distance(self.client_acked, seq)) <= BELIEVABLE_WINDOW

    def limit(self, *, max_to_backend: int, max_to_client: int, unfragmented_to_backend: int) -> None:
        """Have other sizes pass from now on, as in `begin`."""
        self.max_to_backend = max_to_backend
        self.max_to_client = max_to_client - self.INSERTED_BYTES
        self.unfragmented_to_backend = unfragmented_to_backend

    def to_backend(self, frame: Frame, now: float, *, vetted: bool = False) -> memoryview | None:
        """Rewrite the client's IPv4 packet in `frame` for the backend; returns the result, vnet header first, borrowing it.

        None, with the frame untouched, for a packet that is not plain: options in the IP header, a fragment, spent TTL, a
        length or checksum that does not fit; and unless the caller has `vetted` it, a segment with SYN, FIN or RST, or
        without ACK, or one that is too big for the way ahead or would have to be fragmented there.
        """
        buffer = frame.buffer
        end = frame.end
        (
            version_ihl, tos, total_length, _, fragment, ttl, protocol, _, _,
            client_port, _, seq, ack, offset_flags, window, checksum, _,
        ) = _V4_TCP.unpack_from(buffer, _PACKET_AT)  # fmt: skip
        data_at = _V4_TCP_AT + (offset_flags >> 10 & 0x3C)
        if (
            version_ihl != 0x45
            or protocol != 6
            or fragment & _FRAGMENTED
            or ttl < 2
            or total_length != end - _PACKET_AT
            or (offset_flags & _DECISIVE != ACK and not vetted)
            or not _V4_TCP_AT + 20 <= data_at <= end
            or int.from_bytes(buffer[_PACKET_AT:_V4_TCP_AT], "big") % MODULUS
        ):
            return None

        memory, at = self.memory, self.at
        (
            packets, size_so_far, seq_delta, ts_delta, address_difference, whole_difference, backend_port,
            max_to_backend, unfragmented_to_backend, window_shift, v6_addresses,
        ) = READ_TO_BACKEND.unpack_from(memory, at + READ_TO_BACKEND_AT)  # fmt: skip
        vnet_flags = buffer[_VNET_AT]
        gso_type = buffer[_VNET_AT + 1]
        if vnet_flags & 1 or gso_type:
            _, _, _, gso_size, csum_start, csum_offset = VNET.unpack_from(buffer, _VNET_AT)
            if not vnet_flags & 1 or csum_start != 20 or csum_offset != 16 or gso_type not in (0, 1, 0x81):
                return None
            # A super-packet goes as far as its segments fit.
            size = gso_size + data_at - _PACKET_AT if gso_type else total_length
        else:
            size = total_length
        if size > unfragmented_to_backend and (size > max_to_backend or not fragment & DONT_FRAGMENT) and not vetted:
            return None
        if vnet_flags & 1:
            VNET.pack_into(buffer, 0, 1, gso_type and gso_type + 3, data_at - 10, gso_size, 40, 16)
        else:
            buffer[0:10] = _NO_VNET

        removed = ack + window
        if offset_flags & ACK:
            ack = backend_acked = (ack - seq_delta) & _MASK
        else:
            backend_acked = self.backend_acked
        if window_shift:
            window = min(window << window_shift, 0xFFFF)
        removed -= ack + window
        if data_at == _V4_TCP_AT + 32 and (stamps := _PADDED_TIMESTAMPS.unpack_from(buffer, 70))[0] == _PADDING:
            _, tsval, tsecr = stamps
            removed += tsecr
            tsecr = (tsecr - ts_delta) & _MASK
            removed -= tsecr
            TIMESTAMPS.pack_into(buffer, 74, tsval, tsecr)
        elif data_at != _V4_TCP_AT + 20:
            removed += _shift_options(buffer, 70, data_at, -seq_delta, 0, -ts_delta)

        if vnet_flags & 1:
            checksum = (checksum + address_difference) % MODULUS
        else:
            checksum = (checksum + whole_difference + removed) % MODULUS
        _PUT_V6_TCP.pack_into(
            buffer, 10,
            0x60000000 | tos << 20, total_length - 20, 6, ttl - 1, v6_addresses,
            client_port, backend_port, seq, ack, offset_flags, window, checksum,
        )  # fmt: skip
        WRITE_TO_BACKEND.pack_into(
            memory, at + WRITE_TO_BACKEND_AT, backend_acked, packets + 1, size_so_far + end - data_at, now
        )
        return frame.view[0:end]

    def to_client(self, frame: Frame, now: float, *, vetted: bool = False) -> memoryview | None:
        """Rewrite the backend's IPv6 packet in `frame` for the client; as `to_backend`, extension headers are not plain."""
        buffer = frame.buffer
        end = frame.end
        (
            version_class_label, payload_length, next_header, hop_limit, _,
            _, client_port, seq, ack, offset_flags, window, checksum, _,
        ) = _V6_TCP.unpack_from(buffer, _PACKET_AT)  # fmt: skip
        data_at = V6_TCP_AT + (offset_flags >> 10 & 0x3C)
        total_length = payload_length + 20
        if (
            version_class_label >> 28 != 6
            or next_header != 6
            or hop_limit < 2
            or payload_length != end - V6_TCP_AT
            or (offset_flags & _DECISIVE != ACK and not vetted)
            or not V6_TCP_AT + 20 <= data_at <= end
            or total_length > MAX_TOTAL_LENGTH
        ):
            return None

        memory, at = self.memory, self.at
        (
            packets, size_so_far, seq_delta, ts_delta, address_difference, whole_difference, service_port,
            max_to_client, window_shift, sum_v4, v4_addresses,
        ) = READ_TO_CLIENT.unpack_from(memory, at + READ_TO_CLIENT_AT)  # fmt: skip
        vnet_flags = buffer[_VNET_AT]
        gso_type = buffer[_VNET_AT + 1]
        if vnet_flags & 1 or gso_type:
            _, _, _, gso_size, csum_start, csum_offset = VNET.unpack_from(buffer, _VNET_AT)
            if not vnet_flags & 1 or csum_start != 40 or csum_offset != 16 or gso_type not in (0, 4, 0x84):
                return None
            size = gso_size + data_at - 50 if gso_type else total_length
        else:
            size, gso_size = total_length, 0
        if size > max_to_client and not vetted:
            return None
        if vnet_flags & 1:
            VNET.pack_into(buffer, 40, 1, gso_type and gso_type - 3, data_at - 50, gso_size, 20, 16)
        else:
            buffer[40:50] = _NO_VNET

        removed = seq + window
        seq = (seq + seq_delta) & _MASK
        if window_shift:
            window = min(window << window_shift, 0xFFFF) if window_shift > 0 else window >> -window_shift
        removed -= seq + window
        if data_at == V6_TCP_AT + 32 and (stamps := _PADDED_TIMESTAMPS.unpack_from(buffer, 90))[0] == _PADDING:
            _, tsval, tsecr = stamps
            removed += tsval
            tsval = (tsval + ts_delta) & _MASK
            removed -= tsval
            TIMESTAMPS.pack_into(buffer, 94, tsval, tsecr)
        elif data_at != V6_TCP_AT + 20:
            removed += _shift_options(buffer, 90, data_at, 0, ts_delta, 0)

        if vnet_flags & 1:
            checksum = (checksum - address_difference) % MODULUS
        else:
            checksum = (checksum - whole_difference + removed) % MODULUS
        tos = version_class_label >> 20 & 0xFF
        if size > _DF_ABOVE:
            fragment, identification = DONT_FRAGMENT, 0
        else:
            fragment = 0
            identification = self._identifications.take((end - data_at) // gso_size + 1 if gso_size else 1)
        time_protocol = (hop_limit - 1) << 8 | 6
        ip_checksum = -(0x4500 + tos + total_length + identification + fragment + time_protocol + sum_v4) % MODULUS
        _PUT_V4_TCP.pack_into(
            buffer, 50,
            0x45, tos, total_length, identification, fragment, hop_limit - 1, 6, ip_checksum, v4_addresses,
            service_port, client_port, seq, ack, offset_flags, window, checksum,
        )  # fmt: skip
        client_acked = ack if offset_flags & ACK else self.client_acked
        WRITE_TO_CLIENT.pack_into(memory, at + WRITE_TO_CLIENT_AT, now, client_acked, packets + 1, size_so_far + end - data_at)
        return frame.view[40:end]


def _shift_options(buffer: bytearray, at: int, end: int, edge_delta: int, tsval_delta: int, tsecr_delta: int) -> int:
    """Move SACK edges and timestamps by the deltas, in place; returns the checksum's difference, removed minus added.

    Options not known, and everything behind one whose length is illegal, stay as they are: the endpoints judge them.

    Deviation: RFC 2018 §4 sends SACK only to whom permits it. Where a backend turns out not to, the client's blocks still pass;
    a TCP without SACK skips them.
    """
    start = at
    before = word_sum(buffer[start:end])
    while at < end - 1 and buffer[at] != 0:
        kind = buffer[at]
        if kind == 1:
            at += 1
            continue
        length = buffer[at + 1]
        if length < 2 or at + length > end:
            break
        if kind == 8 and length == 10:
            tsval, tsecr = TIMESTAMPS.unpack_from(buffer, at + 2)
            TIMESTAMPS.pack_into(buffer, at + 2, (tsval + tsval_delta) & _MASK, (tsecr + tsecr_delta) & _MASK)
        elif kind == 5 and length % 8 == 2:
            for edge_at in range(at + 2, at + length - 7, 8):
                left, right = TIMESTAMPS.unpack_from(buffer, edge_at)
                TIMESTAMPS.pack_into(buffer, edge_at, (left + edge_delta) & _MASK, (right + edge_delta) & _MASK)
        at += length
    return before - word_sum(buffer[start:end])
