"""Connections outlive the daemon: stopped, killed, reloaded, and started again with another configuration."""

import http.client
import signal
import socket
import threading
from collections.abc import Callable

import pytest

from kracauer.lab import configuration, content
from kracauer.lab.topology import ORIGIN_2, SERVICE, SERVICE_2, Lab
from kracauer.lab.transfers import connect, download
from kracauer.lab.visits import visit

pytestmark = pytest.mark.lab

BuildSite = Callable[..., Lab]
MIB = 1 << 20


def ask(connection: socket.socket, name: str) -> int:
    """Ask for a page on a connection that stays open; returns the status."""
    connection.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode("ascii"))
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def start_again(lab: Lab, config: str | None = None) -> None:
    lab.start_daemon(config or (lab.directory / "kracauer-config.toml").read_text(encoding="utf-8"))


def adopted(lab: Lab) -> tuple[int, int]:
    """How many flows the daemon has taken over, and how many records it has thrown away."""
    assert lab.daemon is not None
    (line,) = [event for event in lab.daemon.events if event["event"] == "flows_adopted"]
    return line["flows"], line["discarded"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_idle_connections_and_a_download_go_on_with_the_next_daemon(build_site: BuildSite, number: signal.Signals) -> None:
    lab = build_site()
    assert lab.daemon is not None
    length = 8 * MIB
    hashes: list[str] = []
    with (
        connect(lab.client, SERVICE, "www.example.com") as idle,
        connect(lab.client, SERVICE, "shop.example.net") as busy,
    ):
        assert ask(idle, "www.example.com") == 200
        reader = threading.Thread(target=lambda: hashes.append(download(busy, "shop.example.net", length, rate=2 * MIB)))
        reader.start()
        lab.daemon.wait_for("shop.example.net")
        lab.daemon.send_signal(number)
        lab.daemon.wait()
        start_again(lab)

        assert ask(idle, "www.example.com") == 200
        reader.join(60)
    assert hashes == [content.digest(length)]
    assert adopted(lab) == (2, 0)


def test_a_connection_goes_on_though_its_name_and_its_address_have_left_the_configuration(build_site: BuildSite) -> None:
    lab = build_site()
    assert lab.daemon is not None
    moved = configuration.render({"www.example.com": ORIGIN_2})
    with connect(lab.client, SERVICE_2, "www.example.com") as connection:
        assert ask(connection, "www.example.com") == 200
        assert lab.daemon.stop() == 0
        assert lab.daemon.events[-1]["flows"] == 1
        start_again(lab, moved)

        assert ask(connection, "www.example.com") == 200
        assert adopted(lab) == (1, 0)
        assert visit(lab.client, "http", "www.example.com", SERVICE).seen["server"] == "origin2"


def test_an_address_that_has_become_somebody_elses_costs_its_connections_and_not_the_start(build_site: BuildSite) -> None:
    lab = build_site()
    assert lab.daemon is not None
    moved = configuration.render({"www.example.com": ORIGIN_2})
    with connect(lab.client, SERVICE_2, "www.example.com") as connection:
        assert ask(connection, "www.example.com") == 200
        assert lab.daemon.stop() == 0
        lab.router.run(["ip", "address", "add", f"{SERVICE_2}/32", "dev", "lo"])
        start_again(lab, moved)

        (line,) = [event for event in lab.daemon.events if event["event"] == "flows_cut_off"]
        assert line["address"] == SERVICE_2
        assert visit(lab.client, "http", "www.example.com", SERVICE).seen["server"] == "origin2"


def test_a_reload_moves_new_connections_and_leaves_the_old_ones_where_they_are(build_site: BuildSite) -> None:
    lab = build_site()
    assert lab.daemon is not None
    path = lab.directory / "kracauer-config.toml"
    with connect(lab.client, SERVICE_2, "www.example.com") as connection:
        assert ask(connection, "www.example.com") == 200
        path.write_text(configuration.render({"www.example.com": ORIGIN_2}), encoding="utf-8")
        lab.daemon.send_signal(signal.SIGHUP)
        lab.daemon.wait_for('"reloaded"')

        assert visit(lab.client, "http", "www.example.com", SERVICE).seen["server"] == "origin2"
        assert ask(connection, "www.example.com") == 200


def test_a_daemon_killed_over_and_over_loses_no_connection(build_site: BuildSite) -> None:
    lab = build_site()
    with connect(lab.client, SERVICE, "www.example.com") as connection:
        for _ in range(5):
            assert ask(connection, "www.example.com") == 200
            assert lab.daemon is not None
            lab.daemon.kill()
            start_again(lab)
            assert adopted(lab) == (1, 0)
        assert ask(connection, "www.example.com") == 200


def test_connections_outlive_the_device_too(build_site: BuildSite) -> None:
    lab = build_site()
    assert lab.daemon is not None
    with connect(lab.client, SERVICE, "www.example.com") as connection:
        assert ask(connection, "www.example.com") == 200
        lab.router.run(["ip", "link", "del", "kracauer0"])
        assert lab.daemon.wait() == 6
        start_again(lab)

        assert ask(connection, "www.example.com") == 200
        assert adopted(lab) == (1, 0)
