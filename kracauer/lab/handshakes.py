"""Connections with real TLS, one after the other, a byte asked and a byte answered: `python -m kracauer.lab.handshakes`:

    serve PORT CERTIFICATE KEY
    open ADDRESS PORT NAME --trust ROOT [--at-once 8]

Each is a whole handshake, certificate checked, nothing resumed. What `kracauer.lab.calls` leaves out, cryptography at both
ends, is what takes most of the time here. Prints one JSON object of the same form.
"""

import argparse
import contextlib
import socket
import ssl
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final

from kracauer.lab.calls import TIMEOUT_S, Calls, Stopwatch, describe

READY: Final = "handshakes answered"
_SERVERS: Final = 16  # threads
_BYTE: Final = b"k"


def _serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):  # ssl.SSLError is one
            connection.settimeout(TIMEOUT_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(connection, server_side=True) as tls:
                if tls.recv(1):
                    tls.send(_BYTE)


def serve(port: int, certificate: Path, key: Path) -> None:
    """Answer one byte on each connection, and hang up, for ever."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("::", port), family=socket.AF_INET6, backlog=1024) as listener:
        threads = [threading.Thread(target=_serve, args=(listener, context), daemon=True) for _ in range(_SERVERS)]
        for thread in threads:
            thread.start()
        print(READY, flush=True)
        for thread in threads:
            thread.join()


class Visitor(threading.Thread):
    """Makes one connection after the other until the time is over."""

    def __init__(self, destination: tuple[str, int], name: str, context: ssl.SSLContext, until: float) -> None:
        super().__init__()
        self._destination = destination
        self._name = name
        self._context = context
        self._until = until
        self.latencies_s: list[float] = []
        self.failures: Counter[str] = Counter()

    def run(self) -> None:
        """Visit."""
        while (began := time.perf_counter()) < self._until:
            try:
                with socket.create_connection(self._destination, TIMEOUT_S) as connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    with self._context.wrap_socket(connection, server_hostname=self._name) as tls:
                        tls.send(_BYTE)
                        if tls.recv(1):
                            self.latencies_s.append(time.perf_counter() - began)
                            tls.recv(1)  # to the end, so that the server hangs up first
                        else:
                            self.failures["hung up on"] += 1
            except OSError as error:
                self.failures[describe(error)] += 1


def visit(address: str, port: int, name: str, root: Path, *, at_once: int, seconds: float) -> Calls:
    """Make connections for so long, `at_once` at a time, and return what became of them."""
    context = ssl.create_default_context(cafile=str(root))
    watch = Stopwatch()
    visitors = [Visitor((address, port), name, context, watch.started + seconds) for _ in range(at_once)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    latencies_s = [latency for visitor in visitors for latency in visitor.latencies_s]
    return watch.summarise(latencies_s, sum((visitor.failures for visitor in visitors), Counter()))


def main() -> None:
    """Serve, or visit and print what came of it."""
    parser = argparse.ArgumentParser(prog="kracauer.lab.handshakes", description=__doc__.partition("\n")[0])
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("serve")
    server.add_argument("port", type=int)
    server.add_argument("certificate", type=Path)
    server.add_argument("key", type=Path)
    caller = roles.add_parser("open")
    caller.add_argument("address")
    caller.add_argument("port", type=int)
    caller.add_argument("name")
    caller.add_argument("--trust", type=Path, required=True, metavar="ROOT", help="the authority's certificate, a PEM file")
    caller.add_argument("--at-once", type=int, default=8)
    caller.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    if options.role == "serve":
        serve(options.port, options.certificate, options.key)
    else:
        where = options.address, options.port, options.name, options.trust
        print(visit(*where, at_once=options.at_once, seconds=options.seconds).render(), flush=True)


if __name__ == "__main__":
    main()
