"""Everything that an examination looks at, gathered once, so that the checks need no look at the world."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path
from typing import Any

from kracauer import host
from kracauer.config import Config
from kracauer.doctor.nft import Ruleset


@dataclass(frozen=True, slots=True)
class Source:
    """The configuration file, which may be missing, and what it says, or what is wrong with it."""

    path: Path | None
    config: Config | None
    problems: tuple[str, ...] = ()
    is_there: bool = True

    @property
    def option(self) -> str:
        """What tells a command of this file."""
        return f" -c {shlex.quote(str(self.path))}" if self.path else ""


@dataclass(frozen=True, slots=True)
class Tun:
    """The clone device, and what came of opening a device of our own with it; `error` and `remedy` where that failed.

    `fallback` says why there are no offloads. `is_tried` False: opening needs privileges that there are not.
    """

    is_tried: bool = True
    error: str = ""
    remedy: str = ""
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class Offload:
    """What came of putting the program of the fast path on a device of our own: the `hook`, or `error` and `remedy`."""

    hook: str = ""
    error: str = ""
    remedy: str = ""
    has_bpffs: bool = False


@dataclass(frozen=True, slots=True)
class Interface:
    """What bears the name of the device: whose it is by its alias and driver, and whether it is up."""

    alias: str
    driver: str
    is_up: bool


class ServiceState(StrEnum):
    """What can be said of the service."""

    RUNNING = "running"
    ABSENT = "absent"
    HIDDEN = "hidden"  # this user may not ask
    MUTE = "mute"  # it is there, and does not answer


@dataclass(frozen=True, slots=True)
class Service:
    """The service with this device: its `status` where it answers, the `error` where it does not."""

    state: ServiceState = ServiceState.ABSENT
    status: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    version: str = ""  # of the program that examines


@dataclass(frozen=True, slots=True)
class Storage:
    """The runtime directory: whether this user can write there, and how many bytes it has left; `mount` holds it."""

    directory: Path
    is_there: bool = True
    is_writable: bool = True
    free_bytes: int = 1 << 40
    flow_file_bytes: int = 0
    mount: Path = Path("/")
    mount_bytes: int = 1 << 40


@dataclass(frozen=True, slots=True)
class Link:
    """An interface, and its own settings; `rp_filter` is the one in effect."""

    name: str
    mtu: int = 1500
    is_up: bool = True
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    is_forwarding_ipv4: bool = True
    is_forwarding_ipv6: bool = True
    rp_filter: int = 0
    has_proxy_arp: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """Where this machine sends what is for an address; `kind` as `ip route` calls it, empty when there is no way."""

    kind: str = "unicast"
    device: str = ""
    gateway: IPv4Address | IPv6Address | None = None
    source: IPv4Address | IPv6Address | None = None
    mtu: int = 0


class Answer(StrEnum):
    """What comes back when a connection is begun."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    SILENT = "silent"
    UNREACHABLE = "unreachable"
    UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend: `probe` is from an address of the prefix, `direct` from this machine's own; `is_pinged` None: not tried."""

    address: IPv6Address
    port: int
    way: Way = Way()
    probe: Answer = Answer.UNTRIED
    direct: Answer = Answer.UNTRIED
    is_pinged: bool | None = None
    round_trip_s: float | None = None

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Name:
    """A DNS name of backends: the addresses it has within the backend networks, and how many it has outside of them."""

    name: str
    addresses: tuple[IPv6Address, ...] = ()
    outside: tuple[IPv6Address, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """The host's network; `host` is what the service itself looks at before it sets anything."""

    host: host.Facts
    links: tuple[Link, ...] = ()
    client_way: Way = Way()
    service_ways: Mapping[IPv4Address, Way] = field(default_factory=dict)
    prefix_way: Way = Way()
    default_devices: tuple[str, ...] = ()  # of the IPv4 default routes, the best first
    proxied: frozenset[IPv4Address] = frozenset()
    is_forwarding_all_ipv4: bool = True

    def link(self, name: str) -> Link | None:
        """The interface of that name."""
        return next((link for link in self.links if link.name == name), None)


@dataclass(frozen=True, slots=True)
class Firewall:
    """What filters packets here: the rules of nftables, None with the reason where they cannot be had; old-style policies.

    `legacy` has what `iptables-legacy -S FORWARD` (and its twin for IPv6) prints, by the program's name.
    """

    ruleset: Ruleset | None = None
    reason: str = ""
    legacy: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unreadable_legacy: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it. What is None could not be found out, and `missing` says why, by the field's name."""

    source: Source
    capabilities: frozenset[str] = frozenset()
    user: int = 0
    tun: Tun = Tun()
    offload: Offload | None = None
    interface: Interface | None = None
    service: Service = Service()
    storage: Storage | None = None
    network: Network | None = None
    firewall: Firewall = Firewall()
    names: tuple[Name, ...] = ()
    backends: tuple[Backend, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Config | None:
        """The configuration, if it is valid."""
        return self.source.config

    @property
    def is_running(self) -> bool:
        """Whether a service with this device answers."""
        return self.service.state is ServiceState.RUNNING
