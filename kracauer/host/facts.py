"""What the host looks like before anything is set, gathered once so that planning needs no look at the world."""

import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

from kracauer.errors import HostError
from kracauer.host.routes import ANY_TABLE, TABLE_LOCAL, TABLE_MAIN, RouteFact, RouteTables, contains
from kracauer.host.rules import Rule, RuleTable
from kracauer.host.steps import LOCAL_RULE, ROUTE_PROTOCOL

_PROTOCOL_RA: Final = 9
_LISTEN: Final = "0A"  # TCP_LISTEN, as /proc/net/tcp writes it
_EPHEMERAL_PORTS: Final = (32768, 60999)  # as Linux has them
_NETWORK_SETTINGS: Final = Path("/proc/sys/net")
# An IPv6 socket on no address in particular may take IPv4 connections as well; its file does not tell.
_EVERY_ADDRESS_V6: Final = "0" * 32


@dataclass(frozen=True, slots=True)
class Facts:
    """The host as found. `routes` are those that touch the destinations asked about, and those that bear our mark.

    `is_forwarding_ipv4` and `is_forwarding_ipv6` are about the interfaces other than our device; `advertised_interfaces` have a
    default route from a router advertisement, which switching on forwarding would take away. `source_checks` is what
    `rp_filter` of "all" and of the other interfaces is, where "all" has them check. `listening` are the local endpoints of
    this host's own services over TCP, "0.0.0.0" standing for every address; `ephemeral_ports` those of its own connections,
    first and last, but for `reserved_ports`, which are as sysctl writes them.
    """

    has_ipv6: bool = True
    is_ipv6_disabled: bool = False
    is_ipv6_disabled_on_device: bool = False
    is_forwarding_ipv4: bool = True
    is_forwarding_ipv6: bool = True
    advertised_interfaces: tuple[str, ...] = ()
    routes: tuple[RouteFact, ...] = ()
    rules: tuple[Rule, ...] = (LOCAL_RULE,)
    source_checks: tuple[tuple[str, int], ...] = ()
    listening: frozenset[tuple[IPv4Address, int]] = frozenset()
    ephemeral_ports: tuple[int, int] = _EPHEMERAL_PORTS
    reserved_ports: str = ""


def gather(device: str, destinations: Iterable[IPv4Network | IPv6Network], table: int | None = None) -> Facts:
    """Look at the host, quickly even if it has a million routes; `table` is one whose routes all matter.

    Raises HostError when netlink does not answer.
    """
    wanted = tuple(destinations)
    try:
        with RouteTables() as tables, RuleTable() as rule_table:
            rules = rule_table.read()
            routes = tuple(dict.fromkeys(_relevant_routes(tables, wanted, table)))
            defaults = tables.read(socket.AF_INET6, TABLE_MAIN, protocol=_PROTOCOL_RA)
    except OSError as error:
        raise HostError(
            f"the kernel's routes cannot be read through netlink ({error})",
            "run Kracauer where rtnetlink may be used, or set network.manage = false and set up routes by hand",
        ) from error
    return Facts(
        has_ipv6=Path("/proc/net/if_inet6").exists(),
        is_ipv6_disabled=_sysctl("ipv6", "all", "disable_ipv6") == 1,
        is_ipv6_disabled_on_device=_sysctl("ipv6", device, "disable_ipv6") == 1,
        is_forwarding_ipv4=_sysctl("ipv4", "all", "forwarding") == 1 or _is_any_forwarding("ipv4", "forwarding", device),
        is_forwarding_ipv6=_sysctl("ipv6", "all", "forwarding") == 1 or _is_any_forwarding("ipv6", "force_forwarding", device),
        advertised_interfaces=tuple(
            sorted({route.device for route in defaults if _is_default(route) and _accepts_ra(route.device)})
        ),
        routes=routes,
        rules=rules,
        source_checks=tuple(_source_checks(device)),
        listening=frozenset(_listening()),
        ephemeral_ports=_ephemeral_ports(),
        reserved_ports=_text("ipv4/ip_local_reserved_ports"),
    )


def _relevant_routes(
    tables: RouteTables, wanted: tuple[IPv4Network | IPv6Network, ...], table: int | None
) -> Iterator[RouteFact]:
    if table is not None:
        yield from tables.read(socket.AF_INET, table)
    for family in (socket.AF_INET, socket.AF_INET6):
        for route in tables.read(family, TABLE_LOCAL):
            # Here a piece that covers what is wanted matters as well: it comes first, however wide it is.
            if any(contains(network, route.destination) or contains(route.destination, network) for network in wanted):
                yield route
        yield from (r for r in tables.read(family, ANY_TABLE, protocol=ROUTE_PROTOCOL) if not r.is_in_local_table)
        if wanted:
            yield from tables.read(family, TABLE_MAIN, within=wanted)


def _is_default(route: RouteFact) -> bool:
    return route.destination.prefixlen == 0


def _accepts_ra(device: str) -> bool:
    return _sysctl("ipv6", device, "accept_ra") == 1


def _sysctl(family: str, device: str, key: str) -> int | None:
    try:
        return int(Path("/proc/sys/net", family, "conf", device, key).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _is_any_forwarding(family: str, key: str, device: str) -> bool:
    try:
        others = {path.name for path in Path("/proc/sys/net", family, "conf").iterdir()} - {"all", "default", "lo", device}
    except OSError:
        return True  # nothing can be said about it, so nothing is
    return any(_sysctl(family, other, key) == 1 for other in others)


def _text(name: str) -> str:
    try:
        return (_NETWORK_SETTINGS / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _source_checks(device: str) -> Iterator[tuple[str, int]]:
    """What `rp_filter` is of "all", unless it is off, and of every interface but `device`."""
    if everywhere := _sysctl("ipv4", "all", "rp_filter"):
        yield "all", everywhere
        for path in sorted((_NETWORK_SETTINGS / "ipv4" / "conf").iterdir()):
            if path.name not in ("all", "default", "lo", device):
                yield path.name, _sysctl("ipv4", path.name, "rp_filter") or 0


def _ephemeral_ports() -> tuple[int, int]:
    words = _text("ipv4/ip_local_port_range").split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else _EPHEMERAL_PORTS


def _listening() -> Iterator[tuple[IPv4Address, int]]:
    for name in ("tcp", "tcp6"):
        try:
            with Path("/proc/thread-self/net", name).open(encoding="ascii") as lines:
                next(lines, None)
                for line in lines:
                    _, local, _, state, *_ = line.split()
                    if state != _LISTEN:
                        break  # those that listen come first, and of the others there may be very many
                    address, _, port = local.partition(":")
                    if name == "tcp":
                        yield IPv4Address(int(address, 16).to_bytes(4, sys.byteorder)), int(port, 16)
                    elif address == _EVERY_ADDRESS_V6:
                        yield IPv4Address(0), int(port, 16)
        except (OSError, ValueError):
            continue
