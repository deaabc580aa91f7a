"""What on a host gets in the way of a plan, each with its remedy."""

from ipaddress import IPv4Network, IPv6Network
from typing import Final

from kracauer.config import Config
from kracauer.errors import HostError
from kracauer.host.facts import Facts
from kracauer.host.precedence import is_in_place, obstacle, refusal
from kracauer.host.routes import TABLE_MAIN, RouteFact, contains
from kracauer.host.rules import Rule
from kracauer.host.steps import IPV4_METRIC, IPV6_METRIC, PROBING_DEVICE, ROUTE_PROTOCOL

_DEAD_ENDS: Final = frozenset({"unreachable", "blackhole", "prohibit"})


def check(config: Config, facts: Facts, rules: tuple[Rule, ...] = ()) -> None:
    """Raise HostError when something on this host gets in the way; `rules` are those that there are to be."""
    device = config.network.device
    _check_ipv6(facts)
    for address in config.service_addresses:
        if rules:
            _check_shared(IPv4Network(address), facts)
        else:
            _check_service(IPv4Network(address), device, facts)
    if rules:
        _check_table(config, facts)
        _check_rules(rules, facts)
    _check_prefix(config.prefix, device, facts)


def _check_shared(service: IPv4Network, facts: Facts) -> None:
    address = service.network_address
    here = [route for route in facts.routes if route.is_in_local_table and contains(route.destination, service)]
    if not any(route.kind == "local" for route in here):
        raise HostError(
            f"the service address {address} is on no interface of this host, with which it should be shared",
            f'give it to one (`ip addr add {address}/32 dev INTERFACE`), or set network.ownership = "routed" '
            "if it is routed to this host",
        )


def _check_table(config: Config, facts: Facts) -> None:
    table, device = config.network.table, config.network.device
    services = {IPv4Network(address) for address in config.service_addresses}
    remedy = f"set network.table to a number that nobody uses on this host: {table} is Kracauer's alone"
    for route in facts.routes:
        if route.table == table and not route.is_in_local_table and route.protocol != ROUTE_PROTOCOL:
            raise HostError(f"the routing table {table} has a route that is not Kracauer's: `{route}`", remedy)
        if route.table == table and route.kind == "unicast" and route.destination in services and not _is_own(route, device):
            raise HostError(f"the routing table {table} leads {route.destination.network_address} to {route.device}", remedy)
    for rule in facts.rules:
        if rule.table == table and rule.protocol != ROUTE_PROTOCOL:
            raise HostError(f"the rule `{rule}` of another program asks the routing table {table}", remedy)


def _check_rules(wanted: tuple[Rule, ...], facts: Facts) -> None:
    in_the_way = obstacle(facts.rules)
    if in_the_way is not None and not is_in_place(facts.rules, wanted):
        raise refusal(in_the_way)


def _check_ipv6(facts: Facts) -> None:
    if not facts.has_ipv6:
        raise HostError("this kernel has no IPv6", "boot it without `ipv6.disable=1`, or load the module with `modprobe ipv6`")
    if facts.is_ipv6_disabled:
        raise HostError(
            "IPv6 is disabled on this host (net.ipv6.conf.all.disable_ipv6 = 1)",
            "enable it with `sysctl -w net.ipv6.conf.all.disable_ipv6=0`, and look for the setting in /etc/sysctl.d",
        )


def _check_service(service: IPv4Network, device: str, facts: Facts) -> None:
    address = service.network_address
    for route in facts.routes:
        if route.is_in_local_table and contains(route.destination, service):
            if route.kind == "local":
                raise HostError(
                    f"the service address {address} is configured on {route.device} of this host, whose local routing table "
                    f"takes its packets before they can reach {device}",
                    f'set network.ownership = "shared" if that is this host\'s own address; otherwise remove it with '
                    f"`ip addr del {address} dev {route.device}`, and have it routed to this host",
                )
            raise HostError(
                f"the service address {address} is a {route.kind} address of {route.device}",
                "use another address as listen.address",
            )
        if route.destination == service and route.table == TABLE_MAIN and _is_rival(route, device, IPV4_METRIC):
            raise _conflict(route, f"the service address {address}")


def _check_prefix(prefix: IPv6Network, device: str, facts: Facts) -> None:
    # The local table first: an address there is the cause of its routes in the main one.
    for route in sorted(facts.routes, key=lambda route: not route.is_in_local_table):
        is_part = contains(prefix, route.destination)
        if route.is_in_local_table:
            # The subnet-router anycast address (RFC 4291 §2.6.1) of a network around the prefix is that of client 0.0.0.0.
            if route.kind == "local" and (is_part or contains(route.destination, prefix)):
                raise HostError(
                    f"{route.destination} is local to this host (on {route.device}), and overlaps the prefix {prefix}",
                    "use a prefix that is kept for Kracauer alone",
                )
        elif is_part and route.destination != prefix and not _is_own(route, device):
            raise HostError(
                f"the route `{route}` takes a part of the prefix {prefix} elsewhere",
                f"remove it with `ip -6 route del {route}`, or use a prefix that is kept for Kracauer alone",
            )
        elif is_part and _is_rival(route, device, IPV6_METRIC):
            raise _conflict(route, f"the prefix {prefix}")


def _is_rival(route: RouteFact, device: str, metric: int) -> bool:
    """Whether a route to the same destination gets in the way: neither ours, nor a dead end that gives way to ours."""
    if route.is_in_local_table or _is_own(route, device):
        return False
    return route.kind not in _DEAD_ENDS or route.metric <= metric


def _is_own(route: RouteFact, device: str) -> bool:
    if route.protocol != ROUTE_PROTOCOL:
        return False
    return route.device in ("", "lo", device) or route.device.startswith(PROBING_DEVICE)


def _conflict(route: RouteFact, what: str) -> HostError:
    return HostError(
        f"{what} already has a route that is not Kracauer's: `{route}`",
        f"remove it with `ip -{route.destination.version} route del {route}`, "
        "or set network.manage = false and set up all routes yourself",
    )
