"""What a service has left is cleared away, and nothing else; in a namespace of the test's own."""

import json
from collections.abc import Iterator

import pytest
from host_setup import DEVICE, EVERYTHING, PREFIX, SERVICE, Ip, configured, planned, summary

from kracauer.host import destinations, forget
from kracauer.tun import TunDevice, open_device

pytestmark = pytest.mark.lab

DESTINATIONS = destinations(configured())


@pytest.fixture
def ip(own_netns: Ip) -> Ip:
    return own_netns


@pytest.fixture
def device(ip: Ip) -> Iterator[TunDevice]:
    """A device that is set up, as a service has it."""
    assert ip("link")
    opened = open_device(DEVICE, is_persistent=True)
    planned().apply()
    yield opened
    opened.close()


def everything(ip: Ip) -> str:
    links = [(link["ifname"], link["flags"]) for link in json.loads(ip("-json link show"))]
    return f"{links} {ip('-4 route show table all')} {ip('-6 route show table all')}"


def test_device_and_routes_of_a_service_that_is_no_more_are_removed(ip: Ip) -> None:
    ip("link add left type veth peer name right")
    ip("link set left up")
    ip("route add 203.0.113.0/24 dev left")
    before = everything(ip)
    open_device(DEVICE, is_persistent=True).close()
    planned().apply()
    assert summary(ip) == EVERYTHING

    assert forget(DEVICE, DESTINATIONS) == ()

    assert everything(ip) == before
    assert forget(DEVICE, DESTINATIONS) == ()


def test_what_is_in_use_is_left_alone(ip: Ip, device: TunDevice) -> None:
    (failure,) = forget(DEVICE, DESTINATIONS)

    assert f"{device.name} is in use by another process" in failure
    assert summary(ip) == EVERYTHING


@pytest.mark.parametrize("known", [(), DESTINATIONS])
def test_dead_ends_go_with_what_led_into_the_device_known_or_not(ip: Ip, device: TunDevice, known: tuple[()]) -> None:
    device.close()

    assert forget(DEVICE, known) == ()

    assert summary(ip) == set()


def test_dead_ends_are_removed_when_the_device_is_gone_already(ip: Ip, device: TunDevice) -> None:
    device.remove()
    assert {leads for _, leads, _, _ in summary(ip)} == {"unreachable"}

    assert forget(DEVICE, DESTINATIONS) == ()

    assert summary(ip) == set()


def test_another_kracauer_is_left_alone_running_or_not(ip: Ip, device: TunDevice) -> None:
    other = configured("198.51.100.2", device="kracauer1", prefix="2001:db8:47::/96")
    neighbour = open_device("kracauer1", is_persistent=True)
    planned(other).apply()
    neighbour.close()
    device.close()

    assert forget(DEVICE, DESTINATIONS) == ()

    assert {(where, leads) for where, leads, _, _ in summary(ip)} == {
        (destination, leads) for destination in ("198.51.100.2", "2001:db8:47::/96") for leads in ("kracauer1", "unreachable")
    }


def test_dead_ends_behind_another_device_of_the_same_destinations_stay(ip: Ip, device: TunDevice) -> None:
    neighbour = open_device("kracauer1", is_persistent=True)
    device.remove()
    planned(configured(device="kracauer1")).apply()
    neighbour.close()

    assert forget(DEVICE, DESTINATIONS) == ()

    assert {(where, leads) for where, leads, _, _ in summary(ip)} == {
        (destination, leads) for destination in (SERVICE, PREFIX) for leads in ("kracauer1", "unreachable")
    }


@pytest.mark.parametrize("alias", ["", "somebody"])
def test_a_device_that_bears_no_mark_stays_and_is_spoken_of(ip: Ip, alias: str) -> None:
    ip(f"tuntap add dev {DEVICE} mode tun")
    if alias:
        ip(f"link set {DEVICE} alias {alias}")

    assert forget(DEVICE, DESTINATIONS) == (f"the device {DEVICE} is not Kracauer's, and was left alone",)

    assert DEVICE in ip("link show")


def test_our_routes_into_a_device_that_bears_no_mark_are_removed(ip: Ip) -> None:
    ip(f"tuntap add dev {DEVICE} mode tun")
    planned().apply()
    ip(f"route add 203.0.113.0/24 dev {DEVICE}")

    assert len(forget(DEVICE, DESTINATIONS)) == 1

    assert summary(ip) == set()
    assert "203.0.113.0/24" in ip("route")


def test_routes_of_somebody_else_to_the_same_destinations_stay(ip: Ip, device: TunDevice) -> None:
    ip(f"route add unreachable {SERVICE} metric 2000000")
    device.close()

    assert forget(DEVICE, DESTINATIONS) == ()

    assert ip("route").split() == f"unreachable {SERVICE} metric 2000000".split()
