"""From a configuration and the facts about a host to the steps that set it up; nothing here touches the host.

*Routed* ownership: the service address belongs to no interface, a host route leads it into the device. The prefix goes the
same way, so that the backends' answers to mapped addresses come back here.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from kracauer.config import Config
from kracauer.errors import HostError
from kracauer.host.facts import Facts
from kracauer.host.routes import RouteFact, contains
from kracauer.host.steps import (
    IPV4_METRIC,
    IPV6_METRIC,
    ROUTE_PROTOCOL,
    UNREACHABLE_METRIC,
    AddRoute,
    DropRoute,
    SetLink,
    SetSysctl,
    Step,
)

_HEADER_GROWTH: Final = 20  # an IPv6 header is that much longer than an IPv4 one
_IPV6_MINIMUM_MTU: Final = 1280  # RFC 8200 §5
_ADDR_GEN_NONE: Final = 1  # IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
_DEAD_ENDS: Final = frozenset({"unreachable", "blackhole", "prohibit"})


def destinations(config: Config) -> tuple[IPv4Network | IPv6Network, ...]:
    """What is led into the device: every service address and the prefix."""
    return (*(IPv4Network(address) for address in config.service_addresses), config.prefix)


def plan(config: Config, facts: Facts, *, in_use: Iterable[IPv4Network] = ()) -> tuple[Step, ...]:
    """Everything to be set, in order. Raises HostError when the host as it is does not allow it.

    `in_use` are service addresses that are no longer configured and still have flows: they keep their routes.
    """
    check(config, facts)
    kept = tuple(destination for destination in in_use if destination not in destinations(config))
    return (
        *_leftover_steps(config, facts, kept),
        *_device_steps(config, facts),
        *_route_steps(config, (*destinations(config), *kept)),
    )


def extension(config: Config, facts: Facts) -> tuple[Step, ...]:
    """What a running service has to set for the service addresses of `config`: for HostSetup.extend. Raises HostError."""
    check(config, facts)
    return tuple(_route_steps(config, destinations(config)))


def expected(config: Config) -> tuple[Step, ...]:
    """What an operator who manages the network alone has to have set, in one way or another."""
    return (*_device_steps(config, Facts()), *_route_steps(config, destinations(config)))


def check(config: Config, facts: Facts) -> None:
    """Raise HostError, with the remedy, when something on this host gets in the way of the plan."""
    device = config.network.device
    _check_ipv6(facts)
    for address in config.service_addresses:
        _check_service(IPv4Network(address), device, facts)
    _check_prefix(config.prefix, device, facts)


def _device_steps(config: Config, facts: Facts) -> Iterator[Step]:
    network = config.network
    device = network.device
    if facts.is_ipv6_disabled_on_device:  # by `default`, not by `all`: other interfaces have it, so ours may
        yield SetSysctl("ipv6", device, "disable_ipv6", 0)
    # No link-local address, no router solicitations: nobody but the translator listens behind this device.
    yield SetSysctl("ipv6", device, "addr_gen_mode", _ADDR_GEN_NONE, is_required=False)
    yield SetSysctl("ipv6", device, "accept_ra", 0, is_required=False)
    # While nobody is attached the link has no carrier. Its routes have to hold, so that what comes then is lost without a word.
    yield SetSysctl("ipv4", device, "ignore_routes_with_linkdown", 0, is_required=False)
    yield SetSysctl("ipv6", device, "ignore_routes_with_linkdown", 0, is_required=False)
    # Whether a packet may be forwarded is asked of the interface it came in by. IPv6 asks only `all`, before Linux 6.17.
    yield SetSysctl("ipv4", device, "forwarding", 1)
    yield SetSysctl("ipv6", device, "force_forwarding", 1, is_required=False)
    yield SetLink(device, mtu=max(network.ipv4_mtu, network.ipv6_mtu, _IPV6_MINIMUM_MTU))


def _leftover_steps(config: Config, facts: Facts, kept: tuple[IPv4Network, ...]) -> Iterator[Step]:
    """Routes of an earlier service with another configuration: what leads into our device, then dead ends before nothing."""
    device = config.network.device
    ours = [route for route in facts.routes if route.protocol == ROUTE_PROTOCOL]
    wanted = {*destinations(config), *kept}
    led_elsewhere = {route.destination for route in ours if route.kind == "unicast" and route.device != device}
    for route in ours:
        if route.kind == "unicast" and route.device == device and route.destination not in wanted:
            yield DropRoute(route.destination, route.metric, device)
    for route in ours:
        if route.kind == "unreachable" and route.destination not in wanted | led_elsewhere:
            yield DropRoute(route.destination, route.metric)


def _route_steps(config: Config, ways: Iterable[IPv4Network | IPv6Network]) -> Iterator[Step]:
    network = config.network
    device = network.device
    # The host itself answers what would be too big on the other side: Fragmentation Needed, Packet Too Big.
    ipv4_mtu = min(network.ipv4_mtu, network.ipv6_mtu - _HEADER_GROWTH)
    ipv6_mtu = max(min(network.ipv6_mtu, network.ipv4_mtu + _HEADER_GROWTH), _IPV6_MINIMUM_MTU)
    for destination in ways:
        metric, mtu = (IPV4_METRIC, ipv4_mtu) if destination.version == 4 else (IPV6_METRIC, ipv6_mtu)
        # The dead end first, so that there is no moment in which traffic could leak to a default route.
        yield AddRoute(destination, None, UNREACHABLE_METRIC)
        yield AddRoute(destination, device, metric, mtu)


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
                    f"give Kracauer an address that no interface has, or remove it with "
                    f"`ip addr del {address} dev {route.device}` and have it routed to this host",
                )
            raise HostError(
                f"the service address {address} is a {route.kind} address of {route.device}",
                "use another address as listen.address",
            )
        if route.destination == service and _is_rival(route, device, IPV4_METRIC):
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
    return route.protocol == ROUTE_PROTOCOL and route.device in ("", "lo", device)


def _conflict(route: RouteFact, what: str) -> HostError:
    return HostError(
        f"{what} already has a route that is not Kracauer's: `{route}`",
        f"remove it with `ip -{route.destination.version} route del {route}`, "
        "or set network.manage = false and set up all routes yourself",
    )
