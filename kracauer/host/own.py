"""The routes on this host that bear Kracauer's mark, this one's or another's."""

import socket
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from kracauer.errors import HostError
from kracauer.host.routes import TABLE_MAIN, RouteTables
from kracauer.host.steps import ROUTE_PROTOCOL

# What tells one from another: destination, device or None for a dead end, metric.
Identity: TypeAlias = tuple[IPv4Network | IPv6Network, str | None, int]


def own_routes(tables: RouteTables) -> frozenset[Identity]:
    """Ask the kernel for them. Raises HostError."""
    try:
        found = [
            route
            for family in (socket.AF_INET, socket.AF_INET6)
            for route in tables.read(family, TABLE_MAIN, protocol=ROUTE_PROTOCOL)
        ]
    except OSError as error:
        raise HostError(
            f"the kernel's routes cannot be read through netlink ({error})", "run Kracauer where rtnetlink may be used"
        ) from error
    return frozenset((r.destination, None if r.kind == "unreachable" else r.device, r.metric) for r in found)
