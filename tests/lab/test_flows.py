"""What becomes of connections when clients, backends or the daemon do not behave, or ports come back."""

import contextlib
import hashlib
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kracauer.lab import content
from kracauer.lab.topology import SERVICE, SERVICE_2, Lab
from kracauer.lab.transfers import connect, download
from kracauer.lab.visits import Visit, visit

pytestmark = pytest.mark.lab

BuildSite = Callable[..., Lab]
MIB = 1 << 20
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger
KEPT_ALIVE = b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n"


def visit_from(site: Lab, port: int, name: str) -> Visit:
    """Visit from a port as soon as our own kernel lets it go, which it does when its last FIN has been acknowledged."""
    deadline = time.monotonic() + 2
    while True:
        result = visit(site.client, "http", name, SERVICE, local_port=port)
        if "Errno 99" not in (result.failure or "") or time.monotonic() > deadline:
            return result


def test_a_client_port_is_reused_at_once_for_another_name(site: Lab) -> None:
    for name, origin in (("www.example.com", "origin1"), ("shop.example.net", "origin2")) * 3:
        result = visit_from(site, 21_000, name)
        assert (result.failure, result.seen.get("server")) == (None, origin)
        assert result.seen["port"] == 21_000


def test_a_client_port_is_reused_at_once_for_the_same_name(site: Lab) -> None:
    for _ in range(5):
        result = visit_from(site, 21_001, "www.example.com")
        assert (result.failure, result.seen.get("port")) == (None, 21_001)


def test_a_client_port_is_reused_after_a_reset(site: Lab) -> None:
    for _ in range(5):
        with bound(site, 21_002) as connection:
            connection.connect((SERVICE, 80))
            assert ask(connection, b"www.example.com").startswith(b"HTTP/1.1 200 ")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)


def bound(site: Lab, port: int) -> socket.socket:
    connection = site.client.open_socket()
    connection.settimeout(5)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.bind(("", port))
    return connection


def ask(connection: socket.socket, name: bytes) -> bytes:
    connection.sendall(KEPT_ALIVE % name)
    return connection.recv(65536)


def test_one_client_port_on_two_service_addresses_is_never_mixed_up_at_one_backend(site: Lab) -> None:
    with bound(site, 21_003) as first, bound(site, 21_003) as second:
        first.connect((SERVICE, 80))
        assert b'"port": 21003' in ask(first, b"www.example.com")
        second.connect((SERVICE_2, 80))
        with contextlib.suppress(ConnectionError):  # to the backend the two would be one connection
            assert ask(second, b"www.example.com") == b""
        assert b'"port": 21003' in ask(first, b"www.example.com")


def test_one_client_port_on_two_service_addresses_serves_two_backends(site: Lab) -> None:
    with bound(site, 21_004) as first, bound(site, 21_004) as second:
        first.connect((SERVICE, 80))
        second.connect((SERVICE_2, 80))
        assert b'"server": "origin1"' in ask(first, b"www.example.com")
        assert b'"server": "origin2"' in ask(second, b"shop.example.net")
        assert b'"server": "origin1"' in ask(first, b"www.example.com")


def test_a_clients_reset_in_mid_transfer_reaches_the_origin_and_harms_no_one(site: Lab) -> None:
    with connect(site.client, SERVICE, "www.example.com") as connection:
        connection.sendall(b"GET /bytes/104857600 HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
        assert connection.recv(1000)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        port = connection.getsockname()[1]
    deadline = time.monotonic() + 5
    while has_connection(site, port) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not has_connection(site, port)
    assert visit(site.client, "http", "www.example.com", SERVICE).status == 200


def has_connection(site: Lab, port: int) -> bool:
    """Whether origin1 holds a connection from the client's port (proc_net_tcp(5): remote port in hexadecimal)."""
    table = site.origin1.call(lambda: Path("/proc/thread-self/net/tcp6").read_text(encoding="ascii"))
    return f":{port:04X} 01 " in table


def test_a_client_that_says_nothing_and_leaves_is_no_burden(site: Lab) -> None:
    for is_reset in (False, True):
        with site.client.open_socket() as connection:
            connection.settimeout(5)
            connection.connect((SERVICE, 443))
            if is_reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            else:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(100):
                    pass


def test_a_backend_that_refuses_is_replaced_before_the_client_notices(site: Lab) -> None:
    before = time.monotonic()
    result = visit(site.client, "http", "refused-first.example.org", SERVICE)
    assert (result.failure, result.seen.get("server")) == (None, "origin2")
    assert time.monotonic() - before < 1


def test_a_backend_that_is_silent_is_replaced_within_a_second(site: Lab) -> None:
    before = time.monotonic()
    result = visit(site.client, "http", "silent-first.example.org", SERVICE)
    assert (result.failure, result.seen.get("server")) == (None, "origin2")
    assert time.monotonic() - before < 1.5


def test_a_name_whose_only_backend_is_dead_is_reset_with_a_reason_in_the_log(site: Lab) -> None:
    result = visit(site.client, "http", "dead.example.org", SERVICE)
    assert result.failure is not None
    assert "reset" in result.failure.lower()
    assert site.daemon is not None
    site.daemon.wait_for("dead.example.org", 2)


def test_a_backend_that_is_killed_breaks_its_flows_and_its_names_go_on_elsewhere(build_site: BuildSite) -> None:
    lab = build_site()
    with connect(lab.client, SERVICE, "www.example.com") as connection:
        assert ask(connection, b"www.example.com").startswith(b"HTTP/1.1 200 ")
        lab.origins[0].kill()
        with contextlib.suppress(ConnectionError):
            assert connection.recv(100) == b""
    assert visit(lab.client, "http", "www.example.com", SERVICE).failure is not None
    assert visit(lab.client, "http", "shop.example.net", SERVICE).status == 200
    lab.start_origin("origin1")
    assert visit(lab.client, "http", "www.example.com", SERVICE).status == 200


def test_a_daemon_that_is_stopped_for_good_takes_its_device_and_routes_along(build_site: BuildSite) -> None:
    lab = build_site()
    assert lab.daemon is not None
    assert "kracauer0" in interfaces(lab)
    lab.daemon.send_signal(signal.SIGINT)
    assert lab.daemon.wait() == 0
    assert "kracauer0" not in interfaces(lab)


def interfaces(lab: Lab) -> list[str]:
    return lab.router.call(lambda: [name for _, name in socket.if_nameindex()])


def test_a_daemon_started_again_after_being_killed_serves_new_connections(build_site: BuildSite) -> None:
    lab = build_site()
    assert lab.daemon is not None
    assert visit(lab.client, "http", "www.example.com", SERVICE).status == 200
    lab.daemon.kill()
    config = (lab.directory / "kracauer-config.toml").read_text(encoding="utf-8")
    lab.start_daemon(config)
    assert visit(lab.client, "http", "www.example.com", SERVICE).status == 200


def test_a_client_that_stops_reading_stops_the_origin_and_gets_all_of_it_later(site: Lab) -> None:
    length = 32 * MIB  # more than both ends and everything between them can hold
    with connect(site.client, SERVICE, "www.example.com") as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.sendall(b"GET /bytes/%d HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n" % length)
        time.sleep(1.5)  # a closed window, and probes of it
        received = hashlib.sha256()
        head, _, body = connection.recv(4096).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        while body:
            received.update(body)
            body = connection.recv(1 << 18)
        assert received.hexdigest() == content.digest(length)


def test_keep_alives_are_answered_by_the_origin_through_the_service(site: Lab) -> None:
    with connect(site.client, SERVICE, "www.example.com") as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)
        assert ask(connection, b"www.example.com").startswith(b"HTTP/1.1 200 ")
        time.sleep(2.5)  # unanswered, they would have ended the connection
        assert ask(connection, b"www.example.com").startswith(b"HTTP/1.1 200 ")


def test_a_client_that_never_says_whom_it_wants_is_let_go(build_site: BuildSite) -> None:
    lab = build_site(timeouts={"peek_s": 1})
    with lab.client.open_socket() as connection:
        connection.settimeout(10)
        connection.connect((SERVICE, 443))
        connection.sendall(b"\x16\x03\x01\x02\x00")
        before = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(100):
                pass
        assert 0.5 < time.monotonic() - before < 5


def test_a_hello_beyond_every_bound_is_refused(site: Lab) -> None:
    with site.client.open_socket() as connection:
        connection.settimeout(4)
        connection.connect((SERVICE, 80))
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /" + b"x" * 200_000)
        with contextlib.suppress(ConnectionError):
            answer = connection.recv(100)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert visit(site.client, "http", "www.example.com", SERVICE).status == 200


def test_an_idle_connection_goes_on_after_a_pause(site: Lab) -> None:
    with connect(site.client, SERVICE, "www.example.com") as connection:
        assert ask(connection, b"www.example.com").startswith(b"HTTP/1.1 200 ")
        time.sleep(1)
        assert ask(connection, b"www.example.com").startswith(b"HTTP/1.1 200 ")


def test_a_slow_transfer_is_not_disturbed_by_many_other_connections(site: Lab) -> None:
    with connect(site.client, SERVICE, "www.example.com") as connection:
        digests: list[str] = []
        slow = threading.Thread(target=lambda: digests.append(download(connection, "www.example.com", 4 * MIB, 4 * MIB)))
        slow.start()
        while slow.is_alive():
            assert visit(site.client, "http", "shop.example.net", SERVICE).status == 200
        assert digests == [content.digest(4 * MIB)]
