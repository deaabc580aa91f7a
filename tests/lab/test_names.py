"""Backends by their names: a name that moves, a name server that dies, and answers that must not count."""

import http.client
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import MAPPED_CLIENT, ORIGIN_1, ORIGIN_2, PREFIX, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect
from kracauer.lab.visits import Visit, visit

pytestmark = pytest.mark.lab

BuildLab = Callable[[Topology], Lab]
NAME_SERVER = Path(__file__).parents[1] / "support" / "name_server.py"
CONFIG = f"""
prefix = "{PREFIX}"
backend_networks = ["2001:db8:1::/64", "2001:db8:2::/64"]
[[listen]]
address = "{SERVICE}"
port = 80
protocol = "http"
[hosts]
"www.example.com" = "web1.example.net"
[dns]
serve_any = true
servers = ["127.0.0.1"]
timeout_s = 1
min_ttl_s = 1
"""


class Zone:
    """What the name server says, which a test may change at any time."""

    def __init__(self, lab: Lab) -> None:
        self._path = lab.directory / "zone.json"
        self.records: dict[str, dict[str, Any]] = {"": {"negative_ttl": 1}}
        self.write()

    def write(self, **records: dict[str, Any]) -> None:
        self.records |= records
        # Never half of it: a question may come at any moment.
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(self.records), encoding="utf-8")
        draft.replace(self._path)

    def set(self, name: str, *addresses: str, ttl: int = 1) -> None:
        self.records[name] = {"addresses": addresses, "ttl": ttl}
        self.write()


class Site:
    """A lab whose router has a resolver and the daemon."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.zone = Zone(lab)
        lab.start_origin("origin1")
        lab.start_origin("origin2")

    def start_name_server(self) -> BackgroundProcess:
        server = self.lab.start(
            "dns", self.lab.router, [sys.executable, NAME_SERVER, self.lab.directory / "zone.json", "127.0.0.1"]
        )
        server.wait_for("name server ready")
        return server

    def visit(self, name: str) -> Visit:
        return visit(self.lab.client, "http", name, SERVICE)

    def server_of(self, name: str) -> object:
        return self.visit(name).seen.get("server")

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.daemon.log
            time.sleep(0.1)

    @property
    def daemon(self) -> BackgroundProcess:
        assert self.lab.daemon is not None
        return self.lab.daemon

    def told(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.daemon.events if line["event"] == event]


@pytest.fixture
def site(build_lab: BuildLab) -> Iterator[Site]:
    """A site whose name is origin1's; at the end the daemon must stop without having met an error of its own."""
    site = Site(build_lab(Topology()))
    site.zone.set("web1.example.net", ORIGIN_1)
    yield site
    assert site.daemon.stop() == 0, site.daemon.log
    assert site.daemon.events[-1]["internal_errors"] == 0
    assert "Traceback" not in site.daemon.log


def test_a_name_leads_to_its_address_and_moves_with_it_while_connections_stay(site: Site) -> None:
    site.start_name_server()
    site.lab.start_daemon(CONFIG)
    with connect(site.lab.client, SERVICE, "www.example.com") as connection:
        assert ask(connection) == "origin1"
        site.zone.set("web1.example.net", ORIGIN_2)
        site.until(lambda: site.server_of("www.example.com") == "origin2")
        assert ask(connection) == "origin1"
    seen = site.visit("www.example.com").seen
    assert (seen["server"], seen["mapped"]) == ("origin2", MAPPED_CLIENT)
    site.until(lambda: [line["addresses"] for line in site.told("name_resolved")] == [[ORIGIN_1], [ORIGIN_2]])


def test_a_client_that_comes_before_the_first_answer_waits_for_it(site: Site) -> None:
    site.zone.write(**{"web1.example.net": {"is_silent": True}})
    site.start_name_server()
    site.lab.start_daemon(CONFIG)
    with connect(site.lab.client, SERVICE, "www.example.com") as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
        site.until(lambda: bool(site.told("name_failed")))
        site.zone.set("web1.example.net", ORIGIN_1)
        assert answer_on(connection) == "origin1"


def test_what_is_known_outlives_the_name_server(site: Site) -> None:
    server = site.start_name_server()
    site.lab.start_daemon(CONFIG)
    assert site.server_of("www.example.com") == "origin1"
    server.kill()
    site.until(lambda: bool(site.told("name_failed")))
    time.sleep(3)  # some more of its lives of one second
    assert site.server_of("www.example.com") == "origin1"
    assert [line["keeps"] for line in site.told("name_failed")] == [True]
    site.zone.set("web1.example.net", ORIGIN_2)
    site.start_name_server()
    site.until(lambda: site.server_of("www.example.com") == "origin2")


@pytest.mark.parametrize("address", ["2001:db8:c::7", "2001:db8:46::c000:201"])
def test_an_answer_outside_of_the_networks_is_refused(site: Site, address: str) -> None:
    site.zone.set("web1.example.net", address)
    site.start_name_server()
    site.lab.start_daemon(CONFIG)
    assert site.visit("www.example.com").status == 503
    site.until(lambda: bool(site.told("name_refused")))
    (line,) = site.told("name_refused")
    assert (line["name"], line["addresses"]) == ("web1.example.net", [address])


def test_a_name_that_stands_nowhere_is_served_at_its_own_address_and_one_that_is_not_ours_refused(site: Site) -> None:
    site.zone.set("new.example.org", ORIGIN_2)
    site.zone.set("others.example.org", "2001:db8:c::7")
    site.start_name_server()
    site.lab.start_daemon(CONFIG)
    assert site.server_of("new.example.org") == "origin2"
    assert site.visit("others.example.org").status == 421
    assert site.visit("nowhere.example.org").status == 421
    site.until(lambda: [line["reason"] for line in site.told("flow_refused")] == ["no_address", "no_address"])
    site.zone.set("nowhere.example.org", ORIGIN_1)
    site.until(lambda: site.server_of("nowhere.example.org") == "origin1")


def test_a_reload_brings_names_and_other_resolvers(site: Site) -> None:
    site.start_name_server()
    site.lab.start_daemon(CONFIG.replace("127.0.0.1", "127.0.0.9").replace('"web1.example.net"', f'"{ORIGIN_2}"'))
    assert site.server_of("www.example.com") == "origin2"
    (site.lab.directory / "kracauer-config.toml").write_text(CONFIG, encoding="utf-8")
    site.daemon.send_signal(signal.SIGHUP)
    site.daemon.wait_for('"reloaded"')
    assert site.server_of("www.example.com") == "origin1"


def test_a_connection_goes_on_with_the_next_daemon_though_no_name_server_is_there(site: Site) -> None:
    server = site.start_name_server()
    site.lab.start_daemon(CONFIG)
    with connect(site.lab.client, SERVICE, "www.example.com") as connection:
        assert ask(connection) == "origin1"
        server.kill()
        site.daemon.kill()
        site.lab.start_daemon(CONFIG)
        assert ask(connection) == "origin1"


def ask(connection: Any) -> object:
    """Ask for a page on a connection that stays open; returns which server has answered."""
    connection.sendall(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
    return answer_on(connection)


def answer_on(connection: Any) -> object:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return json.loads(response.read())["server"]
