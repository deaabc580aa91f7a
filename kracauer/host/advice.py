"""What the operator has to decide, and is told once: forwarding is the host's matter and is never switched on silently."""

from typing import NamedTuple

from kracauer.host.facts import Facts


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
