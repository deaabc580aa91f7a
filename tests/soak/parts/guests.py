"""Honest clients: visits, long transfers, connections that mostly say nothing, hellos that take their time.

None of them may fail, but where what they need was out of order while they needed it: the origins that their name leads to; a
link to them that was down when the connection was new; for as long as they had not connected, the routes to the service, whose
absence the kernel tells clients (ICMP unreachable); SERVICE_2 where a reload had taken it away. That the daemon was stopped or
killed excuses none but slow hellos, whose bytes it has acknowledged and takes with it.
"""

import http.client
import json
import random
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final

from scene import ANSWERING, BOTH, SERVICES, Scene

from kracauer.lab import content
from kracauer.lab.topology import SERVICE, SERVICE_2
from kracauer.lab.transfers import connect, download
from kracauer.lab.visits import visit

PATIENCE_S: Final = 40.0  # of each step, with the kernel's retransmissions after 1, 3, 7, 15 and 31 seconds
KIB: Final = 1 << 10
MIB: Final = 1 << 20
ALL: Final = ("http", "https")


def is_excused(
    scene: Scene,
    name: str,
    address: str,
    start: float,
    *,
    is_connecting: bool,
    is_new: bool = False,
    origin: str | None = None,
    also: tuple[str, ...] = (),
) -> str:
    """Why a failure of who wanted `name` from `start` on is no violation; empty where it is one.

    `is_new`: its backend may not have answered the SYN yet. `origin` is the one that has answered, where that is known.
    """
    kinds = [*also, *(["second"] if address == SERVICE_2 else []), *(["routes"] if is_connecting else [])]
    troubles, origins = scene.troubles, (origin,) if origin else ANSWERING[name]
    found = troubles.between(start, *kinds)
    # One of two origins may be down from the beginning: the other one takes its place, but not in the midst of an answer.
    found += troubles.begun_since(start, *origins) if name == BOTH else troubles.between(start, *origins)
    links = [f"link of {each}" for each in origins]
    if name != BOTH and (is_new or is_connecting):
        found += troubles.between(start, *links)
    elif name != BOTH:
        found += troubles.at(start, *links)
    return ", ".join(found)


class Visits:
    """One visit after the other, by every name and in both schemes."""

    def __init__(self, scene: Scene, number: int) -> None:
        self.actor = f"visitor{number}"
        self.made = 0
        self.slowest_s = 0.0
        self._scene = scene
        self._random = scene.choices(self.actor)
        self._context = scene.lab.authority.client_context()

    def run(self) -> None:
        """Visit until it is over."""
        while self._scene.pause(self._random, (0.05, 0.4)):
            name = self._random.choice(sorted(ANSWERING))
            scheme = "https" if name == "api.example.com" else self._random.choice(ALL)
            address = self._random.choice(SERVICES)
            if address == SERVICE_2 and not self._scene.variant.has_second:
                address = SERVICE
            self._visit(scheme, name, address)

    def _visit(self, scheme: str, name: str, address: str) -> None:
        scene, start = self._scene, time.monotonic()
        made = visit(scene.lab.client, scheme, name, address, context=self._context, timeout_s=PATIENCE_S)
        self.made += 1
        elapsed_s = round(time.monotonic() - start, 3)
        self.slowest_s = max(self.slowest_s, elapsed_s)
        is_right = (
            made.status == 200 and made.is_caller_seen and made.seen["server"] in ANSWERING[name] and made.seen["host"] == name
        )
        if is_right and elapsed_s < 3:
            return
        fields = {
            "name": name,
            "scheme": scheme,
            "address": address,
            "status": made.status,
            "failure": made.failure,
            "local": made.local,
            "seen": made.seen,
            "elapsed_s": elapsed_s,
        }
        if is_right:
            scene.timeline.note(self.actor, "slow visit", **fields)
            return
        # A name with two origins loses an open connection with the one it is on; a new one goes to the other.
        is_open = made.local is not None
        excuse = is_excused(scene, name, address, start, is_connecting=not is_open, is_new=True)
        if excuse:
            scene.timeline.note(self.actor, "failed visit", excuse=excuse, **fields)
        else:
            scene.timeline.violate(self.actor, "a visit failed", **fields)


class Transfers:
    """One long transfer after the other, to either side, slowly or as fast as it goes."""

    def __init__(self, scene: Scene, number: int) -> None:
        self.actor = f"transfer{number}"
        self.made = 0
        self.bytes = 0
        self._scene = scene
        self._random = scene.choices(self.actor)
        self._context = scene.lab.authority.client_context()

    def run(self) -> None:
        """Transfer until it is over; what has begun is brought to its end."""
        while self._scene.pause(self._random, (0.1, 1.0)):
            name = self._random.choice(("www.example.com", "shop.example.net", "moving.example.net"))
            is_tls, is_upload = self._random.random() < 0.5, self._random.random() < 0.5
            seconds = self._random.uniform(*self._scene.pace.transfer_s)
            length = self._random.choice((1, 2, 4, 8)) * MIB + self._random.choice((0, 1, 4711))
            rate = 0 if self._random.random() < 0.3 else int(length / seconds)
            self._transfer(name, length, rate, is_tls=is_tls, is_upload=is_upload)

    def _transfer(self, name: str, length: int, rate: int, *, is_tls: bool, is_upload: bool) -> None:
        scene, start, is_connected = self._scene, time.monotonic(), False
        fields = {"name": name, "length": length, "rate": rate, "tls": is_tls, "upload": is_upload}
        scene.timeline.note(self.actor, "transfer", **fields)
        try:
            with connect(scene.lab.client, SERVICE, name, self._context if is_tls else None) as connection:
                is_connected = True
                fields["port"] = connection.getsockname()[1]
                digest = upload(connection, name, length, rate) if is_upload else download(connection, name, length, rate)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            # Who came while there was no daemon has waited for it, and was new for longer.
            is_new = bool(scene.troubles.at(start, "daemon", "routes"))
            excuse = is_excused(scene, name, SERVICE, start, is_connecting=not is_connected, is_new=is_new)
            if excuse:
                scene.timeline.note(self.actor, "failed transfer", excuse=excuse, error=repr(error), **fields)
            else:
                scene.timeline.violate(self.actor, "a transfer failed", error=repr(error), **fields)
            return
        self.made += 1
        self.bytes += length
        if digest != content.digest(length):
            excuse = is_excused(scene, name, SERVICE, start, is_connecting=False)
            if excuse:  # a download that ended early is of a server that was killed
                scene.timeline.note(self.actor, "cut transfer", excuse=excuse, **fields)
            else:
                scene.timeline.violate(self.actor, "a transfer's hash is wrong", **fields)


def upload(connection: socket.socket, name: str, length: int, rate: int) -> str:
    """Send `length` bytes of content at `rate` bytes a second and return the hash of what the origin got."""
    request = f"PUT /upload HTTP/1.1\r\nHost: {name}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    connection.sendall(request.encode("ascii"))
    for block in content.blocks(length):
        connection.sendall(block)
        if rate:
            time.sleep(len(block) / rate)
    response = http.client.HTTPResponse(connection)
    response.begin()
    return str(json.loads(response.read())["sha256"])


@dataclass(slots=True)
class _Open:
    connection: socket.socket
    name: str
    address: str
    since: float
    port: int
    due: float
    asked: int = 0
    origin: str | None = None


class Idlers:
    """Connections that stay open and are spoken on now and then, some of them long after the daemon has asked about them."""

    def __init__(self, scene: Scene, count: int) -> None:
        self.actor = "idlers"
        self.asked = 0
        self.lost_excused = 0
        self._scene = scene
        self._count = count
        self._random = scene.choices(self.actor)
        self._context = scene.lab.authority.client_context()
        self._open: list[_Open] = []

    def run(self) -> None:
        """Keep them open until it is over, and ask once more on each."""
        scene = self._scene
        while not scene.stop.wait(0.1):
            if len(self._open) < self._count:
                self._begin()
            for each in [each for each in self._open if each.due <= time.monotonic()]:
                self._ask(each)
        for each in list(self._open):
            self._ask(each)
        for each in self._open:
            each.connection.close()
        self._open.clear()

    def _begin(self) -> None:
        name = self._random.choice(("www.example.com", "shop.example.net", "moving.example.net", "blog.example.org"))
        address = self._random.choice((SERVICE, SERVICE_2)) if self._scene.variant.has_second else SERVICE
        start = time.monotonic()
        try:
            context = self._context if self._random.random() < 0.5 else None
            connection = connect(self._scene.lab.client, address, name, context)
        except OSError as error:
            fields = {"name": name, "address": address, "error": repr(error)}
            excuse = is_excused(self._scene, name, address, start, is_connecting=True)
            if excuse:
                self._scene.timeline.note(self.actor, "could not connect", excuse=excuse, **fields)
            else:
                self._scene.timeline.violate(self.actor, "an idler could not connect", **fields)
            return
        each = _Open(connection, name, address, start, connection.getsockname()[1], start)
        self._open.append(each)
        self._scene.open_ports.add(each.port)
        self._scene.timeline.note(self.actor, "open", name=name, address=address, port=each.port)

    def _ask(self, each: _Open) -> None:
        try:
            each.connection.settimeout(PATIENCE_S)
            each.connection.sendall(f"GET / HTTP/1.1\r\nHost: {each.name}\r\n\r\n".encode("ascii"))
            response = http.client.HTTPResponse(each.connection)
            response.begin()
            seen = json.loads(response.read())
            if (seen["port"], seen["host"]) != (each.port, each.name):
                raise ValueError(f"an answer to somebody else: {seen}")
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            self._lose(each, error)
            return
        each.asked += 1
        each.origin = seen["server"]
        self.asked += 1
        longest_s = 2.5 * self._scene.pace.established_idle_s
        each.due = time.monotonic() + self._random.choice((self._random.uniform(0.2, 3), self._random.uniform(1, longest_s)))

    def _lose(self, each: _Open, error: Exception) -> None:
        # SERVICE_2 may have gone from the configuration: its open connections live on all the same, once they are spliced.
        address = SERVICE if each.asked else each.address
        excuse = is_excused(
            self._scene, each.name, address, each.since, is_connecting=False, is_new=not each.asked, origin=each.origin
        )
        fields = {"name": each.name, "address": each.address, "port": each.port, "asked": each.asked, "error": repr(error)}
        if excuse:
            self.lost_excused += 1
            self._scene.timeline.note(self.actor, "lost", excuse=excuse, **fields)
        else:
            self._scene.timeline.violate(self.actor, "an idle connection was lost", **fields)
        each.connection.close()
        self._open.remove(each)
        self._scene.open_ports.discard(each.port)


class Dawdlers:
    """Hellos in pieces, with pauses that have the client's kernel repeat itself."""

    def __init__(self, scene: Scene, number: int) -> None:
        self.actor = f"dawdler{number}"
        self.made = 0
        self._scene = scene
        self._random = scene.choices(self.actor)
        self._context = scene.lab.authority.client_context()

    def run(self) -> None:
        """Say hello until it is over."""
        while self._scene.pause(self._random, (0.1, 1.0)):
            name = self._random.choice(("www.example.com", "shop.example.net", "blog.example.org"))
            self._greet(name, is_tls=self._random.random() < 0.5)

    def _greet(self, name: str, *, is_tls: bool) -> None:
        scene, start, is_connected = self._scene, time.monotonic(), False
        try:
            with scene.lab.client.open_socket() as connection:
                connection.settimeout(PATIENCE_S)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect((SERVICE, 443 if is_tls else 80))
                is_connected = True
                fields = {"name": name, "tls": is_tls, "port": connection.getsockname()[1]}
                within_s = self._random.uniform(0.2, scene.pace.peek_s * 0.6)
                head = f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode("ascii")
                if is_tls:
                    tls = _SlowTls(connection, self._context, name)
                    tls.greet(self._random, within_s)
                    answer = tls.ask(head)
                else:
                    send_in_pieces(connection, head, self._random, within_s)
                    answer = read_all(connection)
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise ValueError(f"answered {answer[:60]!r}")
            self.made += 1
        except (OSError, ValueError) as error:
            found = {"name": name, "tls": is_tls, "error": repr(error), **(fields if is_connected else {})}
            excuse = is_excused(scene, name, SERVICE, start, is_connecting=not is_connected, is_new=True, also=("daemon",))
            if excuse:
                scene.timeline.note(self.actor, "failed hello", excuse=excuse, **found)
            else:
                scene.timeline.violate(self.actor, "a slow hello failed", **found)


def send_in_pieces(connection: socket.socket, data: bytes, choices: random.Random, within_s: float) -> None:
    """Send `data` in two to eight pieces in that time."""
    cuts = sorted(choices.sample(range(1, len(data)), choices.randrange(1, 8)))
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        connection.sendall(data[start:end])
        time.sleep(within_s / (len(cuts) + 1))


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    content_read = b""
    while piece := connection.recv(65_536):
        content_read += piece
    return content_read


class _SlowTls:
    """A TLS client whose hello goes out in pieces (`ssl.SSLObject`)."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    def greet(self, choices: random.Random, within_s: float) -> None:
        """Shake hands."""
        is_first = True
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if is_first:
                    send_in_pieces(self._connection, self._outgoing.read(), choices, within_s)
                    is_first = False
                self._exchange()
            else:
                return

    def ask(self, request: bytes) -> bytes:
        """Send a request, and read to the end of the stream."""
        self._tls.write(request)
        answer = b""
        while True:
            try:
                piece = self._tls.read(65_536)
            except ssl.SSLWantReadError:
                self._exchange()
                continue
            except ssl.SSLZeroReturnError:
                return answer
            if not piece:
                return answer
            answer += piece

    def _exchange(self) -> None:
        if self._outgoing.pending:
            self._connection.sendall(self._outgoing.read())
        received = self._connection.recv(65_536)
        if received:
            self._incoming.write(received)
        else:
            self._incoming.write_eof()
