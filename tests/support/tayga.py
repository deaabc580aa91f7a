"""Another translator, TAYGA, in a network namespace of its own: packets in, packets out, nothing of a kernel in between."""

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from packets import Packet, build

from kracauer.lab.namespaces import NetworkNamespace
from kracauer.lab.topology import Lab

DEVICE: Final = "nat64"
MTU: Final = 1500
PREFIX: Final = IPv6Address("2001:db8:46::")
SERVICE: Final = IPv4Address("198.51.100.1").packed
BACKEND: Final = IPv6Address("2001:db8:1::2").packed
OWN_V4: Final = IPv4Address("203.0.113.254").packed
OWN_V6: Final = IPv6Address("2001:db8:ffff::1").packed

_CONFIG: Final = """
tun-device {device}
ipv4-addr {own_v4}
ipv6-addr {own_v6}
prefix {prefix}/96
map {service} {backend}
data-dir {directory}
"""
_MARKER: Final = Packet(IPv4Address("192.0.2.250").packed, SERVICE, 9, 9, 0)
_MARKER_SOURCE: Final = PREFIX.packed[:12] + _MARKER.src
_SOL_PACKET, _IGNORE_OUTGOING, _ETH_P_ALL = 263, 23, 3
_ETHER_TYPES: Final = {4: 0x0800, 6: 0x86DD}


class Tayga:
    """The running program, seen through its device as from a cable."""

    def __init__(self, namespace: NetworkNamespace) -> None:
        self._socket = namespace.open_socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        self._socket.bind((DEVICE, _ETH_P_ALL))
        self._marks = 0

    def close(self) -> None:
        self._socket.close()

    def wait_until_ready(self, timeout_s: float = 5) -> None:
        """Return once it answers."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.exchange(timeout_s=0.05)
            except (TimeoutError, AssertionError):
                assert time.monotonic() < deadline, "TAYGA translates nothing"
            else:
                return

    def exchange(self, *packets: bytes, timeout_s: float = 5) -> list[bytes]:
        """Have it translate `packets`; returns all that comes of them. It works on one packet after the other."""
        self._socket.settimeout(timeout_s)
        self._marks += 1
        marker = build(replace(_MARKER, seq=self._marks))[1]
        for packet in (*packets, marker):
            self._socket.sendto(packet, (DEVICE, _ETHER_TYPES[packet[0] >> 4]))
        found: list[bytes] = []
        while True:
            result = self._socket.recv(70_000)
            if result[0] >> 4 == 6 and result[8:24] == _MARKER_SOURCE:
                assert int.from_bytes(result[44:48], "big") == self._marks
                return found
            found.append(result)


@contextlib.contextmanager
def running(lab: Lab, program: str) -> Iterator[Tayga]:
    """Run it in the lab's router, with a kernel that keeps out of it."""
    path, namespace = lab.directory / "tayga.conf", lab.router
    path.write_text(
        _CONFIG.format(
            device=DEVICE,
            own_v4=IPv4Address(OWN_V4),
            own_v6=IPv6Address(OWN_V6),
            prefix=PREFIX,
            service=IPv4Address(SERVICE),
            backend=IPv6Address(BACKEND),
            directory=lab.directory,
        ),
        encoding="ascii",
    )
    namespace.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
    for command in ([program, "-c", str(path), "--mktun"], ["ip", "link", "set", DEVICE, "up", "mtu", str(MTU)]):
        result = namespace.run(command)
        assert result.returncode == 0, result
    lab.start("tayga", namespace, [program, "-c", path, "-d"])
    with contextlib.closing(Tayga(namespace)) as tayga:
        tayga.wait_until_ready()
        yield tayga
