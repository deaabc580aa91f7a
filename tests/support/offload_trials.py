"""Fast paths to be tried with packets: the one in memory, and the program in the kernel's test runs (BPF_PROG_TEST_RUN).

A test run is of one packet in one piece, of some 3,400 bytes at most, whose checksum is complete; it can be told the segment
size of a super-packet, and nothing else of what the kernel knows about one.
"""

import struct
import time
from typing import Protocol

import program_runs
import splice_twin as twin
from splice_twin import Deltas

from kracauer.fast_path import FastPath
from kracauer.flows import backend_key, client_key
from kracauer.offload.kernel import KernelPath
from kracauer.offload.memory import MemoryPath
from kracauer.replies import Endpoints
from kracauer.tcp.record import Records
from kracauer.tcp.splice import Splice
from kracauer.translate.identification import Identifications
from kracauer.wire import ipv4, ipv6, vnet_hdr
from kracauer.wire.buffer import PACKET_START, Frame
from kracauer.wire.tcp import TcpHeader
from kracauer.wire.vnet_hdr import NO_OFFLOAD, VnetHeader

CLIENT_PORT = 49152
MOST_BYTES = 3400  # of a packet in a test run
REDIRECT = 7  # TC_ACT_REDIRECT
PASS = -1
_CONTEXT_BYTES = 192
_GSO_SIZE_AT = 176
_ETHERNET = {4: bytes(12) + b"\x08\x00", 6: bytes(12) + b"\x86\xdd"}


class Trial(Protocol):
    """A fast path with a way to put packets in."""

    @property
    def path(self) -> FastPath: ...

    def receive(self, packet: bytes, gso_size: int = 0) -> bytes | None:
        """What becomes of the packet; None where it is left to the engine."""


class MemoryTrial:
    def __init__(self, capacity: int = 16) -> None:
        self.path = MemoryPath(capacity)

    def receive(self, packet: bytes, gso_size: int = 0) -> bytes | None:
        frame = Frame(packet, vnet_hdr.build(vnet_of(packet, gso_size)))
        view = self.path.receive(frame, time.monotonic())
        return None if view is None else bytes(view[vnet_hdr.LENGTH :])


class KernelTrial:
    def __init__(self, capacity: int = 16) -> None:
        self.path = KernelPath.open(capacity, link_header_length=14)

    def receive(self, packet: bytes, gso_size: int = 0) -> bytes | None:
        version = packet[0] >> 4
        for other in _ETHERNET.keys() - {version}:
            assert self._run(packet, other, gso_size) is None, "the version is not that of the frame"
        return self._run(packet, version, gso_size) if version in _ETHERNET else None

    def _run(self, packet: bytes, version: int, gso_size: int) -> bytes | None:
        context = bytearray(_CONTEXT_BYTES)
        struct.pack_into("=I", context, _GSO_SIZE_AT, gso_size)
        header = _ETHERNET[version]
        if version == 6 and len(packet) < ipv6.LENGTH:  # which a test run refuses
            return None
        result = program_runs.run(self.path.program, header + packet, bytes(context))
        if result.verdict == PASS:
            assert result.packet == header + packet, "a packet that is left alone was altered"
            return None
        assert result.verdict == REDIRECT
        assert result.packet[:12] == header[:12]
        return result.packet[14:]


TRIALS: dict[str, type[MemoryTrial] | type[KernelTrial]] = {"memory": MemoryTrial, "kernel": KernelTrial}


def vnet_of(packet: bytes, gso_size: int) -> VnetHeader:
    """The vnet header of a super-packet of that segment size; none for 0."""
    if not gso_size:
        return NO_OFFLOAD
    start, kind = (20, vnet_hdr.GSO_TCPV4) if packet[0] >> 4 == 4 else (40, vnet_hdr.GSO_TCPV6)
    return VnetHeader(vnet_hdr.NEEDS_CSUM, kind, start + 20, gso_size, start, 16)


def make(
    deltas: Deltas,
    *,
    kind: type[Splice] = Splice,
    client_port: int = CLIENT_PORT,
    max_to_backend: int = 0xFFFF,
    max_to_client: int = 0xFFFF,
    unfragmented_to_backend: int = 0xFFFF,
) -> Splice:
    """A splice whose client's port is known, which a fast path finds it by."""
    return kind.begin(
        Records().take(),
        Identifications(1),
        v4_addresses=deltas.service + deltas.client,
        v6_addresses=deltas.mapped + deltas.backend,
        service_port=deltas.service_port,
        backend_port=deltas.backend_port,
        client_port=client_port,
        seq_delta=deltas.seq_delta,
        ts_delta=deltas.ts_delta,
        window_shift_to_backend=deltas.window_shift_to_backend,
        window_shift_to_client=deltas.window_shift_to_client,
        has_timestamps=deltas.ts_delta != 0,
        backend_acked=7,
        client_acked=8,
        max_to_backend=max_to_backend,
        max_to_client=max_to_client,
        unfragmented_to_backend=unfragmented_to_backend,
        now=0.0,
    )


def from_client(
    deltas: Deltas, header: TcpHeader, payload: bytes, *, tos: int = 0, ttl: int = 64, client_port: int = CLIENT_PORT
) -> bytes:
    header = header._replace(src_port=client_port, dst_port=deltas.service_port)
    return twin.build_v4(deltas.client, deltas.service, tos, ttl, NO_OFFLOAD, header, payload)[1]


def from_backend(
    deltas: Deltas, header: TcpHeader, payload: bytes, *, tos: int = 0, ttl: int = 64, client_port: int = CLIENT_PORT
) -> bytes:
    header = header._replace(src_port=deltas.backend_port, dst_port=client_port)
    return twin.build_v6(deltas.backend, deltas.mapped, tos, ttl, NO_OFFLOAD, header, payload)[1]


def in_python(splice: Splice, packet: bytes, gso_size: int = 0, now: float = 1.0) -> bytes | None:
    """What the engine's own fast path makes of the packet, found by its keys as the engine finds it."""
    frame = Frame(packet, vnet_hdr.build(vnet_of(packet, gso_size) if packet else NO_OFFLOAD))
    constants, buffer = splice.constants, frame.buffer
    service, client = constants.v4_addresses[:4], constants.v4_addresses[4:]
    mapped, backend = constants.v6_addresses[:16], constants.v6_addresses[16:]
    to_service = client_key(Endpoints(client, service, constants.client_port, constants.service_port))
    to_mapped = backend_key(Endpoints(backend, mapped, constants.backend_port, constants.client_port))
    view = None
    if buffer[PACKET_START] == 0x45 and len(packet) >= 40:
        if buffer[PACKET_START + 12 : PACKET_START + 24] == to_service:
            view = splice.to_backend(frame, now)
    elif buffer[PACKET_START] >> 4 == 6 and len(packet) >= 60 and buffer[PACKET_START + 8 : PACKET_START + 44] == to_mapped:
        view = splice.to_client(frame, now)
    return None if view is None else bytes(view[vnet_hdr.LENGTH :])


def with_identification(packet: bytes, identification: int) -> bytes:
    """An IPv4 packet with that number, and the header checksum that goes with it."""
    header = ipv4.parse(packet)
    return ipv4.build(header._replace(identification=identification)) + packet[header.length :]


def same_but_identification(result: bytes, expected: bytes) -> bool:
    """Whether an IPv4 result is the expected one, with a number of the fast path's own where it has one."""
    number = ipv4.parse(result).identification
    if ipv4.parse(expected).dont_fragment:
        return result == expected
    return number >= 0x8000 and result == with_identification(expected, number)


def traffic(splice: Splice) -> tuple[int, ...]:
    """What its record says of it, the time apart."""
    return (
        splice.packets_to_backend,
        splice.bytes_to_backend,
        splice.backend_acked,
        splice.packets_to_client,
        splice.bytes_to_client,
        splice.client_acked,
    )
