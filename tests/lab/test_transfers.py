"""Not one byte of a transfer is lost, doubled or changed, whatever the links are like."""

import asyncio
import json
import resource
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from kracauer.lab import content
from kracauer.lab.topology import CLIENT, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download, upload
from kracauer.lab.wire import Impairment

pytestmark = pytest.mark.lab

MIB = 1 << 20
BuildSite = Callable[..., Lab]


def check_both_ways(lab: Lab, length: int, *, is_tls: bool = False) -> None:
    """Download and upload, first one after the other and then at once."""
    name, context = "www.example.com", lab.authority.client_context() if is_tls else None

    def down() -> str:
        with connect(lab.client, SERVICE, name, context) as connection:
            return download(connection, name, length)

    def up() -> str:
        with connect(lab.client, SERVICE, name, context) as connection:
            return upload(connection, name, length)

    expected = content.digest(length)
    assert down() == expected
    assert up() == expected
    with ThreadPoolExecutor(2) as pool:
        downloaded, uploaded = pool.submit(down), pool.submit(up)
        assert (downloaded.result(), uploaded.result()) == (expected, expected)


def test_large_transfers_arrive_whole_both_ways(either_site: Lab) -> None:
    check_both_ways(either_site, 64 * MIB)


def test_large_transfers_over_tls_arrive_whole_both_ways(either_site: Lab) -> None:
    check_both_ways(either_site, 32 * MIB, is_tls=True)


def test_transfers_arrive_whole_without_offloads(build_either_site: BuildSite) -> None:
    check_both_ways(build_either_site(Topology(has_offloads=False), network={"offloads": False}), 16 * MIB)


def test_transfers_arrive_whole_with_offloads_on_the_links_but_not_on_the_device(build_either_site: BuildSite) -> None:
    check_both_ways(build_either_site(network={"offloads": False}), 16 * MIB)


def test_transfers_arrive_whole_with_offloads_on_the_device_but_not_on_the_links(build_either_site: BuildSite) -> None:
    check_both_ways(build_either_site(Topology(has_offloads=False)), 16 * MIB)


@pytest.mark.parametrize("has_offloads", [True, False])
def test_transfers_arrive_whole_over_the_narrowest_ipv6_link(build_either_site: BuildSite, has_offloads: bool) -> None:
    network = {"ipv6_mtu": 1280, "offloads": has_offloads}
    lab = build_either_site(Topology(backend_mtu=1280, has_offloads=has_offloads), network=network)
    check_both_ways(lab, 16 * MIB)


def test_transfers_arrive_whole_over_a_narrow_ipv4_link(build_either_site: BuildSite) -> None:
    check_both_ways(build_either_site(Topology(client_mtu=1300), network={"ipv4_mtu": 1300}), 16 * MIB)


LOSSY = Impairment(loss=1, reorder=3, dup=1, delay_ms=1, jitter_ms=1)


@pytest.mark.parametrize("has_offloads", [True, False])
@pytest.mark.parametrize("side", ["client", "backend", "both"])
def test_transfers_arrive_whole_over_lossy_reordering_doubling_wires(
    build_either_site: BuildSite, side: str, has_offloads: bool
) -> None:
    topology = Topology(
        client_wire=LOSSY if side != "backend" else None,
        backend_wire=LOSSY if side != "client" else None,
        congestion_control="reno",
    )
    lab = build_either_site(topology, network={"offloads": has_offloads})
    check_both_ways(lab, 2 * MIB)
    for name, wire in lab.wires.items():
        assert wire.stop() == 0
        counters = json.loads(wire.log.splitlines()[-1])
        assert counters["unsendable"] == 0
        if name != "origin2":  # nobody talked to that one
            assert min(counters["lost"], counters["duplicated"], counters["reordered"]) > 0


@pytest.mark.parametrize("side", ["client", "backend"])
def test_corrupted_packets_are_found_out(build_either_site: BuildSite, side: str) -> None:
    # On one side only: of two flipped bits in one packet, one in 32 pairs leaves the checksum as it was
    spoiling = Impairment(corrupt=1, only="tcp", delay_ms=0.5)
    topology = Topology(
        client_wire=spoiling if side == "client" else None,
        backend_wire=spoiling if side == "backend" else None,
        congestion_control="reno",
    )
    check_both_ways(build_either_site(topology), 2 * MIB)


def test_many_short_connections_survive_a_lossy_wire(build_site: BuildSite) -> None:
    wire = Impairment(loss=3, reorder=5, dup=3, delay_ms=1)
    lab = build_site(Topology(client_wire=wire, backend_wire=wire))
    replies = asyncio.run(ask_all_at_once(lab, 100))
    check_replies(replies, 100)


def test_an_upload_that_ends_with_half_a_close_is_answered(either_site: Lab) -> None:
    with connect(either_site.client, SERVICE, "www.example.com") as connection:
        assert upload(connection, "www.example.com", 4 * MIB, is_half_closed=True) == content.digest(4 * MIB)


async def ask(connection: socket.socket, context: ssl.SSLContext | None) -> dict[str, object]:
    """Make one request on an unconnected socket and return what the origin saw, with our own port beside it."""
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (SERVICE, 443 if context else 80))
    port = connection.getsockname()[1]
    name = "www.example.com"
    reader, writer = await asyncio.open_connection(sock=connection, ssl=context, server_hostname=name if context else None)
    writer.write(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return {**json.loads(answer.partition(b"\r\n\r\n")[2]), "local_port": port}


async def ask_all_at_once(lab: Lab, count: int, context: ssl.SSLContext | None = None) -> list[dict[str, object]]:
    """Make many requests at the same moment."""
    connections = lab.client.call(lambda: [socket.socket() for _ in range(count)])
    for connection in connections:
        connection.setblocking(False)  # noqa: FBT003
    async with asyncio.timeout(60):
        return await asyncio.gather(*(ask(connection, context) for connection in connections))


def check_replies(replies: list[dict[str, object]], count: int) -> None:
    assert len({reply["port"] for reply in replies}) == count
    assert all(reply["port"] == reply["local_port"] and reply["client"] == CLIENT for reply in replies)


def test_hundreds_of_connections_at_once_are_all_answered(site: Lab) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard > 0 else 4096, hard))
    try:
        check_replies(asyncio.run(ask_all_at_once(site, 500)), 500)
        check_replies(asyncio.run(ask_all_at_once(site, 150, site.authority.client_context())), 150)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
