"""Visitors of every kind at once, the polite and the rude: each gets what is due, and none disturbs another."""

import json
import random
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kracauer.lab import content
from kracauer.lab.topology import SERVICE, SERVICE_2, Lab, Topology
from kracauer.lab.transfers import connect, download, upload
from kracauer.lab.visits import visit
from kracauer.lab.wire import Impairment

pytestmark = pytest.mark.lab

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger
SERVERS = {"www.example.com": "origin1", "shop.example.net": "origin2"}
VECTORS = Path(__file__).parent.parent / "vectors/client_hellos"
HELLOS = [bytes.fromhex("".join(json.loads(path.read_bytes())["hex"])) for path in sorted(VECTORS.glob("*.json"))]
VISITORS = 16
DURATION_S = 6.0


class Visitor:
    """One of the crowd; every method is a kind of visit, and fails where its due is not given."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab = lab
        self.random = random.Random(number)
        self.context = lab.authority.client_context()
        self.port = 20_000 + number  # below those that the kernel hands out

    def stay(self, until: float) -> dict[str, int]:
        kinds = [getattr(self, kind) for kind in dir(self) if kind.startswith("visit_")]
        counts = dict.fromkeys((kind.__name__ for kind in kinds), 0)
        while time.monotonic() < until:
            kind = self.random.choice(kinds)
            kind()
            counts[kind.__name__] += 1
        return counts

    def connection(self, port: int = 80) -> socket.socket:
        return connect(self.lab.client, SERVICE, "", port=port)

    def leave(self, connection: socket.socket) -> None:
        if self.random.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    def visit_a_page(self) -> None:
        name, server = self.random.choice([*SERVERS.items()])
        result = visit(self.lab.client, "http", name, self.random.choice([SERVICE, SERVICE_2]))
        assert (result.failure, result.seen.get("server"), result.is_caller_seen) == (None, server, True)

    def visit_over_tls(self) -> None:
        name, server = self.random.choice([*SERVERS.items()])
        result = visit(self.lab.client, "https", name, SERVICE, context=self.context)
        assert (result.failure, result.seen.get("server"), result.certificate_owner) == (None, server, server)

    def visit_from_the_same_port_again(self) -> None:
        result = visit(self.lab.client, "http", "www.example.com", SERVICE, local_port=self.port)
        # Errno 99: our own kernel still waits for the last acknowledgement of the visit before
        assert result.status == 200 or "Errno 99" in (result.failure or ""), result

    def visit_and_download(self) -> None:
        length = self.random.choice([1, 5000, 70_000, 600_000])
        with connect(self.lab.client, SERVICE, "www.example.com", self.context) as connection:
            assert download(connection, "www.example.com", length) == content.digest(length)

    def visit_and_upload(self) -> None:
        length = self.random.choice([1, 5000, 70_000, 600_000])
        with connect(self.lab.client, SERVICE, "www.example.com") as connection:
            is_half_closed = self.random.random() < 0.5
            received = upload(connection, "www.example.com", length, is_half_closed=is_half_closed)
            assert received == content.digest(length)

    def visit_a_dead_first_backend(self) -> None:
        assert visit(self.lab.client, "http", "refused-first.example.org", SERVICE).seen.get("server") == "origin2"

    def visit_a_dead_only_backend(self) -> None:
        assert "reset" in (visit(self.lab.client, "http", "dead.example.org", SERVICE).failure or "").lower()

    def visit_an_unknown_name(self) -> None:
        assert visit(self.lab.client, "http", "unknown.example.com", SERVICE).status == 421
        result = visit(self.lab.client, "https", "unknown.example.com", SERVICE, context=self.context)
        assert result.failure == "TLS alert: unrecognized_name"

    def visit_with_garbage(self) -> None:
        with self.connection(self.random.choice([80, 443])) as connection:
            connection.sendall(self.random.randbytes(self.random.randrange(1, 3000)))
            self.leave(connection)

    def visit_with_part_of_a_hello(self) -> None:
        with self.connection(443) as connection:
            hello = self.random.choice(HELLOS)
            connection.sendall(hello[: self.random.randrange(1, len(hello))])
            self.leave(connection)

    def visit_without_a_word(self) -> None:
        with self.connection(443) as connection:
            self.leave(connection)

    def visit_and_leave_in_the_middle(self) -> None:
        with self.connection() as connection:
            connection.sendall(b"GET /bytes/5000000 HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
            assert connection.recv(self.random.randrange(1, 100_000))
            self.leave(connection)


@pytest.mark.parametrize("wire", [None, Impairment(loss=2, dup=2, reorder=3, delay_ms=0.5)], ids=["clean", "lossy"])
def test_a_crowd_is_served(build_either_site: Callable[..., Lab], wire: Impairment | None) -> None:
    lab = build_either_site(Topology(client_wire=wire, backend_wire=wire))
    until = time.monotonic() + DURATION_S
    with ThreadPoolExecutor(VISITORS) as pool:
        crowd = [pool.submit(Visitor(lab, number).stay, until) for number in range(VISITORS)]
        totals = [visitor.result(DURATION_S + 30) for visitor in crowd]
    for kind in totals[0]:
        assert sum(counts[kind] for counts in totals) > 0, kind
