"""Whole connections through the daemon, with an engine that hands them to the kernel as soon as they are spliced."""

import socket
import struct
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kracauer.lab import configuration, content
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import CLIENT, DAEMON_READY, ORIGIN_1, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download, upload
from kracauer.lab.wire import Impairment
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath

pytestmark = pytest.mark.lab

DRIVER = Path(__file__).parent.parent / "support" / "offloading_daemon.py"
NAME = "www.example.com"
MIB = 1 << 20
Site = Callable[..., tuple[Lab, BackgroundProcess]]


@pytest.fixture
def build_site(build_lab: Callable[[Topology], Lab]) -> Iterator[Site]:
    daemons = []

    def build(topology: Topology | None = None, **tables: dict[str, object]) -> tuple[Lab, BackgroundProcess]:
        try:
            KernelPath.open(1).close()
        except OffloadError as error:
            pytest.skip(str(error))
        lab = build_lab(topology or Topology())
        lab.start_origin("origin1")
        path = lab.directory / "kracauer-config.toml"
        path.write_text(configuration.render({NAME: ORIGIN_1}, ((SERVICE, 80, "http"),), **tables), encoding="utf-8")
        command: list[str | Path] = [sys.executable, DRIVER, "run", "-c", path]
        daemon = lab.start("kracauer", lab.router, command, {"RUNTIME_DIRECTORY": str(lab.directory / "run")})
        daemon.wait_for(DAEMON_READY)
        daemons.append(daemon)
        return lab, daemon

    yield build
    for daemon in daemons:
        if daemon.is_running:
            assert daemon.stop() == 0, daemon.log


def stop(daemon: BackgroundProcess) -> dict[str, object]:
    """What the daemon says at its end; it must not have met an error of its own."""
    assert daemon.stop() == 0, daemon.log
    stopped = daemon.events[-1]
    assert stopped["internal_errors"] == 0, daemon.log
    assert "attached" in daemon.log
    return stopped


def check_both_ways(lab: Lab, length: int) -> None:
    def down() -> str:
        with connect(lab.client, SERVICE, NAME) as connection:
            return download(connection, NAME, length)

    def up() -> str:
        with connect(lab.client, SERVICE, NAME) as connection:
            return upload(connection, NAME, length, is_half_closed=True)

    expected = content.digest(length)
    assert down() == expected
    assert up() == expected
    with ThreadPoolExecutor(2) as pool:
        downloaded, uploaded = pool.submit(down), pool.submit(up)
        assert (downloaded.result(), uploaded.result()) == (expected, expected)


def test_large_transfers_arrive_whole_and_hardly_a_packet_crosses_the_daemon(build_site: Site) -> None:
    lab, daemon = build_site()
    check_both_ways(lab, 16 * MIB)
    read = stop(daemon)["packets_read"]
    assert isinstance(read, int)
    assert read < 100  # of thousands, super-packets though they are


@pytest.mark.parametrize("has_offloads", [True, False])
def test_transfers_arrive_whole_over_lossy_reordering_doubling_wires(build_site: Site, has_offloads: bool) -> None:
    harm = Impairment(loss=1, reorder=3, dup=1, delay_ms=1, jitter_ms=1)
    topology = Topology(client_wire=harm, backend_wire=harm, has_offloads=has_offloads)
    lab, daemon = build_site(topology, network={"offloads": has_offloads})
    check_both_ways(lab, 2 * MIB)
    stop(daemon)


def test_transfers_arrive_whole_over_the_narrowest_ipv6_link(build_site: Site) -> None:
    lab, daemon = build_site(Topology(backend_mtu=1280), network={"ipv6_mtu": 1280})
    check_both_ways(lab, 4 * MIB)
    stop(daemon)


def test_a_path_that_turns_out_to_be_narrow_is_found_out(build_site: Site) -> None:
    """The error about a packet of the kernel's is judged by what the kernel has seen acknowledged."""
    lab, daemon = build_site(Topology(client_path_mtu=1300, backend_path_mtu=1300))
    check_both_ways(lab, 2 * MIB)
    stop(daemon)


def test_an_access_record_counts_what_the_kernel_carried(build_site: Site) -> None:
    lab, daemon = build_site(None, timeouts={"transitory_s": 1, "below_rfc_floors": True})
    length = 3 * MIB
    with connect(lab.client, SERVICE, NAME) as connection:
        assert download(connection, NAME, length) == content.digest(length)
    daemon.wait_for('"flow_closed"', 10)
    (closed,) = [event for event in daemon.events if event["event"] == "flow_closed"]
    assert closed["reason"] == "finished"
    assert length < closed["bytes_to_client"] < length + 1000
    stop(daemon)


def test_a_port_that_is_used_again_at_once_meets_nothing_stale(build_site: Site) -> None:
    """Reset after half of its bytes, again and again from one port: a stale entry would spoil the next connection."""
    lab, daemon = build_site()
    for _ in range(25):
        connection = lab.client.open_socket()
        connection.settimeout(5)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.bind((CLIENT, 40000))
        connection.connect((SERVICE, 80))
        connection.sendall(f"GET /bytes/{MIB} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode("ascii"))
        received = 0
        while received < MIB // 2:
            part = connection.recv(1 << 16)
            assert part
            received += len(part)
        connection.close()
    stop(daemon)
