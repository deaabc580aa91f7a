"""Links, addresses, neighbours and ways, by netlink; their settings, by /proc/sys/net (rtnetlink(7))."""

import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kracauer.config import Config
from kracauer.doctor.checks.addresses import EXAMPLE_CLIENT
from kracauer.doctor.facts import Interface, Link, Network, Way
from kracauer.doctor.gathering.neighbours import proxied_addresses
from kracauer.host import destinations, gather, table
from kracauer.host.routes import TABLE_MAIN, RouteTables
from kracauer.tun.alias import read_alias
from kracauer.tun.driver import interface_driver

_IFF_UP: Final = 1
# Of kernel, boot, static and dhcp: those that a host's own set-up leaves. Routing daemons may have a million others.
_PROTOCOLS: Final = (2, 3, 4, 16)
_KINDS: Final = {1: "unicast", 2: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit"}


def look_at_network(config: Config) -> Network:
    """The host's network as the service would meet it. Raises HostError or OSError."""
    facts = gather(config.network.device, destinations(config), table(config))
    with IPRoute() as netlink:
        return Network(
            host=facts,
            links=tuple(_links(netlink)),
            client_way=find_way(netlink, EXAMPLE_CLIENT),
            service_ways={address: find_way(netlink, address) for address in config.service_addresses},
            prefix_way=find_way(netlink, config.prefix.network_address + int(EXAMPLE_CLIENT)),
            default_devices=_default_devices(),
            proxied=frozenset(proxied_addresses()),
            is_forwarding_all_ipv4=_sysctl("ipv4", "all", "forwarding") == 1,
        )


def find_ways(addresses: Iterable[IPv6Address]) -> dict[IPv6Address, Way]:
    """Where the host sends what is for each of them. Raises OSError."""
    with IPRoute() as netlink:
        return {address: find_way(netlink, address) for address in dict.fromkeys(addresses)}


def find_way(netlink: Any, address: IPv4Address | IPv6Address) -> Way:
    """Where the host sends what is for `address`; kind empty when it would not send it."""
    try:
        (route, *_) = netlink.route("get", dst=str(address), family=socket.AF_INET if address.version == 4 else socket.AF_INET6)
    except (NetlinkError, ValueError):
        return Way(kind="")
    kind = _KINDS.get(route["type"], "other")
    index = route.get("RTA_OIF")
    metrics = route.get("RTA_METRICS")
    via = route.get("RTA_GATEWAY") or (route.get("RTA_VIA") or {}).get("addr")
    source = route.get("RTA_PREFSRC")
    return Way(
        kind=kind if kind in ("unicast", "local") else "",
        device=_name(index),
        gateway=ip_address(via) if via else None,
        source=ip_address(source) if source else None,
        mtu=int(metrics.get("RTAX_MTU") or 0) if metrics is not None else 0,
    )


def look_at_interface(name: str) -> Interface | None:
    """What bears the name, if anything does. Raises OSError."""
    alias = read_alias(name)
    if alias is None:
        return None
    with IPRoute() as netlink:
        links = [link for link in netlink.get_links() if link.get("IFLA_IFNAME") == name]
    return Interface(alias, interface_driver(name) or "", is_up=any(link["flags"] & _IFF_UP for link in links))


def _links(netlink: Any) -> Iterator[Link]:
    addresses: dict[int, list[Any]] = {}
    for entry in netlink.get_addr():
        own = entry.get("IFA_LOCAL") or entry.get("IFA_ADDRESS")
        addresses.setdefault(entry["index"], []).append(ip_interface(f"{own}/{entry['prefixlen']}"))
    is_forwarding_all = _sysctl("ipv6", "all", "forwarding") == 1
    for link in netlink.get_links():
        name = link.get("IFLA_IFNAME")
        yield Link(
            name=name,
            mtu=link.get("IFLA_MTU") or 0,
            is_up=bool(link["flags"] & _IFF_UP),
            addresses=tuple(addresses.get(link["index"], ())),
            is_forwarding_ipv4=_sysctl("ipv4", name, "forwarding") != 0,
            is_forwarding_ipv6=is_forwarding_all or _sysctl("ipv6", name, "force_forwarding") == 1,
            rp_filter=max(_sysctl("ipv4", scope, "rp_filter") or 0 for scope in ("all", name)),
            has_proxy_arp=any(_sysctl("ipv4", scope, "proxy_arp") == 1 for scope in ("all", name)),
        )


def _default_devices() -> tuple[str, ...]:
    with RouteTables() as tables:
        routes = [route for protocol in _PROTOCOLS for route in tables.read(socket.AF_INET, TABLE_MAIN, protocol=protocol)]
    found = sorted((route.metric, route.device) for route in routes if route.destination.prefixlen == 0 and route.device)
    return tuple(dict.fromkeys(device for _, device in found))


def _name(index: int | None) -> str:
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""


def _sysctl(family: str, device: str, key: str) -> int | None:
    try:
        return int(Path("/proc/sys/net", family, "conf", device, key).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
