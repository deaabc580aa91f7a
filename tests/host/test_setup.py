"""Plans applied to a real kernel, in a namespace of the test's own."""

import ctypes
import errno
import json
import os
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from kracauer.config import Config, Listener, Network
from kracauer.errors import HostError
from kracauer.host import AddRoute, HostSetup, LinkWatch, SetLink, SetSysctl, destinations, gather, plan
from kracauer.routes import Backend, Route, RouteTable
from kracauer.tun import TunDevice, open_device

pytestmark = pytest.mark.lab

Ip = Callable[[str], str]
DEVICE = "kracauer0"
CONFIG = Config(
    prefix=IPv6Network("2001:db8:46::/96"),
    listeners=(Listener(IPv4Address("198.51.100.1"), 443),),
    routes=RouteTable([Route("default", (Backend(IPv6Address("2001:db8:1::2")),))]),
    network=Network(device=DEVICE),
)


@pytest.fixture
def device(own_netns: Ip) -> Iterator[TunDevice]:
    assert own_netns("-json route") is not None
    opened = open_device(DEVICE)
    yield opened
    opened.close()


@pytest.fixture
def ip(own_netns: Ip) -> Ip:
    return own_netns


def planned() -> HostSetup:
    return HostSetup(plan(CONFIG, gather(DEVICE, destinations(CONFIG))))


def routes(ip: Ip) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for family in ("-4", "-6"):
        found += json.loads(ip(f"-json -details {family} route show proto 198"))
    return found


def summary(ip: Ip) -> set[tuple[str, str, int, int]]:
    return {
        (
            route["dst"],
            "unreachable" if route.get("type") == "unreachable" else route["dev"],
            route.get("metric", 0),
            next((metric["mtu"] for metric in route.get("metrics", []) if "mtu" in metric), 0),
        )
        for route in routes(ip)
    }


EVERYTHING = {
    ("198.51.100.1", DEVICE, 0, 1480),
    ("198.51.100.1", "unreachable", 1_000_000, 0),
    ("2001:db8:46::/96", DEVICE, 1024, 1500),
    ("2001:db8:46::/96", "unreachable", 1_000_000, 0),
}


def sysctl(family: str, key: str) -> int:
    return int(Path(f"/proc/sys/net/{family}/conf/{DEVICE}/{key}").read_text(encoding="ascii"))


@pytest.mark.usefixtures("device")
def test_a_plan_sets_link_sysctls_and_routes(ip: Ip) -> None:
    planned().apply()

    (link,) = json.loads(ip(f"-json link show {DEVICE}"))
    assert "UP" in link["flags"]
    assert link["mtu"] == 1500
    assert summary(ip) == EVERYTHING
    assert sysctl("ipv4", "forwarding") == 1
    assert "fe80" not in ip(f"-6 address show dev {DEVICE}")


@pytest.mark.usefixtures("device")
def test_a_plan_can_be_applied_twice(ip: Ip) -> None:
    planned().apply()
    planned().apply()

    assert summary(ip) == EVERYTHING
    assert len(routes(ip)) == len(EVERYTHING)


def test_undoing_takes_back_everything_and_nothing_else(ip: Ip, device: TunDevice) -> None:
    ip("link add left type veth peer name right")
    ip("link set left up")
    ip("route add 203.0.113.0/24 dev left")
    before = ip("-4 route show table all") + ip("-6 route show table all")
    setup = planned()
    setup.apply()

    assert setup.undo() == ()

    assert ip("-4 route show table all") + ip("-6 route show table all") == before
    assert sysctl("ipv4", "forwarding") == 0
    assert "UP" not in json.loads(ip(f"-json link show {device.name}"))[0]["flags"]


def test_undoing_after_the_device_is_gone_removes_the_dead_ends(ip: Ip, device: TunDevice) -> None:
    setup = planned()
    setup.apply()
    device.close()

    assert setup.undo() == ()
    assert routes(ip) == []


def test_while_the_device_is_away_the_dead_ends_answer(ip: Ip, device: TunDevice) -> None:
    planned().apply()
    device.close()

    assert summary(ip) == {entry for entry in EVERYTHING if entry[1] == "unreachable"}


def test_what_a_killed_service_has_left_is_taken_over(ip: Ip, device: TunDevice) -> None:
    planned().apply()
    device.close()
    successor = open_device(DEVICE)
    try:
        setup = planned()
        setup.apply()
        assert summary(ip) == EVERYTHING
        assert setup.undo() == ()
        assert routes(ip) == []
    finally:
        successor.close()


@pytest.mark.usefixtures("device")
def test_dead_ends_of_another_configuration_are_removed(ip: Ip) -> None:
    ip("route add unreachable 203.0.113.9 metric 1000000 proto 198")

    planned().apply()

    assert summary(ip) == EVERYTHING


@pytest.mark.usefixtures("device")
def test_a_failure_half_way_leaves_nothing_behind(ip: Ip) -> None:
    steps = (
        SetLink(DEVICE, 1500),
        AddRoute(IPv4Network("198.51.100.1/32"), None, 1_000_000),
        AddRoute(IPv4Network("198.51.100.1/32"), DEVICE, 0),
        AddRoute(IPv6Network("2001:db8:46::/96"), "missing0", 1024),
    )

    with pytest.raises(HostError, match=r"missing0.*No such device"):
        HostSetup(steps).apply()

    assert routes(ip) == []
    assert "UP" not in json.loads(ip(f"-json link show {DEVICE}"))[0]["flags"]


@pytest.mark.usefixtures("device")
def test_an_mtu_that_the_kernel_refuses_is_explained() -> None:
    with pytest.raises(HostError, match=r"mtu 70000.*Invalid argument") as caught:
        HostSetup((SetLink(DEVICE, 70000),)).apply()

    assert "ipv6_mtu" in caught.value.remedy


@pytest.mark.usefixtures("device")
def test_a_sysctl_that_is_not_required_may_be_missing() -> None:
    HostSetup((SetSysctl("ipv6", DEVICE, "no_such_key", 1, is_required=False),)).apply()

    with pytest.raises(HostError, match="no_such_key"):
        HostSetup((SetSysctl("ipv6", DEVICE, "no_such_key", 1),)).apply()


@pytest.mark.usefixtures("device")
def test_a_service_address_of_this_host_is_refused(ip: Ip) -> None:
    ip("link add left type veth peer name right")
    ip("address add 198.51.100.1/24 dev left")

    with pytest.raises(HostError, match=r"198\.51\.100\.1 is configured on left"):
        planned()


@pytest.mark.usefixtures("device")
def test_a_route_of_somebody_else_is_refused_and_left_alone(ip: Ip) -> None:
    ip("link add left type veth peer name right")
    ip("link set left up")
    ip("route add 198.51.100.1/32 dev left")

    with pytest.raises(HostError, match="already has a route") as caught:
        planned()

    assert "ip -4 route del 198.51.100.1/32 dev left metric 0" in caught.value.remedy
    ip("route del 198.51.100.1/32 dev left metric 0")
    planned().apply()


@pytest.mark.usefixtures("device")
def test_a_more_specific_route_in_the_prefix_is_refused(ip: Ip) -> None:
    ip("link add left type veth peer name right")
    ip("link set left up")
    ip("-6 route add 2001:db8:46::c633:0/112 dev left")

    with pytest.raises(HostError, match="takes a part of the prefix"):
        planned()


@pytest.mark.usefixtures("device")
def test_a_network_around_the_prefix_is_no_conflict(ip: Ip) -> None:
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1", encoding="ascii")
    ip("link add left type veth peer name right")
    ip("link set left up")
    ip("link set right up")
    ip("address add 2001:db8:46:0:1::1/64 dev left nodad")

    planned().apply()

    assert summary(ip) == EVERYTHING


@pytest.mark.usefixtures("device")
def test_ipv6_disabled_everywhere_is_explained() -> None:
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1", encoding="ascii")

    with pytest.raises(HostError, match="IPv6 is disabled") as caught:
        planned()

    assert "sysctl -w net.ipv6.conf.all.disable_ipv6=0" in caught.value.remedy


def test_ipv6_disabled_by_default_is_enabled_on_the_device_alone(ip: Ip) -> None:
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1", encoding="ascii")
    device = open_device(DEVICE)
    try:
        planned().apply()
        assert summary(ip) == EVERYTHING
    finally:
        device.close()


@pytest.mark.usefixtures("device")
def test_netlink_without_privilege_is_explained_and_leaves_nothing(ip: Ip) -> None:
    with without_net_admin(), pytest.raises(HostError, match=os.strerror(errno.EPERM)) as caught:
        HostSetup((AddRoute(IPv4Network("198.51.100.1/32"), None, 1_000_000),)).apply()

    assert "CAP_NET_ADMIN" in caught.value.remedy
    assert routes(ip) == []


@pytest.mark.usefixtures("device")
def test_forwarding_is_looked_up_on_the_other_interfaces(ip: Ip) -> None:
    ip("link add left type veth peer name right")
    planned().apply()
    assert not gather(DEVICE, ()).is_forwarding_ipv4
    assert not gather(DEVICE, ()).is_forwarding_ipv6

    Path("/proc/sys/net/ipv4/conf/left/forwarding").write_text("1", encoding="ascii")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1", encoding="ascii")

    assert gather(DEVICE, ()).is_forwarding_ipv4
    assert gather(DEVICE, ()).is_forwarding_ipv6


@pytest.mark.usefixtures("device")
def test_a_default_route_from_a_router_advertisement_is_noticed(ip: Ip) -> None:
    ip("link add left type veth peer name right")
    ip("link set left up")
    ip("-6 route add default via fe80::1 dev left proto ra")

    assert gather(DEVICE, ()).advertised_interfaces == ("left",)

    Path("/proc/sys/net/ipv6/conf/left/accept_ra").write_text("2", encoding="ascii")
    assert gather(DEVICE, ()).advertised_interfaces == ()


@pytest.mark.usefixtures("device")
def test_routes_come_back_after_the_link_was_down(ip: Ip) -> None:
    setup = planned()
    setup.apply()
    watch = LinkWatch(DEVICE)
    try:
        ip(f"link set {DEVICE} down")
        assert not watch.has_come_up()
        ip(f"link set {DEVICE} up")
        assert watch.has_come_up()
        assert not watch.has_come_up()
        assert summary(ip) != EVERYTHING

        setup.restore_routes()

        assert summary(ip) == EVERYTHING
    finally:
        watch.close()


@pytest.mark.usefixtures("device")
def test_other_interfaces_do_not_wake_the_watch(ip: Ip) -> None:
    ip("link add left type veth peer name right")
    watch = LinkWatch(DEVICE)
    try:
        for state in ("up", "down", "up"):
            ip(f"link set left {state}")
        assert not watch.has_come_up()
    finally:
        watch.close()


class without_net_admin:  # noqa: N801 - reads as what it does
    """Take CAP_NET_ADMIN out of this thread's effective set for a while (capset(2), version 3)."""

    _NET_ADMIN = 1 << 12

    def __enter__(self) -> None:
        self._before = self._get()
        words = list(self._before)
        words[0] &= ~self._NET_ADMIN
        self._set(words)

    def __exit__(self, *_: object) -> None:
        self._set(self._before)

    def _get(self) -> list[int]:
        data = (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capget(self._header(), data) == 0
        return list(data)

    def _set(self, words: list[int]) -> None:
        assert ctypes.CDLL(None).capset(self._header(), (ctypes.c_uint32 * 6)(*words)) == 0

    def _header(self) -> Any:
        return (ctypes.c_uint32 * 2)(0x20080522, 0)
