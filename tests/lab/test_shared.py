"""An address that the service shares with its host: real clients, and a host that answers on every other port as ever."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from kracauer.lab import configuration, content
from kracauer.lab.namespaces import NetworkNamespace
from kracauer.lab.topology import CLIENT, ORIGIN_1, ORIGIN_2, ROUTER, Lab, Topology
from kracauer.lab.transfers import connect, download, upload
from kracauer.lab.visits import visit

pytestmark = pytest.mark.lab

BuildLab = Callable[[Topology], Lab]
LENGTH = 4 << 20
NAMES = {"origin1": ("www.example.com",), "origin2": ("shop.example.net",)}
HOSTS = {"www.example.com": ORIGIN_1, "shop.example.net": ORIGIN_2}
NARROW = "203.0.113.1"  # the router's own address where the client's path is narrow


def render(address: str = ROUTER, *more: int) -> str:
    listeners = [(address, 443, "tls"), (address, 80, "http"), *((address, port, "http") for port in more)]
    return configuration.render(HOSTS, listeners, network={"ownership": "shared"})


def start(lab: Lab, address: str = ROUTER) -> Lab:
    for origin, names in NAMES.items():
        lab.start_origin(origin, names, http=(80, 8080))
    lab.name_services(dict.fromkeys(HOSTS, address))
    lab.start_daemon(render(address))
    return lab


def rules(lab: Lab) -> list[str]:
    return [" ".join(line.split()) for line in lab.router.run(["ip", "rule"]).stdout.decode().splitlines()]


def ask(namespace: NetworkNamespace, address: str, port: int) -> bytes:
    """What a service of the host's own answers."""
    with namespace.open_socket() as connection:
        connection.settimeout(3)
        connection.connect((address, port))
        connection.sendall(b"hello")
        return connection.recv(16)


@contextlib.contextmanager
def own_service(lab: Lab, port: int = 22) -> Iterator[None]:
    """Have the router echo one message a connection."""
    listener = lab.router.open_socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", port))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(connection.recv(16))

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def lab(build_lab: BuildLab) -> Iterator[Lab]:
    built = build_lab(Topology())
    with own_service(built):
        yield start(built)


def check(lab: Lab, namespace: NetworkNamespace | None = None, caller: str = CLIENT) -> None:
    """That both names are served over both protocols, and the host still answers."""
    where = namespace or lab.client
    context = lab.authority.client_context()
    for scheme in ("http", "https"):
        for origin, (name,) in NAMES.items():
            result = visit(where, scheme, name, ROUTER, context=context)
            assert (result.status, result.seen.get("server")) == (200, origin), result
            assert result.seen["client"] == caller
    assert ask(where, ROUTER, 22) == b"hello"


def test_names_are_served_and_the_host_keeps_all_other_ports(lab: Lab) -> None:
    check(lab)
    assert lab.client.run(["ping", "-c", "1", "-W", "3", ROUTER]).returncode == 0
    with lab.client.open_socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect((ROUTER, 81))


def test_the_host_itself_is_a_client_like_others(lab: Lab) -> None:
    check(lab, lab.router, ROUTER)


def test_a_download_and_an_upload_arrive_whole(lab: Lab) -> None:
    with connect(lab.client, ROUTER, "www.example.com") as connection:
        assert download(connection, "www.example.com", LENGTH) == content.digest(LENGTH)
    with connect(lab.client, ROUTER, "www.example.com") as connection:
        assert upload(connection, "www.example.com", LENGTH) == content.digest(LENGTH)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_connection_outlives_the_daemon(lab: Lab, number: signal.Signals) -> None:
    assert lab.daemon is not None
    hashes: list[str] = []
    with connect(lab.client, ROUTER, "www.example.com") as connection:
        reader = threading.Thread(target=lambda: hashes.append(download(connection, "www.example.com", LENGTH, rate=2 << 20)))
        reader.start()
        lab.daemon.wait_for("flow_spliced")
        lab.daemon.send_signal(number)
        lab.daemon.wait()
        assert ask(lab.client, ROUTER, 22) == b"hello"
        lab.start_daemon(render())
        reader.join(60)
    assert hashes == [content.digest(LENGTH)]
    check(lab)


def test_a_port_is_added_and_taken_away_while_running(lab: Lab) -> None:
    assert lab.daemon is not None
    path = lab.directory / "kracauer-config.toml"
    path.write_text(render(ROUTER, 8080), encoding="utf-8")
    lab.daemon.send_signal(signal.SIGHUP)
    lab.daemon.wait_for('"reloaded"')

    assert visit(lab.client, "http", "www.example.com", ROUTER, port=8080).status == 200
    check(lab)
    path.write_text(render(), encoding="utf-8")
    lab.daemon.send_signal(signal.SIGHUP)
    # The connection through it is kept until it is forgotten, and the port with it.
    assert any("dport 8080" in rule for rule in rules(lab))
    check(lab)


def test_a_rule_that_somebody_removes_comes_back(lab: Lab) -> None:
    assert lab.daemon is not None
    before = rules(lab)
    lab.router.run(["ip", "rule", "del", "pref", "0", "to", ROUTER, "ipproto", "tcp", "dport", "443"])
    lab.daemon.wait_for("routes_restored")

    check(lab)
    assert sorted(rules(lab)) == sorted(before)


def test_a_final_stop_leaves_nothing(lab: Lab) -> None:
    assert lab.daemon is not None
    check(lab)
    assert any("proto 198" in rule for rule in rules(lab))
    lab.daemon.send_signal(signal.SIGINT)
    assert lab.daemon.wait() == 0

    assert rules(lab) == ["0: from all lookup local", "32766: from all lookup main", "32767: from all lookup default"]
    assert lab.router.run(["ip", "route", "show", "table", "all", "proto", "198"]).stdout == b""
    assert ask(lab.client, ROUTER, 22) == b"hello"


@pytest.mark.parametrize("path_mtu", [1300, 1000])
@pytest.mark.parametrize("move", [download, upload])
def test_a_narrow_path_to_clients_is_discovered(build_lab: BuildLab, path_mtu: int, move: Callable[..., str]) -> None:
    lab = start(build_lab(Topology(client_path_mtu=path_mtu)), NARROW)

    with connect(lab.client, NARROW, "www.example.com") as connection:
        assert move(connection, "www.example.com", LENGTH) == content.digest(LENGTH)


@pytest.mark.parametrize("move", [download, upload])
def test_a_narrow_path_to_backends_is_told_to_clients(build_lab: BuildLab, move: Callable[..., str]) -> None:
    lab = start(build_lab(Topology(backend_path_mtu=1400)))

    with connect(lab.client, ROUTER, "www.example.com") as connection:
        assert move(connection, "www.example.com", LENGTH) == content.digest(LENGTH)
