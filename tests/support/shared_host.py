"""A host with one IPv4 address in the test's own namespace, and a client beside it, to whom a service on that host answers."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from host_setup import DEVICE, Ip, configured

from kracauer.config import Config
from kracauer.lab import links, runs
from kracauer.lab.namespaces import NetworkNamespace

ADDRESS = "192.0.2.1"
CLIENT = "192.0.2.7"
SSH = 22
_TIMEOUT_S = 3.0


def shared(
    *ports: int, address: str = ADDRESS, device: str = DEVICE, prefix: str = "2001:db8:46::/96", table: int = 198
) -> Config:
    """A configuration that shares `address` with the host."""
    config = configured(address, device=device, prefix=prefix)
    (listener,) = config.listeners
    listeners = tuple(replace(listener, port=port) for port in ports or (443, 80))
    return replace(config, listeners=listeners, network=replace(config.network, ownership="shared", table=table))


@contextlib.contextmanager
def neighbour(ip: Ip) -> Iterator[NetworkNamespace]:
    """Give the namespace we are in its one address, and make a client on the same link."""
    client = NetworkNamespace(f"kracauer-{runs.new_token()}-client")
    client.create()
    try:
        ip(f"link add eth0 type veth peer name far netns {client.name}")
        ip(f"address add {ADDRESS}/24 dev eth0")
        ip("link set eth0 up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
        links.add_addresses((client, "far"), (f"{CLIENT}/24",))
        links.bring_up(client, "far")
        yield client
    finally:
        client.remove()


class Echo:
    """A service of the host's own on every address: what comes to port 22 goes back."""

    def __init__(self, port: int = SSH) -> None:
        self._listener = socket.create_server(("0.0.0.0", port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(4096):
                connection.sendall(data)


class Session:
    """A connection from the client to a port of the host's."""

    def __init__(self, client: NetworkNamespace, port: int = SSH) -> None:
        self._socket = client.open_socket()
        self._socket.settimeout(_TIMEOUT_S)
        try:
            self._socket.connect((ADDRESS, port))
        except OSError:
            self._socket.close()
            raise

    def say(self, data: bytes = b"hello") -> bytes:
        """What comes back; raises OSError after a while."""
        self._socket.sendall(data)
        return self._socket.recv(len(data))

    def close(self) -> None:
        self._socket.close()


def is_reached(client: NetworkNamespace, port: int = SSH) -> bool:
    """Whether a new connection gets its answer."""
    try:
        session = Session(client, port)
    except OSError:
        return False
    with contextlib.closing(session):
        return session.say() == b"hello"


class Vigil:
    """Asks on an old connection and on new ones, without a pause, whether the host still answers."""

    def __init__(self, client: NetworkNamespace) -> None:
        self._client = client
        self._is_over = threading.Event()
        self.answers = 0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """How many answers there were; raises what went wrong."""
        self._is_over.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure
        return self.answers

    def _watch(self) -> None:
        try:
            old = Session(self._client)
            while not self._is_over.is_set():
                assert old.say() == b"hello"
                assert is_reached(self._client)
                self.answers += 1
            old.close()
        except BaseException as error:
            self.failure = error
