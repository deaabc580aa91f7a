"""Ping, traceroute and ICMP errors through Kracauer, as real kernels send and believe them (RFC 7915 §4.2, §5.2, RFC 6791)."""

import contextlib
import errno
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from kracauer.lab import configuration, content
from kracauer.lab.namespaces import NetworkNamespace
from kracauer.lab.topology import CLIENT, ORIGIN_1, PREFIX, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download

pytestmark = pytest.mark.lab

Find = Callable[[str], str]
IP_RECVERR = 11
IPV6_RECVERR = 25
NAME = "www.example.com"
BARE_NAME = "bare.example.com"
BARE_PORT = 8080
HOPS = 7  # of each path: two routers, ours as one of each family with Kracauer between, two routers
ROUTER_SOURCES = tuple(f"203.0.113.{number}" for number in range(129, 193))


def mapped(address: str) -> str:
    """The IPv6 address that stands for an IPv4 address."""
    return str(IPv6Network(PREFIX)[int(IPv4Address(address))])


MAPPED_SERVICE = mapped(SERVICE)


@contextlib.contextmanager
def long_paths(**network: object) -> Iterator[Lab]:
    """A lab with three IPv4 routers and three IPv6 routers, ours being one of each, between client and origin1."""
    with Lab(Topology(client_path_mtu=1500, backend_path_mtu=1500)) as lab:
        lab.start_origin("origin1")
        hosts = {NAME: ORIGIN_1, BARE_NAME: f"[{ORIGIN_1}]:{BARE_PORT}"}
        lab.start_daemon(configuration.render(hosts, network=network))
        yield lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with long_paths(router_sources=ROUTER_SOURCES) as lab:
        yield lab


@contextlib.contextmanager
def spliced(lab: Lab) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection through Kracauer as both its ends: the client's socket and the backend's."""
    listener = lab.origin1.call(lambda: socket.create_server(("::", BARE_PORT), family=socket.AF_INET6))
    with listener, connect(lab.client, SERVICE, BARE_NAME) as client:
        listener.settimeout(5)
        client.sendall(f"GET / HTTP/1.1\r\nHost: {BARE_NAME}\r\n\r\n".encode())
        backend, _ = listener.accept()
        with backend:
            backend.settimeout(5)
            received = b""
            while not received.endswith(b"\r\n\r\n"):
                received += backend.recv(1000)
            backend.sendall(b"hello")
            assert client.recv(5, socket.MSG_WAITALL) == b"hello"
            for end in (client, backend):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield client, backend


@dataclass(frozen=True, slots=True)
class Heard:
    """An ICMP error as it came in: from whom, what it says, and what the program was told of it (None: nothing)."""

    offender: str
    type: int
    code: int
    errno: int | None


class Ear:
    """Listens in a namespace to the ICMP errors about one connected socket, and to whether the kernel believes them.

    It does so only if the quoted packet is one that the socket has under way (RFC 5927 §4.1).
    """

    def __init__(self, namespace: NetworkNamespace, connection: socket.socket) -> None:
        self.connection = connection
        self.is_v6 = connection.family == socket.AF_INET6
        protocol = socket.IPPROTO_ICMPV6 if self.is_v6 else socket.IPPROTO_ICMP
        self._raw = namespace.open_socket(connection.family, socket.SOCK_RAW, protocol)
        if self.is_v6:
            connection.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        else:
            connection.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)

    def close(self) -> None:
        self._raw.close()

    def send_and_hear(self, ttl: int = 64) -> Heard:
        """Send a byte with this TTL and return the error that comes of it; TimeoutError when there is none."""
        option = (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) if self.is_v6 else (socket.IPPROTO_IP, socket.IP_TTL)
        self.connection.setsockopt(*option, ttl)
        self._forget()
        self.connection.send(b".")
        while True:
            data, (offender, *_) = self._raw.recvfrom(65_535)
            message = data if self.is_v6 else data[(data[0] & 0x0F) * 4 :]
            if message[0] in ((1, 2, 3, 4) if self.is_v6 else (3, 11, 12)):
                break
        poller = select.poll()
        poller.register(self.connection, 0)  # an error is always told
        poller.poll(1000)
        error = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return Heard(offender, message[0], message[1], error or None)

    def _forget(self) -> None:
        """Leave aside what retransmissions have brought meanwhile."""
        self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._raw.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while self._raw.recv(65_535):
                pass
        self._raw.settimeout(3)


@contextlib.contextmanager
def ear(namespace: NetworkNamespace, connection: socket.socket) -> Iterator[Ear]:
    """Listen, and in the end let packets go far again."""
    listening = Ear(namespace, connection)
    try:
        yield listening
    finally:
        listening.close()
        if listening.is_v6:
            connection.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 64)
        else:
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 64)


def trace(lab: Lab, *, is_backend: bool = False) -> list[Heard]:
    """Send a byte with each TTL that the path uses up, each over a connection of its own, which goes on afterwards."""
    found = []
    for ttl in range(1, HOPS + 1):
        with spliced(lab) as (client, backend):
            sender, receiver, namespace = (backend, client, lab.origin1) if is_backend else (client, backend, lab.client)
            with ear(namespace, sender) as listening:
                found.append(listening.send_and_hear(ttl))
            if ttl == HOPS:
                check_ends_hear_each_other(sender, receiver)
    return found


def check_ends_hear_each_other(sender: socket.socket, receiver: socket.socket) -> None:
    """What was sent while it could not arrive is not lost for good."""
    sender.settimeout(5)
    sender.sendall(b"!")
    assert receiver.recv(2, socket.MSG_WAITALL) == b".!"


def ping(namespace: NetworkNamespace, program: Find, address: str, *options: str) -> None:
    result = namespace.run([program("ping"), "-n", "-c", "3", "-i", "0.05", "-W", "2", *options, address])
    assert b" 3 received, 0% packet loss" in result.stdout, result.stdout + result.stderr


@pytest.mark.parametrize("discovery", ["do", "want", "dont"])
def test_a_service_address_answers_ping(lab: Lab, program: Find, discovery: str) -> None:
    ping(lab.client, program, SERVICE, "-M", discovery)


@pytest.mark.parametrize(("size", "discovery"), [(1452, "do"), (4000, "want"), (4000, "dont"), (60_000, "dont")])
def test_a_service_address_answers_large_pings_in_fragments(lab: Lab, program: Find, size: int, discovery: str) -> None:
    ping(lab.client, program, SERVICE, "-s", str(size), "-M", discovery)


@pytest.mark.parametrize("size", [56, 1452, 4000, 60_000])
def test_the_services_address_in_the_prefix_answers_a_backends_ping(lab: Lab, program: Find, size: int) -> None:
    ping(lab.origin1, program, MAPPED_SERVICE, "-s", str(size))


def test_another_address_in_the_prefix_answers_no_ping(lab: Lab, program: Find) -> None:
    result = lab.origin1.run([program("ping"), "-n", "-c", "1", "-W", "0.2", mapped("198.51.100.77")])
    assert b" 0 received" in result.stdout


def test_a_traceroute_over_udp_ends_at_the_service(lab: Lab) -> None:
    with lab.client.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, ear(lab.client, probe) as listening:
        probe.connect((SERVICE, 33_434))
        found = [listening.send_and_hear(ttl) for ttl in range(1, 5)]
    assert [error.offender for error in found] == ["192.0.2.1", "203.0.113.5", "203.0.113.1", SERVICE]
    assert [error.errno for error in found] == [errno.EHOSTUNREACH] * 3 + [errno.ECONNREFUSED]


def test_a_client_traces_its_connection_through_the_routers_on_both_sides(lab: Lab) -> None:
    found = trace(lab)
    assert {(error.type, error.code, error.errno) for error in found} == {(11, 0, errno.EHOSTUNREACH)}
    offenders = [error.offender for error in found]
    assert offenders[:4] == ["192.0.2.1", "203.0.113.5", "203.0.113.1", SERVICE]
    assert set(offenders[4:]) <= set(ROUTER_SOURCES)
    assert len(set(offenders[4:])) == 3


def test_routers_without_an_ipv4_address_show_the_services_where_they_are_given_none() -> None:
    with long_paths() as lab:
        found = trace(lab)
    assert [error.offender for error in found[3:]] == [SERVICE] * 4


def test_a_backend_traces_its_connection_through_the_routers_on_both_sides(lab: Lab) -> None:
    found = trace(lab, is_backend=True)
    assert {(error.type, error.code, error.errno) for error in found} == {(3, 0, errno.EHOSTUNREACH)}
    offenders = [error.offender for error in found]
    assert offenders[:4] == ["2001:db8:1::1", "2001:db8:11::1", "2001:db8:10::1", MAPPED_SERVICE]
    assert all(IPv6Address(offender) in IPv6Network(PREFIX) for offender in offenders[4:])
    assert offenders[5:] == [mapped("203.0.113.2"), mapped("203.0.113.6")]


@pytest.mark.parametrize(
    ("kind", "code", "number"),
    [("unreachable", 1, errno.EHOSTUNREACH), ("prohibit", 10, errno.EHOSTUNREACH)],
)
def test_a_client_hears_that_its_backend_is_out_of_reach_and_goes_on_when_it_is_back(
    lab: Lab, kind: str, code: int, number: int
) -> None:
    near = lab.hops["origin1-near"]
    with spliced(lab) as (client, backend):
        with ear(lab.client, client) as listening, blocked(near, kind, ORIGIN_1):
            error = listening.send_and_hear()
        check_ends_hear_each_other(client, backend)
    assert (error.type, error.code, error.errno) == (3, code, number)
    assert error.offender in ROUTER_SOURCES


@pytest.mark.parametrize(
    ("kind", "code", "number"),
    [("unreachable", 0, errno.ENETUNREACH), ("prohibit", 1, errno.EACCES)],
)
def test_a_backend_hears_that_its_client_is_out_of_reach_and_goes_on_when_it_is_back(
    lab: Lab, kind: str, code: int, number: int
) -> None:
    near = lab.hops["client-near"]
    with spliced(lab) as (client, backend):
        with ear(lab.origin1, backend) as listening, blocked(near, kind, CLIENT):
            error = listening.send_and_hear()
        check_ends_hear_each_other(backend, client)
    assert (error.type, error.code, error.errno) == (1, code, number)
    assert error.offender == mapped("203.0.113.2")


@contextlib.contextmanager
def blocked(router: NetworkNamespace, kind: str, address: str) -> Iterator[None]:
    """Have a router refuse to forward to an address."""
    assert router.run(["ip", "route", "add", kind, address]).returncode == 0
    try:
        yield
    finally:
        assert router.run(["ip", "route", "del", kind, address]).returncode == 0


@pytest.mark.parametrize("side", ["client", "origin1"])
def test_a_transfer_survives_a_path_that_comes_and_goes(lab: Lab, side: str) -> None:
    length, digests = 2 << 20, list[str]()
    with connect(lab.client, SERVICE, NAME) as connection:
        transfer = threading.Thread(target=lambda: digests.append(download(connection, NAME, length, 2 << 20)))
        transfer.start()
        for _ in range(3):
            time.sleep(0.1)
            with blocked(lab.hops[f"{side}-near"], "unreachable", {"client": CLIENT, "origin1": ORIGIN_1}[side]):
                time.sleep(0.1)
        transfer.join(30)
    assert digests == [content.digest(length)]
