"""TCP flows as fast as they go: `python -m kracauer.lab.bulk serve PORT`, `… download|upload ADDRESS PORT NAME [--flows 8]`.

Speaks first like HTTP, or with `--tls` the first message of a TLS handshake before that, so that a name can be peeked at. Then
moves bytes that neither end looks at: the sender gives the kernel the same page-cache pages over and over, the receiver has it
discard what came (MSG_TRUNC of tcp(7)). What is measured is the network in between, not this program. Prints {"bytes": …,
"seconds": …} as the receiver counted, all flows together. An upload of which the server has counted other than was sent is an
error. It ends with a silence: not everybody in between passes on half a close.
"""

import argparse
import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Final

from kracauer.lab import usage
from kracauer.lab.calls import hello

CHUNK: Final = 1 << 20
READY: Final = "bulk ready"
_TOTALS: Final = struct.Struct("!Qd")
_SILENCE_S: Final = 0.2  # after which the server says what it has counted so far
_PATIENCE_S: Final = 10.0  # with a server that has not counted all of it
_TIMEVAL: Final = struct.pack("@ll", 0, int(_SILENCE_S * 1e6))  # socket(7), SO_RCVTIMEO
_RECORD: Final = struct.Struct("!B2xH")  # of a TLS record: type and length (RFC 8446 §5.1)
_HANDSHAKE: Final = 22


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a receiver counted, from its first byte to its last.

    `machine_busy_s` is what all programs of this machine, and its kernel, have had of its processors meanwhile.
    """

    bytes: int
    seconds: float
    machine_busy_s: float = 0.0

    @property
    def gbit_per_s(self) -> float:
        """The rate."""
        return self.bytes * 8 / self.seconds / 1e9 if self.seconds else 0.0


def send_until(connection: socket.socket, deadline: float) -> int:
    """Send until the clock says so or the other end has had enough; returns how many bytes went out."""
    descriptor = os.memfd_create("kracauer-bulk")
    sent = 0
    try:
        os.truncate(descriptor, CHUNK)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < deadline:
                sent += os.sendfile(connection.fileno(), descriptor, 0, CHUNK)
    finally:
        os.close(descriptor)
    return sent


def receive_until(connection: socket.socket, deadline: float) -> Transfer:
    """Discard and count what arrives until the clock says so or the stream ends."""
    nowhere = bytearray(CHUNK)
    total, start, now = 0, 0.0, 0.0
    while now < deadline:
        count = connection.recv_into(nowhere, CHUNK, socket.MSG_TRUNC)
        now = time.monotonic()
        if not count:
            break
        if not start:
            start = now
        total += count
    return Transfer(total, now - start)


def _skip_hello(connection: socket.socket) -> None:
    """Read the first record away, if there is one: it was for whoever peeks."""
    if connection.recv(1, socket.MSG_PEEK) == bytes((_HANDSHAKE,)):
        head = connection.recv(_RECORD.size, socket.MSG_WAITALL)
        if len(head) == _RECORD.size:
            connection.recv(_RECORD.unpack(head)[1], socket.MSG_WAITALL)


def _read_head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # byte by byte: what follows is not ours to swallow
        byte = connection.recv(1)
        if not byte:
            break
        head += byte
    return head


def _serve_one(connection: socket.socket) -> None:
    with connection, contextlib.suppress(ConnectionError):
        _skip_hello(connection)
        words = _read_head(connection).split()
        if not words:
            return
        if words[0] == b"PUT":
            _count(connection)
        else:
            send_until(connection, time.monotonic() + float(words[1].lstrip(b"/")) + 5)


def _count(connection: socket.socket) -> None:
    """Receive until the stream ends, and say in each silence what has been counted by then."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL)  # cheaper than Python's own
    nowhere = bytearray(CHUNK)
    total, start, last, is_said = 0, 0.0, 0.0, True
    while True:
        try:
            count = connection.recv_into(nowhere, CHUNK, socket.MSG_TRUNC)
        except BlockingIOError:
            if not is_said:
                connection.sendall(_TOTALS.pack(total, last - start))
                is_said = True
            continue
        if not count:
            return
        last = time.monotonic()
        start = start or last
        total += count
        is_said = False


def serve(port: int) -> None:
    """Answer connections for ever: PUT is counted, GET /SECONDS is sent to."""
    with socket.create_server(("::", port), family=socket.AF_INET6, backlog=64) as listener:
        print(READY, flush=True)
        while True:
            threading.Thread(target=_serve_one, args=(listener.accept()[0],), daemon=True).start()


def measure(direction: str, address: str, port: int, name: str, seconds: float, *, is_tls: bool = False) -> Transfer:
    """Move bytes for about so many seconds and return the receiver's count; ConnectionError when bytes were lost on the way."""
    with socket.create_connection((address, port), timeout=10) as connection:
        connection.settimeout(None)
        method = "GET" if direction == "download" else "PUT"
        head = f"{method} /{seconds} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode("ascii")
        connection.sendall((hello(name, is_tls=True) if is_tls else b"") + head)
        deadline = time.monotonic() + seconds
        if direction == "download":
            return receive_until(connection, deadline)
        return _totals(connection, send_until(connection, deadline))


def _totals(connection: socket.socket, sent: int) -> Transfer:
    """Return what the server has counted of an upload, once that is all of it."""
    connection.settimeout(_PATIENCE_S)
    counted = 0
    while True:
        try:
            totals = connection.recv(_TOTALS.size, socket.MSG_WAITALL)
        except TimeoutError:
            raise ConnectionError(f"of an upload of {sent} bytes the server has counted {counted}") from None
        if len(totals) != _TOTALS.size:
            raise ConnectionError(f"hung up on an upload of {sent} bytes, of which {counted} were counted")
        counted, seconds = _TOTALS.unpack(totals)
        if counted == sent:
            return Transfer(counted, seconds)


def measure_many(
    direction: str, address: str, port: int, name: str, seconds: float, *, flows: int = 1, is_tls: bool = False
) -> Transfer:
    """Do as `measure` does with so many flows at once; returns the sum of their bytes, and the time of the slowest."""
    busy_s = usage.machine_busy_s()
    with ThreadPoolExecutor(flows) as pool:
        going = [pool.submit(measure, direction, address, port, name, seconds, is_tls=is_tls) for _ in range(flows)]
        transfers: Sequence[Transfer] = [each.result() for each in going]
    total = sum(transfer.bytes for transfer in transfers)
    return Transfer(total, max(transfer.seconds for transfer in transfers), usage.machine_busy_s() - busy_s)


def main() -> None:
    """Serve, or move bytes once and print what was counted."""
    parser = argparse.ArgumentParser(prog="kracauer.lab.bulk", description=__doc__.partition("\n")[0])
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("serve")
    server.add_argument("port", type=int)
    for direction in ("download", "upload"):
        client = roles.add_parser(direction)
        client.add_argument("address")
        client.add_argument("port", type=int)
        client.add_argument("name")
        client.add_argument("--seconds", type=float, default=5)
        client.add_argument("--flows", type=int, default=1, help="so many at once")
        client.add_argument("--tls", action="store_true", help="begin like TLS")
    options = parser.parse_args()
    if options.role == "serve":
        serve(options.port)
    else:
        where = options.role, options.address, options.port, options.name, options.seconds
        try:
            transfer = measure_many(*where, flows=options.flows, is_tls=options.tls)
        except OSError as error:
            raise SystemExit(f"{options.address} port {options.port}: {error}") from error
        print(json.dumps(asdict(transfer)))


if __name__ == "__main__":
    main()
