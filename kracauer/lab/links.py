"""Cables between namespaces, their addresses and routes, through netlink (rtnetlink(7), veth(4))."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from kracauer.errors import LabError
from kracauer.lab import offloads
from kracauer.lab.namespaces import NetworkNamespace, in_thread

End: TypeAlias = tuple[NetworkNamespace, str]  # a namespace and the interface in it

LOCAL_TABLE: Final = 255
IFA_F_NODAD: Final = 0x02  # the addresses are ours alone: no second of waiting for an answer that will not come


def configure(namespace: NetworkNamespace | None, change: Callable[[Any], None]) -> None:
    """Call `change` with a netlink handle (`pyroute2.IPRoute`) on the namespace, None being the one we are in.

    LabError where the kernel refuses.
    """
    try:
        from pyroute2 import IPRoute, NetlinkError  # noqa: PLC0415 - takes a quarter of a second, and origins need none of it
    except ImportError as error:
        raise LabError("the lab needs pyroute2, which is missing", "install it with: pip install pyroute2") from error

    def run() -> None:
        with IPRoute() as netlink:
            change(netlink)

    try:
        if namespace is None:
            in_thread(run)  # where no signal's exception can come upon an event loop half-way
        else:
            namespace.call(run)
    except NetlinkError as error:
        place = namespace.name if namespace else "this network namespace"
        raise LabError(f"netlink in {place}: {error}", "the lab needs root and the veth driver") from error


def _index(netlink: Any, interface: str) -> int:
    index: int = netlink.link_lookup(ifname=interface)[0]
    return index


def bring_up(namespace: NetworkNamespace, interface: str) -> None:
    """Switch an interface on."""
    configure(namespace, lambda netlink: netlink.link("set", index=_index(netlink, interface), state="up"))


def bring_up_loopback() -> None:
    """Switch on the loopback interface of the network namespace this process is in."""
    configure(None, lambda netlink: netlink.link("set", index=_index(netlink, "lo"), state="up"))


def add_cable(near: End, far: End, mtu: int) -> None:
    """Make a veth pair with one end in each namespace, both up, both with this MTU."""
    descriptor = os.open(far[0].path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        peer = {"ifname": far[1], "net_ns_fd": descriptor, "mtu": mtu}
        configure(near[0], lambda netlink: netlink.link("add", kind="veth", ifname=near[1], mtu=mtu, peer=peer))
    finally:
        os.close(descriptor)
    bring_up(*near)
    bring_up(*far)


def set_mtu(end: End, mtu: int) -> None:
    """Change an interface's MTU."""
    configure(end[0], lambda netlink: netlink.link("set", index=_index(netlink, end[1]), mtu=mtu))


def add_addresses(end: End, addresses: Sequence[str]) -> None:
    """Give an interface addresses, each written with its prefix length; they are usable at once."""

    def change(netlink: Any) -> None:
        for text in addresses:
            address, _, length = text.partition("/")
            flags = {"flags": IFA_F_NODAD} if ":" in address else {}
            netlink.addr("add", index=_index(netlink, end[1]), address=address, prefixlen=int(length), **flags)

    configure(end[0], change)


def add_default_routes(end: End, gateways: Sequence[str]) -> None:
    """Send what has no better route to these gateways, one of each family at most."""

    def change(netlink: Any) -> None:
        for gateway in gateways:
            netlink.route("add", dst="::/0" if ":" in gateway else "0.0.0.0/0", gateway=gateway, oif=_index(netlink, end[1]))

    configure(end[0], change)


def add_route(end: End, destination: str, gateway: str) -> None:
    """Send what is for a network, written with its prefix length, to a gateway behind an interface."""
    configure(end[0], lambda netlink: netlink.route("add", dst=destination, gateway=gateway, oif=_index(netlink, end[1])))


def add_local_network(namespace: NetworkNamespace, network: str) -> None:
    """Make every address of an IPv4 network this namespace's own (ip-route(8), type local)."""

    def change(netlink: Any) -> None:
        netlink.route("add", dst=network, type="local", table=LOCAL_TABLE, scope="host", oif=_index(netlink, "lo"))

    configure(namespace, change)


def switch_offloads_off(end: End) -> None:
    """Have an interface send and receive single packets only, none above its MTU, with complete checksums."""
    end[0].call(lambda: offloads.set_offloads(end[1], is_on=False))
