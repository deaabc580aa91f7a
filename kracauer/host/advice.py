"""What the operator has to decide, and is told once: forwarding is the host's matter and is never switched on silently."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from typing import NamedTuple

from kracauer.config import Config
from kracauer.host.facts import Facts
from kracauer.host.plan import SHARED


class Advice(NamedTuple):
    """Something that keeps traffic from flowing, and the command that mends it."""

    cause: str
    remedy: str


def advise(facts: Facts) -> tuple[Advice, ...]:
    """What is missing on this host for packets to pass between its interfaces and the device."""
    advice = []
    if not facts.is_forwarding_ipv4:
        advice.append(
            Advice("this host does not forward IPv4: clients will not get through", "sysctl -w net.ipv4.ip_forward=1")
        )
    if not facts.is_forwarding_ipv6:
        # A host that forwards stops to accept router advertisements, and with them loses its own default route (accept_ra 1).
        keep = [f"net/ipv6/conf/{name}/accept_ra=2" for name in facts.advertised_interfaces]
        cause = "this host does not forward IPv6: backends will not be reached"
        if keep:
            cause += "; forwarding alone would take away its route from router advertisements, hence accept_ra"
        advice.append(Advice(cause, " ".join(["sysctl -w", *keep, "net.ipv6.conf.all.forwarding=1"])))
    return tuple(advice)


def advise_sharing(facts: Facts, config: Config) -> Iterator[Advice]:
    """What sharing an address with the host takes on top, and what it takes from the host."""
    if config.network.ownership != SHARED:
        return
    if facts.source_checks:
        # What "all" says counts for our device as well, from which ICMP errors come whose source is this host's own address.
        keep = [f"net/ipv4/conf/{name}/rp_filter={mode}" for name, mode in _without_all(facts.source_checks)]
        yield Advice(
            "net.ipv4.conf.all.rp_filter has the kernel drop ICMP errors to clients: where the path to a backend is too narrow "
            "for their packets, uploads stall",
            " ".join(["sysctl -w", *keep, "net.ipv4.conf.all.rp_filter=0"]),
        )
    for address, port in dict.fromkeys((listener.address, listener.port) for listener in config.listeners):
        if {(address, port), (IPv4Address(0), port)} & facts.listening:
            yield Advice(
                f"another program on this host listens on port {port}: over IPv4, {address}:{port} is Kracauer's from now on",
                "have it listen on IPv6 alone, or on another port or address (`ss -ltnp` shows which one it is)",
            )
        first, last = facts.ephemeral_ports
        if first <= port <= last and not _is_reserved(port, facts.reserved_ports):
            yield Advice(
                f"port {port} is one of those that this host takes for connections of its own, which then get no answer",
                "sysctl -w net.ipv4.ip_local_reserved_ports=" + ",".join(filter(None, (facts.reserved_ports, str(port)))),
            )


def _without_all(checks: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """What each interface has to be set to for its packets to be looked at as before."""
    modes = dict(checks)
    everywhere = modes.pop("all")
    yield from ((name, max(mode, everywhere)) for name, mode in modes.items())


def _is_reserved(port: int, ranges: str) -> bool:
    """Whether it is in `ranges`, as in "8080,9000-9010"."""
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        if int(first) <= port <= int(last or first):
            return True
    return False
