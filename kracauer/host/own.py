"""The routes and rules on this host that bear Kracauer's mark, this one's or another's."""

import socket
from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Final, TypeAlias

from kracauer.errors import HostError
from kracauer.host.routes import ANY_TABLE, TABLE_LOCAL, RouteTables
from kracauer.host.rules import Rule
from kracauer.host.steps import OWN_PREFERENCE, ROUTE_PROTOCOL

_TCP: Final = 6

# What tells one from another: destination, device or None for a dead end, metric, table.
Identity: TypeAlias = tuple[IPv4Network | IPv6Network, str | None, int, int]


def own_routes(tables: RouteTables) -> frozenset[Identity]:
    """Ask the kernel for them. Raises HostError."""
    try:
        found = [
            route
            for family in (socket.AF_INET, socket.AF_INET6)
            for route in tables.read(family, ANY_TABLE, protocol=ROUTE_PROTOCOL)
        ]
    except OSError as error:
        raise HostError(
            f"the kernel's routes cannot be read through netlink ({error})", "run Kracauer where rtnetlink may be used"
        ) from error
    return frozenset((r.destination, None if r.kind == "unreachable" else r.device, r.metric, r.table) for r in found)


def service_rule(address: IPv4Address, port: int, table: int) -> Rule:
    """Has `table` asked about packets to a port of this host's own address, wherever they come from."""
    return Rule(0, table=table, dst=IPv4Network(address), ip_proto=_TCP, dport=port, protocol=ROUTE_PROTOCOL)


def from_device_rule(device: str) -> Rule:
    """Keeps what comes from the device out of the rules behind it: it has been led there once."""
    return Rule(0, table=TABLE_LOCAL, iif=device, protocol=ROUTE_PROTOCOL)


def own_answers_rule(address: IPv4Address, port: int) -> Rule:
    """Has what this host's own TCP says from a port that is led into the device go nowhere."""
    return Rule(
        OWN_PREFERENCE,
        action="blackhole",
        iif="lo",
        src=IPv4Network(address),
        ip_proto=_TCP,
        sport=port,
        protocol=ROUTE_PROTOCOL,
    )


def own_rules(
    rules: Iterable[Rule], device: str, led_elsewhere: Collection[tuple[IPv4Network | IPv6Network, int]]
) -> Iterator[Rule]:
    """Those of `rules` that belong to `device`; none that leads what another device has in a table, `led_elsewhere`, to it."""
    ours = [rule for rule in dict.fromkeys(rules) if rule.protocol == ROUTE_PROTOCOL and not rule.is_opaque]
    others = {(rule.dst, rule.dport) for rule in ours if (rule.dst, rule.table) in led_elsewhere}
    for rule in ours:
        is_service = rule.dst is not None and (rule.dst, rule.table) not in led_elsewhere
        is_answer = rule.src is not None and (rule.src, rule.sport) not in others
        if rule.iif == device or is_service or is_answer:
            yield rule
