"""What the kernel lets pass between its interfaces, for each interface that the service's packets come in by."""

from collections.abc import Iterator
from typing import Final

from kracauer.doctor.facts import Facts, Network
from kracauer.doctor.finding import Finding, Remedy, Topic, run_here

IPV6: Final = Topic("ipv6", "Backends are reached over IPv6.")
FORWARDING_IPV4: Final = Topic(
    "forwarding-ipv4", "Clients' packets come in by another interface than the device, and have to be passed on."
)
FORWARDING_IPV6: Final = Topic(
    "forwarding-ipv6", "Backends' answers come in by another interface than the device, and have to be passed on."
)
RP_FILTER: Final = Topic(
    "rp-filter", "A strict filter drops clients that come in by another interface than the one that leads back to them."
)

_STRICT: Final = 1


def examine_ipv6(facts: Facts) -> Iterator[Finding]:
    """Whether this kernel has it, and has it switched on."""
    network = facts.network
    if network is None:
        yield IPV6.skipped(facts.missing.get("network", "the network could not be looked at"))
    elif not network.host.has_ipv6:
        yield IPV6.failure("this kernel has no IPv6", Remedy("this machine", "modprobe ipv6", "or boot without ipv6.disable=1"))
    elif network.host.is_ipv6_disabled:
        found = "IPv6 is disabled on this host (net.ipv6.conf.all.disable_ipv6 = 1)"
        yield IPV6.failure(found, run_here("sysctl -w net.ipv6.conf.all.disable_ipv6=0"))
    else:
        yield IPV6.ok("this host has it")


def client_devices(network: Network, own: str) -> tuple[str, ...]:
    """The interfaces that clients come in by: those that lead to the world, or else all that have IPv4."""
    led = tuple(dict.fromkeys((*network.default_devices, network.client_way.device)))
    found = tuple(name for name in led if name and name not in (own, "lo"))
    if found:
        return found
    return tuple(
        link.name
        for link in network.links
        if link.is_up and link.name not in (own, "lo") and any(address.version == 4 for address in link.addresses)
    )


def backend_devices(facts: Facts) -> tuple[str, ...]:
    """The interfaces that backends' answers come in by."""
    own = facts.config.network.device if facts.config else ""
    ways = dict.fromkeys(backend.way.device for backend in facts.backends if backend.way.kind == "unicast")
    return tuple(name for name in ways if name and name not in (own, "lo"))


def _standing_device(facts: Facts) -> tuple[str, ...]:
    """The service's own device, where it is there: its packets are forwarded, too."""
    if facts.config is None or facts.network is None:
        return ()
    is_set_up = facts.is_running or not facts.config.network.manage
    return (facts.config.network.device,) if is_set_up and facts.network.link(facts.config.network.device) else ()


def closed_devices_ipv6(facts: Facts) -> tuple[str, ...]:
    """Those of them, and of our own device, whose packets are not passed on."""
    network = facts.network
    if network is None:
        return ()
    wanted = (*backend_devices(facts), *_standing_device(facts))
    return tuple(link.name for link in network.links if link.name in wanted and not link.is_forwarding_ipv6)


def examine_forwarding_ipv4(facts: Facts) -> Iterator[Finding]:
    """For each interface towards clients."""
    network, config = facts.network, facts.config
    if network is None or config is None:
        yield FORWARDING_IPV4.skipped(facts.missing.get("network", "there is no valid configuration"))
        return
    devices = (*client_devices(network, config.network.device), *_standing_device(facts))
    closed = [link.name for link in network.links if link.name in devices and not link.is_forwarding_ipv4]
    if not devices and not network.host.is_forwarding_ipv4:
        closed = ["any interface"]
    if not closed:
        yield FORWARDING_IPV4.ok(f"what comes in by {_listed(devices)} is forwarded")
        return
    found = f"IPv4 that comes in by {_listed(tuple(closed))} is not forwarded: clients do not get through"
    if network.is_forwarding_all_ipv4:  # to write that once more would change nothing
        command = "sysctl -w " + " ".join(f"net/ipv4/conf/{name}/forwarding=1" for name in closed)
    else:
        command = "sysctl -w net.ipv4.ip_forward=1"
    yield FORWARDING_IPV4.failure(found, run_here(command))


def examine_forwarding_ipv6(facts: Facts) -> Iterator[Finding]:
    """For each interface towards backends; with what the kernel would stop to do when it becomes a router."""
    network, config = facts.network, facts.config
    if network is None or config is None:
        yield FORWARDING_IPV6.skipped(facts.missing.get("network", "there is no valid configuration"))
        return
    devices = backend_devices(facts)
    closed = closed_devices_ipv6(facts)
    if not devices:
        is_open = network.host.is_forwarding_ipv6
        closed = () if is_open else ("any interface",)
    if not closed:
        yield FORWARDING_IPV6.ok(f"what comes in by {_listed(devices)} is forwarded")
        return
    found = f"IPv6 that comes in by {_listed(closed)} is not forwarded: backends' answers do not get through"
    # A host that forwards stops to accept router advertisements, and loses the routes that it has from them (accept_ra 1).
    keep = [f"net/ipv6/conf/{name}/accept_ra=2" for name in network.host.advertised_interfaces]
    if keep:
        found += "; forwarding alone would take away its route from router advertisements, hence accept_ra"
    yield FORWARDING_IPV6.failure(found, run_here(" ".join(["sysctl -w", *keep, "net.ipv6.conf.all.forwarding=1"])))


def examine_rp_filter(facts: Facts) -> Iterator[Finding]:
    """Strict filters on interfaces that are not the way back to everybody."""
    network, config = facts.network, facts.config
    if network is None or config is None:
        yield RP_FILTER.skipped(facts.missing.get("network", "there is no valid configuration"))
        return
    # Of several ways to the world only the best is the way back: what comes in by another one is dropped.
    asymmetric = set(network.default_devices[1:]) - set(network.default_devices[:1])
    strict = [link.name for link in network.links if link.name in asymmetric and link.rp_filter == _STRICT]
    if strict:
        found = (
            f"{_listed(tuple(strict))} has a strict rp_filter, and is not the way back: clients that come in there are dropped"
        )
        command = "sysctl -w " + " ".join(f"net/ipv4/conf/{name}/rp_filter=2" for name in strict)
        yield RP_FILTER.warning(found, run_here(command))
        return
    own = network.link(config.network.device)
    if own is not None and own.rp_filter == _STRICT and config.network.router_sources:
        found = f"{own.name} has a strict rp_filter, which drops what comes from network.router_sources"
        yield RP_FILTER.warning(found, run_here(f"sysctl -w net/ipv4/conf/{own.name}/rp_filter=2"))
        return
    yield RP_FILTER.ok("nothing is dropped for coming in by another way than it would go back")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "any interface"
