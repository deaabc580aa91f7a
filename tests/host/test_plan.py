"""Configuration and facts in, steps or an explanation out."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

import pytest

from kracauer.config import Config, Listener, Network
from kracauer.errors import HostError
from kracauer.host import ROUTE_PROTOCOL, AddRoute, DropRoute, Facts, RouteFact, SetLink, SetSysctl, Way, extension, plan
from kracauer.routes import Backend, Route, RouteTable

SERVICE = ip_network("198.51.100.1/32")
OTHER_SERVICE = ip_network("198.51.100.2/32")
PREFIX = ip_network("2001:db8:46::/96")
NETWORK = Network(device="kracauer0")
CONFIG = Config(
    prefix=IPv6Network("2001:db8:46::/96"),
    listeners=(Listener(IPv4Address("198.51.100.1"), 443), Listener(IPv4Address("198.51.100.1"), 80)),
    routes=RouteTable([Route("default", (Backend(IPv6Address("2001:db8:1::2")),))]),
    network=NETWORK,
)


def route(
    destination: str, kind: str = "unicast", device: str = "eth0", metric: int = 0, protocol: int = 4, *, local: bool = False
) -> RouteFact:
    return RouteFact(ip_network(destination), kind, device, metric, protocol, is_in_local_table=local)


def facts(*routes: RouteFact) -> Facts:
    return Facts(routes=routes)


def routes_of(config: Config) -> list[AddRoute]:
    return [step for step in plan(config, Facts()) if isinstance(step, AddRoute)]


def test_service_and_prefix_are_led_into_the_device_with_dead_ends_behind_them() -> None:
    assert routes_of(CONFIG) == [
        AddRoute(SERVICE, None, 1_000_000),
        AddRoute(SERVICE, "kracauer0", 0, 1480),
        AddRoute(PREFIX, None, 1_000_000),
        AddRoute(PREFIX, "kracauer0", 1024, 1500),
    ]


def test_a_service_with_two_ports_gets_one_route_and_two_services_get_two() -> None:
    both = replace(CONFIG, listeners=(*CONFIG.listeners, Listener(IPv4Address("198.51.100.2"), 443)))

    destinations = [step.destination for step in routes_of(both) if step.device]

    assert destinations == [SERVICE, OTHER_SERVICE, PREFIX]


@pytest.mark.parametrize(
    ("ipv4_mtu", "ipv6_mtu", "service_mtu", "prefix_mtu", "device_mtu"),
    [
        (1500, 1500, 1480, 1500, 1500),
        (1500, 1520, 1500, 1520, 1520),
        (1500, 1280, 1260, 1280, 1500),
        (1400, 1500, 1400, 1420, 1500),
        (576, 1500, 576, 1280, 1500),  # IPv6 knows no smaller one: what is larger than 576 is the translator's matter
        (576, 1280, 576, 1280, 1280),
    ],
)
def test_each_route_carries_what_fits_on_the_other_side(
    ipv4_mtu: int, ipv6_mtu: int, service_mtu: int, prefix_mtu: int, device_mtu: int
) -> None:
    config = replace(CONFIG, network=replace(NETWORK, ipv4_mtu=ipv4_mtu, ipv6_mtu=ipv6_mtu))

    assert [step.mtu for step in routes_of(config) if step.device] == [service_mtu, prefix_mtu]
    assert [step.mtu for step in plan(config, Facts()) if isinstance(step, SetLink)] == [device_mtu]


def test_only_the_devices_own_sysctls_are_set_and_before_the_link_comes_up() -> None:
    steps = plan(CONFIG, Facts())
    sysctls = [step for step in steps if isinstance(step, SetSysctl)]
    link = next(step for step in steps if isinstance(step, SetLink))

    assert {step.device for step in sysctls} == {"kracauer0"}
    assert SetSysctl("ipv4", "kracauer0", "forwarding", 1) in sysctls
    assert all(steps.index(step) < steps.index(link) for step in sysctls)


def test_ipv6_disabled_by_default_alone_is_enabled_on_the_device() -> None:
    steps = plan(CONFIG, Facts(is_ipv6_disabled_on_device=True))

    assert steps[0] == SetSysctl("ipv6", "kracauer0", "disable_ipv6", 0)


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (Facts(has_ipv6=False), "no IPv6"),
        (Facts(is_ipv6_disabled=True), "IPv6 is disabled"),
        (facts(route("198.51.100.1/32", "local", local=True)), "198.51.100.1 is configured on eth0"),
        (facts(route("198.51.100.0/24", "local", "lo", local=True)), "198.51.100.1 is configured on lo"),
        (facts(route("198.51.100.1/32", "broadcast", local=True)), "198.51.100.1 is a broadcast address of eth0"),
        (facts(route("198.51.100.1/32")), "198.51.100.1 already has a route that is not Kracauer's"),
        (facts(route("198.51.100.1/32", metric=100)), "198.51.100.1 already has a route"),
        (facts(route("198.51.100.1/32", "blackhole", "", 0)), "198.51.100.1 already has a route"),
        (facts(route("198.51.100.1/32", device="kracauer1", protocol=ROUTE_PROTOCOL)), "already has a route"),
        (facts(route("2001:db8:46::/96", metric=1024)), "prefix 2001:db8:46::/96 already has a route"),
        (facts(route("2001:db8:46::c000:0/112", metric=1024)), "takes a part of the prefix"),
        (facts(route("2001:db8:46::1/128", "local", local=True)), "2001:db8:46::1/128 is local to this host (on eth0)"),
        (facts(route("2001:db8::/32", "local", "lo", local=True)), "2001:db8::/32 is local to this host"),
    ],
)
def test_a_host_that_does_not_allow_it_is_explained(found: Facts, cause: str) -> None:
    with pytest.raises(HostError) as caught:
        plan(CONFIG, found)

    assert cause in caught.value.cause
    assert caught.value.remedy


@pytest.mark.parametrize(
    "harmless",
    [
        route("198.51.100.1/32", "unreachable", "", 1_000_000, ROUTE_PROTOCOL),  # left by a service that was killed
        route("198.51.100.1/32", device="kracauer0", protocol=ROUTE_PROTOCOL),
        route("198.51.100.1/32", "unreachable", "", 4_000_000),  # the operator's own precaution
        route("2001:db8:46::/96", "unreachable", "lo", 1_000_000, ROUTE_PROTOCOL),
        route("2001:db8:46::/64", metric=256),  # a network around the prefix, which is longer and wins
        route("2001:db8:46::/128", "anycast", local=True),
        route("198.51.100.2/32"),
        route("198.51.100.2/32", "local", local=True),
        route("0.0.0.0/0"),
        route("::/0"),
    ],
)
def test_what_does_not_get_in_the_way_changes_nothing(harmless: RouteFact) -> None:
    assert plan(CONFIG, facts(harmless)) == plan(CONFIG, Facts())


def test_dead_ends_of_a_service_that_has_since_got_another_address_are_removed() -> None:
    stale = route("203.0.113.9/32", "unreachable", "", 1_000_000, ROUTE_PROTOCOL)

    assert plan(CONFIG, facts(stale))[0] == DropRoute(stale.destination, 1_000_000)


def test_what_leads_an_earlier_address_into_our_device_is_removed_before_its_dead_end() -> None:
    leading = route("203.0.113.9/32", device="kracauer0", protocol=ROUTE_PROTOCOL)
    stale = route("203.0.113.9/32", "unreachable", "", 1_000_000, ROUTE_PROTOCOL)

    steps = plan(CONFIG, facts(stale, leading))

    assert steps[:2] == (DropRoute(leading.destination, 0, "kracauer0"), DropRoute(stale.destination, 1_000_000))
    assert steps[0].render() == "ip -4 route del 203.0.113.9/32 dev kracauer0 metric 0 proto 198"


def test_an_address_that_still_has_flows_keeps_its_routes() -> None:
    leading = route("198.51.100.2/32", device="kracauer0", protocol=ROUTE_PROTOCOL)
    stale = route("198.51.100.2/32", "unreachable", "", 1_000_000, ROUTE_PROTOCOL)

    steps = plan(CONFIG, facts(leading, stale), in_use=[Way(IPv4Address("198.51.100.2")), Way(IPv4Address("198.51.100.1"))])

    assert not [step for step in steps if isinstance(step, DropRoute)]
    assert [step.destination for step in steps if isinstance(step, AddRoute) and step.device] == [
        SERVICE,
        OTHER_SERVICE,
        PREFIX,
    ]


def test_an_extension_is_checked_and_sets_routes_alone() -> None:
    both = replace(CONFIG, listeners=(*CONFIG.listeners, Listener(IPv4Address("198.51.100.2"), 443)))

    assert extension(both, Facts()) == tuple(routes_of(both))
    with pytest.raises(HostError, match=r"198\.51\.100\.2 is configured on eth0"):
        extension(both, facts(route("198.51.100.2/32", "local", local=True)))


def test_a_part_of_the_prefix_that_an_earlier_service_led_into_our_device_is_no_conflict() -> None:
    earlier = route("2001:db8:46::c000:0/112", device="kracauer0", metric=1024, protocol=ROUTE_PROTOCOL)

    assert plan(CONFIG, facts(earlier))[0] == DropRoute(earlier.destination, 1024, "kracauer0")


def test_routes_of_another_kracauers_device_stay() -> None:
    theirs = route("203.0.113.9/32", device="kracauer1", protocol=ROUTE_PROTOCOL)

    assert plan(CONFIG, facts(theirs)) == plan(CONFIG, Facts())


def test_dead_ends_of_another_running_service_stay() -> None:
    theirs = route("203.0.113.9/32", "unreachable", "", 1_000_000, ROUTE_PROTOCOL)
    leading = route("203.0.113.9/32", device="kracauer1", protocol=ROUTE_PROTOCOL)

    assert plan(CONFIG, facts(theirs, leading)) == plan(CONFIG, Facts())


def test_an_examination_that_probes_from_the_prefix_keeps_no_service_from_starting() -> None:
    probing = route("2001:db8:46::1/128", device="kdoctor4711", metric=1024, protocol=ROUTE_PROTOCOL)

    assert plan(CONFIG, facts(probing)) == plan(CONFIG, Facts())


def test_steps_read_as_the_commands_that_do_the_same() -> None:
    rendered = [step.render() for step in plan(CONFIG, Facts())]

    assert "ip link set kracauer0 mtu 1500 up" in rendered
    assert "sysctl -w net/ipv4/conf/kracauer0/forwarding=1" in rendered
    assert "ip -4 route replace 198.51.100.1/32 dev kracauer0 metric 0 mtu 1480 proto 198" in rendered
    assert "ip -6 route replace unreachable 2001:db8:46::/96 metric 1000000 proto 198" in rendered
