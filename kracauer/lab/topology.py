"""Client, router and two IPv6-only origins, each in a network namespace of its own.

     client                        router                            origin1
    192.0.2.7 ───[wire]─── 192.0.2.1      2001:db8:1::1 ───[wire]─── 2001:db8:1::2
    2001:db8:c::7        2001:db8:c::1    2001:db8:2::1 ───[wire]─── 2001:db8:2::2
                                                                     origin2
     198.51.100.1 and 198.51.100.2 are the service's; 2001:db8:46::/96 is the prefix

The client's IPv6 address is there for comparison alone: plain kernel forwarding crosses the same devices. Wires are left out
unless they are to do harm. A path that is to be narrow in its middle has two more routers, "near" and "far" from ours:

    client ─── 192.0.2.1 far 203.0.113.6 ───(narrow)─── 203.0.113.5 near 203.0.113.2 ─── 203.0.113.1 router
    router 2001:db8:10::1 ─── 2001:db8:10::2 near 2001:db8:11::1 ───(narrow)─── 2001:db8:11::2 far 2001:db8:1::1 ─── origin1

Such a client has no IPv6 address. An attacker, where one is wanted, sits on a link of its own, at 203.0.113.66 and at any
address from 203.0.113.128 on; whatever has no better way leads there, so that answers to forged addresses go somewhere.
"""

import contextlib
import ipaddress
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from kracauer.errors import LabError
from kracauer.lab import links, runs, syscalls, wire
from kracauer.lab.certificates import Authority, Credentials
from kracauer.lab.interrupts import shielded
from kracauer.lab.namespaces import DIRECTORY, NetworkNamespace, python_module
from kracauer.lab.origin import READY as ORIGIN_READY
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.wire import Impairment

CLIENT: Final = "192.0.2.7"
CLIENT_V6: Final = "2001:db8:c::7"
ROUTER: Final = "192.0.2.1"
ROUTER_V6: Final = "2001:db8:c::1"
SERVICE: Final = "198.51.100.1"
SERVICE_2: Final = "198.51.100.2"
PREFIX: Final = "2001:db8:46::/96"
MAPPED_CLIENT: Final = "2001:db8:46::c000:207"
ATTACKER: Final = "203.0.113.66"
ATTACKERS: Final = "203.0.113.128/25"  # each of its addresses is the attacker's, too
ORIGIN_1: Final = "2001:db8:1::2"
ORIGIN_2: Final = "2001:db8:2::2"
DAEMON_READY: Final = '"ready"'  # the event of its log line
# On a narrow path: addresses of router and near, then of near and far, at the two new links
CLIENT_PATH: Final = (("203.0.113.1/30", "203.0.113.2/30"), ("203.0.113.5/30", "203.0.113.6/30"))
ORIGIN_1_PATH: Final = (("2001:db8:10::1/64", "2001:db8:10::2/64"), ("2001:db8:11::1/64", "2001:db8:11::2/64"))
GATEWAYS: Final = {ORIGIN_1: "2001:db8:1::1", ORIGIN_2: "2001:db8:2::1"}


@dataclass(frozen=True, slots=True)
class Topology:
    """What may differ between labs; `client_wire` and `backend_wire` are impairments of the links on those sides.

    `client_path_mtu` and `backend_path_mtu` (to origin1) narrow a path where neither the end nor our router can see it. With
    `has_attacker` the client's path has to be a plain one. `has_bpffs` is for the router: one that ends with the lab.
    """

    client_mtu: int = 1500
    backend_mtu: int = 1500
    has_offloads: bool = True
    client_wire: Impairment | None = None
    backend_wire: Impairment | None = None
    congestion_control: str | None = None
    client_path_mtu: int | None = None
    backend_path_mtu: int | None = None
    has_attacker: bool = False
    has_bpffs: bool = True


def _host(interface: str) -> str:
    """Return the address alone of one written with its prefix length."""
    return interface.partition("/")[0]


class Lab:
    """The namespaces, built on entering the context and gone, with everything inside, on leaving it, however that comes.

    LabError with cause and remedy when this machine or this user cannot have one.
    """

    def __init__(self, topology: Topology | None = None, namespaces: Path = DIRECTORY) -> None:
        self.topology = topology or Topology()
        self.token = runs.new_token()
        self.directory = runs.work_directory(self.token)
        self._namespaces = namespaces
        self._stack = ExitStack()
        self._processes: list[BackgroundProcess] = []
        self.client = self._namespace("client", hosts=self.directory / "hosts")
        self.router = self._namespace("router")
        self.origin1 = self._namespace("origin1")
        self.origin2 = self._namespace("origin2")
        self.attacker = self._namespace("attacker")
        self.hops: dict[str, NetworkNamespace] = {}  # by "client-near", "client-far", "origin1-near", "origin1-far"
        self.wires: dict[str, BackgroundProcess] = {}
        self.origins: list[BackgroundProcess] = []
        self.daemon: BackgroundProcess | None = None
        self._authority: Authority | None = None

    def _namespace(self, role: str, *, hosts: Path | None = None) -> NetworkNamespace:
        return NetworkNamespace(f"kracauer-{self.token}-{role}", self._namespaces, hosts=hosts)

    def __enter__(self) -> Self:
        try:
            self._build()
        except OSError as error:
            self.close()
            raise LabError(f"the lab cannot be built: {error}", "it needs root and a kernel with network namespaces") from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything; harmless when repeated."""
        with shielded():
            runs.remove(self.token, self._namespaces)
            for process in self._processes:
                process.kill()  # dead already, with its namespace
            self._stack.close()

    def _build(self) -> None:
        runs.remove(directory=self._namespaces)
        self._stack.callback(runs.Reaper(self.token, self._namespaces).dismiss)
        self.directory.mkdir(mode=0o755)
        if self.topology.has_bpffs:
            self._mount_bpffs()
        self.name_services({})
        for namespace in (self.client, self.router, self.origin1, self.origin2):
            self._create(namespace)
        topology = self.topology
        near = self._extend("client", (self.router, "client0"), topology.client_mtu, topology.client_path_mtu)
        self._connect("client", (self.client, "eth0"), near, topology.client_mtu, topology.client_wire)
        near = self._extend("origin1", (self.router, "origin1"), topology.backend_mtu, topology.backend_path_mtu)
        self._connect("origin1", near, (self.origin1, "eth0"), topology.backend_mtu, topology.backend_wire)
        near = (self.router, "origin2")
        self._connect("origin2", near, (self.origin2, "eth0"), topology.backend_mtu, topology.backend_wire)
        self._address()
        if topology.has_attacker:
            self._add_attacker()

    def _mount_bpffs(self) -> None:
        path = runs.bpffs(self.directory)
        path.mkdir()
        with contextlib.suppress(OSError):  # a kernel without: then nothing can be pinned
            syscalls.mount_bpffs(path)
            self.router.bpffs = path

    def _add_attacker(self) -> None:
        self._create(self.attacker)
        near, far = (self.router, "attacker0"), (self.attacker, "eth0")
        self._connect("attacker", near, far, self.topology.client_mtu, None)
        links.add_addresses(near, ("203.0.113.1/24",))
        links.add_addresses(far, (f"{ATTACKER}/24",))
        links.add_local_network(self.attacker, ATTACKERS)
        links.add_default_routes(near, (ATTACKER,))
        links.add_default_routes(far, ("203.0.113.1",))
        for scope in ("all", "attacker0"):
            self.router.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 0)  # whose networks do check is no concern of an attacker's

    def _extend(self, name: str, start: links.End, mtu: int, narrow_mtu: int | None) -> links.End:
        """Put two routers behind `start` with a narrow link between them, if one is wanted; returns where to go on from."""
        if narrow_mtu is None:
            return start
        near, far = (self._namespace(f"{name}-{place}") for place in ("near", "far"))
        self.hops |= {f"{name}-near": near, f"{name}-far": far}
        for hop in (near, far):
            self._create(hop)
            hop.sysctl("net.ipv4.ip_forward", 1)
            hop.sysctl("net.ipv6.conf.all.forwarding", 1)
        self._connect(name, start, (near, "router"), mtu, None)
        self._connect(name, (near, "end"), (far, "router"), narrow_mtu, None)
        return far, "end"

    def _create(self, namespace: NetworkNamespace) -> None:
        namespace.create()
        for scope in ("all", "default"):
            namespace.sysctl(f"net.ipv6.conf.{scope}.disable_ipv6", 0)
            namespace.sysctl(f"net.ipv6.conf.{scope}.accept_dad", 0)
            namespace.sysctl(f"net.ipv6.conf.{scope}.accept_ra", 0)
        if self.topology.congestion_control:
            namespace.sysctl("net.ipv4.tcp_congestion_control", self.topology.congestion_control)
        links.bring_up(namespace, "lo")

    def _connect(self, name: str, near: links.End, far: links.End, mtu: int, impairment: Impairment | None) -> None:
        if impairment is None:
            links.add_cable(near, far, mtu)
        else:
            middle = self._namespace(f"wire-{name}")
            self._create(middle)
            links.add_cable(near, (middle, "a"), mtu)
            links.add_cable((middle, "b"), far, mtu)
            fate = replace(impairment, seed=impairment.seed + len(self.wires))  # no two wires strike in step
            args = python_module("kracauer.lab.wire", "a", "b", *fate.arguments())
            self.wires[name] = self.start(f"wire-{name}", middle, args)
            self.wires[name].wait_for(wire.READY)
        if impairment is not None or not self.topology.has_offloads:
            links.switch_offloads_off(near)
            links.switch_offloads_off(far)

    def change_wire(self, name: str, impairment: Impairment) -> None:
        """Have a wire do other harm than before; what is on it at the moment is lost."""
        self.wires[name].kill()
        args = python_module("kracauer.lab.wire", "a", "b", *impairment.arguments())
        self.wires[name] = self.start(f"wire-{name}", self._namespace(f"wire-{name}"), args)
        self.wires[name].wait_for(wire.READY)

    def _address(self) -> None:
        has_v6 = self.topology.client_path_mtu is None
        addresses = [f"{CLIENT}/24", *([f"{CLIENT_V6}/64"] if has_v6 else [])]
        gateways = [f"{ROUTER}/24", *([f"{ROUTER_V6}/64"] if has_v6 else [])]
        self._address_path("client", (self.router, "client0"), (self.client, "eth0"), gateways, addresses, CLIENT_PATH)
        for name, origin, address in (("origin1", self.origin1, ORIGIN_1), ("origin2", self.origin2, ORIGIN_2)):
            start, end, gateway = (self.router, name), (origin, "eth0"), f"{GATEWAYS[address]}/64"
            self._address_path(name, start, end, [gateway], [f"{address}/64"], ORIGIN_1_PATH)
        self.router.sysctl("net.ipv4.ip_forward", 1)
        self.router.sysctl("net.ipv6.conf.all.forwarding", 1)

    def _address_path(
        self,
        name: str,
        start: links.End,
        end: links.End,
        gateways: Sequence[str],
        addresses: Sequence[str],
        path: tuple[tuple[str, str], tuple[str, str]],
    ) -> None:
        """Give the path from `start` at our router to `end` its addresses and routes; `path` is for a narrow one only."""
        if f"{name}-near" in self.hops:
            near, far = self.hops[f"{name}-near"], self.hops[f"{name}-far"]
            (at_start, at_near), (at_near_end, at_far) = path
            links.add_addresses(start, (at_start,))
            links.add_addresses((near, "router"), (at_near,))
            links.add_addresses((near, "end"), (at_near_end,))
            links.add_addresses((far, "router"), (at_far,))
            network = str(ipaddress.ip_interface(gateways[0]).network)
            links.add_route(start, network, _host(at_near))
            links.add_route((near, "end"), network, _host(at_far))
            links.add_default_routes((near, "router"), (_host(at_start),))
            links.add_default_routes((far, "router"), (_host(at_near_end),))
            start = (far, "end")
        links.add_addresses(start, gateways)
        links.add_addresses(end, addresses)
        links.add_default_routes(end, [_host(gateway) for gateway in gateways])

    @property
    def authority(self) -> Authority:
        """The certificate authority that the lab's clients trust; LabError when trustme is missing."""
        if self._authority is None:
            self._authority = Authority(self.directory)
        return self._authority

    def name_services(self, addresses: dict[str, str]) -> None:
        """Have programs started in the client from now on resolve these names to these addresses."""
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        (self.directory / "hosts").write_text("\n".join(lines) + "\n", encoding="ascii")

    def start(
        self, name: str, namespace: NetworkNamespace, args: Sequence[str | Path], env: Mapping[str, str] | None = None
    ) -> BackgroundProcess:
        """Start any program in a namespace; its output goes to `name`.log in the lab's directory."""
        process = BackgroundProcess(name, namespace, args, self.directory / f"{name}.log", env)
        self._processes.append(process)
        return process

    def start_origin(
        self,
        name: str,
        names: Sequence[str] = (),
        *,
        http: Sequence[int] = (80,),
        https: Sequence[int] = (443,),
    ) -> BackgroundProcess:
        """Start a web server in namespace `name` ("origin1" or "origin2"), with a certificate for `names` if it speaks TLS."""
        args: list[str | Path] = [name, "--prefix", PREFIX]
        for option, ports in (("--http", http), ("--https", https if names else ())):
            args += [part for port in ports for part in (option, str(port))]
        if names:
            credentials: Credentials = self.authority.issue(name, names)
            args += ["--certificate", credentials.certificate, "--key", credentials.key]
        namespace = {"origin1": self.origin1, "origin2": self.origin2}[name]
        origin = self.start(name, namespace, python_module("kracauer.lab.origin", *args))
        origin.wait_for(ORIGIN_READY)
        self.origins.append(origin)
        return origin

    def start_daemon(self, config: str, *, timeout_s: float = 15) -> BackgroundProcess:
        """Start `kracauer run` in the router with this configuration and wait until it serves.

        Started again, it finds its configuration, its log and its runtime directory where they were.
        """
        path = self.directory / "kracauer-config.toml"
        path.write_text(config, encoding="utf-8")
        command = python_module("kracauer", "run", "-c", path)
        environment = {"RUNTIME_DIRECTORY": str(self.directory / "run")}
        self.daemon = self.start("kracauer", self.router, command, environment)
        self.daemon.wait_for(DAEMON_READY, timeout_s)
        return self.daemon
