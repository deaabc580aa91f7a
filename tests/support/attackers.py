"""A site under attack: the attackers, honest visitors beside them, and what the attack did to both and to the daemon."""

import contextlib
import json
import re
import select
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from kracauer.lab import configuration, crowd, flood
from kracauer.lab.crowd import Visits
from kracauer.lab.links import End, configure
from kracauer.lab.namespaces import NetworkNamespace, python_module
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import ATTACKER, CLIENT, MAPPED_CLIENT, ORIGIN_1, ORIGIN_2, PREFIX, SERVICE, Lab, Topology
from kracauer.logs import LINES_AT_ONCE, LINES_PER_S

MIB = 1 << 20
TIMESTAMPS = 12  # bytes of the option in each segment
SERVICE_V4 = IPv4Address(SERVICE).packed
CLIENT_V4 = IPv4Address(CLIENT).packed
ATTACKER_V4 = IPv4Address(ATTACKER).packed
MAPPED_V6 = IPv6Address(MAPPED_CLIENT).packed
ORIGIN_1_V6 = IPv6Address(ORIGIN_1).packed
ORIGIN_2_V6 = IPv6Address(ORIGIN_2).packed
PREFIX_V6 = IPv6Address(PREFIX.partition("/")[0]).packed[:12]
BACKEND_NETWORK_V6 = IPv6Address("2001:db8:2::").packed[:8]
BLACK_HOLE = "2001:db8:bad::1"
NAME = "www.example.com"
OTHER_NAME = "shop.example.net"
HOSTS: dict[str, str | Sequence[str]] = {
    NAME: ORIGIN_1,
    OTHER_NAME: ORIGIN_2,
    "hole.example.org": BLACK_HOLE,
    "dead.example.org": f"[{ORIGIN_1}]:9",
}
HEAD = f"GET / HTTP/1.1\r\nHost: {NAME}\r\n".encode()
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger

# Whom nothing was lost waits some milliseconds. A lost SYN costs a whole second (RFC 6298 §2.1): none in a hundred may wait as
# long, and nobody for a second one's repeat.
ALMOST_ALL = 0.99
ALMOST_ALL_WITHIN_S = 0.5
ALL_WITHIN_S = 3.0
QUIET_S = 0.5
SECONDS = 2.5
PEEK_S = 3.0
OPENED_AT_ONCE = 50
OPENED_PER_SECOND = 5000


@dataclass(frozen=True, slots=True)
class Damage:
    """What an attack did: how visitors fared before and during it, and by how much the daemon's figures grew."""

    quiet: Visits
    visits: Visits
    grown_bytes: int  # of its memory, at the worst moment
    log_lines: int  # but for those of the visits
    processor_share: float  # of one core
    waiting_share: float  # of the time, in which it could have run and no core was free
    dropped: Counter[str]
    events: Counter[str]
    internal_errors: int

    def check_visitors(self) -> None:
        """Nobody was turned away, got another's answer, or had to wait for long."""
        assert self.visits.failures == {}, self
        assert len(self.visits.latencies_s) > 50, self
        assert self.visits.quantile(ALMOST_ALL) < ALMOST_ALL_WITHIN_S, self
        assert self.visits.quantile(1) < ALL_WITHIN_S, self
        assert self.internal_errors == 0, self

    def check_daemon(self, *, most_bytes: int = 16 * MIB, most_lines: float = 100) -> None:
        """It has taken no more memory, and said no more, than it may for any attack of this kind."""
        assert self.grown_bytes < most_bytes, self
        assert self.log_lines < most_lines, self

    def __str__(self) -> str:
        return (
            f"{len(self.visits.latencies_s)} visits, {self.visits.per_second:.0f}/s (quiet: {self.quiet.per_second:.0f}/s), "
            f"failures {dict(self.visits.failures)}, median {self.visits.quantile(0.5) * 1e3:.1f} ms "
            f"(quiet: {self.quiet.quantile(0.5) * 1e3:.1f}), 99 % {self.visits.quantile(0.99) * 1e3:.0f} ms, "
            f"slowest {self.visits.quantile(1) * 1e3:.0f} ms; memory +{self.grown_bytes / MIB:.1f} MiB, "
            f"{self.log_lines} log lines, processor {self.processor_share:.2f} (waited for {self.waiting_share:.2f}), "
            f"dropped {dict(self.dropped)}, events {dict(self.events)}, internal errors {self.internal_errors}"
        )

    __repr__ = __str__


class Siege:
    """A lab with two origins, the daemon, and an attacker on a link of its own."""

    def __init__(self, lab: Lab, **tables: dict[str, object]) -> None:
        self.lab = lab
        lab.start_origin("origin1")
        lab.start_origin("origin2")
        configure(lab.router, lambda netlink: netlink.route("add", dst=f"{BLACK_HOLE}/128", type="blackhole"))
        wanted: dict[str, dict[str, object]] = {"timeouts": {"peek_s": PEEK_S}, **tables}
        self.daemon = lab.start_daemon(configuration.render(HOSTS, configuration.LISTENERS, **wanted))
        self.daemon.prefer()  # what else this machine does is no part of the attack
        self._stack = ExitStack()

    def close(self) -> None:
        """Let go of the attackers' connections."""
        self._stack.close()

    def withstand(self, attack: Callable[[], Iterable[BackgroundProcess] | None], seconds: float = SECONDS) -> Damage:
        """Have a crowd visit in peace for a while, then during `attack`, which returns what it has left running."""
        names = (NAME, OTHER_NAME)
        quiet = crowd.outcome(crowd.launch(self.lab, names, QUIET_S))
        before, memory, lines = self.counters(), self.memory("VmRSS"), self.log_lines()
        processor, waiting, started = *self._processor_s(), time.monotonic()
        running = attack()
        crowd_process = crowd.launch(self.lab, names, seconds)
        crowd_process.prefer()
        visits = crowd.outcome(crowd_process, 60)
        busy_s, waited_s = self._processor_s()
        elapsed_s = time.monotonic() - started
        for process in running or ():
            process.wait(30)
        after = self.counters()
        return Damage(
            quiet,
            visits,
            self.memory("VmHWM") - memory,
            self.log_lines() - lines,
            (busy_s - processor) / elapsed_s,
            (waited_s - waiting) / elapsed_s,
            _difference(before, after, "dropped"),
            _difference(before, after, "events"),
            after["internal_errors"] - before["internal_errors"],
        )

    def withstand_client(self, work: Callable[[threading.Event], None], seconds: float = SECONDS) -> Damage:
        """Likewise during what a thread does until its event is set."""
        with ExitStack() as stack:
            return self.withstand(lambda: stack.enter_context(self.in_background(work)), seconds)

    def flood(
        self, packets: Iterable[bytes], rate: float, seconds: float = SECONDS + 0.6, end: str = "attacker"
    ) -> BackgroundProcess:
        """Start sending `packets` from the attacker, or from "origin1" or "origin2"."""
        ends: dict[str, tuple[End, End]] = {
            "attacker": ((self.lab.attacker, "eth0"), (self.lab.router, "attacker0")),
            "origin1": ((self.lab.origin1, "eth0"), (self.lab.router, "origin1")),
            "origin2": ((self.lab.origin2, "eth0"), (self.lab.router, "origin2")),
        }
        start, gateway = ends[end]
        return flood.launch(self.lab, packets, rate, seconds, start=start, gateway=gateway)

    def counters(self) -> dict[str, Any]:
        """What the daemon has counted so far."""
        count = sum(event["event"] == "counters" for event in self.daemon.events)
        self.daemon.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = [event for event in self.daemon.events if event["event"] == "counters"]
            if len(found) > count:
                return found[-1]
            time.sleep(0.02)
        raise AssertionError("the daemon has not told its counters")

    def unproven_flows(self) -> int:
        """How many flows there are that have no backend, by `kracauer status`."""
        command = python_module("kracauer", "status", "--json", "-c", self.lab.directory / "kracauer-config.toml")
        result = self.lab.router.run(command, env={"RUNTIME_DIRECTORY": str(self.lab.directory / "run")})
        assert result.returncode == 0, result.stderr.decode()
        flows = json.loads(result.stdout)["flows"]
        return sum(count for state, count in flows.items() if state in ("peeking", "dialing", "refusing"))

    def memory(self, field: str) -> int:
        """A field of the daemon's memory in bytes (proc_pid_status(5))."""
        status = Path(f"/proc/{self.daemon.pid}/status").read_text(encoding="ascii")
        match = re.search(rf"^{field}:\s*(\d+) kB", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024

    def log_lines(self) -> int:
        """How many lines the daemon has written, without those of the honest client's connections."""
        return sum(f'"client": "{CLIENT}:' not in line for line in self.daemon.log.splitlines())

    def _processor_s(self) -> tuple[float, float]:
        """How long the daemon has run, and waited for a core (the kernel's scheduler/sched-stats)."""
        busy, waited, _ = Path(f"/proc/{self.daemon.pid}/schedstat").read_text(encoding="ascii").split()
        return int(busy) / 1e9, int(waited) / 1e9

    def open_all(self, sources: Sequence[str], timeout_s: float = 5.0) -> list[socket.socket]:
        """Open a connection from each of `sources`, one soon after the other; those established in time, non-blocking."""

        def begin() -> list[socket.socket]:
            connections = []
            for number, source in enumerate(sources):
                if number % OPENED_AT_ONCE == 0:
                    time.sleep(OPENED_AT_ONCE / OPENED_PER_SECOND)  # a burst that overflows queues is another attack
                connection = socket.socket()
                connection.settimeout(0)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.bind((source, 0))
                with contextlib.suppress(BlockingIOError):
                    connection.connect((SERVICE, 80))
                connections.append(self._stack.enter_context(connection))
            return connections

        return _established(self.lab.attacker.call(begin), timeout_s)

    def talk(self) -> "Talk":
        """Open a connection of the honest client's that is to live through an attack."""
        return self._stack.enter_context(Talk(self.lab.client))

    @contextlib.contextmanager
    def in_background(self, work: Callable[[threading.Event], None]) -> Iterator[None]:
        """Run `work` in a thread until the block ends and the event is set; what it raises is raised here."""
        errors: list[BaseException] = []
        stop = threading.Event()

        def run() -> None:
            try:
                work(stop)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)
        for error in errors:
            raise error


def offered_mss(client: NetworkNamespace) -> int:
    """The MSS that a new connection comes to, by both ends' offers (tcp(7), TCP_MAXSEG), its timestamps counted in."""
    with client.open_socket() as connection:
        connection.settimeout(5)
        connection.connect((SERVICE, 80))
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) + TIMESTAMPS


class Talk:
    """An open connection on which requests are answered as long as nothing has gone wrong with it."""

    def __init__(self, client: NetworkNamespace) -> None:
        self.connection = client.open_socket()
        self.connection.settimeout(5)
        self.connection.connect((SERVICE, 80))
        self.port: int = self.connection.getsockname()[1]
        self.ask()

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self) -> None:
        """Make a request; an error or a wrong answer fails the test."""
        self.connection.sendall(HEAD + b"\r\n")
        answer = self.connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert b'"port": %d,' % self.port in answer, answer

    def go_on(self, stop: threading.Event) -> None:
        """Make requests until `stop` is set."""
        while not stop.wait(0.05):
            self.ask()


def link_counts(namespace: NetworkNamespace, interface: str = "eth0") -> dict[str, int]:
    """Bytes and packets that an interface has received and sent (proc_pid_net(5), dev)."""
    table = namespace.call(lambda: Path("/proc/thread-self/net/dev").read_text(encoding="ascii"))
    (line,) = [line for line in table.splitlines() if line.strip().startswith(f"{interface}:")]
    numbers = [int(word) for word in line.partition(":")[2].split()]
    return {"received_bytes": numbers[0], "received": numbers[1], "sent_bytes": numbers[8], "sent": numbers[9]}


def attackers(count: int) -> list[str]:
    """The addresses of `count` attackers, 126 at most."""
    first = IPv4Address("203.0.113.129")
    return [str(first + number) for number in range(count)]


def dribble(connections: Sequence[socket.socket], pieces: Iterable[bytes], pause_s: float, stop: threading.Event) -> None:
    """Send each of `pieces` on all connections, one after the other, whatever becomes of them."""
    for piece in pieces:
        for start in range(0, len(connections), OPENED_AT_ONCE):
            for connection in connections[start : start + OPENED_AT_ONCE]:
                with contextlib.suppress(OSError):
                    connection.send(piece)
            if stop.wait(OPENED_AT_ONCE / OPENED_PER_SECOND):
                return
        if stop.wait(pause_s):
            return


def lines_of_a_surge(kinds: int, seconds: float = SECONDS + 5) -> float:
    """How many lines are written in that time where so many kinds of event come as often as attackers want."""
    return kinds * (LINES_AT_ONCE + LINES_PER_S * seconds)


def topology() -> Topology:
    """The lab that a siege takes place in."""
    return Topology(has_attacker=True)


def _difference(before: dict[str, Any], after: dict[str, Any], table: str) -> Counter[str]:
    return Counter(after.get(table, {})) - Counter(before.get(table, {}))


def _established(connections: Sequence[socket.socket], timeout_s: float) -> list[socket.socket]:
    poller = select.epoll()
    waiting = {connection.fileno(): connection for connection in connections}
    for descriptor in waiting:
        poller.register(descriptor, select.EPOLLOUT)
    established = []
    deadline = time.monotonic() + timeout_s
    while waiting and (wait_s := deadline - time.monotonic()) > 0:
        for descriptor, events in poller.poll(wait_s):
            poller.unregister(descriptor)
            connection = waiting.pop(descriptor)
            if not events & (select.EPOLLERR | select.EPOLLHUP):
                established.append(connection)
    poller.close()
    return established
