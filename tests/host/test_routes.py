"""Routes as the kernel tells of them, in a namespace of the test's own; `ip route` is the oracle."""

import json
import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from host_setup import Ip

from kracauer.host import RouteFact
from kracauer.host.routes import SEQUENCE, TABLE_LOCAL, TABLE_MAIN, RouteTables, last_message, messages

pytestmark = pytest.mark.lab

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)
KINDS = {"multicast": "other"}  # what nothing is made of has no name


@pytest.fixture
def ip(own_netns: Ip) -> Ip:
    own_netns("link add left type veth peer name right")
    own_netns("link set left up")
    own_netns("link set right up")
    own_netns("address add 192.0.2.1/24 dev left")
    own_netns("address add 2001:db8:1::1/64 dev left nodad")
    return own_netns


@pytest.fixture(params=[True, False], ids=["strict", "lax"])
def tables(request: pytest.FixtureRequest, ip: Ip, monkeypatch: pytest.MonkeyPatch) -> Iterator[RouteTables]:
    assert ip("route")
    if not request.param:  # an option that no kernel knows, as on one that is too old to be asked strictly
        monkeypatch.setattr("kracauer.host.routes._NETLINK_GET_STRICT_CHK", 9999)
    with RouteTables() as opened:
        yield opened


def batch(family: str, lines: list[str]) -> None:
    subprocess.run(["ip", family, "-batch", "-"], input="\n".join(lines), text=True, check=True, timeout=60)


@pytest.mark.parametrize("family", [V4, V6])
@pytest.mark.parametrize("table", [TABLE_MAIN, TABLE_LOCAL])
def test_a_table_is_read_as_ip_route_shows_it(ip: Ip, tables: RouteTables, family: int, table: int) -> None:
    ip("route add unreachable 203.0.113.0/24 metric 7 proto 198")
    ip("-6 route add 2001:db8:2::/48 via 2001:db8:1::2 metric 9 proto 42")
    ip("route add default via 192.0.2.2")
    shown = json.loads(ip(f"-json -details {'-4' if family == V4 else '-6'} route show table {table}"))

    found = tables.read(family, table)

    assert {(str(route.destination), route.kind, route.metric) for route in found} == {
        (network(route["dst"], family), KINDS.get(route["type"], route["type"]), route.get("metric", 0)) for route in shown
    }


def network(shown: str, family: int) -> str:
    return str(ip_network(shown.replace("default", "0.0.0.0/0" if family == V4 else "::/0")))


def test_one_protocol_is_told_from_the_others(ip: Ip, tables: RouteTables) -> None:
    ip("route add 203.0.113.0/25 dev left proto 198")
    ip("route add 203.0.113.128/25 dev left proto 42")
    ip("route add 198.51.100.0/25 dev left proto 198 table 100")

    assert tables.read(V4, TABLE_MAIN, protocol=198) == (RouteFact(ip_network("203.0.113.0/25"), "unicast", "left", 0, 198),)
    assert tables.read(V6, TABLE_MAIN, protocol=198) == ()


@pytest.mark.parametrize("inside", ["2001:db8:46::/96", "2001:db8:46::c633:0/112", "2001:db8:46::/128"])
def test_what_lies_within_a_network_is_found_among_many(ip: Ip, tables: RouteTables, inside: str) -> None:
    wanted = ip_network("2001:db8:46::/96")
    batch("-6", [f"route add 2001:db8:{number:x}::/48 dev left" for number in range(0x100, 0x800)])
    ip("-6 route add 2001:db8:46::/64 dev left")
    assert tables.read(V6, TABLE_MAIN, within=[wanted]) == ()

    ip(f"-6 route add {inside} dev left metric 5")

    assert [str(route) for route in tables.read(V6, TABLE_MAIN, within=[wanted])] == [f"{inside} dev left metric 5"]


def test_routes_to_a_service_are_found_with_every_metric(ip: Ip, tables: RouteTables) -> None:
    batch("-4", [f"route add 10.{number >> 8}.{number & 255}.0/24 dev left" for number in range(3000)])
    ip("route add 198.51.100.0/24 dev left")
    for metric in (0, 100):
        ip(f"route add 198.51.100.1 dev left metric {metric}")

    found = tables.read(V4, TABLE_MAIN, within=[ip_network("198.51.100.1/32"), ip_network("2001:db8:46::/96")])

    assert [route.metric for route in found] == [0, 100]


def test_a_table_that_was_never_used_is_empty(own_netns: Ip) -> None:
    assert own_netns("link show")
    with RouteTables() as tables:
        assert tables.read(V4, TABLE_MAIN) == ()
        assert tables.read(V4, TABLE_MAIN, within=[ip_network("198.51.100.1/32")]) == ()


def test_what_the_kernel_refuses_is_raised(ip: Ip, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ip("route")
    monkeypatch.setattr("kracauer.host.routes._RTM_GETROUTE", 24)  # RTM_NEWROUTE, of a route that leads nowhere
    with RouteTables() as tables, pytest.raises(OSError, match=r"Invalid argument|No such device"):
        tables.read(V4, TABLE_MAIN)


def test_the_same_channel_can_be_asked_again_and_again(ip: Ip, tables: RouteTables) -> None:
    before = tables.read(V4, TABLE_MAIN)

    ip("route add 203.0.113.0/24 dev left")

    assert len(tables.read(V4, TABLE_MAIN)) == len(before) + 1


@pytest.mark.parametrize("lines", [0, 3])
def test_the_end_of_a_dump_is_found_behind_routes_and_alone(lines: int) -> None:
    """Newer kernels put it into the last datagram of routes, older ones into one of its own."""
    route = struct.pack("=IHHII", 36, 24, 2, SEQUENCE, 0) + struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 3, 0, 1, 0)
    route += struct.pack("=HH", 8, 1) + bytes(4)
    end = struct.pack("=IHHIIi", 20, 3, 2, SEQUENCE, 0, 0)

    datagram = bytearray(route * lines + end)
    (last,) = messages(datagram, len(datagram), last_message(datagram, len(datagram)))
    assert last == (len(datagram) - 4, 3, len(datagram))

    if lines:
        without = bytearray(route * lines)
        assert list(messages(without, len(without), last_message(without, len(without)))) == []
