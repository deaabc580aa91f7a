"""What the kernel carries arrives as whole as what the daemon carries, whatever comes in between."""

import contextlib
import errno
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fast_lane
import pytest
from fast_lane import in_the_daemon, in_the_kernel

from kracauer.lab import content
from kracauer.lab.namespaces import NetworkNamespace
from kracauer.lab.topology import ORIGIN_1, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download, upload
from kracauer.lab.wire import Impairment

pytestmark = pytest.mark.lab

NAME, OTHER_NAME, BARE_NAME = "www.example.com", "shop.example.net", "bare.example.com"
BARE_PORT = 8080
MIB = 1 << 20
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger
KEPT_ALIVE = f"GET /bytes/%d HTTP/1.1\r\nHost: {NAME}\r\n\r\n"
FastSite = Callable[..., Lab]


@pytest.fixture
def fast_site(build_site: Callable[..., Lab]) -> FastSite:
    """Build sites whose daemon has to have its fast path."""
    fast_lane.skip_without_fast_path()

    def build(topology: Topology | None = None, **tables: dict[str, object]) -> Lab:
        return build_site(topology, network={"offload": "require", **tables.pop("network", {})}, **tables)

    return build


@pytest.fixture
def bare_site(build_lab: Callable[[Topology], Lab]) -> Lab:
    """A daemon whose only backend is what a test makes of the first origin's bare port."""
    fast_lane.skip_without_fast_path()
    lab = build_lab(Topology())
    fast_lane.start_daemon(lab, {BARE_NAME: f"[{ORIGIN_1}]:{BARE_PORT}"})
    return lab


def pair(lab: Lab) -> tuple[socket.socket, socket.socket]:
    """A connection through the service, its client's end and its backend's, over which a byte has gone each way."""
    listener = lab.origin1.call(lambda: socket.create_server(("::", BARE_PORT), family=socket.AF_INET6))
    with listener:
        listener.settimeout(5)
        client = connect(lab.client, SERVICE, BARE_NAME)
        head = f"GET / HTTP/1.1\r\nHost: {BARE_NAME}\r\n\r\n".encode("ascii")
        client.sendall(head)
        backend, _ = listener.accept()
    for end in (client, backend):
        end.settimeout(10)
    assert backend.recv(len(head), socket.MSG_WAITALL) == head
    backend.sendall(b"!")
    assert client.recv(1) == b"!"
    return client, backend


def pour(source: socket.socket, sink: socket.socket, length: int) -> None:
    """Send content from one end to the other, which has to get it whole."""
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(lambda: source.sendall(content.content(length)))
        assert read_content(sink, length) == content.content(length)
        sending.result()


def read_content(sink: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        parts.append(sink.recv(min(length, 1 << 18)))
        assert parts[-1], f"the stream ended {length} bytes early"
        length -= len(parts[-1])
    return b"".join(parts)


def check_both_ways(
    lab: Lab, length: int, *, is_tls: bool = False, where: NetworkNamespace | None = None, besides: int = 0
) -> None:
    """Download and upload, one after the other and then at once, by way of the kernel."""
    context = lab.authority.client_context() if is_tls else None
    namespace = where or lab.client

    def down() -> str:
        with connect(namespace, SERVICE, NAME, context) as connection:
            return download(connection, NAME, length)

    def up() -> str:
        with connect(namespace, SERVICE, NAME, context) as connection:
            return upload(connection, NAME, length, is_half_closed=not is_tls)

    expected = content.digest(length)
    with in_the_kernel(lab, connections=4, besides=besides):
        assert down() == expected
        assert up() == expected
        with ThreadPoolExecutor(2) as pool:
            downloaded, uploaded = pool.submit(down), pool.submit(up)
            assert (downloaded.result(), uploaded.result()) == (expected, expected)


# Offloads, or none, on the links and on the device


@pytest.mark.parametrize("on_device", [True, False], ids=["device-with", "device-without"])
@pytest.mark.parametrize("on_links", [True, False], ids=["links-with", "links-without"])
def test_large_transfers_hardly_cross_the_daemon(fast_site: FastSite, on_links: bool, on_device: bool) -> None:
    lab = fast_site(Topology(has_offloads=on_links), network={"offloads": on_device})
    check_both_ways(lab, 16 * MIB)  # more than 11,000 segments each
    check_both_ways(lab, 4 * MIB, is_tls=True)


def test_a_client_on_the_router_itself_is_carried_too(fast_site: FastSite) -> None:
    lab = fast_site()
    check_both_ways(lab, 16 * MIB, where=lab.router)


# Connections that follow each other


def visit_from(client: NetworkNamespace, port: int, name: str, length: int) -> bool:
    """Download from this port, and leave by a reset: our own kernel then gives the port away at once."""
    with client.open_socket() as connection:
        connection.settimeout(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        connection.bind(("", port))
        connection.connect((SERVICE, 80))
        return download(connection, name, length) == content.digest(length)


def test_every_connection_from_ports_that_come_again_and_again_finishes(fast_site: FastSite) -> None:
    """A stale entry in the kernel would translate the next connection's segments by the last one's numbers."""
    lab = fast_site()
    lab.client.sysctl("net.ipv4.ip_local_port_range", "40000 60999")
    rounds, ports, length = 6, range(21_000, 21_040), MIB // 4

    def visit_over_and_over(port: int) -> int:
        finished = 0
        for number in range(rounds):
            name = (NAME, OTHER_NAME)[number % 2]
            finished += visit_from(lab.client, port, name, length)
        return finished

    with in_the_kernel(lab, connections=rounds * len(ports)), ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(visit_over_and_over, ports)) == 240


def visit_to_the_end(client: NetworkNamespace, port: int, length: int) -> bool:
    """Download from this port until the backend closes, and close: with the last ACK our own kernel gives the port away."""
    deadline = time.monotonic() + 2
    while True:
        with client.open_socket() as connection:
            connection.settimeout(10)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(("", port))
            try:
                connection.connect((SERVICE, 80))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL or time.monotonic() > deadline:
                    raise
                continue
            # Which says `Connection: close`, and reads all.
            return download(connection, NAME, length) == content.digest(length) and connection.recv(1) == b""


def test_ports_that_are_used_again_right_behind_both_fins_meet_nothing_stale(fast_site: FastSite) -> None:
    """Many times before the daemon has swept, and so knows that the connection before has ended."""
    lab = fast_site()
    lab.client.sysctl("net.ipv4.ip_local_port_range", "40000 60999")
    rounds, ports = 20, range(21_200, 21_204)

    def visit_over_and_over(port: int) -> int:
        return sum(visit_to_the_end(lab.client, port, 1000 * number) for number in range(rounds))

    started = time.monotonic()
    # No FIN, and no answer to one: of most connections the daemon sees just the four packets that they begin with.
    before = fast_lane.packets_read(lab)
    with ThreadPoolExecutor(len(ports)) as pool:
        assert sum(pool.map(visit_over_and_over, ports)) == rounds * len(ports)
    assert fast_lane.packets_read(lab) - before <= 6 * rounds * len(ports)
    assert time.monotonic() - started < rounds / 2, "too slow to be used again before a sweep"


def test_a_port_that_is_used_again_in_mid_transfer_meets_nothing_stale(fast_site: FastSite) -> None:
    lab = fast_site()
    with in_the_kernel(lab, connections=25, besides=25 * 50):  # after the RST what was under way goes through Python
        for _ in range(25):
            with lab.client.open_socket() as connection:
                connection.settimeout(5)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                connection.bind(("", 21_100))
                connection.connect((SERVICE, 80))
                connection.sendall((KEPT_ALIVE % (4 * MIB)).encode("ascii"))
                read_content(connection, MIB)


def test_flows_that_the_kernel_has_no_room_for_are_carried_by_the_daemon(fast_site: FastSite) -> None:
    room, count, length = 16, 40, MIB
    lab = fast_site(limits={"flows": room})
    assert lab.daemon is not None
    path = lab.directory / "kracauer-config.toml"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(f'"flows" = {room}', '"flows" = 4096'), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != before
    lab.daemon.send_signal(signal.SIGHUP)  # the kernel's maps stay as large as they are
    lab.daemon.wait_for('"reloaded"')
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(lab.client, SERVICE, NAME)) for _ in range(count)]

        def ask(connection: socket.socket) -> str:
            connection.sendall((KEPT_ALIVE % 10).encode("ascii"))
            while not connection.recv(1 << 16).endswith(content.content(10)):
                pass
            return download(connection, NAME, length)

        with ThreadPoolExecutor(count) as pool, in_the_daemon(lab, packets=(count - room) * length // 65_536):
            assert set(pool.map(ask, connections)) == {content.digest(length)}
        time.sleep(1.5)  # until the next sweep has taken note
        assert fast_lane.counters(lab)["offload_refused"]["ENOSPC"] >= count - room


# Endings, pauses and reloads


@pytest.mark.parametrize("side", ["client", "backend"])
def test_a_connection_that_is_closed_on_one_side_goes_on_in_the_kernel_on_the_other(bare_site: Lab, side: str) -> None:
    with in_the_kernel(bare_site):
        client, backend = pair(bare_site)
        closed, going = (client, backend) if side == "client" else (backend, client)
        with client, backend:
            pour(closed, going, 4 * MIB)
            closed.shutdown(socket.SHUT_WR)
            assert going.recv(1) == b""
            pour(going, closed, 16 * MIB)


@pytest.mark.parametrize("side", ["client", "backend"])
def test_a_reset_in_mid_transfer_is_heard_at_the_other_end_at_once(bare_site: Lab, side: str) -> None:
    client, backend = pair(bare_site)
    leaving, staying = (client, backend) if side == "client" else (backend, client)
    with client, backend, in_the_kernel(bare_site, connections=0, besides=100):
        pour(staying, leaving, 8 * MIB)
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        staying.settimeout(2)
        sending = threading.Thread(target=leaving.close)
        with pytest.raises(ConnectionError):  # noqa: PT012
            sending.start()
            while True:
                staying.sendall(bytes(1 << 16))
        sending.join()


SHORT = {"established_idle_s": 2, "transitory_s": 1, "below_rfc_floors": True}


def test_a_flow_that_only_the_kernel_sees_is_not_idle(fast_site: FastSite) -> None:
    lab = fast_site(timeouts=SHORT)
    assert lab.daemon is not None
    probes = 5 * 10  # of the backends
    with in_the_kernel(lab, besides=probes), connect(lab.client, SERVICE, NAME) as connection:
        assert download(connection, NAME, 5 * MIB, rate=MIB) == content.digest(5 * MIB)
    lab.daemon.wait_for('"flow_closed"')
    (closed,) = [event for event in lab.daemon.events if event["event"] == "flow_closed"]
    assert closed["reason"] == "finished"
    assert 5 * MIB < closed["bytes_to_client"] < 5 * MIB + 1000


def test_an_idle_flow_is_probed_and_goes_back_to_the_kernel(fast_site: FastSite) -> None:
    lab = fast_site(timeouts=SHORT)
    with connect(lab.client, SERVICE, NAME) as connection:
        connection.sendall((KEPT_ALIVE % MIB).encode("ascii"))
        read_past_head(connection, MIB)
        with in_the_daemon(lab, packets=2):  # both ends answer probes
            time.sleep(5)
        with in_the_kernel(lab, connections=0, besides=20):
            assert download(connection, NAME, 16 * MIB) == content.digest(16 * MIB)


def read_past_head(connection: socket.socket, length: int) -> None:
    answer = b""
    while len(answer.partition(b"\r\n\r\n")[2]) < length:
        answer += connection.recv(1 << 18)


def test_an_idle_flow_whose_client_has_vanished_is_given_up(fast_site: FastSite) -> None:
    """The probe and the reset are built from the numbers that only the kernel has seen."""
    lab = fast_site(timeouts=SHORT)
    assert lab.daemon is not None
    with connect(lab.client, SERVICE, NAME) as connection:
        connection.sendall((KEPT_ALIVE % MIB).encode("ascii"))
        read_past_head(connection, MIB)
        port = connection.getsockname()[1]
        assert has_connection(lab.origin1, port)
        lab.client.run(["ip", "link", "set", "eth0", "down"])
        lab.daemon.wait_for('"flow_closed"', 10)
        (closed,) = [event for event in lab.daemon.events if event["event"] == "flow_closed"]
        assert closed["reason"] == "idle"
        assert not has_connection(lab.origin1, port)


def has_connection(namespace: NetworkNamespace, port: int) -> bool:
    """Whether a connection from this port is open there (proc_net_tcp(5): the remote port in hexadecimal, state 01)."""
    table = namespace.call(lambda: Path("/proc/thread-self/net/tcp6").read_text(encoding="ascii"))
    return f":{port:04X} 01 " in table


def test_reloads_do_not_disturb_a_transfer(fast_site: FastSite) -> None:
    lab = fast_site()
    assert lab.daemon is not None
    hashes: list[str] = []

    def transfer() -> None:
        with connect(lab.client, SERVICE, NAME) as connection:
            hashes.append(download(connection, NAME, 12 * MIB, rate=8 * MIB))

    with in_the_kernel(lab, connections=1, besides=10):  # backends are probed
        thread = threading.Thread(target=transfer)
        thread.start()
        reloads = 0
        while thread.is_alive():
            lab.daemon.send_signal(signal.SIGHUP)
            reloads += 1
            thread.join(0.2)
    assert hashes == [content.digest(12 * MIB)]
    assert reloads > 2
    assert sum(event["event"] == "reloaded" for event in lab.daemon.events) > 2


# What the kernel leaves to the daemon


@pytest.mark.parametrize("side", ["client", "backend"])
def test_options_in_an_order_that_no_stack_has_go_through_the_daemon(fast_site: FastSite, side: str) -> None:
    wire = Impairment(repad=50)
    topology = Topology(client_wire=wire) if side == "client" else Topology(backend_wire=wire)
    lab = fast_site(topology)
    length = 4 * MIB
    for move in (download, upload):
        with in_the_daemon(lab, packets=200), connect(lab.client, SERVICE, NAME) as connection:
            assert move(connection, NAME, length) == content.digest(length)


def test_what_may_be_fragmented_and_is_too_big_is_cut_by_the_daemon(bare_site: Lab) -> None:
    """The kernel carries what is small enough, and the daemon the rest, of one stream."""
    client, backend = pair(bare_site)
    with client, backend:
        with in_the_kernel(bare_site, connections=0, besides=20):
            pour(client, backend, 4 * MIB)
        client.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT: DF is clear
        with in_the_daemon(bare_site, packets=20):
            pour(client, backend, 4 * MIB)
        pour(backend, client, 4 * MIB)
        client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_PMTUDISC_DO
        with in_the_kernel(bare_site, connections=0, besides=20):
            pour(client, backend, 4 * MIB)


def test_off_means_that_all_goes_through_the_daemon(build_site: Callable[..., Lab]) -> None:
    lab = build_site(network={"offload": "off"})
    assert not fast_lane.is_attached(lab)
    with in_the_daemon(lab, packets=250), connect(lab.client, SERVICE, NAME) as connection:
        assert download(connection, NAME, 16 * MIB) == content.digest(16 * MIB)
