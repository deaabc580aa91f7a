"""Narrow links in the middle of a path are discovered by ICMP alone, whatever the configuration says (RFC 1191, RFC 8201)."""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kracauer.lab import content
from kracauer.lab.links import set_mtu
from kracauer.lab.namespaces import NetworkNamespace
from kracauer.lab.topology import MAPPED_CLIENT, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download, upload
from kracauer.lab.visits import visit

pytestmark = pytest.mark.lab

BuildSite = Callable[..., Lab]
NAME = "www.example.com"
LENGTH = 4 << 20
SYN, ACK = 0x02, 0x10

PATHS: dict[str, dict[str, Any]] = {
    "ipv6-1400": {"backend_path_mtu": 1400},
    "ipv4-1300": {"client_path_mtu": 1300},
    "ipv4-1000": {"client_path_mtu": 1000},
    "both": {"client_path_mtu": 1300, "backend_path_mtu": 1400},
}


def move_download(lab: Lab, length: int = LENGTH) -> None:
    with connect(lab.client, SERVICE, NAME) as connection:
        assert download(connection, NAME, length) == content.digest(length)


def move_upload(lab: Lab, length: int = LENGTH) -> None:
    with connect(lab.client, SERVICE, NAME) as connection:
        assert upload(connection, NAME, length) == content.digest(length)


MOVES = {"download": move_download, "upload": move_upload}


@contextlib.contextmanager
def mss_seen(namespace: NetworkNamespace, family: int, flags: int) -> Iterator[list[int]]:
    """Gather the MSS options of segments with SYN and just these flags that come into a namespace."""
    seen: list[int] = []
    with namespace.open_socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as tap:
        tap.settimeout(0)
        yield seen
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, (source, *_) = tap.recvfrom(65535)
                if family == socket.AF_INET6 and source != MAPPED_CLIENT:
                    continue  # a probe of Kracauer's own
                segment = packet[(packet[0] & 0x0F) * 4 :] if family == socket.AF_INET else packet
                # The MSS is the first option that Linux and Kracauer write (RFC 9293 §3.7.1)
                if segment[13] & (SYN | ACK) == flags and segment[20:22] == b"\x02\x04":
                    seen += struct.unpack_from("!H", segment, 22)


@pytest.mark.parametrize("has_offloads", [True, False], ids=["offloads", "no-offloads"])
@pytest.mark.parametrize("direction", MOVES)
@pytest.mark.parametrize("path", PATHS)
def test_a_first_transfer_over_a_narrow_path_arrives_whole(
    build_either_site: BuildSite, path: str, direction: str, has_offloads: bool
) -> None:
    lab = build_either_site(Topology(has_offloads=has_offloads, **PATHS[path]), network={"offloads": has_offloads})
    MOVES[direction](lab)


@pytest.mark.parametrize("has_offloads", [True, False], ids=["offloads", "no-offloads"])
@pytest.mark.parametrize(
    ("path", "direction", "learnt"),
    [("ipv6-1400", "upload", 1380), ("ipv4-1300", "download", 1320), ("ipv4-1000", "download", 1280)],
)
def test_the_sender_is_told_the_mtu_in_its_own_familys_terms(
    build_site: BuildSite, path: str, direction: str, learnt: int, has_offloads: bool
) -> None:
    lab = build_site(Topology(has_offloads=has_offloads, **PATHS[path]), network={"offloads": has_offloads})
    sender, peer = (lab.client, SERVICE) if direction == "upload" else (lab.origin1, MAPPED_CLIENT)
    assert b"mtu" not in route(sender, peer)
    MOVES[direction](lab)
    assert f"mtu {learnt} ".encode() in route(sender, peer)


def route(namespace: NetworkNamespace, address: str) -> bytes:
    return namespace.run(["ip", "route", "get", address]).stdout


def test_a_second_client_is_offered_segments_that_fit_the_narrow_ipv6_path(build_site: BuildSite) -> None:
    lab = build_site(Topology(**PATHS["ipv6-1400"]))
    with mss_seen(lab.client, socket.AF_INET, SYN | ACK) as before:
        move_upload(lab)
    with mss_seen(lab.client, socket.AF_INET, SYN | ACK) as after:
        visit(lab.client, "http", NAME, SERVICE)
    assert (set(before), set(after)) == ({1440}, {1340})


@pytest.mark.parametrize(("path", "mss"), [("ipv4-1300", 1260), ("ipv4-1000", 960)])
def test_a_second_backend_connection_is_told_what_the_narrow_ipv4_path_takes(
    build_site: BuildSite, path: str, mss: int
) -> None:
    lab = build_site(Topology(**PATHS[path]))
    with mss_seen(lab.origin1, socket.AF_INET6, SYN) as before:
        move_download(lab)
    with mss_seen(lab.origin1, socket.AF_INET6, SYN) as after:
        visit(lab.client, "http", NAME, SERVICE)
    assert (set(before), set(after)) == ({1440}, {mss})


@pytest.mark.parametrize("has_offloads", [True, False], ids=["offloads", "no-offloads"])
@pytest.mark.parametrize("path", [None, "both"])
def test_a_client_that_knows_no_path_mtu_discovery_uploads_and_downloads(
    build_site: BuildSite, path: str | None, has_offloads: bool
) -> None:
    topology = Topology(has_offloads=has_offloads, **(PATHS[path] if path else {}))
    lab = build_site(topology, network={"offloads": has_offloads})
    for mode in (2, 1):  # DF clear in all that it sends; in mode 2 it does not listen to Fragmentation Needed either
        lab.client.sysctl("net.ipv4.ip_no_pmtu_disc", mode)
        before = counter(lab.origin1, "Ip6ReasmOKs")
        move_upload(lab)
        # It was offered segments that need no cutting, so none arrives in fragments.
        assert counter(lab.origin1, "Ip6ReasmOKs") == before
        move_download(lab)


def counter(namespace: NetworkNamespace, name: str) -> int:
    """One of a namespace's IPv6 counters (RFC 4293)."""
    table = namespace.call(lambda: Path("/proc/thread-self/net/snmp6").read_text(encoding="ascii"))
    return next(int(line.split()[1]) for line in table.splitlines() if line.split()[0] == name)


@pytest.mark.parametrize("direction", MOVES)
@pytest.mark.parametrize(("path", "mtu"), [("client", 1300), ("origin1", 1400)])
def test_a_path_that_gets_narrow_under_a_connection_is_discovered_by_it(
    build_either_site: BuildSite, path: str, mtu: int, direction: str
) -> None:
    lab = build_either_site(Topology(client_path_mtu=1500, backend_path_mtu=1500))
    with connect(lab.client, SERVICE, NAME) as connection:
        connection.sendall(f"GET /bytes/0 HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        while not connection.recv(65536).endswith(b"\r\n\r\n"):
            pass
        set_mtu((lab.hops[f"{path}-near"], "end"), mtu)
        set_mtu((lab.hops[f"{path}-far"], "router"), mtu)
        move = download if direction == "download" else upload
        assert move(connection, NAME, LENGTH) == content.digest(LENGTH)
