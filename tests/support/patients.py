"""Facts of a host on which all is well, to be spoilt one at a time."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from kracauer import host
from kracauer.config import Config, parse_config
from kracauer.doctor import Facts, Finding, Severity, Source, diagnose
from kracauer.doctor.facts import (
    Answer,
    Backend,
    Firewall,
    Interface,
    Link,
    Network,
    Offload,
    Service,
    ServiceState,
    Storage,
    Way,
)
from kracauer.doctor.nft import Ruleset

TEXT = """
prefix = "2001:db8:46::/96"
[[listen]]
address = "198.51.100.1"
port = 443
[hosts]
"www.example.com" = "2001:db8:1::2"
"""
CONFIG: Config = parse_config(TEXT)
SERVICE = IPv4Address("198.51.100.1")
ORIGIN = IPv6Address("2001:db8:1::2")
OFFLOAD = {"wanted": "auto", "hook": "tcx", "flows": 9, "survives": True, "cause": None, "remedy": None}
STATUS = {
    "version": "1",
    "pid": 7,
    "uptime_s": 8.0,
    "prefix": "2001:db8:46::/96",
    "last_reload": None,
    "offload": OFFLOAD,
    "counters": {},
}


def route(destination: str, device: str, metric: int = 0, protocol: int = 198, kind: str = "unicast") -> host.RouteFact:
    return host.RouteFact(ip_network(destination), kind, device, metric, protocol)


OUR_ROUTES = (
    route("198.51.100.1/32", "kracauer0"),
    route("198.51.100.1/32", "", 1_000_000, kind="unreachable"),
    route("2001:db8:46::/96", "kracauer0", 1024),
    route("2001:db8:46::/96", "lo", 1_000_000, kind="unreachable"),
)
NETWORK = Network(
    host.Facts(),
    links=(
        Link("lo", mtu=65536, addresses=(ip_interface("127.0.0.1/8"), ip_interface("::1/128"))),
        Link("eth0", addresses=(ip_interface("203.0.113.5/24"), ip_interface("fe80::5/64"))),
        Link("eth1", addresses=(ip_interface("fe80::1/64"), ip_interface("2001:db8:1::1/64"))),
    ),
    client_way=Way(device="eth0", gateway=IPv4Address("203.0.113.1")),
    default_devices=("eth0",),
)
BACKEND = Backend(ORIGIN, 443, Way(device="eth1", source=IPv6Address("2001:db8:1::1")), probe=Answer.ACCEPTED)
HEALTHY = Facts(
    Source(Path("/etc/kracauer/kracauer-config.toml"), CONFIG),
    capabilities=frozenset({"cap_net_admin", "cap_net_raw"}),
    interface=Interface("kracauer", "tun", is_up=True),
    service=Service(ServiceState.RUNNING, STATUS, version="1"),
    storage=Storage(Path("/run/kracauer")),
    network=replace(NETWORK, host=host.Facts(routes=OUR_ROUTES)),
    firewall=Firewall(Ruleset({}, {})),
    backends=(BACKEND,),
)
STOPPED = replace(
    HEALTHY,
    service=Service(version="1"),
    interface=None,
    network=NETWORK,
    offload=Offload(hook="tcx", has_bpffs=True),
)


def with_network(facts: Facts = HEALTHY, **changes: Any) -> Facts:
    assert facts.network is not None
    return replace(facts, network=replace(facts.network, **changes))


def with_host(facts: Facts = HEALTHY, **changes: Any) -> Facts:
    assert facts.network is not None
    return with_network(facts, host=replace(facts.network.host, **changes))


def with_link(name: str, facts: Facts = HEALTHY, **changes: Any) -> Facts:
    assert facts.network is not None
    links = tuple(replace(link, **changes) if link.name == name else link for link in facts.network.links)
    return with_network(facts, links=links)


def with_backends(*backends: Backend, facts: Facts = HEALTHY) -> Facts:
    return replace(facts, backends=backends)


def with_config(text: str, facts: Facts = HEALTHY) -> Facts:
    return replace(facts, source=replace(facts.source, config=parse_config(text)))


def with_offload(**changes: Any) -> Facts:
    """A service that says this of its fast path."""
    return replace(HEALTHY, service=replace(HEALTHY.service, status=STATUS | {"offload": OFFLOAD | changes}))


def found(facts: Facts, name: str) -> list[Finding]:
    return [finding for finding in diagnose(facts) if finding.name == name]


def the_one(facts: Facts, name: str) -> Finding:
    (finding,) = found(facts, name)
    return finding


def commands(finding: Finding) -> list[str]:
    return [remedy.command for remedy in finding.remedies if remedy.command]


def ill(facts: Facts) -> dict[str, Severity]:
    """Everything that is not as it should be, and nothing else."""
    wrong = (Severity.WARNING, Severity.FAILURE)
    return {finding.name: finding.severity for finding in diagnose(facts) if finding.severity in wrong}
