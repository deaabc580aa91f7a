"""Word from a real kernel about our link and our routes, in a namespace of the test's own."""

import select
import subprocess
from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from host_setup import DEVICE, EVERYTHING, PREFIX, SERVICE, Ip, configured, planned, summary, sysctl

from kracauer.errors import HostError
from kracauer.host import HostSetup, HostWatch, extension, gather
from kracauer.host.watch import CAME_UP, MTU_CHANGED, ROUTE_REMOVED, WORD_LOST
from kracauer.tun import open_device

pytestmark = pytest.mark.lab


@pytest.fixture
def ip(own_netns: Ip) -> Iterator[Ip]:
    assert own_netns("link")
    device = open_device(DEVICE, is_persistent=True)
    yield own_netns
    device.remove()


@pytest.fixture
def setup(ip: Ip) -> HostSetup:
    assert ip("link")
    applied = planned()
    applied.apply()
    return applied


@pytest.fixture
def watch(setup: HostSetup, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostWatch]:
    monkeypatch.setattr("kracauer.host.watch._LEAST_INTERVAL_S", 0.0)
    opened = HostWatch(DEVICE, setup)
    yield opened
    opened.close()


def is_readable(watch: HostWatch, timeout_s: float = 0) -> bool:
    return bool(select.select([watch], [], [], timeout_s)[0])


REMOVALS = [
    f"-4 route del {SERVICE} dev {DEVICE}",
    f"-4 route del unreachable {SERVICE} metric 1000000",
    f"-6 route del {PREFIX} dev {DEVICE}",
    f"-6 route del unreachable {PREFIX} metric 1000000",
    "-4 route flush proto 198",
    "-6 route flush proto 198",
]


@pytest.mark.parametrize("command", REMOVALS)
def test_a_route_that_somebody_removes_is_told_and_comes_back(ip: Ip, setup: HostSetup, watch: HostWatch, command: str) -> None:
    ip(command)
    assert summary(ip) != EVERYTHING
    assert is_readable(watch)
    assert watch.has_lost_routes() == ROUTE_REMOVED

    setup.restore_routes()

    assert summary(ip) == EVERYTHING
    assert watch.has_lost_routes() is None
    assert not is_readable(watch)


def test_a_link_that_is_down_stays_down_and_its_routes_come_back_with_it(ip: Ip, setup: HostSetup, watch: HostWatch) -> None:
    ip(f"link set {DEVICE} down")
    assert watch.has_lost_routes() is None
    setup.restore_routes()
    assert "state DOWN" in ip(f"link show {DEVICE}")

    ip(f"link set {DEVICE} up")

    assert watch.has_lost_routes() == CAME_UP
    assert summary(ip) != EVERYTHING
    setup.restore_routes()
    assert summary(ip) == EVERYTHING
    assert watch.has_lost_routes() is None


def test_a_dead_end_removed_while_the_link_is_down_comes_back_at_once(ip: Ip, setup: HostSetup, watch: HostWatch) -> None:
    ip(f"link set {DEVICE} down")
    ip(f"route del unreachable {SERVICE} metric 1000000")

    assert watch.has_lost_routes() == ROUTE_REMOVED
    setup.restore_routes()

    assert (SERVICE, "unreachable", 1_000_000, 0) in summary(ip)


def test_a_link_that_goes_down_and_up_between_two_looks_is_noticed(ip: Ip, watch: HostWatch) -> None:
    ip(f"link set {DEVICE} down")
    ip(f"link set {DEVICE} up")

    assert watch.has_lost_routes() == CAME_UP


@pytest.mark.parametrize("mtu", [9000, 1000])  # below 1280, the kernel forgets IPv6 on the link
def test_an_mtu_that_somebody_changes_is_put_right(ip: Ip, setup: HostSetup, watch: HostWatch, mtu: int) -> None:
    ip(f"link set {DEVICE} mtu {mtu}")
    assert watch.has_lost_routes() in (MTU_CHANGED, ROUTE_REMOVED)

    setup.restore_routes()

    assert "mtu 1500" in ip(f"link show {DEVICE}")
    assert summary(ip) == EVERYTHING
    assert sysctl("ipv6", "accept_ra").read_text(encoding="ascii") == "0\n"
    assert watch.has_lost_routes() is None


def test_what_we_remove_ourselves_is_no_news(ip: Ip, setup: HostSetup, watch: HostWatch) -> None:
    more = configured(SERVICE, "198.51.100.2")
    setup.extend(extension(more, gather(DEVICE, ())))
    assert len(summary(ip)) == 6

    setup.retire(ip_network("198.51.100.2/32"))
    assert summary(ip) == EVERYTHING
    assert watch.has_lost_routes() is None

    assert setup.undo() == ()
    assert watch.has_lost_routes() is None


def test_routes_of_others_are_no_news_and_do_not_even_wake(ip: Ip, watch: HostWatch) -> None:
    ip("link add left type veth peer name right")
    for state in ("up", "down", "up"):
        ip(f"link set left {state}")
    lines = [f"route {verb} 10.0.{number}.0/24 dev left" for verb in ("add", "del") for number in range(256)]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True, timeout=60)
    ip("-6 route add unreachable 2001:db8:9::/48 proto 42")
    ip("-6 route del unreachable 2001:db8:9::/48 proto 42")

    assert not is_readable(watch)


def test_routes_of_another_kracauer_are_no_news(ip: Ip, watch: HostWatch) -> None:
    neighbour = open_device("kracauer1", is_persistent=True)
    other = planned(configured("198.51.100.2", device="kracauer1", prefix="2001:db8:47::/96"))
    other.apply()
    other.undo()
    neighbour.remove()

    assert watch.has_lost_routes() is None
    assert len(summary(ip)) == len(EVERYTHING)


def test_the_same_destination_in_another_table_is_no_news(ip: Ip, watch: HostWatch) -> None:
    for verb in ("add", "del"):
        ip(f"route {verb} {SERVICE} dev {DEVICE} table 100 proto 198")

    assert watch.has_lost_routes() is None


def test_somebody_who_keeps_removing_gets_one_restore_a_while(
    ip: Ip, setup: HostSetup, watch: HostWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kracauer.host.watch._LEAST_INTERVAL_S", 0.3)
    causes = []
    for _ in range(5):
        ip(REMOVALS[0])
        causes.append(watch.has_lost_routes())
        setup.restore_routes()

    assert [cause for cause in causes if cause] == [ROUTE_REMOVED]
    assert not is_readable(watch)
    assert is_readable(watch, timeout_s=2)  # and the last removal is not forgotten over it
    assert watch.has_lost_routes() == ROUTE_REMOVED
    assert not is_readable(watch)
    assert watch.has_lost_routes() is None


def test_a_route_of_somebody_in_the_place_of_ours_is_not_replaced(ip: Ip, setup: HostSetup, watch: HostWatch) -> None:
    ip("link add left type veth peer name right")
    ip("link set left up")
    ip(REMOVALS[0])
    ip(f"route add {SERVICE} dev left")
    assert watch.has_lost_routes() == ROUTE_REMOVED

    with pytest.raises(HostError, match="File exists") as caught:
        setup.restore_routes()

    assert "ip monitor route" in caught.value.remedy
    assert f"{SERVICE} dev left" in ip("route")


def test_word_that_was_lost_is_taken_for_a_loss(watch: HostWatch) -> None:
    lines = [f"link set {DEVICE} alias {number:0200}" for number in range(2000)]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True, timeout=60)
    assert is_readable(watch)

    assert watch.has_lost_routes() == WORD_LOST
    assert watch.has_lost_routes() is None
