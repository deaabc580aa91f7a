"""What a configuration says, as frozen values with the defaults; docs/reference/configuration.md explains each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from types import MappingProxyType

from kracauer.access import EVERYBODY, AccessList
from kracauer.peek import Protocol
from kracauer.profile import BackendProfile
from kracauer.routes import Backend, RouteTable


@dataclass(frozen=True, slots=True)
class Listener:
    """A service address and port that clients dial, what they are expected to speak there, and which of them may come."""

    address: IPv4Address
    port: int
    protocol: Protocol = Protocol.AUTO
    access: AccessList = EVERYBODY
    redirect: bool = False  # what is asked for here in plain HTTP is sent to HTTPS

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each phase of a flow may last, in seconds; the last two are those of RFC 5382 §5 and RFC 7857 §2."""

    peek_s: float = 30.0
    dial_attempt_s: float = 0.5
    dial_s: float = 10.0
    established_idle_s: float = 7440.0
    transitory_s: float = 240.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what clients can take up: all together, and each of them.

    `flows`, `unproven` (flows that have no backend yet) and `held_bytes` (of first messages) are shared by all clients, a
    client being a network of `client_prefix_length`; none is given more of them than an eighth of what it leaves
    free. The limits `_per_client` come on top; `flows_per_client` 0 and `new_per_second_per_client` 0.0 stand for none.
    """

    flows: int = 65536
    peek_bytes: int = 65536
    held_bytes: int = 64 * 1024 * 1024
    unproven: int = 16384
    unproven_per_client: int = 256
    flows_per_client: int = 0
    new_per_second_per_client: float = 0.0
    client_prefix_length: int = 32


@dataclass(frozen=True, slots=True)
class Network:
    """The TUN device and the links around it; `manage` False leaves addresses and routes to the operator.

    `ownership` of the service addresses: "routed" to the device as a whole, or "shared" with this host, of whose table number
    `table` a few ports are led to the device. `offload`: whether the kernel carries what needs no look ("auto": if it can).
    `workers` processes have a queue of the device each.
    """

    manage: bool = True
    device: str = "kracauer0"
    ipv4_mtu: int = 1500
    ipv6_mtu: int = 1500
    lowest_ipv6_mtu: int = 1280
    router_sources: tuple[IPv4Address, ...] = ()
    offloads: bool = True
    ownership: str = "routed"
    table: int = 198
    offload: str = "auto"
    workers: int = 1


@dataclass(frozen=True, slots=True)
class NameServer:
    """A resolver that is asked for the addresses of backends."""

    address: IPv4Address | IPv6Address
    port: int = 53

    def __str__(self) -> str:
        if self.port == 53:
            return str(self.address)
        return f"{self.address}:{self.port}" if self.address.version == 4 else f"[{self.address}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Dns:
    """How the names of backends are looked up: by `servers` (none: the system's), kept as their TTL says within the bounds.

    Where resolving fails, what was known stays good for `stale_s`. With `serve_any` a hostname without a route is a backend's
    name itself, of which `max_names` are remembered.
    """

    serve_any: bool = False
    servers: tuple[NameServer, ...] = ()
    timeout_s: float = 5.0
    min_ttl_s: float = 5.0
    max_ttl_s: float = 3600.0
    stale_s: float = 86_400.0
    max_names: int = 4096


@dataclass(frozen=True, slots=True)
class Probes:
    """Whether and how backends are asked if they are there: up after `rise` answers in a row, down after `fall` without."""

    enabled: bool = True
    interval_s: float = 5.0
    timeout_s: float = 1.0
    rise: int = 2
    fall: int = 3


@dataclass(frozen=True, slots=True)
class Log:
    """How much to log ("debug", "info", "warning", "error") and how ("auto", "console", "json")."""

    level: str = "info"
    format: str = "auto"


@dataclass(frozen=True, slots=True)
class Config:
    """One whole valid configuration.

    `profile` is assumed of every backend that has not been heard yet; `profile_overrides` of single ones. Backends whose
    addresses come from the DNS are dialled within `backend_networks` only.
    """

    prefix: IPv6Network
    listeners: tuple[Listener, ...]
    routes: RouteTable
    profile: BackendProfile = field(default_factory=BackendProfile)
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    network: Network = Network()
    log: Log = Log()
    profile_overrides: Mapping[IPv6Address, BackendProfile] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    access: AccessList = EVERYBODY
    backend_networks: tuple[IPv6Network, ...] = ()
    dns: Dns = Dns()
    probes: Probes = Probes()

    @property
    def backends(self) -> tuple[Backend, ...]:
        """Every distinct backend with an address (port or None for the listener's), in the order of the routes."""
        return self.routes.backends

    @property
    def service_addresses(self) -> tuple[IPv4Address, ...]:
        """Every distinct address listened on, in the order of the listeners."""
        return tuple(dict.fromkeys(listener.address for listener in self.listeners))

    def profile_of(self, address: IPv6Address) -> BackendProfile:
        """What to assume of the backend at `address` as long as it has not been heard."""
        return self.profile_overrides.get(address, self.profile) if self.profile_overrides else self.profile
