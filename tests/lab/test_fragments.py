"""TCP in fragments gets through, as kernels and routers make them (RFC 791 §3.2, RFC 7915 §4, §5)."""

import itertools
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from packets import Packet, build
from raw_packets import cut_v4

from kracauer.lab import configuration, content
from kracauer.lab.namespaces import NetworkNamespace
from kracauer.lab.topology import CLIENT, ORIGIN_1, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, upload

pytestmark = pytest.mark.lab

BuildSite = Callable[..., Lab]
NAME = "www.example.com"
BARE_PORT = 8080
LENGTH = 2 << 20


def fragments_made(namespace: NetworkNamespace) -> int:
    """How many IPv4 fragments a namespace has made (RFC 4293, ipSystemStatsOutFragCreates)."""
    table = namespace.call(lambda: Path("/proc/thread-self/net/snmp").read_text(encoding="ascii"))
    names, values = (line.split() for line in table.splitlines() if line.startswith("Ip: "))
    return int(dict(zip(names, values, strict=True))["FragCreates"])


@pytest.mark.parametrize("has_offloads", [True, False], ids=["offloads", "no-offloads"])
@pytest.mark.parametrize("mtu", [576, 1000])
def test_an_upload_that_a_router_cuts_to_pieces_arrives_whole(build_site: BuildSite, mtu: int, has_offloads: bool) -> None:
    topology = Topology(client_path_mtu=mtu, has_offloads=has_offloads)
    lab = build_site(topology, network={"offloads": has_offloads})
    lab.client.sysctl("net.ipv4.ip_no_pmtu_disc", 2)  # DF is clear, and nobody listens to Fragmentation Needed
    with connect(lab.client, SERVICE, NAME) as connection:
        assert upload(connection, NAME, LENGTH) == content.digest(LENGTH)
    assert fragments_made(lab.hops["client-far"]) > LENGTH / 1440


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    with Lab() as lab:
        lab.client.sysctl("net.ipv4.tcp_timestamps", 0)
        lab.start_daemon(configuration.render({NAME: f"[{ORIGIN_1}]:{BARE_PORT}"}))
        yield lab


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_a_clients_segment_in_fragments_arrives_in_any_order(bare: Lab, order: tuple[int, ...]) -> None:
    listener = bare.origin1.call(lambda: socket.create_server(("::", BARE_PORT), family=socket.AF_INET6))
    tap = bare.client.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    sender = bare.client.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with listener, tap, sender, connect(bare.client, SERVICE, NAME) as client:
        port = client.getsockname()[1]
        listener.settimeout(5)
        head = f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
        client.sendall(head)
        backend, _ = listener.accept()
        with backend:
            backend.settimeout(5)
            assert backend.recv(len(head), socket.MSG_WAITALL) == head
            backend.sendall(b"!")
            assert client.recv(1) == b"!"
            seq, ack = numbers_after(tap, port)
            payload = bytes(range(250)) * 4
            addresses = IPv4Address(CLIENT).packed, IPv4Address(SERVICE).packed
            pieces = cut_v4(build(Packet(*addresses, port, 80, 0x018, seq, ack, payload=payload))[1], 400, 800)
            for index in order:
                sender.sendto(pieces[index], (SERVICE, 0))
            assert backend.recv(len(payload), socket.MSG_WAITALL) == payload


def numbers_after(tap: socket.socket, port: int) -> tuple[int, int]:
    """What a client is to send next, in its own numbers and the service's, by the last segment that carries data to it."""
    tap.settimeout(5)
    while True:
        packet = tap.recv(65_535)
        segment = packet[20:]
        payload = len(segment) - (segment[12] >> 4) * 4
        if int.from_bytes(segment[2:4], "big") == port and payload:
            seq, ack = int.from_bytes(segment[4:8], "big"), int.from_bytes(segment[8:12], "big")
            return ack, (seq + payload) % 2**32
