"""Plans applied to a real kernel, in a namespace of the test's own."""

import ctypes
import errno
import json
import os
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from host_setup import DEVICE, EVERYTHING, SERVICE, Ip, configured, planned, routes, summary, sysctl

from kracauer.errors import HostError
from kracauer.host import AddRoute, HostSetup, SetLink, SetSysctl, destinations, extension, gather, plan
from kracauer.tun import TunDevice, open_device

pytestmark = pytest.mark.lab


@pytest.fixture
def device(own_netns: Ip) -> Iterator[TunDevice]:
    assert own_netns("-json route") is not None
    opened = open_device(DEVICE)
    yield opened
    opened.close()


@pytest.fixture
def ip(own_netns: Ip) -> Ip:
    return own_netns


@pytest.mark.usefixtures("device")
def test_a_plan_sets_link_sysctls_and_routes(ip: Ip) -> None:
    planned().apply()

    (link,) = json.loads(ip(f"-json link show {DEVICE}"))
    assert "UP" in link["flags"]
    assert link["mtu"] == 1500
    assert summary(ip) == EVERYTHING
    assert int(sysctl("ipv4", "forwarding").read_text(encoding="ascii")) == 1
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
    assert int(sysctl("ipv4", "forwarding").read_text(encoding="ascii")) == 0
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


def leave(*services: str) -> None:
    """Leave device and routes behind, as a process that was killed does."""
    open_device(DEVICE, is_persistent=True).close()
    planned(configured(*services)).apply()


def test_what_an_earlier_process_left_is_taken_over_without_a_gap(ip: Ip) -> None:
    leave()
    with subprocess.Popen(["ip", "monitor", "route"], stdout=subprocess.PIPE, text=True) as monitor:
        ip("route add unreachable 203.0.113.1")  # until it is seen, the monitor may not listen
        assert monitor.stdout is not None
        device = open_device(DEVICE, is_persistent=True)
        planned().apply()
        ip("route del unreachable 203.0.113.1")
        ip("route add unreachable 203.0.113.2")
        seen = list(iter(monitor.stdout.readline, "unreachable 203.0.113.2 \n"))
        monitor.kill()

    assert summary(ip) == EVERYTHING
    assert [line for line in seen if line.startswith("Deleted")] in ([], ["Deleted unreachable 203.0.113.1 \n"])
    device.remove()


def test_undoing_removes_what_was_taken_over_too(ip: Ip) -> None:
    leave()
    device = open_device(DEVICE, is_persistent=True)
    setup = planned()
    setup.apply()

    assert setup.undo() == ()

    assert routes(ip) == []
    device.remove()


def test_a_failure_leaves_what_an_earlier_process_had_set(ip: Ip) -> None:
    leave()
    config = configured(SERVICE, "198.51.100.2")
    steps = (*plan(config, gather(DEVICE, destinations(config))), AddRoute(IPv6Network("2001:db8:47::/96"), "missing0", 1024))

    with pytest.raises(HostError, match="missing0"):
        HostSetup(steps).apply()

    assert summary(ip) == EVERYTHING
    open_device(DEVICE, is_persistent=True).remove()


def test_routes_of_an_earlier_configuration_are_removed(ip: Ip) -> None:
    leave(SERVICE, "203.0.113.9")
    device = open_device(DEVICE, is_persistent=True)

    planned().apply()

    assert summary(ip) == EVERYTHING
    device.remove()


def test_a_prefix_within_a_wider_earlier_one_is_taken_over(ip: Ip) -> None:
    open_device(DEVICE, is_persistent=True).close()
    planned(configured(prefix="2001:db8:46::/96")).apply()
    wider = configured(prefix="2001:db8:46::/64")

    planned(wider).apply()

    assert {where for where, *_ in summary(ip)} == {SERVICE, "2001:db8:46::/64"}
    open_device(DEVICE, is_persistent=True).remove()


def test_the_link_may_be_without_carrier_and_its_routes_hold(ip: Ip) -> None:
    for family in ("ipv4", "ipv6"):
        sysctl(family, "ignore_routes_with_linkdown", "default").write_text("1", encoding="ascii")
    leave()

    assert "linkdown" in ip("route")
    assert f"dev {DEVICE}" in ip(f"route get {SERVICE}")
    assert f"dev {DEVICE}" in ip("-6 route get 2001:db8:46::1")
    open_device(DEVICE, is_persistent=True).remove()


@pytest.mark.usefixtures("device")
def test_more_is_set_while_running_and_taken_away_again(ip: Ip) -> None:
    setup = planned()
    setup.apply()
    more = configured(SERVICE, "198.51.100.2")

    setup.extend(extension(more, gather(DEVICE, destinations(more))))
    assert summary(ip) == EVERYTHING | {("198.51.100.2", DEVICE, 0, 1480), ("198.51.100.2", "unreachable", 1_000_000, 0)}
    setup.retire(IPv4Network("198.51.100.2/32"))

    assert summary(ip) == EVERYTHING
    setup.retire(IPv4Network("198.51.100.2/32"))
    assert setup.undo() == ()
    assert routes(ip) == []


@pytest.mark.usefixtures("device")
def test_an_extension_is_all_or_nothing(ip: Ip) -> None:
    setup = planned()
    setup.apply()
    more = configured(SERVICE, "198.51.100.2")
    steps = extension(more, gather(DEVICE, destinations(more)))

    with pytest.raises(HostError, match="missing0"):
        setup.extend((*steps, AddRoute(IPv4Network("198.51.100.3/32"), "missing0", 0)))

    assert summary(ip) == EVERYTHING
    assert not setup.wants(IPv4Network("198.51.100.2/32"))
    setup.extend(steps)
    assert len(summary(ip)) == 6


@pytest.mark.usefixtures("device")
def test_routes_that_cannot_be_retired_are_left_for_undoing(ip: Ip) -> None:
    setup = planned()
    setup.apply()

    with without_net_admin(), pytest.raises(HostError, match=r"route del .*198\.51\.100\.1"):
        setup.retire(IPv4Network("198.51.100.1/32"))

    assert summary(ip) == EVERYTHING
    assert setup.undo() == ()
    assert routes(ip) == []


@pytest.mark.usefixtures("device")
def test_a_route_that_somebody_sets_at_that_very_moment_is_not_replaced(ip: Ip) -> None:
    ip("link add left type veth peer name right")
    ip("link set left up")
    setup = planned()
    ip("route add 198.51.100.1/32 dev left")

    with pytest.raises(HostError, match="File exists"):
        setup.apply()

    assert "198.51.100.1 dev left" in ip("route")
    assert routes(ip) == []


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
