"""The addresses that belong to Kracauer: those that clients dial, and the prefix; and the ways that lead to and from them."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Network
from typing import Final

from kracauer.config import Config
from kracauer.doctor.checks.device import NET_RAW
from kracauer.doctor.checks.remedies import from_text
from kracauer.doctor.facts import Facts, Link, Network
from kracauer.doctor.finding import Finding, Remedy, Topic, advise, run_here
from kracauer.errors import HostError
from kracauer.host import ROUTE_PROTOCOL, SHARED, AddRoute, AddRule, advise_sharing, expected, plan

SERVICE_ADDRESS: Final = Topic(
    "service-address", "Clients dial this address, and their packets have to arrive here and reach the device."
)
PREFIX: Final = Topic("prefix", "Backends see each client at an address of the prefix, and answer there.")
SHARING: Final = Topic("sharing", "An address that is shared with this host takes something from it.")
ROUTES: Final = Topic("routes", "Routes lead the service addresses and the prefix into the device.")
CLIENT_ROUTE: Final = Topic("client-route", "What Kracauer answers has to find its way back to clients anywhere.")

EXAMPLE_CLIENT: Final = IPv4Address("192.0.2.7")
NEXT_HOP: Final = "NEXT_HOP"


def examine_service_addresses(facts: Facts) -> Iterator[Finding]:
    """For each: nothing on this host is in the way, and somebody can know that it is here."""
    network, config = facts.network, facts.config
    if network is None or config is None:
        yield SERVICE_ADDRESS.skipped(facts.missing.get("network", "there is no valid configuration"))
        return
    for address in config.service_addresses:
        listeners = tuple(listener for listener in config.listeners if listener.address == address)
        problem = _conflict(replace(config, listeners=listeners), network, 4)
        if problem is not None:
            yield SERVICE_ADDRESS.failure(problem.cause, *from_text(problem.remedy), subject=str(address))
        elif config.network.ownership == SHARED:
            found = "this machine has it, and the ports listened on are led to the device"
            yield SERVICE_ADDRESS.ok(found, str(address))
        else:
            yield _routed(address, config, network)


def _conflict(config: Config, network: Network, version: int) -> HostError | None:
    """What the service itself would say of the routes of one family before it sets anything."""
    routes = tuple(route for route in network.host.routes if route.destination.version == version)
    try:
        plan(config, replace(network.host, routes=routes, has_ipv6=True, is_ipv6_disabled=False))
    except HostError as error:
        return error
    return None


def _routed(address: IPv4Address, config: Config, network: Network) -> Finding:
    own = config.network.device
    link = next((link for link in network.links if link.name != own and _has_neighbour(link, address)), None)
    if link is None:
        at = _address_of(network.link(network.client_way.device), 4)
        hint = f": `ip route replace {address}/32 via {at}` on the router before it" if at else ""
        return SERVICE_ADDRESS.ok(f"no interface has it; whoever is before this machine must route it here{hint}", str(address))
    if link.has_proxy_arp or address in network.proxied:
        return SERVICE_ADDRESS.ok(f"no interface has it, and this machine answers for it on {link.name}", str(address))
    remedy = run_here(f"ip neighbour add proxy {address} dev {link.name}")
    return SERVICE_ADDRESS.warning(
        f"it is inside a network of {link.name}, where it is asked for by ARP, and nobody answers unless it is routed here",
        remedy,
        subject=str(address),
    )


def examine_sharing(facts: Facts) -> Iterator[Finding]:
    """What sharing the service address with this host takes on top, and takes from it."""
    network, config = facts.network, facts.config
    if network is None or config is None:
        yield SHARING.skipped(facts.missing.get("network", "there is no valid configuration"))
        return
    if config.network.ownership != SHARED:
        yield SHARING.ok("no address is shared with this host")
        return
    found = tuple(advise_sharing(network.host, config))
    for advice in found:
        is_command = advice.remedy.startswith("sysctl ")
        yield SHARING.warning(advice.cause, run_here(advice.remedy) if is_command else advise(advice.remedy))
    if NET_RAW not in facts.capabilities and not facts.is_running:
        cause = "without CAP_NET_RAW nothing is heard of narrow paths to clients, whose connections stall there"
        yield SHARING.warning(
            cause,
            run_here(f"sudo kracauer doctor{facts.source.option}"),
            advise("run the service as root, or with CAP_NET_RAW"),
        )
    elif not found:
        yield SHARING.ok("it costs this host nothing")


def _has_neighbour(link: Link, address: IPv4Address) -> bool:
    return any(own.version == 4 and own.network.prefixlen < 32 and address in own.network for own in link.addresses)


def examine_prefix(facts: Facts) -> Iterator[Finding]:
    """Nothing on this host is in the way, and no link's neighbours would look for clients among themselves."""
    network, config = facts.network, facts.config
    if network is None or config is None:
        yield PREFIX.skipped(facts.missing.get("network", "there is no valid configuration"))
        return
    prefix = config.prefix
    # Of the service addresses there is a check of its own.
    problem = _conflict(replace(config, network=replace(config.network, ownership="routed")), network, 6)
    if problem is not None:
        yield PREFIX.failure(problem.cause, *from_text(problem.remedy), subject=str(prefix))
        return
    link = next((link for link in network.links if link.name != config.network.device and _surrounds(link, prefix)), None)
    if link is not None:
        at = _address_of(link, 6) or NEXT_HOP
        yield PREFIX.warning(
            f"it is inside a network of {link.name}: hosts there look for clients among their neighbours",
            Remedy(f"each backend on {link.name}", f"ip -6 route replace {prefix} via {at}"),
            advise("or use a /96 outside of it"),
            subject=str(prefix),
        )
        return
    earlier = sorted(str(other) for other in _earlier_prefixes(network, config))
    if earlier:
        found = (
            f"an earlier service here had {', '.join(earlier)}: backends that still route that one here do not know this one"
        )
        yield PREFIX.warning(found, advise("give the backends the route back to the new one"), subject=str(prefix))
        return
    yield PREFIX.ok("nothing on this machine is in its way; routers before the backends must lead it here", str(prefix))


def _surrounds(link: Link, prefix: IPv6Network) -> bool:
    return any(isinstance(own.network, IPv6Network) and prefix.subnet_of(own.network) for own in link.addresses)


def _earlier_prefixes(network: Network, config: Config) -> Iterator[IPv6Network]:
    for route in network.host.routes:
        is_ours = route.protocol == ROUTE_PROTOCOL and route.device in (config.network.device, "lo", "")
        destination = route.destination
        if is_ours and isinstance(destination, IPv6Network) and destination.prefixlen == 96 and destination != config.prefix:
            yield destination


def examine_routes(facts: Facts) -> Iterator[Finding]:
    """While the service runs, whether all its routes are there."""
    network, config = facts.network, facts.config
    if network is None or config is None:
        yield ROUTES.skipped(facts.missing.get("network", "there is no valid configuration"))
        return
    if config.network.manage and not facts.is_running:
        yield ROUTES.skipped("the service sets them when it starts")
        return
    missing = [step for step in expected(config) if isinstance(step, AddRoute | AddRule) and not _is_there(step, facts)]
    if not missing:
        yield ROUTES.ok("all of them are there")
    for step in missing:
        remedy = run_here(step.render())
        if isinstance(step, AddRule):
            yield ROUTES.failure("the rule that leads packets to the device is missing", remedy, subject=str(step.rule))
        else:
            way = f"into {step.device}" if step.device else "of its dead end"
            yield ROUTES.failure(f"the route {way} is missing", remedy, subject=str(step.destination))


def _is_there(step: AddRoute | AddRule, facts: Facts) -> bool:
    network, config = facts.network, facts.config
    assert network is not None
    assert config is not None
    if isinstance(step, AddRule):
        return step.rule in network.host.rules
    for route in network.host.routes:
        device = route.device if route.kind == "unicast" else None
        if (route.destination, device, route.table) == (step.destination, step.device, step.table):
            return True
    # Who manages the network alone needs no dead end, and has other ways to the same.
    return not config.network.manage and (step.device is None or _leads_there(step, network))


def _leads_there(step: AddRoute, network: Network) -> bool:
    """Whether a wider route does the same; how it comes about is the operator's business."""
    if isinstance(step.destination, IPv6Network):
        return network.prefix_way.device == step.device
    way = network.service_ways.get(step.destination.network_address)
    return way is not None and way.device == step.device


def examine_client_route(facts: Facts) -> Iterator[Finding]:
    """Whether there is a way to a client somewhere."""
    network = facts.network
    if network is None:
        yield CLIENT_ROUTE.skipped(facts.missing.get("network", "the network could not be looked at"))
    elif network.client_way.kind == "unicast" and network.client_way.device:
        yield CLIENT_ROUTE.ok(f"clients are reached by {network.client_way.device}")
    else:
        found = f"there is no way to a client such as {EXAMPLE_CLIENT}: only those in this machine's own networks get answers"
        yield CLIENT_ROUTE.warning(found, run_here(f"ip route replace default via {NEXT_HOP}"))


def _address_of(link: Link | None, version: int) -> str:
    """An address of this machine on that link, one for the world where there is one."""
    found = [own.ip for own in link.addresses if own.version == version] if link is not None else []
    return str(next((ip for ip in found if not ip.is_link_local), found[0] if found else ""))
