"""Stacks that lack options of TCP are served as well as those that have them all, in whatever order they are met."""

import contextlib
import socket
from collections.abc import Callable
from http.client import HTTPException

import pytest

from kracauer.lab import content
from kracauer.lab.topology import SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download, upload
from kracauer.lab.visits import visit
from kracauer.lab.wire import Impairment

pytestmark = pytest.mark.lab

BuildSite = Callable[..., Lab]
OPTIONS = ("tcp_sack", "tcp_timestamps", "tcp_window_scaling")
LENGTH = 1 << 19
TCP_FASTOPEN_CONNECT = 30


def check_both_ways(lab: Lab) -> None:
    for name in ("www.example.com", "shop.example.net"):
        with connect(lab.client, SERVICE, name) as connection:
            assert download(connection, name, LENGTH) == content.digest(LENGTH)
        with connect(lab.client, SERVICE, name) as connection:
            assert upload(connection, name, LENGTH) == content.digest(LENGTH)


@pytest.mark.parametrize("lacking", [*OPTIONS, "all"])
@pytest.mark.parametrize("side", ["client", "backend", "both"])
def test_transfers_arrive_whole_where_an_option_is_lacking(build_site: BuildSite, side: str, lacking: str) -> None:
    wire = Impairment(loss=1, reorder=2, delay_ms=1)
    lab = build_site(Topology(client_wire=wire, backend_wire=wire, congestion_control="reno"))
    namespaces = {"client": (lab.client,), "backend": (lab.origin1,), "both": (lab.client, lab.origin1)}[side]
    for namespace in namespaces:
        for option in OPTIONS if lacking == "all" else (lacking,):
            namespace.sysctl(f"net.ipv4.{option}", 0)
    # The offer may be withdrawn from a first connection when the backend is heard; the next ones know
    with contextlib.suppress(AssertionError, OSError, HTTPException):
        visit(lab.client, "http", "www.example.com", SERVICE)
    check_both_ways(lab)


def test_a_backend_that_has_lost_its_options_meanwhile_is_served_after_one_connection(build_site: BuildSite) -> None:
    lab = build_site()
    check_both_ways(lab)
    for option in OPTIONS:
        lab.origin1.sysctl(f"net.ipv4.{option}", 0)
    first = visit(lab.client, "http", "www.example.com", SERVICE)
    assert first.status == 200 or "reset" in (first.failure or "")
    check_both_ways(lab)
    for option in OPTIONS:
        lab.origin1.sysctl(f"net.ipv4.{option}", 1)
    check_both_ways(lab)


@pytest.mark.parametrize("mtu", [1280, 1400])
def test_a_backend_with_a_smaller_mss_is_never_sent_more(build_site: BuildSite, mtu: int) -> None:
    lab = build_site(Topology(backend_mtu=mtu), network={"ipv6_mtu": mtu})
    check_both_ways(lab)


@pytest.mark.parametrize("ecn", [0, 1])
def test_ecn_on_either_end_does_no_harm(build_either_site: BuildSite, ecn: int) -> None:
    lab = build_either_site()
    for namespace in (lab.client, lab.origin1):
        namespace.sysctl("net.ipv4.tcp_ecn", ecn)
    check_both_ways(lab)


def test_fast_open_falls_back(build_site: BuildSite) -> None:
    lab = build_site()
    lab.client.sysctl("net.ipv4.tcp_fastopen", 0x5)  # data in a SYN, cookie or not
    lab.origin1.sysctl("net.ipv4.tcp_fastopen", 0x3)
    for _ in range(2):
        with lab.client.open_socket() as connection:
            connection.settimeout(10)
            connection.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            connection.connect((SERVICE, 80))
            assert upload(connection, "www.example.com", LENGTH) == content.digest(LENGTH)
