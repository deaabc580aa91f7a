"""Several workers at one service: each has its share of the connections, and what one of them suffers is no other's concern."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kracauer.cli.exit_codes import ExitCode
from kracauer.lab import configuration, content, crowd, endurance
from kracauer.lab.endurance import Pace
from kracauer.lab.namespaces import python_module
from kracauer.lab.topology import ORIGIN_1, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download, upload

pytestmark = pytest.mark.lab

NAME = "www.example.com"
MIB = 1 << 20
WORKERS = 3
PACE = Pace(length=MIB, rate=MIB)


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


def test_the_death_of_one_costs_the_others_nothing(site: Site) -> None:
    number = signal.SIGKILL if site.offload == "off" else signal.SIGSEGV
    site.start()
    pids = site.pids()
    process = crowd.launch(site.lab, [NAME], 5, visitors=6)
    with lasting(site, 24):
        time.sleep(1)
        os.kill(pids[1], number)
        time.sleep(1.5)
        assert [pid == before for pid, before in zip(site.pids(), pids, strict=True)] == [True, False, True]
        os.kill(pids[0], number)
    visits = crowd.outcome(process)
    assert visits.failures == {}
    deaths = site.events("worker_died")
    assert [(line["worker"], line["cause"]) for line in deaths] == [(each, f"was ended by signal {number}") for each in (1, 0)]
    assert [line["worker"] for line in site.events("worker_replaced")] == [1, 0]
    adopted = {line["worker"]: line for line in site.events("flows_adopted")}
    assert all(line["discarded"] == 0 and line["flows"] > 0 for line in adopted.values())


def test_all_of_them_and_the_supervisor_may_die(site: Site) -> None:
    site.start()
    with lasting(site, 24):
        time.sleep(1)
        kill(site)
        time.sleep(0.5)
        site.start()
        assert sum(line["flows"] for line in site.events("flows_adopted")) >= 24
    site.visit(3)


def test_workers_whose_supervisor_dies_leave_all_to_the_next_one(site: Site) -> None:
    site.start()
    pids = site.pids()
    daemon = site.lab.daemon
    assert daemon is not None
    with lasting(site, 24):
        time.sleep(0.5)
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        deadline = time.monotonic() + 5
        while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        site.start()
        assert sum(line["flows"] for line in site.events("flows_adopted")) >= 24
        assert sum(line["discarded"] for line in site.events("flows_adopted")) == 0


def test_a_device_that_is_lost_ends_the_service_and_no_connection(site: Site) -> None:
    site.start()
    with lasting(site, 12):
        time.sleep(0.5)
        site.lab.router.run(["ip", "link", "del", "kracauer0"])
        daemon = site.lab.daemon
        assert daemon is not None
        assert daemon.wait() == ExitCode.DEVICE_LOST
        (line,) = site.events("device_lost")
        assert "kracauer0 has gone away" in line["cause"]
        site.start()


def test_connections_go_on_whatever_their_number(site: Site) -> None:
    site.start(1)
    with lasting(site, 24, pace=Pace(length=6 * MIB, rate=MIB)):
        for workers in (3, 2, 1):
            time.sleep(0.5)
            assert site.stop()["flows"] >= 24
            site.start(workers)
            assert sum(line["flows"] for line in site.events("flows_adopted")) >= 24
            assert sum(line["discarded"] for line in site.events("flows_adopted")) == 0
            (line,) = site.events("flows_rearranged")
            assert line["workers"] == workers
    names = sorted(path.name for path in (site.lab.directory / "run").iterdir() if ".flows" in path.name)
    assert names == ["kracauer0.flows"]


def test_one_that_hangs_is_replaced(build_lab: Callable[[Topology], Lab]) -> None:
    site = Site(build_lab(Topology()), "off")
    site.start()
    pid = site.pids()[2]
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 45
    while not site.events("worker_replaced") and time.monotonic() < deadline:
        time.sleep(0.2)
    (line,) = site.events("worker_hangs")
    assert (line["worker"], line["pid"]) == (2, pid)
    site.visit(12)
    site.stop()


def test_a_reload_reaches_all(site: Site) -> None:
    site.start()
    config = site.lab.directory / "kracauer-config.toml"
    config.write_text(config.read_text(encoding="utf-8").replace(NAME, "other.example.com"), encoding="utf-8")
    site.ask("reload")
    for _ in range(12):
        with connect(site.lab.client, SERVICE, "other.example.com") as connection:
            assert download(connection, "other.example.com", 10) == content.digest(10)
    os.kill(site.pids()[0], signal.SIGKILL)
    time.sleep(1)
    for _ in range(12):
        with connect(site.lab.client, SERVICE, "other.example.com") as connection:
            assert download(connection, "other.example.com", 10) == content.digest(10)


def test_nothing_is_left_of_them_when_all_is_forgotten(site: Site) -> None:
    site.start()
    site.visit(5)
    pids = site.pids()
    site.ask("stop", "--forget")
    assert site.lab.daemon is not None
    assert site.lab.daemon.wait() == 0
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids)
    assert b"kracauer0" not in site.lab.router.run(["ip", "link"]).stdout
    assert not [path for path in (site.lab.directory / "run").iterdir() if ".flows" in path.name]


def test_fragments_and_narrow_paths_find_the_worker_that_has_the_flow(build_lab: Callable[[Topology], Lab]) -> None:
    """Path MTUs are told by ICMP errors, which have no ports of their own but those they quote."""
    site = Site(build_lab(Topology(client_path_mtu=1300, backend_path_mtu=1340)), "off")
    site.start()
    for _ in range(6):
        with connect(site.lab.client, SERVICE, NAME) as connection:
            assert download(connection, NAME, MIB) == content.digest(MIB)
        with connect(site.lab.client, SERVICE, NAME) as connection:
            assert upload(connection, NAME, MIB) == content.digest(MIB)
    assert site.stop().get("refused", {}) == {}


def kill(site: Site) -> None:
    """Kill all of them at once, as a service manager does that has lost its patience."""
    daemon = site.lab.daemon
    assert daemon is not None
    for pid in site.pids():
        os.kill(pid, signal.SIGKILL)
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()


@contextmanager
def lasting(site: Site, count: int, *, pace: Pace = PACE) -> Iterator[None]:
    """Have connections transfer while the block runs, none of which may come to harm."""
    process = endurance.launch(site.lab, [NAME], count, pace=pace, has_uploads=True)
    yield
    outcome = endurance.outcome(process)
    assert site.lab.daemon is not None
    assert outcome.failures == {}, site.lab.daemon.log[-3000:]
    assert outcome.transfers >= count
