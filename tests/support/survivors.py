"""Processes that leave a fast path behind and those that find it: on a device, a bpffs and records that outlive them."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import splice_twin as twin
from offload_trials import CLIENT_PORT, from_backend, from_client
from splice_setup import PLAIN
from splice_twin import Deltas
from two_devices import Router

from kracauer.offload.kernel import KernelPath
from kracauer.offload.pins import Former
from kracauer.tcp.record import Records
from kracauer.tcp.splice import Splice
from kracauer.tcp.state import CODES, State
from kracauer.translate.identification import Identifications
from kracauer.wire import tcp
from kracauer.wire.tcp import TcpHeader
from kracauer.wire.vnet_hdr import NO_OFFLOAD

HEADER: Final = TcpHeader(CLIENT_PORT, 443, 1000, 2000, tcp.ACK | tcp.PSH, 500)


class Host:
    """A device, a bpffs, and records: what outlives a process."""

    def __init__(self, ip: Callable[[str], str], root: Path) -> None:
        self.ip = ip
        self.router = Router(ip)
        self.root = root
        self.records = Records()
        self.device = self.router.kracauer.name

    @property
    def directory(self) -> Path:
        return self.root / "kracauer" / self.device

    def pinned(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir()) if self.directory.exists() else []

    def splice(self, deltas: Deltas = PLAIN) -> Splice:
        """A flow with a record that is kept."""
        splice = Splice.begin(
            self.records.take(),
            Identifications(1),
            v4_addresses=deltas.service + deltas.client,
            v6_addresses=deltas.mapped + deltas.backend,
            service_port=deltas.service_port,
            backend_port=deltas.backend_port,
            client_port=CLIENT_PORT,
            seq_delta=deltas.seq_delta,
            ts_delta=deltas.ts_delta,
            window_shift_to_backend=0,
            window_shift_to_client=0,
            has_timestamps=deltas.ts_delta != 0,
            backend_acked=7,
            client_acked=8,
            max_to_backend=0xFFFF,
            max_to_client=0xFFFF,
            unfragmented_to_backend=0xFFFF,
            now=0.0,
        )
        splice.state = CODES[State.ESTABLISHED]
        return splice

    def find(self) -> Former:
        return Former.find(self.device, self.root)

    def start(self) -> tuple[KernelPath, Former]:
        """A process as far as the point where it would adopt flows."""
        former = self.find()
        former.collect(self.records)
        path = KernelPath.open(16, former=former)
        path.sweep(time.monotonic())
        return path, former

    def begin(self, *splices: Splice) -> KernelPath:
        """One that has adopted these, and serves."""
        path, former = self.start()
        for splice in splices:
            assert path.install(splice)
        path.attach(self.device)
        former.collect(self.records)
        former.close()
        return path

    def carry(self) -> bytes:
        """Have the kernel carry a packet of the client's, and one of the backend's, which is returned as the client gets it."""
        self.router.send(client_packet(), NO_OFFLOAD)
        self.router.receive()
        self.router.send(backend_packet(), NO_OFFLOAD)
        return self.router.receive()[1]

    def finish(self, side: str) -> None:
        """Have the kernel carry a FIN of that side."""
        self.router.send(finished(side), NO_OFFLOAD)
        self.router.receive()

    def check_left_alone(self) -> None:
        """See the client's packets come to userspace."""
        self.router.send(client_packet(), NO_OFFLOAD)
        self.router.receive_in_userspace()


def client_packet() -> bytes:
    return twin.build_v4(PLAIN.client, PLAIN.service, 0, 64, NO_OFFLOAD, HEADER, b"abc")[1]


def backend_packet() -> bytes:
    header = HEADER._replace(src_port=PLAIN.backend_port, dst_port=CLIENT_PORT)
    return twin.build_v6(PLAIN.backend, PLAIN.mapped, 0, 64, NO_OFFLOAD, header, b"abcde")[1]


def finished(side: str) -> bytes:
    """A FIN of that side's."""
    header = HEADER._replace(flags=tcp.ACK | tcp.FIN, seq=3000)
    return from_client(PLAIN, header, b"") if side == "client" else from_backend(PLAIN, header, b"")


def refuse(*_: object) -> Any:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def die(path: KernelPath) -> None:
    """Close every descriptor and do nothing else, as is done to a process that is killed."""
    assert path._attachment is not None
    path._attachment.release()
    path._columns.release()
    path._traffic.release()
    path._memory.close()
    path._control.close()
    os.close(path.program)
    path.program = -1
    for entry in path.maps.values():
        entry.close()
