"""What the kernel carries fares on bad, narrow and guarded paths as what is merely forwarded."""

import contextlib
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import fast_lane
import pytest
from fast_lane import in_the_kernel
from packets import FLAGS, Packet, build

from kracauer.lab import content
from kracauer.lab.namespaces import NetworkNamespace
from kracauer.lab.topology import MAPPED_CLIENT, ORIGIN_1, PREFIX, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download, upload
from kracauer.lab.wire import Impairment

pytestmark = pytest.mark.lab

NAME = "www.example.com"
MIB = 1 << 20
MOVES: dict[str, Callable[[socket.socket, str, int], str]] = {"download": download, "upload": upload}
SO_RCVBUFFORCE = 33  # socket(7), on all but a few old architectures
WITHOUT_SACK = ("delta = next_delta = change->ack;", "delta = next_delta = 0;")
Start = Callable[..., Lab]


@pytest.fixture
def start(build_lab: Callable[[Topology], Lab]) -> Iterator[Start]:
    """Start an origin and a daemon that has to have its fast path, and must not meet an error of its own.

    `settings` are for both ends, before anything is started; `options` are those of `fast_lane.start_daemon`.
    """
    fast_lane.skip_without_fast_path()
    labs = []

    def build(
        topology: Topology | None = None,
        alteration: tuple[str, str] | None = None,
        *,
        settings: Mapping[str, int] = MappingProxyType({}),
        **options: Any,
    ) -> Lab:
        lab = build_lab(topology or Topology())
        labs.append(lab)
        for namespace in (lab.client, lab.origin1):
            for key, value in settings.items():
                namespace.sysctl(key, value)
        lab.start_origin("origin1")
        fast_lane.start_daemon(lab, {NAME: ORIGIN_1}, alteration, **options)
        return lab

    yield build
    for lab in labs:
        if lab.daemon is not None and lab.daemon.is_running:
            assert lab.daemon.stop() == 0, lab.daemon.log
            assert lab.daemon.events[-1]["internal_errors"] == 0, lab.daemon.log


def statistics_of(namespace: NetworkNamespace) -> dict[str, int]:
    """What a namespace's stacks have counted: those of netstat and snmp, and those of snmp6."""

    def read(name: str) -> list[list[str]]:
        text = namespace.call(lambda: Path(f"/proc/thread-self/net/{name}").read_text(encoding="ascii"))
        return [line.split() for line in text.splitlines()]

    found: dict[str, int] = {}
    for table in ("netstat", "snmp"):
        rows = read(table)
        for names, values in zip(rows[::2], rows[1::2], strict=True):
            found |= {f"{names[0]}{name}": int(value) for name, value in zip(names[1:], values[1:], strict=True)}
    return found | {name: int(value) for name, value in read("snmp6")}


@contextlib.contextmanager
def counted(namespace: NetworkNamespace) -> Iterator[Callable[[str], int]]:
    """What is counted from now on, by name."""
    before = statistics_of(namespace)
    yield lambda name: statistics_of(namespace).get(name, 0) - before.get(name, 0)


def move(lab: Lab, direction: str, length: int, address: str = SERVICE) -> float:
    """Move content, be sure of it, and return how long it took."""
    began = time.monotonic()
    with connect(lab.client, address, NAME) as connection:
        assert MOVES[direction](connection, NAME, length) == content.digest(length)
    return time.monotonic() - began


# Loss


def compare_under_loss(lab: Lab, direction: str) -> float:
    """How long a transfer takes through the service, in times of what it takes without, in the median of three of each."""
    seconds: dict[str, list[float]] = {ORIGIN_1: [], SERVICE: []}
    for _ in range(3):
        for address, taken in seconds.items():
            taken.append(move(lab, direction, 3 * MIB, address))
    return statistics.median(seconds[SERVICE]) / statistics.median(seconds[ORIGIN_1])


@pytest.mark.parametrize("loss", [0.5, 1])
@pytest.mark.parametrize("direction", MOVES)
@pytest.mark.parametrize("side", ["client", "backend"])
def test_loss_is_repaired_as_fast_as_where_packets_are_merely_forwarded(
    start: Start, side: str, direction: str, loss: float
) -> None:
    wire = Impairment(loss=loss, delay_ms=1)
    lab = start(Topology(client_wire=wire) if side == "client" else Topology(backend_wire=wire))
    sender = lab.origin1 if direction == "download" else lab.client
    with counted(sender) as count, in_the_kernel(lab, connections=3, besides=30):
        assert compare_under_loss(lab, direction) < 3  # with edges that nobody believes it is thirty
    assert count("TcpExt:TCPSackRecovery") > 0
    assert count("TcpExt:TCPSACKDiscard") == 0


def test_with_edges_that_the_sender_does_not_believe_loss_is_not_repaired(start: Start) -> None:
    """What the test above would see of a program that leaves SACK blocks as they are."""
    lab = start(Topology(client_wire=Impairment(loss=1, delay_ms=1)), WITHOUT_SACK)
    with counted(lab.origin1) as count:
        assert compare_under_loss(lab, "download") > 6
    assert count("TcpExt:TCPSACKDiscard") > 100


@pytest.mark.parametrize("has_offloads", [True, False])
def test_transfers_arrive_whole_over_lossy_reordering_doubling_wires(start: Start, has_offloads: bool) -> None:
    harm = Impairment(loss=1, reorder=3, dup=1, delay_ms=1, jitter_ms=1)
    topology = Topology(client_wire=harm, backend_wire=harm, has_offloads=has_offloads)
    lab = start(topology, offloads=has_offloads)
    with in_the_kernel(lab, connections=2, besides=60):
        for direction in MOVES:
            move(lab, direction, 2 * MIB)


# Paths that are narrow


def test_transfers_arrive_whole_over_the_narrowest_ipv6_link(start: Start) -> None:
    lab = start(Topology(backend_mtu=1280), ipv6_mtu=1280)
    with in_the_kernel(lab, connections=2):
        for direction in MOVES:
            move(lab, direction, 8 * MIB)


@pytest.mark.parametrize("has_offloads", [True, False])
@pytest.mark.parametrize("direction", MOVES)
def test_a_path_that_turns_out_to_be_narrow_is_found_out_by_both_sides(
    start: Start, direction: str, has_offloads: bool
) -> None:
    """The errors come to the daemon, which judges them by what only the kernel has seen acknowledged."""
    lab = start(Topology(client_path_mtu=1300, backend_path_mtu=1400, has_offloads=has_offloads), offloads=has_offloads)
    sender, error = (lab.origin1, "Icmp6InPktTooBigs") if direction == "download" else (lab.client, "IcmpMsg:InType3")
    with counted(sender) as count, in_the_kernel(lab, besides=150):
        move(lab, direction, 8 * MIB)
    assert count(error) > 0


def test_a_backend_that_sends_more_than_fits_is_told_by_the_daemon(start: Start) -> None:
    """With a route that takes it, the packet gets as far as the program, which leaves it alone."""
    lab = start(Topology(client_mtu=1300), ipv4_mtu=1300)
    with connect(lab.client, SERVICE, NAME) as connection:
        port = connection.getsockname()[1]
        connection.sendall(f"GET /bytes/{MIB} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode("ascii"))
        received = 0
        while received < MIB:
            received += len(connection.recv(1 << 18))
        wide = f"-6 route replace {PREFIX} dev kracauer0 proto 198 metric 1024 mtu 1500"
        assert lab.router.run(["ip", *wide.split()]).returncode == 0
        with counted(lab.origin1) as count:
            send_too_much(lab, port)
            deadline = time.monotonic() + 5
            while not count("Icmp6InPktTooBigs") and time.monotonic() < deadline:
                time.sleep(0.01)
            assert count("Icmp6InPktTooBigs") > 0
    dropped = fast_lane.counters(lab)["dropped"]
    assert dropped["too_big"] > 0


def send_too_much(lab: Lab, port: int) -> None:
    """Send a segment of the flow that fits the router's links and not the client's, as a backend that ignores the MSS."""
    backend, client = (socket.inet_pton(socket.AF_INET6, address) for address in (ORIGIN_1, MAPPED_CLIENT))
    _, packet = build(Packet(backend, client, 80, port, FLAGS["A"], payload=bytes(1380)))
    with lab.origin1.open_socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        sender.sendto(packet, (MAPPED_CLIENT, 0))


# IPv4 packets that may be fragmented


def tap_of(lab: Lab) -> socket.socket:
    tap = lab.client.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
    tap.settimeout(0)
    return tap


def test_small_packets_may_be_fragmented_and_have_numbers_that_differ(start: Start) -> None:
    lab = start(Topology(client_mtu=1260, client_path_mtu=1260, has_offloads=False), ipv4_mtu=1260)
    with tap_of(lab) as tap, in_the_kernel(lab, besides=50):
        move(lab, "download", 4 * MIB)
        numbers = []
        with contextlib.suppress(BlockingIOError):
            while packet := tap.recv(65_536):
                number, fragment = struct.unpack_from("!HH", packet, 4)
                if len(packet) > 1000:
                    assert fragment == 0  # DF is clear (RFC 7915 §5.1)
                    numbers.append(number)
    in_kernels_half = [number for number in numbers if number >= 0x8000]
    assert len(in_kernels_half) > 3000
    assert len(set(in_kernels_half)) == len(in_kernels_half)
    assert len(numbers) - len(in_kernels_half) < 50  # the daemon's


def test_small_packets_that_a_router_fragments_are_put_together_rightly(start: Start) -> None:
    lab = start(Topology(client_mtu=1260, client_path_mtu=576), ipv4_mtu=1260)
    with counted(lab.client) as count, in_the_kernel(lab, besides=50):
        move(lab, "download", 8 * MIB)
    assert count("Ip:ReasmOKs") > 5000
    assert count("Ip:ReasmFails") == 0


# Firewalls and marks

FIREWALL = """
table inet guard {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state invalid counter drop comment "invalid"
        fib saddr . iif oif missing counter drop comment "reversed"
        ct state established,related accept
        iifname "client0" oifname "kracauer0" ct state new accept
        iifname "kracauer0" oifname "origin1" ct state new accept
        icmpv6 type { packet-too-big, destination-unreachable, time-exceeded } accept
        counter drop comment "other"
    }
}
"""


def nft(lab: Lab, program: Callable[[str], str], rules: str) -> None:
    result = lab.router.run([program("nft"), "-f", "-"], stdin=rules.encode("ascii"))
    if result.returncode and b"not supported" in result.stderr:
        pytest.skip(f"this kernel lacks what the rules need: {result.stderr.decode().splitlines()[0]}")
    assert result.returncode == 0, result.stderr.decode()


def drops(lab: Lab, program: Callable[[str], str]) -> list[int]:
    """What the firewall has counted of packets, in the order of its rules."""
    listing = lab.router.run([program("nft"), "list", "ruleset"]).stdout.decode().split()
    return [int(listing[at + 1]) for at, word in enumerate(listing) if word == "packets"]


@pytest.mark.parametrize("has_offloads", [True, False])
def test_a_firewall_that_follows_connections_drops_nothing(
    start: Start, program: Callable[[str], str], has_offloads: bool
) -> None:
    lab = start(Topology(has_offloads=has_offloads), offloads=has_offloads)
    for scope in ("all", "client0", "kracauer0"):
        lab.router.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 1)
    nft(lab, program, FIREWALL)
    with in_the_kernel(lab, connections=4, besides=200), counted(lab.router) as count:
        for direction in MOVES:
            move(lab, direction, 16 * MIB)
            move(lab, direction, 100_000)
    assert drops(lab, program) == [0, 0, 0]
    assert count("TcpExt:IPReversePathFilter") == 0
    # It does watch: what belongs to no connection is dropped.
    lab.router.run([program("nft"), "flush", "chain", "inet", "guard", "forward"])
    with lab.client.open_socket() as connection:
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.connect((SERVICE, 80))


MARKS = """
table inet marks {
    chain forward {
        type filter hook forward priority 0;
        iifname "%s" ip6 ecn ect0 numgen random mod 100 < 5 ip6 ecn set ce
        iifname "%s" ip ecn ect0 numgen random mod 100 < 5 ip ecn set ce
    }
}
"""


@pytest.mark.parametrize("direction", MOVES)
def test_marks_of_congestion_reach_the_other_end_and_slow_its_sender(
    start: Start, program: Callable[[str], str], direction: str
) -> None:
    lab = start(Topology(has_offloads=False), profile={"ecn": True}, settings={"net.ipv4.tcp_ecn": 1})
    nft(lab, program, MARKS % (("origin1", "nowhere") if direction == "download" else ("nowhere", "client0")))
    sender, receiver = (lab.origin1, lab.client) if direction == "download" else (lab.client, lab.origin1)
    marks, capable = ("IpExt:InCEPkts", "IpExt:InECT0Pkts") if direction == "download" else ("Ip6InCEPkts", "Ip6InECT0Pkts")
    with counted(receiver) as received, counted(sender) as sent, in_the_kernel(lab, besides=200):
        move(lab, direction, 8 * MIB)
    assert received(capable) > 1000
    assert received(marks) > 30
    assert sent("TcpExt:TCPDelivered") > 0
    assert sent("TcpExt:TCPDeliveredCE") > 30  # it has heard of them by ECE
