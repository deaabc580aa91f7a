"""Backends that are no good, and clients who ask for them on purpose: names on other backends do not suffer."""

import contextlib
import socket
import threading
from collections.abc import Callable

import pytest
from attackers import MIB, Siege, attackers, lines_of_a_surge

pytestmark = pytest.mark.lab

BuildSiege = Callable[..., Siege]
DIAL_S = 2.0


def request(name: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()


def test_a_backend_that_answers_nothing_keeps_nobody_from_the_others(build_siege: BuildSiege) -> None:
    siege = build_siege(timeouts={"dial_s": DIAL_S, "dial_attempt_s": 0.5})
    asked = 0

    def attack(stop: threading.Event) -> None:
        nonlocal asked
        while not stop.is_set():
            for connection in siege.open_all(attackers(100) * 5):
                with contextlib.suppress(OSError):
                    connection.send(request("hole.example.org"))
                    asked += 1
            stop.wait(1)

    damage = siege.withstand_client(attack)
    assert asked > 500
    damage.check_visitors()
    damage.check_daemon(most_bytes=32 * MIB, most_lines=lines_of_a_surge(2))


def test_a_backend_that_resets_everything_keeps_nobody_from_the_others(siege: Siege) -> None:
    asked = 0

    def loop(stop: threading.Event) -> None:
        nonlocal asked
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.socket() as connection:
                connection.settimeout(3)
                connection.connect(("198.51.100.1", 80))
                connection.sendall(request("dead.example.org"))
                asked += 1
                connection.recv(100)

    damage = siege.withstand_client(lambda stop: siege.lab.attacker.call(lambda: loop(stop)))
    assert asked > 300
    damage.check_visitors()
    damage.check_daemon(most_bytes=32 * MIB, most_lines=lines_of_a_surge(2))
