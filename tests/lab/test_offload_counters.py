"""What an operator is told of connections that the kernel carries: counters, status and the last line of each."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fast_lane import skip_without_fast_path

from kracauer.lab import configuration, content, runs
from kracauer.lab.namespaces import python_module
from kracauer.lab.topology import DAEMON_READY, ORIGIN_1, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download, upload

pytestmark = pytest.mark.lab

NAME = "www.example.com"
LENGTH = 8 << 20
SURPLUS = (
    LENGTH // 8
)  # more than heads of requests and answers, and what is sent again, the first of all overtaken by the kernel
Open = Callable[..., Lab]


@pytest.fixture
def open_lab(build_lab: Callable[[Topology], Lab]) -> Open:
    """A lab with one origin, and a daemon that forgets a finished connection after a second."""

    def open_lab(**network: object) -> Lab:
        skip_without_fast_path()
        lab = build_lab(Topology())
        lab.start_origin("origin1")
        timeouts = {"below_rfc_floors": True, "transitory_s": 1}
        config = configuration.render({NAME: ORIGIN_1}, ((SERVICE, 80, "http"),), network=network, timeouts=timeouts)
        lab.start_daemon(config)
        return lab

    return open_lab


def status(lab: Lab) -> dict[str, Any]:
    command = python_module("kracauer", "status", "--json", "-c", lab.directory / "kracauer-config.toml")
    ran = lab.router.run(command, env={"RUNTIME_DIRECTORY": str(lab.directory / "run")}, timeout_s=30)
    assert ran.returncode == 0, ran.stderr.decode()
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def wait_for(lab: Lab, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 15
    while not condition(found := status(lab)):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def events(lab: Lab, name: str) -> list[dict[str, Any]]:
    assert lab.daemon is not None
    return [event for event in lab.daemon.events if event["event"] == name]


def pinned(lab: Lab) -> list[Path]:
    """The links in the lab's bpffs."""
    return list(runs.bpffs(lab.directory).rglob("link"))


@contextmanager
def downloaded(lab: Lab, length: int) -> Iterator[socket.socket]:
    """A connection over which so much has come, and that is still open."""
    with connect(lab.client, SERVICE, NAME) as connection:
        assert download(connection, NAME, length) == content.digest(length)
        yield connection


def finished(lab: Lab, count: int = 1) -> list[dict[str, Any]]:
    """The last lines of so many connections, which are all there were."""
    deadline = time.monotonic() + 15
    while len(closed := events(lab, "flow_closed")) < count:
        assert time.monotonic() < deadline, lab.daemon.log if lab.daemon else ""
        time.sleep(0.1)
    return closed


def test_the_status_tells_how_many_connections_the_kernel_carries_and_how_much_it_has_carried(open_lab: Open) -> None:
    lab = open_lab(offload="require")
    with downloaded(lab, LENGTH):
        shown = wait_for(lab, lambda found: found["counters"].get("carried", {}).get("bytes", 0) > LENGTH // 2)

        assert (shown["offload"]["wanted"], shown["offload"]["flows"]) == ("require", 1)
        assert shown["offload"]["hook"] in ("tcx", "clsact")
        assert shown["offload"]["hook"] == events(lab, "offload_attached")[0]["kind"]
        carried = shown["counters"]["carried"]
        assert carried["bytes"] < LENGTH + SURPLUS
        assert carried["packets"] > 100
        assert shown["counters"]["packets_read"] < 100
    wait_for(lab, lambda found: found["offload"]["flows"] == 0)


def test_the_last_line_of_a_connection_counts_what_the_kernel_carried_both_ways(open_lab: Open) -> None:
    lab = open_lab(offload="require")
    with connect(lab.client, SERVICE, NAME) as connection:
        assert upload(connection, NAME, LENGTH) == content.digest(LENGTH)
    with downloaded(lab, LENGTH // 2):
        pass
    up, down = sorted(finished(lab, 2), key=lambda fields: int(fields["bytes_to_client"]))  # in whatever order they went

    assert (up["reason"], down["reason"]) == ("finished", "finished")
    assert LENGTH < up["bytes_to_backend"] < LENGTH + SURPLUS
    assert 0 < up["bytes_to_client"] < SURPLUS
    assert LENGTH // 2 < down["bytes_to_client"] < LENGTH // 2 + SURPLUS
    assert 0 < down["bytes_to_backend"] < SURPLUS
    assert min(up["packets_to_backend"], up["packets_to_client"], down["packets_to_client"], down["packets_to_backend"]) > 10
    assert lab.daemon is not None
    assert lab.daemon.stop() == 0
    (stopped,) = events(lab, "stopped")
    total = sum(line[key] for line in (up, down) for key in ("bytes_to_backend", "bytes_to_client"))
    assert LENGTH < stopped["carried"]["bytes"] <= total


def test_the_same_is_told_whether_the_kernel_carries_it_or_the_process(open_lab: Open) -> None:
    told = []
    for mode in ("require", "off"):
        lab = open_lab(offload=mode)
        with downloaded(lab, LENGTH):
            pass
        told += finished(lab)
        assert bool(events(lab, "offload_attached")) == (mode == "require")
    with_kernel, without = told

    keys = ("reason", "state", "hostname", "backend")
    assert [with_kernel[key] for key in keys] == [without[key] for key in keys]
    assert with_kernel.keys() == without.keys()
    assert all(LENGTH < line["bytes_to_client"] < LENGTH + SURPLUS for line in told)


def test_where_it_is_off_nothing_is_carried_and_the_status_says_so(open_lab: Open) -> None:
    lab = open_lab(offload="off")
    with downloaded(lab, LENGTH):
        shown = status(lab)
    assert shown["offload"] == {
        "wanted": "off",
        "hook": None,
        "flows": 0,
        "survives": False,
        "kept_by": None,
        "cause": 'network.offload = "off"',
        "remedy": None,
    }
    assert "carried" not in shown["counters"]
    assert shown["counters"]["packets_read"] > 100
    assert [event for event in (lab.daemon.events if lab.daemon else []) if "offload_" in event["event"]] == []


def test_a_recording_has_everything_because_nothing_is_carried_meanwhile(open_lab: Open) -> None:
    lab = open_lab()
    assert lab.daemon is not None
    (attached,) = events(lab, "offload_attached")
    assert lab.daemon.stop() == 0
    assert len(pinned(lab)) == attached["survives"]
    recording = lab.directory / "all.pcapng"
    command = python_module("kracauer", "run", "-c", lab.directory / "kracauer-config.toml", "--record", recording)
    lab.daemon = lab.start("recording", lab.router, command, {"RUNTIME_DIRECTORY": str(lab.directory / "run")})
    lab.daemon.wait_for(DAEMON_READY)
    with downloaded(lab, LENGTH):
        shown = status(lab)
    assert lab.daemon.stop() == 0

    assert (shown["offload"]["wanted"], shown["offload"]["hook"]) == ("auto", None)
    assert "packets are recorded" in shown["offload"]["cause"]
    assert "carried" not in shown["counters"]
    assert pinned(lab) == []  # what the first service had left
    assert recording.stat().st_size > 2 * LENGTH  # once in either family


def test_connections_come_and_go_in_the_kernel_after_all_but_one_capability_were_given_up(open_lab: Open) -> None:
    lab = open_lab(offload="require")
    assert lab.daemon is not None
    lines = Path(f"/proc/{lab.daemon.pid}/status").read_text(encoding="ascii").splitlines()
    held = {line.split(":")[0]: int(line.split()[1], 16) for line in lines if line.startswith(("CapPrm", "CapEff", "CapAmb"))}
    assert held == {"CapPrm": 1 << 12, "CapEff": 1 << 12, "CapAmb": 0}

    for _ in range(3):
        with downloaded(lab, 1 << 20):
            wait_for(lab, lambda found: found["offload"]["flows"] == 1)
        wait_for(lab, lambda found: found["offload"]["flows"] == 0)
    assert "offload_refused" not in status(lab)["counters"]
