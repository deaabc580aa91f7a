"""One TCP flow as fast as it goes: `python -m kracauer.lab.bulk serve PORT`, `… download|upload ADDRESS PORT NAME`.

Speaks first like HTTP, so that a name can be peeked at, and then moves bytes that neither end looks at: the sender gives the
kernel the same page-cache pages over and over, the receiver has it discard what came (MSG_TRUNC of tcp(7)). What is measured is
the network in between, not this program. Prints {"bytes": …, "seconds": …} as the receiver counted.
"""

import argparse
import contextlib
import json
import os
import socket
import struct
import threading
import time
from dataclasses import asdict, dataclass
from typing import Final

CHUNK: Final = 1 << 20
READY: Final = "bulk ready"
_TOTALS: Final = struct.Struct("!Qd")


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a receiver counted, from its first byte to its last."""

    bytes: int
    seconds: float

    @property
    def gbit_per_s(self) -> float:
        """The rate."""
        return self.bytes * 8 / self.seconds / 1e9 if self.seconds else 0.0


def send_until(connection: socket.socket, deadline: float) -> None:
    """Send until the clock says so or the other end has had enough."""
    descriptor = os.memfd_create("kracauer-bulk")
    try:
        os.truncate(descriptor, CHUNK)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < deadline:
                os.sendfile(connection.fileno(), descriptor, 0, CHUNK)
    finally:
        os.close(descriptor)


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
        words = _read_head(connection).split()
        if not words:
            return
        if words[0] == b"PUT":
            transfer = receive_until(connection, float("inf"))
            connection.sendall(_TOTALS.pack(transfer.bytes, transfer.seconds))
        else:
            send_until(connection, time.monotonic() + float(words[1].lstrip(b"/")) + 5)


def serve(port: int) -> None:
    """Answer connections for ever: PUT is counted, GET /SECONDS is sent to."""
    with socket.create_server(("::", port), family=socket.AF_INET6, backlog=64) as listener:
        print(READY, flush=True)
        while True:
            threading.Thread(target=_serve_one, args=(listener.accept()[0],), daemon=True).start()


def measure(direction: str, address: str, port: int, name: str, seconds: float) -> Transfer:
    """Move bytes for about so many seconds and return the receiver's count."""
    with socket.create_connection((address, port), timeout=10) as connection:
        connection.settimeout(None)
        method = "GET" if direction == "download" else "PUT"
        connection.sendall(f"{method} /{seconds} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode("ascii"))
        deadline = time.monotonic() + seconds
        if direction == "download":
            return receive_until(connection, deadline)
        send_until(connection, deadline)
        connection.shutdown(socket.SHUT_WR)
        return Transfer(*_TOTALS.unpack(connection.recv(_TOTALS.size, socket.MSG_WAITALL)))


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
    options = parser.parse_args()
    if options.role == "serve":
        serve(options.port)
    else:
        transfer = measure(options.role, options.address, options.port, options.name, options.seconds)
        print(json.dumps(asdict(transfer)))


if __name__ == "__main__":
    main()
