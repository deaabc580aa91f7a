"""What the host looks like before anything is set, gathered once so that planning needs no look at the world."""

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

from kracauer.errors import HostError
from kracauer.host.routes import TABLE_LOCAL, TABLE_MAIN, RouteFact, RouteTables, contains
from kracauer.host.steps import ROUTE_PROTOCOL

_PROTOCOL_RA: Final = 9


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
    """Look at the host, quickly even if it has a million routes. Raises HostError when netlink does not answer."""
    wanted = tuple(destinations)
    try:
        with RouteTables() as tables:
            routes = tuple(dict.fromkeys(_relevant_routes(tables, wanted)))
            defaults = tables.read(socket.AF_INET6, TABLE_MAIN, protocol=_PROTOCOL_RA)
    except OSError as error:
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
            sorted({route.device for route in defaults if _is_default(route) and _accepts_ra(route.device)})
        ),
        routes=routes,
    )


def _relevant_routes(tables: RouteTables, wanted: tuple[IPv4Network | IPv6Network, ...]) -> Iterator[RouteFact]:
    for family in (socket.AF_INET, socket.AF_INET6):
        for route in tables.read(family, TABLE_LOCAL):
            # Here a piece that covers what is wanted matters as well: it comes first, however wide it is.
            if any(contains(network, route.destination) or contains(route.destination, network) for network in wanted):
                yield route
        yield from tables.read(family, TABLE_MAIN, protocol=ROUTE_PROTOCOL)
        if wanted:
            yield from tables.read(family, TABLE_MAIN, within=wanted)


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
