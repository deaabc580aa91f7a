"""A device that outlives its process: left, known again, taken over, removed; in a namespace of the test's own."""

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from tun_node import OPEN_TO_ALL

from kracauer.errors import DeviceError
from kracauer.lab import privileges
from kracauer.tun import TunDevice, alias, open_device, opening
from kracauer.tun.device import TUNSETPERSIST
from kracauer.wire import vnet_hdr
from kracauer.wire.buffer import PACKET_START, VNET_START, Frame

pytestmark = pytest.mark.lab

Ip = Callable[[str], str]
ROOT = Path(__file__).parents[2]
DEVICE = "kracauer0"

ATTACH = """
import fcntl, struct, sys
try:
    fcntl.ioctl(open("/dev/net/tun", "r+b", buffering=0), 0x400454CA, struct.pack("16sH22x", b"kracauer0", 0x1001))
except OSError as error:
    sys.exit(error.strerror)
"""

OPEN_AND_HALT = """
import fcntl, os, signal, sys
from kracauer.tun import open_device, opening
call, until = fcntl.ioctl, int(sys.argv[1])
def ioctl(fd, request, *arguments):
    if request == until:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(fd, request, *arguments)
opening.fcntl.ioctl = ioctl
open_device("kracauer0", is_persistent=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def left(**options: bool) -> None:
    """Leave a device behind, as a process that was killed does."""
    open_device(DEVICE, is_persistent=True, **options).close()


def link(ip: Ip, name: str = DEVICE) -> dict[str, Any]:
    (found,) = json.loads(ip(f"-json -details link show {name}"))
    return dict(found)


def script(source: str, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-c", source, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def read_all(device: TunDevice) -> list[bytes]:
    """Everything waiting, but for what the kernel says to its neighbours by multicast."""
    frame, packets = Frame(), []
    while device.read_into(frame):
        packet = bytes(frame.buffer[PACKET_START : frame.end])
        if not (packet[0] >> 4 == 6 and packet[24] == 0xFF):
            packets.append(packet)
    return packets


def test_a_persistent_device_stays_with_mark_and_owner(own_netns: Ip) -> None:
    device = open_device(DEVICE, is_persistent=True)
    assert not device.is_found
    device.close()

    found = link(own_netns)
    assert found["ifalias"] == alias.ALIAS
    assert found["linkinfo"]["info_data"]["persist"] is True
    assert found["linkinfo"]["info_data"]["user"] in (os.geteuid(), "root")


def test_a_device_that_was_left_is_taken_over_with_its_settings(own_netns: Ip) -> None:
    left()
    own_netns(f"link set {DEVICE} mtu 1400 up")
    before = link(own_netns)["ifindex"]

    device = open_device(DEVICE, is_persistent=True)
    try:
        assert device.is_found
        assert device.has_offloads
        assert (link(own_netns)["ifindex"], link(own_netns)["mtu"]) == (before, 1400)
    finally:
        device.close()


def test_removing_a_device_takes_it_away_whoever_made_it(own_netns: Ip) -> None:
    for is_left in (False, True):
        if is_left:
            left()
        device = open_device(DEVICE, is_persistent=True)
        device.remove()
        device.remove()
        assert DEVICE not in own_netns("link show")


def test_removing_a_device_that_somebody_has_deleted_is_no_error(own_netns: Ip) -> None:
    device = open_device(DEVICE, is_persistent=True)
    own_netns(f"link del {DEVICE}")

    device.remove()


@pytest.mark.usefixtures("own_netns")
def test_a_device_in_use_is_refused_and_keeps_working(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_PATIENCE_S", 0.05)
    device = open_device(DEVICE, is_persistent=True)
    try:
        with pytest.raises(DeviceError, match="kracauer0 is in use by another process") as caught:
            open_device(DEVICE, is_persistent=True)
        assert "kracauer stop" in caught.value.remedy
        assert device.read_into(Frame()) is False
    finally:
        device.remove()


@pytest.mark.parametrize("kind", ["tun", "tap"])
def test_a_device_of_somebody_else_is_refused_and_left_as_it_is(own_netns: Ip, kind: str) -> None:
    own_netns(f"tuntap add dev {DEVICE} mode {kind}")
    before = link(own_netns)

    with pytest.raises(DeviceError, match="taken by another TUN device"):
        open_device(DEVICE, is_persistent=True)

    assert link(own_netns) == before


@pytest.mark.parametrize("name", ["tap", "veth"])
def test_a_mark_does_not_make_another_kind_of_interface_ours(own_netns: Ip, name: str) -> None:
    create = {"tap": f"tuntap add dev {DEVICE} mode tap", "veth": f"link add {DEVICE} type veth peer name other0"}
    own_netns(create[name])
    own_netns(f"link set {DEVICE} alias {alias.ALIAS}")

    with pytest.raises(DeviceError, match="is taken by"):
        open_device(DEVICE, is_persistent=True)

    assert DEVICE in own_netns("link show")


@pytest.mark.usefixtures("own_netns")
def test_nobody_else_may_attach_to_a_device_that_was_left() -> None:
    if privileges.is_in_user_namespace():
        pytest.skip("needs root outside of a user namespace, to become another user")
    as_nobody = (
        *OPEN_TO_ALL,
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    )
    left()

    ran = script(ATTACH, prefix=as_nobody)

    assert (ran.returncode, ran.stderr.strip()) == (1, "Operation not permitted")
    assert script(ATTACH).returncode == 0


@pytest.mark.usefixtures("own_netns")
def test_the_owner_changes_with_the_user_that_takes_it_over() -> None:
    if privileges.is_in_user_namespace():
        pytest.skip("needs root outside of a user namespace, to become another user")
    capability = ("--inh-caps=+net_admin", "--ambient-caps=+net_admin")
    as_nobody = (*OPEN_TO_ALL, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *capability)
    open_persistent = 'from kracauer.tun import open_device\nopen_device("kracauer0", is_persistent=True)'
    left()

    assert script(open_persistent, prefix=as_nobody).stderr == ""

    without = (
        *OPEN_TO_ALL,
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    )
    assert script(ATTACH, prefix=without).returncode == 0


@pytest.mark.parametrize("request_number", [opening.TUNGETIFF, opening.TUNSETOWNER, TUNSETPERSIST])
def test_a_process_killed_while_creating_leaves_nothing(own_netns: Ip, request_number: int) -> None:
    assert script(OPEN_AND_HALT, str(request_number)).returncode == -signal.SIGKILL

    assert DEVICE not in own_netns("link show")


@pytest.mark.parametrize("request_number", [0, opening.TUNGETIFF, opening.TUNSETOWNER, TUNSETPERSIST])
def test_a_process_killed_while_taking_over_leaves_what_the_next_can_take(own_netns: Ip, request_number: int) -> None:
    left()

    assert script(OPEN_AND_HALT, str(request_number)).returncode == -signal.SIGKILL

    assert DEVICE in own_netns("link show")
    device = open_device(DEVICE, is_persistent=True)
    assert device.is_found
    device.remove()


@pytest.mark.parametrize("has_offloads", [True, False])
@pytest.mark.parametrize("had_offloads", [True, False])
def test_offloads_are_as_wanted_now_whatever_they_were(own_netns: Ip, had_offloads: bool, has_offloads: bool) -> None:
    left(has_offloads=had_offloads)
    device = open_device(DEVICE, is_persistent=True, has_offloads=has_offloads)
    try:
        own_netns(f"link set {DEVICE} up")
        own_netns(f"address add 192.0.2.1/24 dev {DEVICE}")
        assert device.has_offloads == has_offloads
        read_all(device)

        segments = answered_with(device, bytes(4000))

        assert any(len(segment) > 1500 for segment in segments) == has_offloads
    finally:
        device.remove()


def answered_with(device: TunDevice, data: bytes) -> list[bytes]:
    """What the kernel's TCP sends when it has `data` to send: a client is played through the device."""
    with socket.create_server(("192.0.2.1", 80)) as server:
        client = {"src": "192.0.2.2", "dst": "192.0.2.1"}
        syn = IP(**client) / TCP(sport=7, dport=80, seq=1, flags="S", window=65535, options=[("MSS", 1400)])
        device.write(bytes(10) + bytes(syn))
        offer = TCP(packets_with(device)[0][20:])
        device.write(
            bytes(10) + bytes(IP(**client) / TCP(sport=7, dport=80, seq=2, ack=offer.seq + 1, flags="A", window=65535))
        )
        connection, _ = server.accept()
        with connection:
            connection.sendall(data)
            packets: list[bytes] = []
            while sum(len(TCP(packet[20:]).payload) for packet in packets) < len(data):
                packets += packets_with(device)
            reset = TCP(sport=7, dport=80, seq=2, flags="R")
            device.write(bytes(10) + bytes(IP(**client) / reset))
        return packets


def packets_with(device: TunDevice) -> list[bytes]:
    frame, packets = Frame(), []
    assert select.select([device], [], [], 5)[0]
    while device.read_into(frame):
        if frame.buffer[PACKET_START] >> 4 == 4:
            header = vnet_hdr.parse(frame.buffer, VNET_START)
            assert device.has_offloads or (header.gso_type, header.needs_csum) == (vnet_hdr.GSO_NONE, False)
            packets.append(bytes(frame.buffer[PACKET_START : frame.end]))
    return packets


def test_a_vnet_header_of_another_length_is_put_right(own_netns: Ip) -> None:
    device = open_device(DEVICE, is_persistent=True)
    fcntl.ioctl(device.fileno(), opening.TUNSETVNETHDRSZ, (12).to_bytes(4, sys.byteorder))
    device.close()
    successor = open_device(DEVICE, is_persistent=True)
    try:
        own_netns(f"link set {DEVICE} up")
        own_netns(f"address add 192.0.2.1/24 dev {DEVICE}")
        successor.write(bytes(10) + bytes(IP(src="192.0.2.2", dst="192.0.2.1") / UDP(sport=7, dport=7)))
        assert successor.refused == {}
        assert any(IP(packet).proto == 1 for packet in packets_with(successor))  # nobody listens: port unreachable
    finally:
        successor.remove()


class Edge:
    """A host with a persistent device, and a device beside it through which the test is the network around that host."""

    def __init__(self, ip: Ip) -> None:
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", path).write_text("1", encoding="ascii")
        left()
        self.outside = open_device("outside0")
        for name in (DEVICE, "outside0"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode").write_text("1", encoding="ascii")
            ip(f"link set {name} mtu 1500 up")
        ip("route add 192.0.2.0/24 dev outside0")
        ip("-6 route add 2001:db8:1::/64 dev outside0")
        ip(f"route add 198.51.100.1 dev {DEVICE}")
        ip("route add unreachable 198.51.100.1 metric 1000000")
        ip(f"-6 route add 2001:db8:46::/96 dev {DEVICE} metric 1024")
        ip("-6 route add unreachable 2001:db8:46::/96 metric 1000000")

    def send(self) -> None:
        """One packet of a client and one of a backend, both of which lead into the device."""
        for packet in (
            IP(src="192.0.2.7", dst="198.51.100.1") / TCP(sport=7, dport=443, flags="S"),
            IPv6(src="2001:db8:1::2", dst="2001:db8:46::c000:207") / TCP(sport=443, dport=7, flags="A"),
        ):
            self.outside.write(bytes(10) + bytes(packet))


@pytest.mark.parametrize("is_link_ignored", [False, True])
def test_what_is_routed_into_a_device_that_was_left_is_lost_without_a_word(own_netns: Ip, is_link_ignored: bool) -> None:
    edge = Edge(own_netns)
    try:
        if is_link_ignored:  # the counterpart: the dead ends answer, so that the test can tell silence from an error
            for family in ("ipv4", "ipv6"):
                Path(f"/proc/sys/net/{family}/conf/{DEVICE}/ignore_routes_with_linkdown").write_text("1", encoding="ascii")
        routes = own_netns("route"), own_netns("-6 route")

        edge.send()

        answers = [packet[0] >> 4 for packet in read_all(edge.outside)]
        assert answers == ([4, 6] if is_link_ignored else [])
        assert (own_netns("route"), own_netns("-6 route")) == routes
    finally:
        edge.outside.close()


def test_traffic_goes_on_through_a_device_that_was_taken_over_and_nothing_old_comes_out(own_netns: Ip) -> None:
    edge = Edge(own_netns)
    edge.send()
    device = open_device(DEVICE, is_persistent=True)
    try:
        assert read_all(device) == []

        edge.send()

        assert [packet[0] >> 4 for packet in read_all(device)] == [4, 6]
        device.write(bytes(10) + bytes(IP(src="198.51.100.1", dst="192.0.2.7") / TCP(sport=443, dport=7, flags="SA")))
        assert [packet[0] >> 4 for packet in read_all(edge.outside)] == [4]
    finally:
        device.remove()
        edge.outside.close()
