"""From a configuration and the facts about a host to the steps that set it up; nothing here touches the host.

*Routed* ownership: the service address belongs to no interface, a host route leads it into the device. The prefix goes the
same way, so that the backends' answers to mapped addresses come back here.

*Shared* ownership: the service address is this host's own. Rules before the local one have a table of ours asked about packets
to the ports listened on, and that leads them into the device.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Final, NamedTuple

from kracauer.config import Config
from kracauer.host.conflicts import check
from kracauer.host.facts import Facts
from kracauer.host.own import from_device_rule, own_answers_rule, own_rules, service_rule
from kracauer.host.precedence import is_in_place
from kracauer.host.routes import TABLE_MAIN
from kracauer.host.rules import Rule
from kracauer.host.steps import (
    IPV4_METRIC,
    IPV6_METRIC,
    ROUTE_PROTOCOL,
    UNREACHABLE_METRIC,
    AddRoute,
    AddRule,
    DropRoute,
    DropRule,
    MoveLocalRule,
    SetLink,
    SetSysctl,
    Step,
)

_HEADER_GROWTH: Final = 20  # an IPv6 header is that much longer than an IPv4 one
_IPV6_MINIMUM_MTU: Final = 1280  # RFC 8200 §5
_ADDR_GEN_NONE: Final = 1  # IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
SHARED: Final = "shared"


class Way(NamedTuple):
    """What clients dial that is led into the device: a whole address, or just one port of one that is shared."""

    address: IPv4Address
    port: int | None = None

    def __str__(self) -> str:
        return str(self.address) if self.port is None else f"{self.address}:{self.port}"


def way(config: Config, address: IPv4Address, port: int) -> Way:
    """The way on which packets to this port come here."""
    return Way(address, port) if config.network.ownership == SHARED else Way(address)


def ways(config: Config) -> tuple[Way, ...]:
    """Every way there has to be, in the order of the listeners."""
    return tuple(dict.fromkeys(way(config, listener.address, listener.port) for listener in config.listeners))


def table(config: Config) -> int | None:
    """The routing table that is ours alone, where there is to be one: for `gather`."""
    return config.network.table if config.network.ownership == SHARED else None


def destinations(config: Config) -> tuple[IPv4Network | IPv6Network, ...]:
    """What is led into the device: every service address and the prefix."""
    return (*(IPv4Network(address) for address in config.service_addresses), config.prefix)


def plan(config: Config, facts: Facts, *, in_use: Iterable[Way] = ()) -> tuple[Step, ...]:
    """Everything to be set, in order. Raises HostError when the host as it is does not allow it.

    `in_use` are ways that are no longer configured and still have flows: they are kept.
    """
    wanted = tuple(dict.fromkeys((*ways(config), *in_use)))
    steps = (*_device_steps(config, facts), *_way_steps(config, wanted), *_prefix_steps(config))
    check(config, facts, _rules(steps))
    return (*_leftover_steps(config, facts, steps), *steps)


def extension(config: Config, facts: Facts) -> tuple[Step, ...]:
    """What a running service has to set for the listeners of `config`: for HostSetup.extend. Raises HostError."""
    steps = (*_way_steps(config, ways(config)), *_prefix_steps(config))
    check(config, facts, _rules(steps))
    return steps


def pending(steps: Iterable[Step], facts: Facts) -> tuple[Step, ...]:
    """`steps` without the rules that are there already; all others can be taken again."""
    steps = tuple(steps)
    is_moved = is_in_place(facts.rules, _rules(steps)) or not any(rule.is_local and not rule.preference for rule in facts.rules)
    return tuple(
        step
        for step in steps
        if not (isinstance(step, AddRule) and step.rule in facts.rules) and not (isinstance(step, MoveLocalRule) and is_moved)
    )


def expected(config: Config) -> tuple[Step, ...]:
    """What an operator who manages the network alone has to have set, in one way or another."""
    return (*_device_steps(config, Facts()), *_way_steps(config, ways(config)), *_prefix_steps(config))


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
    if network.ownership == SHARED:
        # What comes out of the device has an address of this host's own as its source.
        yield SetSysctl("ipv4", device, "accept_local", 1)
        yield SetSysctl("ipv4", device, "rp_filter", 0)
    yield SetLink(device, mtu=max(network.ipv4_mtu, network.ipv6_mtu, _IPV6_MINIMUM_MTU))


def _leftover_steps(config: Config, facts: Facts, steps: tuple[Step, ...]) -> Iterator[Step]:
    """What an earlier service with another configuration has set: rules, what they led into our device, then dead ends."""
    device = config.network.device
    ours = [route for route in facts.routes if route.protocol == ROUTE_PROTOCOL and not route.is_in_local_table]
    wanted = {(step.destination, step.table) for step in steps if isinstance(step, AddRoute)}
    led_elsewhere = {(route.destination, route.table) for route in ours if route.kind == "unicast" and route.device != device}
    for rule in own_rules(facts.rules, device, led_elsewhere):
        if rule not in _rules(steps):
            yield DropRule(rule)
    for route in ours:
        if route.kind == "unicast" and route.device == device and (route.destination, route.table) not in wanted:
            yield DropRoute(route.destination, route.metric, device, route.table)
    for route in ours:
        if route.kind == "unreachable" and (route.destination, route.table) not in wanted | led_elsewhere:
            yield DropRoute(route.destination, route.metric, table=route.table)


def _rules(steps: Iterable[Step]) -> tuple[Rule, ...]:
    return tuple(step.rule for step in steps if isinstance(step, AddRule))


def _way_steps(config: Config, wanted: tuple[Way, ...]) -> Iterator[Step]:
    network = config.network
    # The host itself answers what would be too big on the other side: Fragmentation Needed, Packet Too Big.
    mtu = min(network.ipv4_mtu, network.ipv6_mtu - _HEADER_GROWTH)
    shared = tuple(way for way in wanted if way.port is not None)
    for destination in dict.fromkeys(IPv4Network(way.address) for way in wanted):
        own_table = network.table if any(IPv4Network(way.address) == destination for way in shared) else TABLE_MAIN
        yield from _route_steps(destination, network.device, IPV4_METRIC, mtu, own_table)
    if not shared:
        return
    # A service's port is no longer this host's own. What its TCP had to say from there, a reset of what it does not know, would
    # end the connections of clients at a moment when the rules are missing, or a fragment comes past them.
    for address, port in shared:
        yield AddRule(own_answers_rule(address, port or 0))
    yield AddRule(from_device_rule(network.device))
    for address, port in shared:
        yield AddRule(service_rule(address, port or 0, network.table))
    yield MoveLocalRule()


def _prefix_steps(config: Config) -> Iterator[Step]:
    network = config.network
    mtu = max(min(network.ipv6_mtu, network.ipv4_mtu + _HEADER_GROWTH), _IPV6_MINIMUM_MTU)
    return _route_steps(config.prefix, network.device, IPV6_METRIC, mtu)


def _route_steps(
    destination: IPv4Network | IPv6Network, device: str, metric: int, mtu: int, own_table: int = TABLE_MAIN
) -> Iterator[Step]:
    # The dead end first, so that there is no moment in which traffic could leak to a default route.
    yield AddRoute(destination, None, UNREACHABLE_METRIC, table=own_table)
    yield AddRoute(destination, device, metric, mtu, own_table)
