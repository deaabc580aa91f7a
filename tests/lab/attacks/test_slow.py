"""Clients with real addresses who mean to wear the service out: by waiting, by dribbling, by never coming to the point."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable

import pytest
from attackers import HEAD, MIB, PEEK_S, RESET_ON_CLOSE, SECONDS, Siege, attackers, dribble, lines_of_a_surge

from kracauer.lab.topology import ATTACKER, SERVICE

pytestmark = pytest.mark.lab

BuildSiege = Callable[..., Siege]
# What the interpreter takes for a connection that has no backend yet, with all that hangs on it
FLOW_BYTES = 8192


def wait_until_let_go(siege: Siege, count: int) -> None:
    """The attackers' connections end, each once, when their time is over; visitors' ports that come again end others."""
    deadline = time.monotonic() + PEEK_S + 8
    while (ended := siege.counters()["events"].get("flow_closed", 0)) < count:
        assert time.monotonic() < deadline, f"{ended} of {count} connections were let go"
        time.sleep(0.2)
    while (left := siege.unproven_flows()) > 0:
        assert time.monotonic() < deadline, f"{left} connections are left"


def test_thousands_of_silent_connections_from_one_address_keep_no_other_address_out(siege: Siege) -> None:
    limit = 256  # limits.unproven_per_client, as it is by default

    def attack(stop: threading.Event) -> None:
        siege.open_all([ATTACKER] * 3000)
        stop.wait()

    damage = siege.withstand_client(attack)
    damage.check_visitors()
    damage.check_daemon()
    assert damage.dropped["client_full"] > 1000, damage
    assert damage.events["flow_closed"] <= 2 * limit + len(damage.visits.latencies_s), damage
    wait_until_let_go(siege, limit)
    assert siege.log_lines() < lines_of_a_surge(1, 15)


def test_thousands_of_silent_connections_from_many_addresses_keep_nobody_out(siege: Siege) -> None:
    sources = attackers(120) * 32

    def attack(stop: threading.Event) -> None:
        siege.open_all(sources)
        stop.wait()

    damage = siege.withstand_client(attack)
    damage.check_visitors()
    damage.check_daemon(most_bytes=16 * MIB + len(sources) * FLOW_BYTES)
    wait_until_let_go(siege, len(sources) // 2)
    assert siege.log_lines() < lines_of_a_surge(1, 15)


def test_hellos_of_one_byte_at_a_time_keep_nobody_out(siege: Siege) -> None:
    sources = attackers(100) * 20

    def attack(stop: threading.Event) -> None:
        connections = siege.open_all(sources)
        dribble(connections, (HEAD[at : at + 1] for at in range(len(HEAD))), 0.2, stop)

    damage = siege.withstand_client(attack)
    damage.check_visitors()
    damage.check_daemon(most_bytes=16 * MIB + len(sources) * FLOW_BYTES, most_lines=lines_of_a_surge(1))


@pytest.mark.parametrize("is_endless", [pytest.param(False, id="up to the limit"), pytest.param(True, id="for ever")])
def test_hellos_without_end_keep_nobody_out(build_siege: BuildSiege, is_endless: bool) -> None:
    held_bytes = 2 * MIB
    siege = build_siege(limits={"held_bytes": held_bytes})
    sources = attackers(32) * 8
    filler = b"X-Filler: " + b"x" * 1400 + b"\r\n"

    def pieces() -> Iterable[bytes]:
        yield HEAD.replace(b"Host", b"X-Host")
        sent = 0
        while is_endless or sent < 60_000:
            yield filler
            sent += len(filler)

    def attack(stop: threading.Event) -> None:
        dribble(siege.open_all(sources), pieces(), 0.02, stop)
        stop.wait()

    damage = siege.withstand_client(attack)
    damage.check_visitors()
    damage.check_daemon(most_bytes=2 * held_bytes + 16 * MIB, most_lines=lines_of_a_surge(1))
    full = damage.dropped["held_bytes_full"] + damage.dropped["client_full"]
    assert full > 100, f"the attackers were too few for this to prove anything: {damage}"


@pytest.mark.parametrize("has_request", [pytest.param(False, id="silent"), pytest.param(True, id="with a request")])
def test_a_client_that_connects_and_resets_without_a_pause_keeps_nobody_out(siege: Siege, has_request: bool) -> None:
    attempts = 0

    def attack(stop: threading.Event) -> None:
        nonlocal attempts

        def loop() -> None:
            nonlocal attempts
            while not stop.is_set():
                with contextlib.suppress(OSError), socket.socket() as connection:
                    connection.settimeout(3)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                    connection.connect((SERVICE, 80))
                    if has_request:
                        connection.sendall(HEAD + b"\r\n")
                        if random.random() < 0.5:
                            connection.recv(1)
                    attempts += 1

        siege.lab.attacker.call(loop)

    damage = siege.withstand_client(attack)
    damage.check_visitors()
    assert attempts > SECONDS * 100, "the attacker was too slow for this to prove anything"
    damage.check_daemon(most_bytes=32 * MIB, most_lines=lines_of_a_surge(3 if has_request else 1))
