"""A lab in which all ways from the client to the server lie beside each other, idle but for the one that is being measured.

Kracauer and its peers run in the router, each with a service address of its own. The kernel alone forwards IPv6 between the
same two ends, over the same links. Before anything is measured, content goes through each way in both directions and has to be
what it was, from the origin whose certificate it is, at the hands of no other.
"""

import contextlib
import json
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from peers import PEERS, PORT, TAYGA_DEVICE, TAYGA_PREFIX, Peer, Routes

from kracauer.errors import LabError
from kracauer.lab import bulk, calls, configuration, content, handshakes, links, usage
from kracauer.lab.namespaces import NetworkNamespace, python_module
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import ORIGIN_1, PREFIX, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download, upload
from kracauer.lab.visits import visit
from kracauer.tcp.state import State

KERNEL: Final = "kernel"
KRACAUER: Final = "kracauer"
KRACAUER_LOGGING: Final = "kracauer-logging"
KRACAUER_FAST: Final = "kracauer-fast-path"
KRACAUER_WORKERS: Final = "kracauer-workers"
KRACAUER_FAST_WORKERS: Final = "kracauer-fast-path-workers"
WORKERS: Final = 2
LABELS: Final = {
    KERNEL: "kernel alone",
    KRACAUER_FAST: "Kracauer, fast path",
    KRACAUER_FAST_WORKERS: f"fast path, {WORKERS} workers",
    KRACAUER: "Kracauer, userspace",
    KRACAUER_WORKERS: f"userspace, {WORKERS} workers",
    KRACAUER_LOGGING: "the same, logging",
    **{way: peer.label for way, peer in PEERS.items()},
}
# The server's ports, and the first label of the name by which each is asked for
SERVERS: Final = {"open": 5301, "ping": 5302, "bulk": 5201, "tls": 5443, "check": 5444}
CHECKED_BYTES: Final = 1 << 20
_READY_S: Final = 30.0


class MeasureError(Exception):
    """Something that was to be measured has not worked; the message says what."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the server: the address that is dialled, the port (None: the server's own), and the process in between."""

    key: str
    address: str
    port: int | None = PORT
    process: BackgroundProcess | None = None
    device: str | None = None

    def destination(self, server: str) -> tuple[str, int, str]:
        """Return address, port and name by which a server is reached."""
        return self.address, self.port or SERVERS[server], host(server)

    def pids(self) -> list[int]:
        """The processes that work for it, the kernel left out."""
        return usage.family(self.process.pid) if self.process else []


def host(server: str) -> str:
    """Return the name of a server."""
    return f"{server}.example.com"


ROUTES: Final[Routes] = {host(server): port for server, port in SERVERS.items()}


@dataclass(slots=True)
class Instance:
    """A Kracauer beside others: what has to differ between them."""

    number: int
    names: Routes = field(default_factory=lambda: ROUTES)
    tables: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    key: str = KRACAUER
    log_level: str | None = "warning"
    offload: str = "off"

    @property
    def service(self) -> str:
        """The address that its clients dial."""
        return SERVICE if self.number == 0 else f"198.51.100.{100 + self.number}"

    @property
    def prefix(self) -> str:
        """The network in which the server sees them."""
        return PREFIX if self.number == 0 else f"2001:db8:46:{self.number:x}::/96"

    @property
    def device(self) -> str:
        """The name of its device."""
        return f"kracauer{self.number}"

    def render(self) -> str:
        """Return its configuration."""
        tables = {name: dict(table) for name, table in self.tables.items()}
        tables["network"] = {"device": self.device, "offload": self.offload} | tables.get("network", {})
        if self.log_level is not None:
            tables["log"] = {"level": self.log_level} | tables.get("log", {})
        hosts = {name: f"[{ORIGIN_1}]:{port}" for name, port in self.names.items()}
        text = configuration.render(hosts, ((self.service, PORT, "tls"),), **tables)
        return text.replace(f'prefix = "{PREFIX}"', f'prefix = "{self.prefix}"', 1)


class Stage:
    """The lab with the servers in it; ways are added, and are there until it is left."""

    def __init__(self, topology: Topology | None = None) -> None:
        self.topology = topology or Topology()
        self.lab = Lab(self.topology)
        self.ways: dict[str, Way] = {}
        self.left_out: dict[str, str] = {}

    def __enter__(self) -> "Stage":
        self.lab.__enter__()
        try:
            self._start_servers()
        except BaseException:
            self.lab.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.lab.close()

    def _start_servers(self) -> None:
        lab = self.lab
        for namespace in (lab.client, lab.router, lab.origin1):
            namespace.sysctl("net.ipv4.ip_local_port_range", "1024 65535")
        own = lab.authority.issue("tls", [host("tls")])
        servers = {
            "open": (python_module("kracauer.lab.calls", "serve", str(SERVERS["open"])), calls.READY),
            "ping": (python_module("kracauer.lab.calls", "serve", str(SERVERS["ping"]), "--stay"), calls.READY),
            "bulk": (python_module("kracauer.lab.bulk", "serve", str(SERVERS["bulk"])), bulk.READY),
            "tls": (
                python_module("kracauer.lab.handshakes", "serve", str(SERVERS["tls"]), own.certificate, own.key),
                handshakes.READY,
            ),
        }
        for name, (command, ready) in servers.items():
            lab.start(f"server-{name}", lab.origin1, command).wait_for(ready)
        lab.start_origin("origin1", [host("check")], http=(), https=(SERVERS["check"],))

    # Ways

    def add_kernel(self) -> Way:
        """Add forwarding by the kernel alone."""
        return self._add(Way(KERNEL, ORIGIN_1, None))

    def add_kracauer(self, instance: Instance | None = None, key: str | None = None, timeout_s: float = _READY_S) -> Way:
        """Start a Kracauer in the router and add it, under a key of its own if there are several."""
        instance = instance or Instance(0)
        lab, name = self.lab, f"kracauer{instance.number}"
        path, ear = lab.directory / f"{name}.toml", lab.directory / f"{name}.notify"
        network = {
            "ipv4_mtu": self.topology.client_mtu,
            "ipv6_mtu": self.topology.backend_mtu,
            "offloads": self.topology.has_offloads,
        }
        instance.tables = {**instance.tables, "network": {**network, **instance.tables.get("network", {})}}
        path.write_text(instance.render(), encoding="utf-8")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(ear))  # quiet as it is, its log does not say when it is ready
            command = python_module("kracauer", "run", "-c", path)
            process = lab.start(name, lab.router, command, self._environment() | {"NOTIFY_SOCKET": str(ear)})
            _await_ready(listener, process, timeout_s)
        return self._add(Way(key or instance.key, instance.service, PORT, process, instance.device))

    def _environment(self) -> dict[str, str]:
        return {"RUNTIME_DIRECTORY": str(self.lab.directory / "run")}

    def count_established(self, way: Way) -> int:
        """Return how many connections a Kracauer has that are neither beginning nor ending."""
        command = python_module("kracauer", "status", "--device", str(way.device), "--json")
        result = self.lab.router.run(command, env=self._environment())
        if result.returncode:
            raise MeasureError(result.stderr.decode().strip())
        return int(json.loads(result.stdout)["flows"].get(State.ESTABLISHED.value, 0))

    def add_peer(self, peer: Peer, routes: Routes = ROUTES, *, address: str = "") -> Way | None:
        """Start another program in the router and add it; None where it is not installed."""
        key, address = peer.way, address or peer.address
        program = peer.program
        if program is None:
            self.left_out[key] = f"{peer.label} is not installed: {peer.remedy}"
            return None
        lab = self.lab
        path = peer.write(lab.directory, address, routes)
        if peer.has_names:
            links.add_local_network(lab.router, f"{address}/32")
        else:
            self._prepare_tayga(program, path, address)
        process = lab.start(f"{peer.way}-{address}", lab.router, peer.command(program, path))
        return self._add(Way(key, address, PORT if peer.has_names else None, process))

    def _prepare_tayga(self, program: str, path: Path, address: str) -> None:
        """Make its device, and lead its addresses there, as tayga(8) has it."""
        made = self.lab.router.run([program, "-c", path, "--mktun"])
        if made.returncode:
            raise LabError(f"tayga --mktun: {made.stdout.decode()}{made.stderr.decode()}", "it needs /dev/net/tun")

        def change(netlink: Any) -> None:
            index = netlink.link_lookup(ifname=TAYGA_DEVICE)[0]
            netlink.link("set", index=index, state="up", mtu=min(self.topology.client_mtu, self.topology.backend_mtu))
            netlink.route("add", dst=f"{address}/32", oif=index)
            netlink.route("add", dst=TAYGA_PREFIX, oif=index)

        links.configure(self.lab.router, change)

    def _add(self, way: Way) -> Way:
        self.ways[way.key] = way
        return way

    def add_peers(self, wanted: Iterable[str]) -> None:
        """Add all of these peers that are installed."""
        for key in wanted:
            self.add_peer(PEERS[key])

    # What it takes for a figure to be believed

    def check(self) -> None:
        """Move content through every way; one that spoils it, or does not answer, is left out, with the reason."""
        for key, way in list(self.ways.items()):
            try:
                self._check(way)
            except MeasureError as error:
                self.left_out[key] = f"{LABELS.get(key, key)} does not work here: {error}"
                del self.ways[key]

    def _check(self, way: Way) -> None:
        address, port, name = way.destination("check")
        client, context = self.lab.client, self.lab.authority.client_context()
        deadline = time.monotonic() + _READY_S
        while True:
            seen = visit(client, "https", name, address, port=port, context=context, timeout_s=2)
            if seen.status == 200:
                break
            if time.monotonic() > deadline or (way.process is not None and not way.process.is_running):
                raise MeasureError(f"{seen.failure or seen.status}{_last_line(way)}")
            time.sleep(0.1)
        if seen.certificate_owner != "origin1" or seen.seen.get("server") != "origin1":
            raise MeasureError(f"somebody else answered: {seen.seen}")
        for move in (download, upload):
            try:
                with connect(client, address, name, context, port) as connection:
                    digest = move(connection, name, CHECKED_BYTES)
            except OSError as error:
                raise MeasureError(f"{move.__name__}: {error}") from error
            if digest != content.digest(CHECKED_BYTES):
                raise MeasureError(f"{move.__name__}: the content was not what was sent")

    def accepted(self) -> int:
        """How many TCP connections the server's kernel has accepted (PassiveOpens of proc_pid_net(5), snmp)."""
        names, values = (line.split() for line in read_net(self.lab.origin1, "snmp") if line.startswith("Tcp:"))
        return int(values[names.index("PassiveOpens")])

    def router_sockets(self) -> int:
        """How many TCP sockets the router has in use."""
        rows = [*read_net(self.lab.router, "sockstat"), *read_net(self.lab.router, "sockstat6")]
        found = [row.split() for row in rows if row.startswith(("TCP:", "TCP6:"))]
        return sum(int(words[words.index("inuse") + 1]) for words in found)

    def device_packets(self, device: str) -> int:
        """How many packets, super-packets as one, the router's kernel has given to a device."""
        (row,) = [line for line in read_net(self.lab.router, "dev") if line.strip().startswith(f"{device}:")]
        return int(row.partition(":")[2].split()[9])

    # Programs in the client

    def command(self, module: str, role: str, way: Way, server: str, *options: str, name: str = "") -> list[str | Path]:
        """Return how a generator of load is run; by another name than the server's own if one is given."""
        address, port, usual_name = way.destination(server)
        return python_module(f"kracauer.lab.{module}", role, address, str(port), name or usual_name, *options)

    def ask(
        self, module: str, role: str, way: Way, server: str, *options: str, name: str = "", timeout_s: float
    ) -> dict[str, Any]:
        """Run a generator of load in the client, and return the object that it prints; MeasureError when it prints none."""
        command = self.command(module, role, way, server, *options, name=name)
        result = self.lab.client.run(command, timeout_s=timeout_s)
        if result.returncode:
            raise MeasureError((result.stderr.decode().strip().splitlines() or ["no reason given"])[-1])
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer


def read_net(namespace: NetworkNamespace, name: str) -> list[str]:
    """Return the lines of a file of proc_pid_net(5) as a namespace sees it."""
    return namespace.call(lambda: Path("/proc/thread-self/net", name).read_text(encoding="ascii")).splitlines()


def _await_ready(listener: socket.socket, process: BackgroundProcess, timeout_s: float) -> None:
    """Return once a service says READY=1 (sd_notify(3))."""
    listener.settimeout(0.1)
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(TimeoutError):
            if "READY=1" in listener.recv(4096).decode().splitlines():
                return
        if not process.is_running or time.monotonic() > deadline:
            raise LabError(f"{process.name} does not get ready", f"its output was:\n{process.log}")


def _last_line(way: Way) -> str:
    lines = way.process.log.strip().splitlines() if way.process else []
    return f" ({lines[-1]})" if lines else ""
