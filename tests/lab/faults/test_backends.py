"""Backends that die in the middle of connections: clients hear of it as on a direct path, and others do not notice."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from faults import NAME, OTHER_NAME, Trial, ask, until

from kracauer.daemon.service import SWEEP_S
from kracauer.lab.clock import shifted
from kracauer.lab.namespaces import NetworkNamespace
from kracauer.lab.topology import ORIGIN_1, SERVICE
from kracauer.lab.transfers import connect

pytestmark = pytest.mark.lab

TRANSITORY_S = 240
AWAY_S = 2.0
BOTH_PATHS = (SERVICE, ORIGIN_1)  # the second one is plain forwarding, for comparison


@contextmanager
def on_both_paths(trial: Trial) -> Iterator[list[socket.socket]]:
    """Open an idle connection to the same backend by each path."""
    connections = [connect(trial.lab.client, address, NAME) for address in BOTH_PATHS]
    for connection in connections:
        connection.settimeout(10)
        assert ask(connection) == 200
    yield connections
    for connection in connections:
        connection.close()


def hear(connection: socket.socket) -> str:
    """Wait for whatever comes, and say what it is."""
    try:
        return "the end" if not connection.recv(65_536) else "data"
    except OSError as error:
        return type(error).__name__


def last_words(connection: socket.socket) -> str:
    """Say something, and tell what becomes of it."""
    try:
        return str(ask(connection))
    except OSError as error:
        return type(error).__name__


def states(trial: Trial) -> dict[str, int]:
    flows: dict[str, int] = trial.status()["flows"]
    return flows


def check_cleared(trial: Trial) -> None:
    """Whoever serves when the transitory time is over has no flow of the dead any more."""
    time.sleep(SWEEP_S + 0.2)  # until all is noted that the kernel has seen, whose clock stays what it is
    trial.kill()
    trial.start(wrapper=shifted(TRANSITORY_S + 60))
    until(lambda: states(trial) == {}, 10, lambda: states(trial))


def test_a_backend_that_is_killed_ends_its_connections_as_on_a_direct_path(trial: Trial) -> None:
    with trial.lasting(20, [OTHER_NAME], has_uploads=True), on_both_paths(trial) as connections:
        trial.origins["origin1"].kill()
        heard = [hear(connection) for connection in connections]
        assert heard == [heard[1]] * 2 == ["the end"] * 2
        answered = [last_words(connection) for connection in connections]
        assert answered[0] == answered[1]
    until(lambda: not states(trial).get("established"), 10, lambda: states(trial))
    check_cleared(trial)


def test_a_backend_that_is_killed_in_mid_transfer_resets_its_connections_as_on_a_direct_path(trial: Trial) -> None:
    with trial.lasting(20, [OTHER_NAME], has_uploads=True), on_both_paths(trial) as connections:
        for connection in connections:
            connection.sendall(f"PUT /upload HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 100000000\r\n\r\n".encode())
            connection.settimeout(0)
        trial.origins["origin1"].send_signal(signal.SIGSTOP)  # it reads nothing more
        for connection in connections:
            connection.send(bytes(50_000))
            connection.settimeout(10)
        time.sleep(0.2)
        trial.origins["origin1"].kill()
        heard = [hear(connection) for connection in connections]
        assert heard == ["ConnectionResetError"] * 2
    until(lambda: not states(trial).get("established"), 10, lambda: states(trial))
    check_cleared(trial)


def test_connections_outlast_the_absence_of_their_backend(trial: Trial) -> None:
    with trial.lasting(20, [OTHER_NAME], has_uploads=True), trial.lasting(20, [NAME], has_uploads=True):
        trial.lab.router.run(["ip", "link", "set", "origin1", "down"])
        time.sleep(AWAY_S)
        trial.lab.router.run(["ip", "link", "set", "origin1", "up"])
        # What a link that was down loses, and the network's own routing gives back
        trial.lab.router.run(["ip", "address", "replace", "2001:db8:1::1/64", "dev", "origin1", "nodad"])
    trial.check_new_connections()


def test_a_backend_that_comes_back_and_knows_nobody_resets_its_connections_as_on_a_direct_path(trial: Trial) -> None:
    lab = trial.lab
    with trial.lasting(20, [OTHER_NAME], has_uploads=True), on_both_paths(trial) as connections:
        anew = NetworkNamespace(f"kracauer-{lab.token}-origin1-anew")
        anew.create()
        lab.origin1.run(["ip", "link", "set", "eth0", "netns", anew.name])  # its kernel has never heard of any connection
        for words in (
            "link set lo up",
            "link set eth0 up",
            f"address add {ORIGIN_1}/64 dev eth0 nodad",
            "-6 route add default via 2001:db8:1::1",
        ):
            done = anew.run(["ip", *words.split()])
            assert done.returncode == 0, done.stderr
        assert [last_words(connection) for connection in connections] == ["ConnectionResetError"] * 2
    check_cleared(trial)


def test_a_backend_that_is_gone_for_good_leaves_its_clients_as_a_direct_path_does(trial: Trial) -> None:
    with trial.lasting(20, [OTHER_NAME], has_uploads=True), on_both_paths(trial) as connections:
        trial.lab.origin1.run(["ip", "link", "set", "eth0", "down"])
        for connection in connections:
            connection.settimeout(4)
        assert [last_words(connection) for connection in connections] == ["TimeoutError"] * 2
        assert states(trial)["established"] >= 1
