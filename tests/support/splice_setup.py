"""Splices, and packets that belong to them, from one value that says what a splice changes."""

from typing import TypeVar

import segment_strategies as packets
import splice_twin as twin
from hypothesis import strategies as st
from splice_twin import Deltas

from kracauer.tcp.record import Records
from kracauer.tcp.splice import Splice
from kracauer.tcp.timestamping import TimestampingSplice
from kracauer.translate.identification import Identifications
from kracauer.wire import vnet_hdr
from kracauer.wire.buffer import VNET_START, Frame
from kracauer.wire.tcp import TcpHeader
from kracauer.wire.vnet_hdr import NO_OFFLOAD, VnetHeader

SERVICE, CLIENT = bytes((198, 51, 100, 1)), bytes((192, 0, 2, 7))
MAPPED = bytes.fromhex("20010db80046000000000000") + CLIENT
BACKEND = bytes.fromhex("20010db8000100000000000000000002")
PLAIN = Deltas(SERVICE, CLIENT, MAPPED, BACKEND, 443, 8443)

AnySplice = TypeVar("AnySplice", bound=Splice)

any_deltas = st.builds(
    Deltas,
    service=packets.v4_address,
    client=packets.v4_address,
    mapped=packets.v6_address,
    backend=packets.v6_address,
    service_port=packets.word,
    backend_port=packets.word,
    seq_delta=packets.number,
    ts_delta=packets.number,
    window_shift_to_backend=st.integers(0, 14),
    window_shift_to_client=st.integers(-14, 14),
)


def make_splice(
    deltas: Deltas,
    *,
    first_identification: int = 1,
    max_to_backend: int = 0xFFFF,
    max_to_client: int = 0xFFFF,
    unfragmented_to_backend: int = 0xFFFF,
) -> Splice:
    """A splice with no limits on sizes but those given."""
    return _make(Splice, deltas, first_identification, max_to_backend, max_to_client, unfragmented_to_backend)


def make_timestamping_splice(deltas: Deltas) -> TimestampingSplice:
    return _make(TimestampingSplice, deltas, 1, 0xFFFF, 0xFFFF, 0xFFFF)


def _make(
    kind: type[AnySplice],
    deltas: Deltas,
    first_identification: int,
    max_to_backend: int,
    max_to_client: int,
    unfragmented_to_backend: int,
) -> AnySplice:
    return kind.begin(
        Records().take(),
        Identifications(first_identification),
        v4_addresses=deltas.service + deltas.client,
        v6_addresses=deltas.mapped + deltas.backend,
        service_port=deltas.service_port,
        backend_port=deltas.backend_port,
        seq_delta=deltas.seq_delta,
        ts_delta=deltas.ts_delta,
        window_shift_to_backend=deltas.window_shift_to_backend,
        window_shift_to_client=deltas.window_shift_to_client,
        has_timestamps=deltas.ts_delta != 0,
        backend_acked=0,
        client_acked=0,
        max_to_backend=max_to_backend,
        max_to_client=max_to_client,
        unfragmented_to_backend=unfragmented_to_backend,
        client_port=0,
        now=0.0,
    )


def from_client(
    deltas: Deltas, header: TcpHeader, payload: bytes, vnet: VnetHeader = NO_OFFLOAD, *, tos: int = 0, ttl: int = 64
) -> bytes:
    """A packet of the client's with what `vnet` wants of a checksum."""
    header = header._replace(dst_port=deltas.service_port)
    return twin.build_v4(deltas.client, deltas.service, tos, ttl, vnet, header, payload)[1]


def from_backend(
    deltas: Deltas, header: TcpHeader, payload: bytes, vnet: VnetHeader = NO_OFFLOAD, *, tos: int = 0, ttl: int = 64
) -> bytes:
    """A packet of the backend's, likewise."""
    header = header._replace(src_port=deltas.backend_port)
    return twin.build_v6(deltas.backend, deltas.mapped, tos, ttl, vnet, header, payload)[1]


def to_backend(
    splice: Splice, packet: bytes, vnet: VnetHeader = NO_OFFLOAD, *, now: float = 1.0, vetted: bool = False
) -> tuple[VnetHeader, bytes]:
    """What the splice makes of a client's packet; fails for one that is not plain."""
    view = splice.to_backend(Frame(packet, vnet_hdr.build(vnet)), now, vetted=vetted)
    assert view is not None
    return vnet_hdr.parse(view), bytes(view[vnet_hdr.LENGTH :])


def to_client(
    splice: Splice, packet: bytes, vnet: VnetHeader = NO_OFFLOAD, *, now: float = 1.0, vetted: bool = False
) -> tuple[VnetHeader, bytes]:
    """What the splice makes of a backend's packet, likewise."""
    view = splice.to_client(Frame(packet, vnet_hdr.build(vnet)), now, vetted=vetted)
    assert view is not None
    return vnet_hdr.parse(view), bytes(view[vnet_hdr.LENGTH :])


def dirty_frame(packet: bytes, vnet: VnetHeader = NO_OFFLOAD) -> Frame:
    """A frame whose buffer holds the remains of earlier packets wherever this one is not."""
    frame = Frame(packet, vnet_hdr.build(vnet))
    frame.buffer[:VNET_START] = b"\x45\x06" * (VNET_START // 2)
    rest = len(frame.buffer[frame.end : frame.end + 100])
    frame.buffer[frame.end : frame.end + rest] = (b"\x50\x10" * 50)[:rest]
    return frame
