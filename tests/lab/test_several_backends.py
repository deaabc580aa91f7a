"""Backends that fail, come back, lack their way back, or are to be emptied: with real kernels, and as a client notices it."""

import http.client
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from kracauer.lab import configuration
from kracauer.lab.namespaces import python_module
from kracauer.lab.topology import ORIGIN_1, ORIGIN_2, PREFIX, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect
from kracauer.lab.visits import visit

pytestmark = pytest.mark.lab

NAME = "www.example.com"
FALL_S = 1.0 + 3 * 0.3  # an interval, and three probes in vain
PROBES: dict[str, object] = {"interval_s": 1, "timeout_s": 0.3}
HOSTS = {NAME: [ORIGIN_1, ORIGIN_2]}
SOON_S = 0.3


@pytest.fixture
def lab(build_lab: Callable[[Topology], Lab]) -> Lab:
    """A name with two backends, both of them up."""
    lab = build_lab(Topology())
    lab.start_origin("origin1")
    lab.start_origin("origin2")
    lab.start_daemon(render(HOSTS))
    wait_for_states(lab, "up", "up", within_s=2)
    return lab


def render(hosts: dict[str, list[str]] | dict[str, str]) -> str:
    return configuration.render(hosts, [(SERVICE, 80, "http")], probes=PROBES)


def backends(lab: Lab) -> dict[str, dict[str, Any]]:
    """What the status says of them, by address."""
    environment = os.environ | {"RUNTIME_DIRECTORY": str(lab.directory / "run")}
    done = lab.router.run(python_module("kracauer", "status", "--device", "kracauer0", "--json"), env=environment)
    assert done.returncode == 0, done.stderr
    return {backend["address"]: backend for backend in json.loads(done.stdout)["backends"]}


def wait_for_states(lab: Lab, *wanted: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while (states := tuple(backend["state"] for backend in backends(lab).values())) != wanted:
        assert time.monotonic() < deadline, f"{states} where {wanted} was expected"
        time.sleep(0.05)


def server(lab: Lab, *, within_s: float) -> str:
    """Which origin answers a new client, and that it takes no longer than it may."""
    began = time.monotonic()
    result = visit(lab.client, "http", NAME, SERVICE)
    assert result.failure is None
    assert time.monotonic() - began < within_s
    return str(result.seen["server"])


def ask(connection: socket.socket) -> int:
    connection.sendall(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode("ascii"))
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def said(lab: Lab, event: str) -> list[dict[str, Any]]:
    assert lab.daemon is not None
    return [line for line in lab.daemon.events if line["event"] == event]


def lose_the_service(lab: Lab) -> None:
    lab.origins[0].kill()


def lose_the_machine(lab: Lab) -> None:
    lab.origin1.run(["ip", "link", "set", "eth0", "down"])


def lose_the_way_back(lab: Lab) -> None:
    lab.origin1.run(["ip", "-6", "route", "add", "blackhole", PREFIX])


@pytest.mark.parametrize(
    ("lose", "reason"),
    [(lose_the_service, "refused"), (lose_the_machine, "unreachable"), (lose_the_way_back, "silent")],
)
def test_a_backend_that_is_lost_is_soon_known_to_be_and_costs_clients_nothing_more(
    lab: Lab, lose: Callable[[Lab], None], reason: str
) -> None:
    assert server(lab, within_s=SOON_S) == "origin1"
    lose(lab)
    assert server(lab, within_s=1 + SOON_S) == "origin2"
    # A kernel takes three seconds to find out that a neighbour is gone, and says nothing until then.
    wait_for_states(lab, "down", "up", within_s=FALL_S + (3 if reason == "unreachable" else 0) + 1)
    assert server(lab, within_s=SOON_S) == "origin2"
    if reason == "unreachable":
        time.sleep(4)
    assert backends(lab)[ORIGIN_1]["last_failure"] == reason
    (line,) = said(lab, "backend_down")
    assert line["backend"] == f"[{ORIGIN_1}]:80"


def test_a_backend_that_comes_back_is_found_and_used_again(lab: Lab) -> None:
    lose_the_way_back(lab)
    wait_for_states(lab, "down", "up", within_s=FALL_S + 1)
    lab.origin1.run(["ip", "-6", "route", "del", "blackhole", PREFIX])
    wait_for_states(lab, "up", "up", within_s=3)
    assert server(lab, within_s=SOON_S) == "origin1"
    assert len(said(lab, "backend_up")) == 1


def test_a_backend_that_has_never_had_a_way_back_is_told_from_one_that_refuses(build_lab: Callable[[Topology], Lab]) -> None:
    lab = build_lab(Topology())
    lose_the_way_back(lab)
    lab.start_daemon(render(HOSTS))
    wait_for_states(lab, "down", "down", within_s=FALL_S + 1)
    first, second = backends(lab)[ORIGIN_1], backends(lab)[ORIGIN_2]
    assert (first["last_failure"], first["answered_before_s"]) == ("silent", None)
    assert second["last_failure"] == "refused"


def test_no_server_hears_of_a_probe(lab: Lab) -> None:
    """`accept` returns no connection that was never completed."""
    with lab.origin2.open_socket(socket.AF_INET6) as listener:
        listener.bind(("::", 81))
        listener.listen()
        listener.settimeout(2)
        path = lab.directory / "kracauer-config.toml"
        path.write_text(render({NAME: f"[{ORIGIN_2}]:81"}), encoding="utf-8")
        assert lab.daemon is not None
        reload(lab)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert said(lab, "backend_down") == []


def test_a_reload_empties_a_backend_of_new_connections_and_leaves_it_the_open_ones(lab: Lab) -> None:
    with connect(lab.client, SERVICE, NAME) as connection:
        assert ask(connection) == 200
        path = lab.directory / "kracauer-config.toml"
        drained = f'[{{ address = "{ORIGIN_1}", drain = true }}, "{ORIGIN_2}"]'
        path.write_text(path.read_text(encoding="utf-8").replace(json.dumps([ORIGIN_1, ORIGIN_2]), drained), encoding="utf-8")
        reload(lab)
        assert server(lab, within_s=SOON_S) == "origin2"
        assert ask(connection) == 200
        assert backends(lab)[ORIGIN_1]["draining"] is True
        assert backends(lab)[ORIGIN_1]["flows"] >= 1


def reload(lab: Lab) -> None:
    environment = os.environ | {"RUNTIME_DIRECTORY": str(lab.directory / "run")}
    done = lab.router.run(python_module("kracauer", "reload", "--device", "kracauer0"), env=environment)
    assert done.returncode == 0, done.stderr
