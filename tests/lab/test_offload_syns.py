"""SYNs that the kernel answers: a flood of them does not reach the daemon, and nothing else is different for a client."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from random import Random

import pytest
from attackers import SERVICE_V4, link_counts
from fast_lane import counters, is_attached, skip_without_fast_path, start_daemon

from kracauer.lab import attacks, content, crowd, flood
from kracauer.lab.topology import ORIGIN_1, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download
from kracauer.offload.answering import ANSWERS_S, GUESSES_PER_SWEEP

pytestmark = pytest.mark.lab

NAME = "www.example.com"
HOSTS = {NAME: ORIGIN_1}
RATE = 20_000
SECONDS = 3.0
LENGTH = 1 << 20


@pytest.fixture
def open_lab(build_lab: Callable[[Topology], Lab]) -> Iterator[Callable[..., Lab]]:
    skip_without_fast_path()
    labs = []

    def open_lab(**topology: object) -> Lab:
        lab = build_lab(Topology(**topology))  # type: ignore[arg-type]
        lab.start_origin("origin1")
        start_daemon(lab, HOSTS)
        assert is_attached(lab)
        labs.append(lab)
        return lab

    yield open_lab
    for lab in labs:
        if lab.daemon is not None and lab.daemon.is_running:
            assert lab.daemon.stop() == 0, lab.daemon.log


def has_answer(lab: Lab, timeout_s: float = 0.5) -> bool:
    """Whether a client's SYN is answered with a SYN-ACK."""
    with lab.client.open_socket() as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect((SERVICE, 80))
        except TimeoutError:
            return False
        return True


def syns_answered(lab: Lab) -> int:
    """How many SYNs the kernel has answered, as far as the daemon has counted."""
    time.sleep(1.1)  # until the next sweep
    carried = counters(lab).get("carried", {})
    return int(carried.get("syns", 0))


def test_a_flood_is_answered_without_the_daemon_and_visitors_get_in(open_lab: Callable[..., Lab]) -> None:
    lab = open_lab(has_attacker=True)
    random = Random(1)
    packets = list(attacks.syns(random, attacks.spoofed(random, 100_000, SERVICE_V4, 80)))
    before, link = counters(lab)["packets_read"], link_counts(lab.attacker)
    attack = flood.launch(lab, packets, RATE, SECONDS)
    visits = crowd.outcome(crowd.launch(lab, [NAME], SECONDS - 1, visitors=4, pause_s=0.05))
    sent = flood.outcome(attack)
    assert sent.per_second > RATE * 0.7, "the attacker was too slow for this to prove anything"
    assert visits.failures == {}
    assert len(visits.latencies_s) > 20
    assert syns_answered(lab) > 0.9 * sent.sent
    assert link_counts(lab.attacker)["received"] - link["received"] > 0.9 * sent.sent
    # What connections are made of, and those SYNs whose counter a connection happened to share.
    assert counters(lab)["packets_read"] - before < 16 * len(visits.latencies_s) + sent.sent / 500


def test_a_connection_takes_no_syn_through_the_daemon(open_lab: Callable[..., Lab]) -> None:
    lab = open_lab()
    before = syns_answered(lab)
    for _ in range(5):
        with connect(lab.client, SERVICE, NAME) as connection:
            assert download(connection, NAME, LENGTH) == content.digest(LENGTH)
    assert syns_answered(lab) == before + 5


def test_nobody_answers_for_a_daemon_that_is_dead(open_lab: Callable[..., Lab]) -> None:
    lab = open_lab()
    assert lab.daemon is not None
    assert has_answer(lab)
    lab.daemon.kill()
    killed = time.monotonic()
    assert has_answer(lab)
    while has_answer(lab, 0.2):
        assert time.monotonic() - killed < ANSWERS_S + 0.5
        time.sleep(0.05)
    start_daemon(lab, HOSTS)
    assert has_answer(lab)


def test_nobody_answers_for_a_daemon_that_was_stopped(open_lab: Callable[..., Lab]) -> None:
    lab = open_lab()
    assert lab.daemon is not None
    assert has_answer(lab)
    assert lab.daemon.stop() == 0
    assert not has_answer(lab)


def test_a_handshake_that_was_begun_before_the_end_completes_with_the_next_daemon(open_lab: Callable[..., Lab]) -> None:
    lab = open_lab()
    assert lab.daemon is not None
    with connect(lab.client, SERVICE, NAME) as before:
        lab.daemon.kill()
        with connect(lab.client, SERVICE, NAME) as after:
            results: list[str] = []
            asking = [
                threading.Thread(target=lambda connection=connection: results.append(download(connection, NAME, LENGTH)))
                for connection in (before, after)
            ]
            for thread in asking:
                thread.start()
            time.sleep(0.5)
            start_daemon(lab, HOSTS)
            for thread in asking:
                thread.join(30)
    assert results == [content.digest(LENGTH)] * 2


def test_a_port_that_comes_again_at_once_is_the_daemons_as_ever(open_lab: Callable[..., Lab]) -> None:
    """A connection that both sides have ended is not carried any more, and still known."""
    lab = open_lab()
    lab.client.sysctl("net.ipv4.ip_local_port_range", "40000 60999")
    before = syns_answered(lab)
    for _ in range(30):
        with lab.client.open_socket() as connection:
            connection.settimeout(10)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(("", 21_200))
            connection.connect((SERVICE, 80))
            assert download(connection, NAME, LENGTH) == content.digest(LENGTH)
            assert connection.recv(1) == b""  # whoever ends first keeps the port for a while, and that is to be the origin
        time.sleep(0.05)  # until its end is acknowledged
    assert syns_answered(lab) == before + 1


def test_a_flood_of_guesses_is_kept_away_and_counted_and_visitors_get_in(open_lab: Callable[..., Lab]) -> None:
    lab = open_lab(has_attacker=True)
    random = Random(2)
    packets = list(attacks.segments(random, attacks.spoofed(random, 100_000, SERVICE_V4, 80), attacks.ACK, b"guess"))
    before = counters(lab)["packets_read"]
    attack = flood.launch(lab, packets, RATE, SECONDS)
    visits = crowd.outcome(crowd.launch(lab, [NAME], SECONDS - 1, visitors=4, pause_s=0.05))
    sent = flood.outcome(attack)
    assert sent.per_second > RATE * 0.7, "the attacker was too slow for this to prove anything"
    assert visits.failures == {}
    assert len(visits.latencies_s) > 20
    time.sleep(1.1)  # until the next sweep
    after = counters(lab)
    assert after["dropped"]["bad_cookie"] > 0.9 * sent.sent
    assert after["packets_read"] - before < 16 * len(visits.latencies_s) + (SECONDS + 3) * GUESSES_PER_SWEEP + sent.sent / 500
