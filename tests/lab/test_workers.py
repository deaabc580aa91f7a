"""Several workers at one service: each has its share of the connections, and what one of them suffers is no other's concern."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kracauer.lab import configuration, content, crowd
from kracauer.lab.endurance import Pace
from kracauer.lab.namespaces import python_module
from kracauer.lab.topology import ORIGIN_1, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download, upload
from kracauer.steering import worker_of

pytestmark = pytest.mark.lab

NAME = "www.example.com"
MIB = 1 << 20
WORKERS = 3


class Site:
    """A lab with one origin, and a daemon with several workers."""

    def __init__(self, lab: Lab, offload: str) -> None:
        self.lab = lab
        self.offload = offload
        lab.start_origin("origin1")

    def start(self, workers: int = WORKERS, **tables: dict[str, Any]) -> None:
        network = {"offload": self.offload, "workers": workers}
        self.lab.start_daemon(configuration.render({NAME: ORIGIN_1}, ((SERVICE, 80, "http"),), network=network, **tables))

    def events(self, name: str) -> list[dict[str, Any]]:
        assert self.lab.daemon is not None
        return [event for event in self.lab.daemon.events if event["event"] == name]

    def ask(self, *command: str) -> dict[str, Any]:
        config = self.lab.directory / "kracauer-config.toml"
        environment = {"RUNTIME_DIRECTORY": str(self.lab.directory / "run")}
        result = self.lab.router.run(python_module("kracauer", *command, "-c", config), env=environment)
        assert result.returncode == 0, result.stderr
        return dict(json.loads(result.stdout)) if "--json" in command else {}

    def status(self) -> dict[str, Any]:
        return self.ask("status", "--json")

    def stop(self) -> dict[str, Any]:
        assert self.lab.daemon is not None
        assert self.lab.daemon.stop() == 0, self.lab.daemon.log
        stopped: dict[str, Any] = self.events("stopped")[0]
        assert stopped["internal_errors"] == 0, self.lab.daemon.log
        assert self.events("internal_error") == []
        return stopped

    def pids(self) -> list[int]:
        return [worker["pid"] for worker in self.status()["workers"]]

    def visit(self, count: int) -> None:
        for _ in range(count):
            with connect(self.lab.client, SERVICE, NAME) as connection:
                assert download(connection, NAME, 1000) == content.digest(1000)


@pytest.fixture(params=["off", "auto"])
def site(request: pytest.FixtureRequest, build_lab: Callable[[Topology], Lab]) -> Iterator[Site]:
    built = Site(build_lab(Topology()), request.param)
    yield built
    if built.lab.daemon is not None and built.lab.daemon.is_running:
        built.stop()


def test_each_has_its_share_and_the_service_is_one(site: Site) -> None:
    site.start()
    site.visit(30)
    status = site.status()
    assert [worker["number"] for worker in status["workers"]] == [0, 1, 2]
    assert len({worker["pid"] for worker in status["workers"]}) == WORKERS
    assert sum(worker["flows"] for worker in status["workers"]) == sum(status["flows"].values()) == 30
    assert all(worker["flows"] > 2 for worker in status["workers"])
    assert status["counters"]["events"]["flow_spliced"] == 30
    assert status["counters"].get("refused", {}) == {}
    assert {line["worker"] for line in site.events("flow_spliced")} <= {0, 1, 2}
    stopped = site.stop()
    assert stopped["flows"] == 30


def test_transfers_of_all_workers_are_whole(site: Site) -> None:
    site.start()
    for length in (1, 4 * MIB):
        for _ in range(4):
            with connect(site.lab.client, SERVICE, NAME) as connection:
                assert download(connection, NAME, length) == content.digest(length)
            with connect(site.lab.client, SERVICE, NAME) as connection:
                assert upload(connection, NAME, length) == content.digest(length)
