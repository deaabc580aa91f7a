"""The sections of plain settings: which keys they have, what each may be, and what must fit together."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Final, TypeVar

from kracauer.config import addresses, backends, checks
from kracauer.config.names import name_servers
from kracauer.config.reader import Check, MistakeError, Table, checked
from kracauer.config.values import Dns, Limits, Log, Network, Probes, Timeouts
from kracauer.profile import BackendProfile

Settings = TypeVar("Settings", BackendProfile, Timeouts, Limits, Network, Log, Dns, Probes)

_DAY: Final = 86_400.0
_FLOOR_HINT: Final = " (RFC 5382 §5 REQ-5); below_rfc_floors = true in this table allows less"

_PROFILE_CHECKS: Final[Mapping[str, Check[object]]] = {
    "mss": checks.whole_number(536, 65535),  # 536: what every IPv4 host takes (RFC 9293 §3.7.1)
    "window_scale": checks.window_scale,
    "sack": checks.boolean,
    "timestamps": checks.boolean,
    "ecn": checks.boolean,
    "window": checks.whole_number(1, 65535),
}
LIMIT_CHECKS: Final[Mapping[str, Check[object]]] = {
    "flows": checks.whole_number(1, 1 << 24),
    "peek_bytes": checks.whole_number(1024, 65536),
    "held_bytes": checks.whole_number(65536, 1 << 40),  # never less than the largest first message
    "unproven": checks.whole_number(1, 1 << 24),
    "unproven_per_client": checks.whole_number(1, 1 << 24),
    "flows_per_client": checks.whole_number(0, 1 << 24),
    "new_per_second_per_client": checks.number(0, 1e6),
    "client_prefix_length": checks.whole_number(8, 32),
}
NETWORK_CHECKS: Final[Mapping[str, Check[object]]] = {
    "manage": checks.boolean,
    "device": checks.device_name,
    "ipv4_mtu": checks.whole_number(576, 65535),
    "ipv6_mtu": checks.whole_number(1280, 65535),  # RFC 8200 §5
    "lowest_ipv6_mtu": checks.whole_number(1280, 65535),
    "router_sources": addresses.router_sources,
    "offloads": checks.offloads,
    "ownership": checks.one_of(("routed", "shared")),
    "offload": checks.offload,
    "workers": checks.whole_number(1, 64),
    "table": checks.routing_table,
}
LOG_CHECKS: Final[Mapping[str, Check[object]]] = {
    "level": checks.one_of(("debug", "info", "warning", "error")),
    "format": checks.one_of(("auto", "console", "json")),
}


_DNS_CHECKS: Final[Mapping[str, Check[object]]] = {
    "serve_any": checks.boolean,
    "servers": name_servers,
    "timeout_s": checks.seconds(0.1, 60),
    "min_ttl_s": checks.seconds(1, _DAY),
    "max_ttl_s": checks.seconds(1, 7 * _DAY),
    "stale_s": checks.seconds(0, 30 * _DAY),
    "max_names": checks.whole_number(1, 1 << 20),
}


_PROBE_CHECKS: Final[Mapping[str, Check[object]]] = {
    "enabled": checks.boolean,
    "interval_s": checks.seconds(0.5, 3600),
    "timeout_s": checks.seconds(0.1, 60),
    "rise": checks.whole_number(1, 100),
    "fall": checks.whole_number(1, 100),
}


def read_settings(table: Table, defaults: Settings, wanted: Mapping[str, Check[object]]) -> Settings:
    """`defaults` with what `table` says otherwise; `wanted` has the check of every key there may be."""
    given: dict[str, Any] = {key: table.read(key, check, getattr(defaults, key)) for key, check in wanted.items()}
    table.report_unknown_keys()
    return replace(defaults, **given)


def read_profiles(
    table: Table, known: Collection[IPv6Address] | None, networks: Sequence[IPv6Network] = ()
) -> tuple[BackendProfile, dict[IPv6Address, BackendProfile]]:
    """What to assume of all backends, and what of single ones, whose tables stand inside under their addresses.

    `known` has every address in use, against which those of the tables are held; None where it is not known. Any address in
    `networks` may be in use as well.
    """
    single = {key: value for key, value in table.content.items() if isinstance(value, dict) and ":" in key}
    common = {key: value for key, value in table.content.items() if key not in single}
    profile = read_settings(Table(common, table.path, table.problems), BackendProfile(), _PROFILE_CHECKS)
    overrides: dict[IPv6Address, BackendProfile] = {}
    for key in single:
        inner = table.table(key)
        address = checked(table.problems, inner.path, key, _profile_address(known, networks, overrides), None)
        override = read_settings(inner, profile, _PROFILE_CHECKS)
        if address is not None:
            overrides[address] = override
    return profile, overrides


def _profile_address(
    known: Collection[IPv6Address] | None, networks: Sequence[IPv6Network], taken: Collection[IPv6Address]
) -> Check[IPv6Address]:
    def check(value: object) -> IPv6Address:
        address = backends.backend_address(checks.text(value))
        if address in taken:
            raise MistakeError(f"is a second profile of {address}: remove one of the two")
        if known is not None and address not in known and not any(address in network for network in networks):
            raise MistakeError("is the address of no backend in hosts: remove the profile or mend the address")
        return address

    return check


def read_dns(table: Table) -> Dns:
    """How names are looked up."""
    before = len(table.problems)
    dns = read_settings(table, Dns(), _DNS_CHECKS)
    if len(table.problems) == before and dns.min_ttl_s > dns.max_ttl_s:
        key, rule = ("min_ttl_s", "most max_ttl_s") if "min_ttl_s" in table.content else ("max_ttl_s", "least min_ttl_s")
        other = dns.max_ttl_s if key == "min_ttl_s" else dns.min_ttl_s
        table.problems.add(table.path_of(key), table.content[key], f"must be at {rule}, {other:g}")
    return dns


def read_probes(table: Table) -> Probes:
    """How backends are asked if they are there."""
    before = len(table.problems)
    probes = read_settings(table, Probes(), _PROBE_CHECKS)
    if len(table.problems) == before and probes.timeout_s > probes.interval_s:
        key, rule = "interval_s", f"at least timeout_s, {probes.timeout_s:g}"
        if "timeout_s" in table.content:
            key, rule = "timeout_s", f"at most interval_s, {probes.interval_s:g}"
        table.problems.add(table.path_of(key), table.content[key], f"must be {rule}: each probe is over before the next one")
    return probes


def read_timeouts(table: Table) -> Timeouts:
    """The timeouts, held to the floors of RFC 5382 §5 unless the table says outright that they may be lower."""
    before = len(table.problems)
    is_unbound = table.read("below_rfc_floors", checks.boolean, fallback=False)
    timeouts = read_settings(
        table,
        Timeouts(),
        {
            "peek_s": checks.seconds(0.1, 3600),
            "dial_attempt_s": checks.seconds(0.05, 60),
            "dial_s": checks.seconds(0.05, 300),
            "established_idle_s": _floored(7440, 30 * _DAY, is_unbound),
            "transitory_s": _floored(240, _DAY, is_unbound),
        },
    )
    if len(table.problems) == before and timeouts.dial_attempt_s > timeouts.dial_s:
        _report_contradiction(table, timeouts)
    return timeouts


def _report_contradiction(table: Table, timeouts: Timeouts) -> None:
    if "dial_attempt_s" in table.content:
        key, value, rule = "dial_attempt_s", timeouts.dial_attempt_s, f"at most dial_s, {timeouts.dial_s:g}"
    else:
        key, value, rule = "dial_s", timeouts.dial_s, f"at least dial_attempt_s, {timeouts.dial_attempt_s:g}"
    table.problems.add(table.path_of(key), value, f"must be {rule}: no attempt outlasts the dialling as a whole")


def _floored(floor: float, highest: float, is_unbound: bool) -> Check[float]:
    return checks.seconds(1, highest) if is_unbound else checks.seconds(floor, highest, _FLOOR_HINT)
