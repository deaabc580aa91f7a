"""A router between two TUN devices: what is written to "uplink0" is forwarded to "kracauer0", and comes back translated.

Unlike a test run in the kernel, packets so have all that the kernel knows of real ones: segment sizes, checksums that are still
to be completed. Each of the two forwardings takes a hop.
"""

import select
import time
from collections.abc import Callable
from pathlib import Path

from kracauer.tun import TunDevice, open_device
from kracauer.wire import ipv4, vnet_hdr
from kracauer.wire.buffer import PACKET_START, VNET_START, Frame
from kracauer.wire.vnet_hdr import VnetHeader

_PATIENCE_S = 2.0
_TCP = 6


class Router:
    def __init__(self, ip: Callable[[str], str], *, has_offloads: bool = True, mtu: int = 1500) -> None:
        self.uplink = open_device("uplink0", has_offloads=has_offloads)
        self.kracauer = open_device("kracauer0", has_offloads=has_offloads)
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", key).write_text("1\n", encoding="ascii")
        for device in ("uplink0", "kracauer0"):
            Path(f"/proc/sys/net/ipv4/conf/{device}/rp_filter").write_text("0\n", encoding="ascii")
            ip(f"link set {device} up mtu {mtu}")
        ip("route add 192.0.2.0/24 dev uplink0")
        ip("route add 198.51.100.1/32 dev kracauer0")
        ip("-6 route add 2001:db8:1::/64 dev uplink0")
        ip("-6 route add 2001:db8:46::/96 dev kracauer0")

    def send(self, packet: bytes, vnet: VnetHeader) -> None:
        self.uplink.write(vnet_hdr.build(vnet) + packet)

    def receive(self) -> tuple[VnetHeader, bytes]:
        """The next TCP packet that leaves by the uplink."""
        return _read(self.uplink)

    def receive_in_userspace(self) -> tuple[VnetHeader, bytes]:
        """The next TCP packet that was left to the daemon."""
        return _read(self.kracauer)

    def close(self) -> None:
        self.uplink.close()
        self.kracauer.close()


def _read(device: TunDevice) -> tuple[VnetHeader, bytes]:
    frame, deadline = Frame(), time.monotonic() + _PATIENCE_S
    while (left_s := deadline - time.monotonic()) > 0:
        select.select([device], [], [], left_s)
        while device.read_into(frame):
            buffer = frame.buffer
            protocol = buffer[PACKET_START + (9 if buffer[PACKET_START] >> 4 == 4 else 6)]
            if protocol == _TCP:  # besides, there is the kernel's own chatter on the link
                return vnet_hdr.parse(buffer, VNET_START), bytes(frame.view[PACKET_START : frame.end])
    raise AssertionError(f"no packet comes out of {device.name}")


def one_hop_less(packet: bytes) -> bytes:
    """The packet as a router sends it on."""
    if packet[0] >> 4 == 4:
        header = ipv4.parse(packet)
        return ipv4.build(header._replace(ttl=header.ttl - 1)) + packet[header.length :]
    return packet[:7] + bytes([packet[7] - 1]) + packet[8:]
