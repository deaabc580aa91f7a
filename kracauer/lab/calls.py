"""Connections as fast as they come, and bytes there and back, with `python -m kracauer.lab.calls`:

    serve PORT [--stay]                      one byte for each piece that comes, and then, without --stay, the end
    open ADDRESS PORT NAME [--at-once 32]    connection after connection, so many at a time
    ping ADDRESS PORT NAME                   one connection, to a server that stays, and one byte after the other on it
    hold ADDRESS PORT NAME [--count 1000]    so many connections, to a server that stays, with nothing said on them

A caller says a hostname, as a request or as the start of a TLS handshake (`--tls`), and hears one byte. The server hangs up
first, as web servers do, which leaves the caller's ports free. There is no cryptography and hardly any work at either end: what
is measured is the network in between. Prints one JSON object. Who holds connections does so until SIGTERM, and then says on how
many of them a byte is still answered.
"""

import argparse
import contextlib
import gc
import json
import resource
import select
import signal
import socket
import ssl
import statistics
import struct
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from kracauer.lab import usage

READY: Final = "calls answered"
HELD: Final = "calls held"
TIMEOUT_S: Final = 10.0
_PATIENCE_S: Final = 2.0  # with what is still open when the time is over
_PIECE: Final = 4096
_BACKLOG: Final = 4096
_EVENTS: Final = 1024  # taken at once
_BYTE: Final = b"k"
_UNANSWERED: Final = "no answer in time"
_TLS_HANDSHAKE: Final = 0x16
_TIMEVAL: Final = struct.pack("@ll", int(TIMEOUT_S), 0)  # socket(7), SO_RCVTIMEO


@dataclass(slots=True)
class Calls:
    """What became of a number of calls: microseconds from the SYN, or from the byte sent, to the byte that answers it.

    `machine_busy_s` is what all programs of this machine, and its kernel, have had of its processors meanwhile.
    """

    answered: int = 0
    seconds: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    median_us: float = 0.0
    p90_us: float = 0.0
    p99_us: float = 0.0
    machine_busy_s: float = 0.0

    @property
    def per_second(self) -> float:
        """Answered calls a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def render(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps({**asdict(self), "per_second": round(self.per_second, 1)})


class Stopwatch:
    """What passes from its making on: time, and the machine's work in it."""

    def __init__(self) -> None:
        self._busy_s = usage.machine_busy_s()
        self.started = time.perf_counter()

    def summarise(self, latencies_s: Sequence[float], failures: Counter[str]) -> Calls:
        """Return what is to be said of these latencies and failures by now."""
        calls = Calls(len(latencies_s), round(time.perf_counter() - self.started, 6), dict(failures))
        calls.machine_busy_s = round(usage.machine_busy_s() - self._busy_s, 6)
        if latencies_s:
            ordered = sorted(latencies_s)
            p90, p99 = (ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.9, 0.99))
            in_us = [round(latency * 1e6, 1) for latency in (statistics.median(ordered), p90, p99)]
            calls.median_us, calls.p90_us, calls.p99_us = in_us
        return calls


def describe(error: OSError) -> str:
    """Return what went wrong in few words."""
    if isinstance(error, BlockingIOError | TimeoutError):
        return _UNANSWERED
    return error.strerror or str(error)


def hello(name: str, *, is_tls: bool) -> bytes:
    """Return the first bytes of a caller for `name`: a request, or a ClientHello as Python's own TLS sends it."""
    if not is_tls:
        return f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode("ascii")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def is_whole(greeting: bytes) -> bool:
    """Tell whether this is all of what `hello` returns."""
    if greeting[:1] == bytes((_TLS_HANDSHAKE,)):
        return len(greeting) >= 5 and len(greeting) >= 5 + int.from_bytes(greeting[3:5], "big")
    return greeting.endswith(b"\r\n\r\n")


class Server:
    """Answers the greeting of each connection with one byte and hangs up; one that `stays` answers each piece after it, too."""

    def __init__(self, port: int, *, stays: bool) -> None:
        self._stays = stays
        self._listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=_BACKLOG)
        self._listener.settimeout(0)
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._connections: dict[int, socket.socket] = {}
        self._greetings: dict[int, bytes] = {}  # what there is of those that have not been heard to their end

    def serve(self) -> None:
        """Answer for ever."""
        print(READY, flush=True)
        while True:
            for descriptor, _ in self._epoll.poll(maxevents=_EVENTS):
                connection = self._connections.get(descriptor)
                if connection is None:
                    self._accept()
                else:
                    self._answer(descriptor, connection)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(0)
                descriptor = connection.fileno()
                self._connections[descriptor] = connection
                self._greetings[descriptor] = b""
                if self._stays:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._answer(descriptor, connection, is_new=True)

    def _answer(self, descriptor: int, connection: socket.socket, *, is_new: bool = False) -> None:
        try:
            is_over = self._hear(descriptor, connection)
        except BlockingIOError:
            is_over = False
        except OSError:
            is_over = True
        if is_over:
            del self._connections[descriptor]
            self._greetings.pop(descriptor, None)
            connection.close()
        elif is_new:
            self._epoll.register(descriptor, select.EPOLLIN)

    def _hear(self, descriptor: int, connection: socket.socket) -> bool:
        """Answer what has come; returns whether this connection is over."""
        data = connection.recv(_PIECE)
        if not data:
            return True
        so_far = self._greetings.get(descriptor)
        if so_far is not None:
            if not is_whole(so_far + data):
                self._greetings[descriptor] = so_far + data
                return False
            del self._greetings[descriptor]
        connection.send(_BYTE)
        return not self._stays


class Caller:
    """Opens connections to one address, each of which says `greeting`, and keeps so many of them going `at_once`."""

    def __init__(self, address: str, port: int, greeting: bytes, at_once: int) -> None:
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._destination = (address, port)
        self._greeting = greeting
        self._at_once = at_once
        self._epoll = select.epoll()
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self._latencies_s: list[float] = []
        self._failures: Counter[str] = Counter()
        self._is_over = False

    def run(self, seconds: float) -> Calls:
        """Call for so long. What has begun by then is brought to its end and counts only where it fails."""
        watch = Stopwatch()
        if self._at_once == 1:
            while time.perf_counter() < watch.started + seconds:
                self._call()
            return watch.summarise(self._latencies_s, self._failures)
        for _ in range(self._at_once):
            self._begin()
        self._turn(watch.started + seconds)
        calls = watch.summarise(self._latencies_s, self._failures)
        self._is_over = True
        self._turn(time.perf_counter() + _PATIENCE_S)
        self._failures[_UNANSWERED] += sum(began > 0 for _, began in self._open.values())
        for connection, _ in self._open.values():
            connection.close()
        calls.failures = dict(+self._failures)
        return calls

    def _call(self) -> None:
        """One call, from its beginning to its end, with nothing between the system and us."""
        with socket.socket(self._family, socket.SOCK_STREAM) as connection:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # Python's own timeouts would be a system call more each
                connection.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL)
            began = time.perf_counter()
            try:
                connection.connect(self._destination)
                connection.sendall(self._greeting)
                if connection.recv(1):
                    self._latencies_s.append(time.perf_counter() - began)
                    connection.recv(1)
                else:
                    self._failures["hung up on"] += 1
            except OSError as error:
                self._failures[describe(error)] += 1

    def _turn(self, until: float) -> None:
        while self._open and (left := until - time.perf_counter()) > 0:
            for descriptor, events in self._epoll.poll(left, _EVENTS):
                connection, began = self._open[descriptor]
                try:
                    self._go_on(descriptor, connection, began, events)
                except OSError as error:
                    self._failures[describe(error)] += 1
                    self._end(descriptor, connection)

    def _go_on(self, descriptor: int, connection: socket.socket, began: float, events: int) -> None:
        if not events & select.EPOLLIN:
            connection.send(self._greeting)
            self._epoll.modify(descriptor, select.EPOLLIN)
            return
        data = connection.recv(_PIECE)
        if data and began:
            self._latencies_s.append(time.perf_counter() - began)
            self._open[descriptor] = (connection, 0.0)
        elif not data:
            if began:
                self._failures["hung up on"] += 1
            self._end(descriptor, connection)

    def _begin(self) -> None:
        connection = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        descriptor = connection.fileno()
        began = time.perf_counter()
        try:
            connection.connect(self._destination)
        except BlockingIOError:
            pass
        except OSError as error:  # there is no port left, or no route: one call fewer at once from here on
            self._failures[describe(error)] += 1
            connection.close()
            return
        self._open[descriptor] = (connection, began)
        self._epoll.register(descriptor, select.EPOLLOUT)

    def _end(self, descriptor: int, connection: socket.socket) -> None:
        del self._open[descriptor]
        connection.close()
        if not self._is_over:
            self._begin()


def greet(address: str, port: int, greeting: bytes) -> socket.socket:
    """Return a connection to a server that stays, whose greeting was answered."""
    connection = socket.create_connection((address, port), timeout=TIMEOUT_S)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(greeting)
        if not connection.recv(1):
            raise ConnectionAbortedError("hung up on")
    except BaseException:
        connection.close()
        raise
    return connection


def ping(address: str, port: int, greeting: bytes, seconds: float) -> Calls:
    """Send one byte after the other on one connection, each once the one before it was answered."""
    latencies_s: list[float] = []
    failures: Counter[str] = Counter()
    with greet(address, port, greeting) as connection:
        connection.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL)
        watch = Stopwatch()
        now = watch.started
        try:
            while now < watch.started + seconds:
                before = now
                connection.send(_BYTE)
                if not connection.recv(1):
                    failures["hung up on"] += 1
                    break
                now = time.perf_counter()
                latencies_s.append(now - before)
        except OSError as error:
            failures[describe(error)] += 1
        return watch.summarise(latencies_s, failures)


def hold(address: str, port: int, greeting: bytes, count: int) -> Calls:
    """Open so many connections, say nothing on them until SIGTERM, and then one byte on each."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    connections = [greet(address, port, greeting) for _ in range(count)]
    print(HELD, flush=True)
    signal.sigwait({signal.SIGTERM})
    latencies_s: list[float] = []
    failures: Counter[str] = Counter()
    watch = Stopwatch()
    for connection in connections:
        before = time.perf_counter()
        try:
            connection.send(_BYTE)
            if connection.recv(1):
                latencies_s.append(time.perf_counter() - before)
            else:
                failures["hung up on"] += 1
        except OSError as error:
            failures[describe(error)] += 1
        connection.close()
    return watch.summarise(latencies_s, failures)


def allow_many_descriptors() -> None:
    """Raise this process's limit of open descriptors as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kracauer.lab.calls", description=__doc__.partition("\n")[0])
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("serve")
    server.add_argument("port", type=int)
    server.add_argument("--stay", action="store_true")
    for role in ("open", "ping", "hold"):
        caller = roles.add_parser(role)
        caller.add_argument("address")
        caller.add_argument("port", type=int)
        caller.add_argument("name")
        caller.add_argument("--tls", action="store_true")
        if role == "hold":
            caller.add_argument("--count", type=int, default=1000)
        else:
            caller.add_argument("--seconds", type=float, default=3)
        if role == "open":
            caller.add_argument("--at-once", type=int, default=32)
    return parser.parse_args()


def main() -> None:
    """Serve, or call and print what came of it."""
    options = _parse_arguments()
    gc.disable()  # there is no garbage in circles here, and its collection would show in the latencies
    allow_many_descriptors()
    if options.role == "serve":
        Server(options.port, stays=options.stay).serve()
        return
    greeting = hello(options.name, is_tls=options.tls)
    try:
        if options.role == "open":
            calls = Caller(options.address, options.port, greeting, options.at_once).run(options.seconds)
        elif options.role == "ping":
            calls = ping(options.address, options.port, greeting, options.seconds)
        else:
            calls = hold(options.address, options.port, greeting, options.count)
    except OSError as error:
        raise SystemExit(f"{options.address} port {options.port}: {describe(error)}") from error
    print(calls.render(), flush=True)


if __name__ == "__main__":
    main()
