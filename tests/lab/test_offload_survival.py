"""Flows that the kernel carries go on while no daemon lives, and with the next one; and there is a way to end them all."""

import hashlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from service_manager import ServiceManager

from kracauer.lab import configuration, content
from kracauer.lab.namespaces import python_module
from kracauer.lab.topology import DAEMON_READY, ORIGIN_1, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download, upload
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath

pytestmark = pytest.mark.lab

NAME = "www.example.com"
MIB = 1 << 20
RATE = 8 * MIB
LENGTH = 24 * MIB  # three seconds


class Site:
    """A lab with one origin, and the daemon started over and over."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.start_origin("origin1")

    def start(self, offload: str = "auto") -> None:
        self.lab.start_daemon(configuration.render({NAME: ORIGIN_1}, ((SERVICE, 80, "http"),), network={"offload": offload}))

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the latest daemon has logged of that name."""
        assert self.lab.daemon is not None
        return [event for event in self.lab.daemon.events if event["event"] == name]

    def pins(self) -> list[str]:
        """What is pinned in the lab's bpffs."""
        directory = self.lab.directory / "bpf" / "kracauer" / "kracauer0"
        return sorted(path.name for path in directory.iterdir()) if directory.exists() else []

    def stop(self) -> dict[str, Any]:
        """Have the daemon end in good order; returns its last words."""
        assert self.lab.daemon is not None
        assert self.lab.daemon.stop() == 0, self.lab.daemon.log
        stopped: dict[str, Any] = self.events("stopped")[0]
        assert stopped["internal_errors"] == 0, self.lab.daemon.log
        return stopped

    def states(self) -> dict[str, int]:
        """How many flows the daemon has in each state."""
        config = self.lab.directory / "kracauer-config.toml"
        environment = {"RUNTIME_DIRECTORY": str(self.lab.directory / "run")}
        result = self.lab.router.run(python_module("kracauer", "status", "--json", "-c", config), env=environment)
        states: dict[str, int] = json.loads(result.stdout)["flows"]
        return states

    def forget(self) -> subprocess.CompletedProcess[bytes]:
        config = self.lab.directory / "kracauer-config.toml"
        environment = {"RUNTIME_DIRECTORY": str(self.lab.directory / "run")}
        return self.lab.router.run(python_module("kracauer", "stop", "--forget", "-c", config), env=environment)


@pytest.fixture
def build(build_lab: Callable[[Topology], Lab]) -> Iterator[Callable[..., Site]]:
    try:
        KernelPath.open(1).close()
    except OffloadError as error:
        pytest.skip(str(error))
    sites = []

    def build(**topology: Any) -> Site:
        sites.append(Site(build_lab(Topology(**topology))))
        return sites[-1]

    yield build
    for site in sites:
        if site.lab.daemon is not None and site.lab.daemon.is_running:
            site.stop()


class Transfer(threading.Thread):
    """A download at the pace of its server, watched."""

    def __init__(self, lab: Lab, length: int = LENGTH) -> None:
        super().__init__(daemon=True)
        self.received = 0
        self.digest = ""
        self._length = length
        self._connection = connect(lab.client, SERVICE, NAME)
        self.start()

    def run(self) -> None:
        request = f"GET /bytes/{self._length}?rate={RATE} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
        with self._connection:
            self._connection.sendall(request.encode("ascii"))
            response = http.client.HTTPResponse(self._connection)
            response.begin()
            sha256 = hashlib.sha256()
            while block := response.read(1 << 16):
                self.received += len(block)
                sha256.update(block)
        self.digest = sha256.hexdigest()

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while self.received < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.received >= count

    def check(self) -> None:
        """Wait for the end: everything has come, and as it was."""
        self.join(60)
        assert self.digest == content.digest(self._length)


def test_a_connection_that_ends_without_a_daemon_has_ended_for_the_next_one(build: Callable[..., Site]) -> None:
    site = build()
    site.start("require")
    going, ending, halved = (connect(site.lab.client, SERVICE, NAME) for _ in range(3))
    for connection in (going, ending, halved):
        connection.settimeout(5)
        connection.sendall(f"GET /bytes/1000 HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode("ascii"))
        assert len(connection.recv(1 << 16)) > 0
    daemon = site.lab.daemon
    assert daemon is not None
    daemon.send_signal(signal.SIGSTOP)  # it sweeps no more
    ending.shutdown(socket.SHUT_WR)
    while ending.recv(1 << 16):  # the origin closes, too: both FINs have passed
        pass
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    halved.shutdown(socket.SHUT_RDWR)
    site.start("require")
    states = site.states()
    assert states.get("established") == 1, states
    assert states.get("both_fin", 0) >= 1, states
    assert sum(states.values()) == 3
    for connection in (going, ending, halved):
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_transfer_goes_on_without_a_daemon_and_with_the_next_one(build: Callable[..., Site], number: signal.Signals) -> None:
    site = build()
    site.start("require")
    (attached,) = site.events("offload_attached")
    assert attached["survives"] is True
    transfer = Transfer(site.lab)
    transfer.wait_for(2 * MIB)
    daemon = site.lab.daemon
    assert daemon is not None
    daemon.send_signal(number)
    daemon.wait()
    before = transfer.received
    transfer.wait_for(before + 6 * MIB)  # more than all buffers on the way together
    site.start("require")
    (adopted,) = site.events("flows_adopted")
    assert (adopted["flows"], adopted["discarded"]) == (1, 0)
    transfer.check()
    # Not a packet of it had to be looked at, but for those that end it.
    stopped = site.stop()
    assert stopped["packets_read"] < 12, stopped
    assert stopped["carried"]["bytes"] < LENGTH
    site.start("require")
    assert site.lab.daemon is not None
    site.lab.daemon.send_signal(signal.SIGINT)
    site.lab.daemon.wait()
    (closed,) = site.events("flow_closed")
    assert closed["bytes_to_client"] > LENGTH


@pytest.mark.parametrize("has_bpffs", [True, False])
def test_an_upload_survives_several_daemons(build: Callable[..., Site], has_bpffs: bool) -> None:
    site = build(has_bpffs=has_bpffs)
    site.start()
    lab, hashes = site.lab, list[str]()
    connection = connect(lab.client, SERVICE, NAME)
    length = 512 * MIB
    sender = threading.Thread(target=lambda: hashes.append(upload(connection, NAME, length)))
    sender.start()
    for _ in range(3):
        time.sleep(0.1)
        assert lab.daemon is not None
        lab.daemon.kill()
        site.start()
        (adopted,) = site.events("flows_adopted")
        assert (adopted["flows"], adopted["discarded"]) == (1, 0)
        assert site.events("offload_attached")[0]["survives"] is has_bpffs
    sender.join(120)
    connection.close()
    assert hashes == [content.digest(length)]


def test_without_a_bpffs_flows_wait_for_the_next_daemon(build: Callable[..., Site]) -> None:
    site = build(has_bpffs=False)
    site.start("require")
    (attached,) = site.events("offload_attached")
    assert attached["survives"] is False
    assert "no bpffs" in attached["cause"]
    transfer = Transfer(site.lab)
    transfer.wait_for(2 * MIB)
    assert site.lab.daemon is not None
    site.lab.daemon.kill()
    time.sleep(0.2)
    before = transfer.received
    time.sleep(0.3)
    assert transfer.received == before
    site.start("require")
    transfer.check()


@pytest.mark.parametrize("is_running", [True, False])
def test_forgetting_leaves_no_pin(build: Callable[..., Site], is_running: bool) -> None:
    site = build()
    site.start()
    assert site.pins() == ["link", "v1_1_client_flows", "v1_1_identifications", "v1_1_traffic"]
    if not is_running:
        site.stop()
        assert len(site.pins()) == 4
    result = site.forget()
    assert result.returncode == 0, result
    assert site.pins() == []
    assert not (site.lab.directory / "bpf" / "kracauer" / "kracauer0").exists()


def test_off_takes_an_earlier_program_away_and_keeps_its_flows(build: Callable[..., Site]) -> None:
    site = build()
    site.start()
    transfer = Transfer(site.lab)
    transfer.wait_for(2 * MIB)
    assert site.lab.daemon is not None
    site.lab.daemon.kill()
    transfer.wait_for(transfer.received + 2 * MIB)
    site.start("off")
    assert [event["cause"] for event in site.events("offload_removed")] == ['network.offload = "off"']
    assert site.pins() == []
    transfer.check()
    assert site.stop()["packets_read"] > 100
    site.start("off")
    assert site.events("offload_removed") == []


def test_maps_of_another_layout_are_told_and_taken_away(build: Callable[..., Site]) -> None:
    site = build()
    site.start()
    transfer = Transfer(site.lab, 2 * LENGTH)  # long enough for as many packets as are looked at
    transfer.wait_for(2 * MIB)
    assert site.lab.daemon is not None
    site.lab.daemon.kill()
    directory = site.lab.directory / "bpf" / "kracauer" / "kracauer0"
    for name in site.pins():
        if name != "link":
            (directory / name).rename(directory / name.replace("v1_", "v9_"))
    transfer.wait_for(transfer.received + 2 * MIB)
    site.start("require")
    assert len(site.events("offload_counts_lost")) == 1
    assert len(site.pins()) == 4
    assert [name for name in site.pins() if name.startswith("v9")] == []
    transfer.check()
    # Who knows which SYN was answered: some of them had to be looked at.
    assert site.stop()["packets_read"] > 12


def test_a_port_that_is_used_again_after_the_daemon_has_died_finds_no_trace(build: Callable[..., Site]) -> None:
    site = build()
    site.start("require")
    lab = site.lab

    def visit(port: int, *, is_reset: bool) -> str:
        with lab.client.open_socket() as connection:
            connection.settimeout(20)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(("", port))
            connection.connect((SERVICE, 80))
            if is_reset:  # one that no daemon hears of
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(f"GET /bytes/100 HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode("ascii"))
                assert connection.recv(1)
                assert lab.daemon is not None
                lab.daemon.kill()
                return ""
            return download(connection, NAME, MIB)

    visit(40001, is_reset=True)
    site.start("require")
    assert site.events("flows_adopted")[0]["flows"] == 1
    assert [visit(40001, is_reset=False) for _ in range(1)] == [content.digest(MIB)]


def test_an_end_that_is_said_while_nobody_listens_is_said_again(build: Callable[..., Site]) -> None:
    site = build()
    site.start("require")
    with connect(site.lab.client, SERVICE, NAME) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode("ascii"))
        response = http.client.HTTPResponse(connection)
        response.begin()
        response.read()
        assert site.lab.daemon is not None
        site.lab.daemon.kill()
        connection.shutdown(socket.SHUT_WR)
        site.start("require")
        assert connection.recv(1) == b""  # the origin has heard it, and closed as well
    deadline = time.monotonic() + 5
    while not (states := site.states()).get("both_fin") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert states == {"both_fin": 1}


def test_what_is_in_the_way_of_pinning_is_said(build: Callable[..., Site]) -> None:
    site = build()
    directory = site.lab.directory / "bpf" / "kracauer" / "kracauer0"
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    site.start("require")
    (attached,) = site.events("offload_attached")
    assert attached["survives"] is False
    assert "others may write" in attached["cause"]


# --------------------------------------------------------------------------------------------- without a bpffs, by the manager

KEPT = [f"kracauer-kracauer0/{name}" for name in ("link", "v1_1_client_flows", "v1_1_identifications", "v1_1_traffic")]


class Managed(Site):
    """One without a bpffs, whose daemon a service manager starts, which holds descriptors for it and for others."""

    def __init__(self, lab: Lab, manager: ServiceManager) -> None:
        super().__init__(lab)
        self.manager = manager

    def start(self, offload: str = "auto") -> None:
        lab = self.lab
        path = lab.directory / "kracauer-config.toml"
        text = configuration.render({NAME: ORIGIN_1}, ((SERVICE, 80, "http"),), network={"offload": offload})
        path.write_text(text, encoding="utf-8")
        command = self.manager.wrap(*python_module("kracauer", "run", "-c", path))
        lab.daemon = lab.start("kracauer", lab.router, command, {"RUNTIME_DIRECTORY": str(lab.directory / "run")})
        lab.daemon.wait_for(DAEMON_READY)

    def offload(self) -> dict[str, Any]:
        """What the daemon says of its fast path when it is asked."""
        config = self.lab.directory / "kracauer-config.toml"
        environment = {"RUNTIME_DIRECTORY": str(self.lab.directory / "run")}
        result = self.lab.router.run(python_module("kracauer", "status", "--json", "-c", config), env=environment)
        offload: dict[str, Any] = json.loads(result.stdout)["offload"]
        return offload


@pytest.fixture
def managed(build_lab: Callable[[Topology], Lab], tmp_path: Path) -> Iterator[Callable[..., Managed]]:
    try:
        KernelPath.open(1).close()
    except OffloadError as error:
        pytest.skip(str(error))
    sites = []

    def build(most: int = 16) -> Managed:
        site = Managed(build_lab(Topology(has_bpffs=False)), ServiceManager(tmp_path, most=most))
        sites.append(site)
        return site

    yield build
    for site in sites:
        if site.lab.daemon is not None and site.lab.daemon.is_running:
            site.stop()
        site.manager.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_without_a_bpffs_the_service_manager_has_a_transfer_go_on(
    managed: Callable[..., Managed], number: signal.Signals
) -> None:
    site = managed()
    reader, writer = os.pipe()
    site.manager.put("somebody else's", writer)
    site.start("require")
    (attached,) = site.events("offload_attached")
    if attached["kind"] != "tcx":
        pytest.skip("needs links: Linux 6.6")
    assert (attached["survives"], attached["kept_by"]) == (True, "descriptor store")
    assert site.manager.names == [*KEPT, "somebody else's"]
    transfer = Transfer(site.lab)
    transfer.wait_for(2 * MIB)
    assert (site.offload()["survives"], site.offload()["kept_by"]) == (True, "descriptor store")
    daemon = site.lab.daemon
    assert daemon is not None
    daemon.send_signal(number)
    daemon.wait()
    before = transfer.received
    transfer.wait_for(before + 6 * MIB)  # more than all buffers on the way together
    site.start("require")
    (adopted,) = site.events("flows_adopted")
    assert (adopted["flows"], adopted["discarded"]) == (1, 0)
    assert [event["flows"] for event in site.events("offload_taken_over")] == [1]
    assert site.events("offload_counts_lost") == []
    assert site.manager.names == [*(name.replace("v1_1", "v1_2") for name in KEPT), "somebody else's"]
    transfer.check()
    # Not a packet of it had to be looked at, but for those that end it.
    stopped = site.stop()
    assert stopped["packets_read"] < 12, stopped
    assert stopped["carried"]["bytes"] < LENGTH
    site.start("require")
    assert site.forget().returncode == 0
    assert daemon is not site.lab.daemon
    (closed,) = site.events("flow_closed")
    assert closed["bytes_to_client"] > LENGTH
    assert site.manager.names == ["somebody else's"]
    os.close(reader)


def test_an_upload_survives_several_daemons_of_a_service_manager(managed: Callable[..., Managed]) -> None:
    site = managed()
    site.start("require")
    lab, hashes = site.lab, list[str]()
    connection = connect(lab.client, SERVICE, NAME)
    length = 512 * MIB
    sender = threading.Thread(target=lambda: hashes.append(upload(connection, NAME, length)))
    sender.start()
    for _ in range(3):
        time.sleep(0.1)
        assert lab.daemon is not None
        lab.daemon.kill()
        site.start("require")
        (adopted,) = site.events("flows_adopted")
        assert (adopted["flows"], adopted["discarded"]) == (1, 0)
        assert site.events("offload_attached")[0]["survives"] is True
    sender.join(120)
    connection.close()
    assert hashes == [content.digest(length)]


def test_what_the_service_manager_lets_go_at_a_stop_waits_for_the_next_daemon(managed: Callable[..., Managed]) -> None:
    site = managed()
    site.start("require")
    transfer = Transfer(site.lab)
    transfer.wait_for(2 * MIB)
    site.stop()
    site.manager.forget()
    if site.events("offload_attached")[0]["kind"] == "tcx":  # a filter goes on by itself
        time.sleep(0.2)
        before = transfer.received
        time.sleep(0.3)
        assert transfer.received == before
    site.start("require")
    assert site.events("offload_taken_over") == []
    assert site.manager.names == KEPT
    transfer.check()


def test_a_service_manager_that_holds_nothing_is_told_of_and_flows_wait(managed: Callable[..., Managed]) -> None:
    site = managed(most=0)
    site.start("require")
    (attached,) = site.events("offload_attached")
    assert attached["survives"] is False
    assert "no bpffs" in attached["cause"]
    assert "FileDescriptorStoreMax=16" in attached["remedy"]
    assert site.offload()["kept_by"] is None
    transfer = Transfer(site.lab)
    transfer.wait_for(2 * MIB)
    assert site.lab.daemon is not None
    site.lab.daemon.kill()
    time.sleep(0.2)
    before = transfer.received
    time.sleep(0.3)
    assert transfer.received == before
    site.start("require")
    transfer.check()


def test_off_takes_from_the_service_manager_what_it_holds(managed: Callable[..., Managed]) -> None:
    site = managed()
    site.start("require")
    transfer = Transfer(site.lab)
    transfer.wait_for(2 * MIB)
    assert site.lab.daemon is not None
    site.lab.daemon.kill()
    site.start("off")
    assert [event["cause"] for event in site.events("offload_removed")] == ['network.offload = "off"']
    assert site.manager.names == []
    transfer.check()
    assert site.stop()["packets_read"] > 100
