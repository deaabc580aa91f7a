"""Clearing away what a service has left that is no more: its device, what leads into it, the dead ends behind that.

ioctls are those of Linux's include/uapi/linux/if_tun.h.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kracauer.errors import HostError
from kracauer.host.kernel import reason, run
from kracauer.host.own import Identity, own_routes
from kracauer.host.routes import RouteTables
from kracauer.host.steps import ALIAS, DropRoute

_CLONE_DEVICE: Final = "/dev/net/tun"
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_INTERFACE_REQUEST: Final = struct.Struct("=16sH22x")


class _InUseError(Exception):
    """A process is attached to the device."""


def forget(device: str, destinations: Iterable[IPv4Network | IPv6Network]) -> tuple[str, ...]:
    """Remove our device and our routes, into it and to `destinations`; may be repeated, and goes on over failures.

    They are returned as lines. What is somebody else's, or another Kracauer's, stays; so does all of it while a process is
    attached to the device.
    """
    try:
        with IPRoute() as netlink, RouteTables() as tables:
            before = own_routes(tables)  # what leads into the device goes with it, and is then not to be found
            try:
                failures = _remove_device(netlink, device)
            except _InUseError:
                return (f"the device {device} is in use by another process: it and its routes were left alone",)
            led_elsewhere = {destination for destination, leads, _ in before if leads not in (None, device)}
            ours = {destination for destination, leads, _ in before if leads == device} | set(destinations)
            for route in own_routes(tables):
                if route[1] == device or (route[1] is None and route[0] in ours - led_elsewhere):
                    failures += _remove_route(netlink, route)
            return failures
    except HostError as error:
        return (error.cause,)
    except (NetlinkError, OSError) as error:
        return (f"netlink cannot be used ({reason(error)})",)


def _remove_device(netlink: Any, device: str) -> tuple[str, ...]:
    """Remove the device if it is ours; by attaching to it, which the kernel allows to just one process."""
    alias = _alias(netlink, device)
    if alias is None:
        return ()
    if alias != ALIAS:
        return (f"the device {device} is not Kracauer's, and was left alone",)
    try:
        descriptor = os.open(_CLONE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _TUNSETIFF, _INTERFACE_REQUEST.pack(device.encode(), _IFF_TUN | _IFF_NO_PI))
            if _alias(netlink, device) == ALIAS:  # and not another that took the name in between
                fcntl.ioctl(descriptor, _TUNSETPERSIST, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _InUseError from error
        return (f"the device {device} could not be removed: {reason(error)}",)
    return ()


def _alias(netlink: Any, device: str) -> str | None:
    """What the device is called besides its name; None when there is no such device."""
    found = netlink.link_lookup(ifname=device)
    if not found:
        return None
    (link,) = netlink.get_links(found[0])
    return link.get("IFLA_IFALIAS") or ""


def _remove_route(netlink: Any, route: Identity) -> tuple[str, ...]:
    destination, device, metric = route
    try:
        run(netlink, DropRoute(destination, metric, device))
    except HostError as error:
        return (error.cause,)
    return ()
