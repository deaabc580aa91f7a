"""A configuration, a namespace's routes, and the set-up of the host that belongs to them."""

import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, TypeAlias

from kracauer.config import Config, Listener, Network
from kracauer.host import HostSetup, destinations, gather, plan
from kracauer.routes import Backend, Route, RouteTable

Ip: TypeAlias = Callable[[str], str]
DEVICE = "kracauer0"
SERVICE = "198.51.100.1"
PREFIX = "2001:db8:46::/96"
EVERYTHING = {
    (SERVICE, DEVICE, 0, 1480),
    (SERVICE, "unreachable", 1_000_000, 0),
    (PREFIX, DEVICE, 1024, 1500),
    (PREFIX, "unreachable", 1_000_000, 0),
}


def configured(*services: str, device: str = DEVICE, prefix: str = PREFIX) -> Config:
    return Config(
        prefix=IPv6Network(prefix),
        listeners=tuple(Listener(IPv4Address(service), 443) for service in services or (SERVICE,)),
        routes=RouteTable([Route("default", (Backend(IPv6Address("2001:db8:1::2")),))]),
        network=Network(device=device),
    )


def planned(config: Config | None = None) -> HostSetup:
    config = config or configured()
    return HostSetup(plan(config, gather(config.network.device, destinations(config))))


def routes(ip: Ip) -> list[dict[str, Any]]:
    """Every route with our mark, as `ip` shows it."""
    found: list[dict[str, Any]] = []
    for family in ("-4", "-6"):
        found += json.loads(ip(f"-json -details {family} route show proto 198"))
    return found


def summary(ip: Ip) -> set[tuple[str, str, int, int]]:
    """The same as destination, device, metric and MTU."""
    return {
        (
            route["dst"],
            "unreachable" if route.get("type") == "unreachable" else route["dev"],
            route.get("metric", 0),
            next((metric["mtu"] for metric in route.get("metrics", []) if "mtu" in metric), 0),
        )
        for route in routes(ip)
    }


def sysctl(family: str, key: str, device: str = DEVICE) -> Path:
    return Path(f"/proc/sys/net/{family}/conf/{device}/{key}")
