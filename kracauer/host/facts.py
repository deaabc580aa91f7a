"""What the host looks like before anything is set, gathered once so that planning needs no look at the world."""

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kracauer.errors import HostError
from kracauer.host.steps import ROUTE_PROTOCOL

_TABLE_LOCAL: Final = 255
_TABLE_MAIN: Final = 254
_PROTOCOL_RA: Final = 9
_KINDS: Final = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_FAMILIES: Final = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}


@dataclass(frozen=True, slots=True)
class RouteFact:
    """One route of the main or the local table; `kind` as `ip route` calls it, `device` empty when it has none."""

    destination: IPv4Network | IPv6Network
    kind: str
    device: str
    metric: int
    protocol: int
    is_in_local_table: bool = False

    def __str__(self) -> str:
        device = f" dev {self.device}" if self.device else ""
        return f"{'' if self.kind == 'unicast' else self.kind + ' '}{self.destination}{device} metric {self.metric}"


@dataclass(frozen=True, slots=True)
class Facts:
    """The host as found. `routes` are those that touch the destinations asked about, and those that bear our mark.

    `is_forwarding_ipv4` and `is_forwarding_ipv6` are about the interfaces other than our device; `advertised_interfaces` have a
    default route from a router advertisement, which switching on forwarding would take away.
    """

    has_ipv6: bool = True
    is_ipv6_disabled: bool = False
    is_ipv6_disabled_on_device: bool = False
    is_forwarding_ipv4: bool = True
    is_forwarding_ipv6: bool = True
    advertised_interfaces: tuple[str, ...] = ()
    routes: tuple[RouteFact, ...] = ()


def gather(device: str, destinations: Iterable[IPv4Network | IPv6Network]) -> Facts:
    """Look at the host. Raises HostError when netlink does not answer."""
    wanted = tuple(destinations)
    try:
        with IPRoute() as netlink:
            names = {link["index"]: link.get("IFLA_IFNAME") for link in netlink.get_links()}
            routes = [_route(message, names) for message in _dump(netlink)]
    except (NetlinkError, OSError) as error:
        raise HostError(
            f"the kernel's routes cannot be read through netlink ({error})",
            "run Kracauer where rtnetlink may be used, or set network.manage = false and set up routes by hand",
        ) from error
    return Facts(
        has_ipv6=Path("/proc/net/if_inet6").exists(),
        is_ipv6_disabled=_sysctl("ipv6", "all", "disable_ipv6") == 1,
        is_ipv6_disabled_on_device=_sysctl("ipv6", device, "disable_ipv6") == 1,
        is_forwarding_ipv4=_sysctl("ipv4", "all", "forwarding") == 1 or _is_any_forwarding("ipv4", "forwarding", device),
        is_forwarding_ipv6=_sysctl("ipv6", "all", "forwarding") == 1 or _is_any_forwarding("ipv6", "force_forwarding", device),
        advertised_interfaces=tuple(
            sorted({r.device for r in routes if r.protocol == _PROTOCOL_RA and _is_default(r) and _accepts_ra(r.device)})
        ),
        routes=tuple(r for r in routes if r.protocol == ROUTE_PROTOCOL or any(_touches(r, network) for network in wanted)),
    )


def _dump(netlink: Any) -> list[Any]:
    messages = []
    for family in _FAMILIES:
        try:
            messages += netlink.get_routes(family=family)
        except NetlinkError as error:
            if error.code not in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):  # a kernel without IPv6
                raise
    return [message for message in messages if _table(message) in (_TABLE_MAIN, _TABLE_LOCAL)]


def _table(message: Any) -> int:
    return int(message.get("RTA_TABLE") or message["table"])


def _route(message: Any, names: dict[int, str]) -> RouteFact:
    destination = message.get("RTA_DST")
    network = f"{destination}/{message['dst_len']}" if destination else _FAMILIES[message["family"]]
    return RouteFact(
        destination=ip_network(network),
        kind=_KINDS.get(message["type"], "other"),
        device=names.get(message.get("RTA_OIF") or 0, ""),
        metric=message.get("RTA_PRIORITY") or 0,
        protocol=message["proto"],
        is_in_local_table=_table(message) == _TABLE_LOCAL,
    )


def _touches(route: RouteFact, network: IPv4Network | IPv6Network) -> bool:
    """Whether `route` has to do with `network`: part of it, the same, or a piece of the local table that covers it."""
    if contains(network, route.destination):
        return True
    return route.is_in_local_table and contains(route.destination, network)


def contains(outer: IPv4Network | IPv6Network, inner: IPv4Network | IPv6Network) -> bool:
    """Whether `inner` is a part of `outer`, or the same; networks of two families have nothing in common."""
    return (
        outer.version == inner.version
        and outer.prefixlen <= inner.prefixlen
        and int(outer.network_address) == int(inner.network_address) & int(outer.netmask)
    )


def _is_default(route: RouteFact) -> bool:
    return route.destination.prefixlen == 0


def _accepts_ra(device: str) -> bool:
    return _sysctl("ipv6", device, "accept_ra") == 1


def _sysctl(family: str, device: str, key: str) -> int | None:
    try:
        return int(Path("/proc/sys/net", family, "conf", device, key).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _is_any_forwarding(family: str, key: str, device: str) -> bool:
    try:
        others = {path.name for path in Path("/proc/sys/net", family, "conf").iterdir()} - {"all", "default", "lo", device}
    except OSError:
        return True  # nothing can be said about it, so nothing is
    return any(_sysctl(family, other, key) == 1 for other in others)
