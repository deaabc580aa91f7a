"""How large packets may be on the links, and what the configuration says of that."""

from collections.abc import Iterator
from typing import Final

from kracauer.doctor.checks.forwarding import backend_devices, client_devices
from kracauer.doctor.facts import Facts, Network
from kracauer.doctor.finding import CONFIGURATION, Finding, Remedy, Topic

MTU_CLIENTS: Final = Topic("mtu-clients", "What is too big for the link towards clients has to be found out and sent again.")
MTU_BACKENDS: Final = Topic("mtu-backends", "What is too big for the link towards backends has to be found out and sent again.")

_HEADER_GROWTH: Final = 20  # an IPv6 header is that much longer than an IPv4 one


def examine_client_links(facts: Facts) -> Iterator[Finding]:
    """Whether the narrowest link towards clients takes what network.ipv4_mtu promises."""
    network, config = facts.network, facts.config
    if network is None or config is None:
        yield MTU_CLIENTS.skipped(facts.missing.get("network", "there is no valid configuration"))
        return
    narrowest = _narrowest(network, client_devices(network, config.network.device))
    wanted = config.network.ipv4_mtu
    if narrowest is None:
        yield MTU_CLIENTS.skipped("it is not known which link leads to clients")
    elif narrowest[0] < wanted:
        mtu, name = narrowest
        yield MTU_CLIENTS.warning(f"{name} takes {mtu} bytes, network.ipv4_mtu says {wanted}", _setting("ipv4_mtu", mtu))
    else:
        yield MTU_CLIENTS.ok(f"{narrowest[1]} takes {narrowest[0]} bytes, and network.ipv4_mtu says {wanted}")


def examine_backend_links(facts: Facts) -> Iterator[Finding]:
    """Whether the narrowest way towards backends takes what network.ipv6_mtu promises, or more."""
    network, config = facts.network, facts.config
    if network is None or config is None:
        yield MTU_BACKENDS.skipped(facts.missing.get("network", "there is no valid configuration"))
        return
    ways = [(backend.way.mtu, backend.way.device) for backend in facts.backends if backend.way.mtu and backend.way.device]
    link = _narrowest(network, backend_devices(facts))
    narrowest = min([*ways, *([link] if link else [])], default=None)
    wanted = config.network.ipv6_mtu
    full = config.network.ipv4_mtu + _HEADER_GROWTH
    if narrowest is None:
        yield MTU_BACKENDS.skipped("there is no link towards a backend")
        return
    mtu, name = narrowest
    if mtu < wanted:
        found = f"the way by {name} takes {mtu} bytes, network.ipv6_mtu says {wanted}"
        yield MTU_BACKENDS.warning(found, _setting("ipv6_mtu", mtu))
    elif mtu >= full > wanted:
        found = (
            f"{name} takes {mtu} bytes; with network.ipv6_mtu = {full} clients could send packets of {full - _HEADER_GROWTH}"
        )
        yield MTU_BACKENDS.ok(found)
    else:
        yield MTU_BACKENDS.ok(f"{name} takes {mtu} bytes, and network.ipv6_mtu says {wanted}")


def _narrowest(network: Network, names: tuple[str, ...]) -> tuple[int, str] | None:
    return min(((link.mtu, link.name) for link in network.links if link.name in names), default=None)


def _setting(key: str, mtu: int) -> Remedy:
    return Remedy(CONFIGURATION, advice=f"{key} = {mtu} in [network]; it takes a restart, which keeps connections")
