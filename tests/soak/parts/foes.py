"""Attackers, one attack after the other, some two at a time: floods from forged addresses, and clients who mean no good."""

import contextlib
import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from scene import Scene

from kracauer.lab import attacks, flood
from kracauer.lab.links import End
from kracauer.lab.topology import ATTACKER, CLIENT, ORIGIN_2, PREFIX, SERVICE
from kracauer.replies import Endpoints
from kracauer.wire import icmpv4, icmpv6

PACKETS: Final = 3000
RATES: Final = (500, 2000, 6000)
DURATION_S: Final = (1.0, 4.0)
SERVICE_V4: Final = IPv4Address(SERVICE).packed
ATTACKER_V4: Final = IPv4Address(ATTACKER).packed
CLIENT_V4: Final = IPv4Address(CLIENT).packed
PREFIX_V6: Final = IPv6Address(PREFIX.partition("/")[0]).packed[:12]
ORIGIN_2_V6: Final = IPv6Address(ORIGIN_2).packed
MAPPED_V6: Final = PREFIX_V6 + CLIENT_V4
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger
SHAPES: Final = ([(0, 1400)], [(1400, 1400)], [(0, 800), (400, 800)], [(0, 8), (8, 8)], attacks.pieces_of(1600, 8)[3:])


class Foe:
    """One attacker."""

    def __init__(self, scene: Scene, number: int) -> None:
        self.actor = f"foe{number}"
        self.done: dict[str, int] = {}
        self._scene = scene
        self._random = scene.choices(self.actor)
        self._port = self._random.choice((80, 443))

    def run(self) -> None:
        """Attack until it is over."""
        floods: dict[str, Callable[[], Iterable[bytes]]] = {
            "syns": lambda: attacks.syns(self._random, self._spoofed()),
            "acks": lambda: attacks.segments(self._random, self._spoofed(), attacks.ACK, b"x" * 100),
            "resets": lambda: attacks.segments(self._random, self._spoofed(), attacks.RST),
            "syn-acks": lambda: attacks.segments(self._random, self._spoofed(), attacks.SYN_ACK),
            "guesses": lambda: attacks.guesses(self._random, Endpoints(ATTACKER_V4, SERVICE_V4, 40_000, 80), PACKETS),
            "fragments": self._fragments_v4,
            "errors": self._errors_v4,
            "scan": lambda: itertools.islice(attacks.port_scan(self._random, ATTACKER_V4, SERVICE_V4), PACKETS),
            "datagrams": lambda: attacks.datagrams_v4(self._random, self._sources(), SERVICE_V4, 443, 1200),
            "pings": lambda: attacks.pings_v4(self._sources(), SERVICE_V4),
            "forgeries": self._forgeries,
        }
        floods_v6: dict[str, Callable[[], Iterable[bytes]]] = {
            "backend fragments": self._fragments_v6,
            "backend errors": self._errors_v6,
            "backend strays": self._strays_v6,
        }
        clients = {"peek": self.peek, "dribble": self.dribble, "reset": self.reset, "ask nobody": self.ask_nobody}
        while self._scene.pause(self._random):
            self._port = self._random.choice((80, 443))
            name = self._random.choice([*floods, *floods_v6, *clients])
            self.done[name] = self.done.get(name, 0) + 1
            self._scene.timeline.note(self.actor, "attack", kind=name, port=self._port)
            try:
                if name in clients:
                    self._scene.lab.attacker.call(clients[name])
                else:
                    self._flood(list((floods | floods_v6)[name]()), is_v6=name in floods_v6)
            except Exception as error:
                self._scene.timeline.violate(self.actor, f"{name} failed", error=repr(error))
            self._scene.timeline.note(self.actor, "attack over", kind=name)

    def _flood(self, packets: list[bytes], *, is_v6: bool) -> None:
        lab = self._scene.lab
        ends: tuple[End, End] = ((lab.attacker, "eth0"), (lab.router, "attacker0"))
        if is_v6:
            ends = ((lab.origin2, "eth0"), (lab.router, "origin2"))
        rate, seconds = self._random.choice(RATES), self._random.uniform(*DURATION_S)
        process = flood.launch(lab, packets, rate, seconds, start=ends[0], gateway=ends[1])
        process.wait(60)

    def _spoofed(self) -> Iterable[Endpoints]:
        return attacks.spoofed(self._random, PACKETS, SERVICE_V4, self._port)

    def _sources(self) -> list[bytes]:
        return [ATTACKER_V4, *(attacks.random_v4(self._random) for _ in range(PACKETS // 2))]

    def _fragments_v4(self) -> Iterable[bytes]:
        return attacks.fragments_v4(self._random, self._sources()[:500], SERVICE_V4, self._random.choice(SHAPES))

    def _fragments_v6(self) -> Iterable[bytes]:
        sources = [attacks.random_v6(self._random, ORIGIN_2_V6[:8]) for _ in range(500)]
        return attacks.fragments_v6(self._random, sources, MAPPED_V6, self._random.choice(SHAPES))

    def _quoted(self) -> list[Endpoints]:
        mine = [Endpoints(SERVICE_V4, CLIENT_V4, 80, port) for port in sorted(self._scene.open_ports)]
        return mine + [ends.reversed for ends in attacks.spoofed(self._random, 100, SERVICE_V4, 80)]

    def _errors_v4(self) -> Iterable[bytes]:
        code, rest = self._random.choice(((1, 0), (3, 0), (icmpv4.FRAGMENTATION_NEEDED, 576)))
        kind = icmpv4.DESTINATION_UNREACHABLE
        return attacks.icmp_errors_v4(self._random, self._sources(), self._quoted(), kind, code, rest)

    def _errors_v6(self) -> Iterable[bytes]:
        kind, rest = self._random.choice(((icmpv6.DESTINATION_UNREACHABLE, 0), (icmpv6.PACKET_TOO_BIG, 1280)))
        quoted = [Endpoints(MAPPED_V6, ORIGIN_2_V6, port, 80) for port in sorted(self._scene.open_ports)]
        quoted += [ends.reversed for ends in attacks.mapped_clients(self._random, 100, PREFIX_V6, ORIGIN_2_V6, 80)]
        sources = [attacks.random_v6(self._random, ORIGIN_2_V6[:8]) for _ in range(PACKETS)]
        return attacks.icmp_errors_v6(self._random, sources, quoted, kind, 0, rest)

    def _strays_v6(self) -> Iterable[bytes]:
        ends = attacks.mapped_clients(self._random, PACKETS, PREFIX_V6, ORIGIN_2_V6, 80)
        return attacks.segments(self._random, ends, self._random.choice((attacks.ACK, attacks.RST, attacks.SYN_ACK)))

    def _forgeries(self) -> Iterable[bytes]:
        """Segments in the name of connections that are open, their numbers guessed."""
        open_now = [Endpoints(CLIENT_V4, SERVICE_V4, port, port80) for port in self._scene.open_ports for port80 in (80, 443)]
        chosen = [self._random.choice(sorted(open_now)) for _ in range(PACKETS)] if open_now else list(self._spoofed())
        return attacks.segments(self._random, chosen, self._random.choice((attacks.SYN, attacks.RST, attacks.ACK)))

    def _open(self, count: int) -> list[socket.socket]:
        connections = []
        for number in range(count):
            connection = socket.socket()
            connection.settimeout(5)
            with contextlib.suppress(OSError):
                connection.bind((f"203.0.113.{129 + number % 100}", 0))
                connection.connect((SERVICE, 80))
                connections.append(connection)
                continue
            connection.close()
            if self._scene.stop.is_set():
                break
        return connections

    def _close(self, connections: list[socket.socket]) -> None:
        is_rude = self._random.random() < 0.5
        for connection in connections:
            if is_rude:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            connection.close()

    def peek(self) -> None:
        """Open many and say nothing."""
        connections = self._open(self._random.choice((20, 100, 300)))
        self._scene.pause(self._random, (0, 1.3 * self._scene.pace.peek_s))
        self._close(connections)

    def dribble(self) -> None:
        """Say a name a few bytes at a time, and some never to the end."""
        connections = self._open(self._random.choice((10, 50)))
        head = b"GET / HTTP/1.1\r\nX-Filler: " + b"x" * self._random.choice((10, 5000)) + b"\r\nHost: www.example.com\r\n\r\n"
        size = max(len(head) // 10, 1)
        for start in range(0, len(head) - self._random.choice((0, 1, 20)), size):
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.send(head[start : start + size])
            if self._scene.stop.wait(0.2):
                break
        self._close(connections)

    def reset(self) -> None:
        """Open and reset without a pause, with a request or without one."""
        until = time.monotonic() + self._random.uniform(*DURATION_S)
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.socket() as connection:
                connection.settimeout(3)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                connection.connect((SERVICE, 80))
                choice = self._random.randrange(3)
                if choice:
                    connection.send(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
                if choice == 2:
                    connection.recv(1)

    def ask_nobody(self) -> None:
        """Ask for names whose backends are dead or silent, or that nobody has."""
        connections = self._open(self._random.choice((10, 60)))
        for connection in connections:
            name = self._random.choice(("hole.example.org", "dead.example.org", "nobody.example.com"))
            with contextlib.suppress(OSError):
                connection.send(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        self._scene.pause(self._random, (0.0, 3.0))
        self._close(connections)
