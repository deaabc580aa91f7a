"""Clearing away what a service has left that is no more: its device, what leads into it, the dead ends behind that.

ioctls are those of Linux's include/uapi/linux/if_tun.h.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Set
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, TypeAlias

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kracauer.errors import HostError
from kracauer.host.kernel import reason, run
from kracauer.host.own import Identity, own_routes, own_rules
from kracauer.host.precedence import tidy, withdraw
from kracauer.host.routes import RouteTables
from kracauer.host.rules import RuleTable
from kracauer.host.steps import ALIAS, DropRoute

Wanted: TypeAlias = Set[IPv4Network | IPv6Network]
Places: TypeAlias = Set[tuple[IPv4Network | IPv6Network, int]]  # destinations, each in a table

_CLONE_DEVICE: Final = "/dev/net/tun"
_IFF_TUN: Final = 0x0001
_IFF_MULTI_QUEUE: Final = 0x0100
_IFF_NO_PI: Final = 0x1000
_TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_INTERFACE_REQUEST: Final = struct.Struct("=16sH22x")


class _InUseError(Exception):
    """A process is attached to the device."""


def forget(device: str, destinations: Iterable[IPv4Network | IPv6Network]) -> tuple[str, ...]:
    """Remove our device, our rules and our routes, into it and to `destinations`; may be repeated, and goes on over failures.

    They are returned as lines. What is somebody else's, or another Kracauer's, stays; so does all of it while a process is
    attached to the device.
    """
    try:
        with IPRoute() as netlink, RouteTables() as tables, RuleTable() as rules:
            before = own_routes(tables)  # what leads into the device goes with it, and is then not to be found
            try:
                failures = _remove_device(netlink, device)
            except _InUseError:
                return (f"the device {device} is in use by another process: it and its routes were left alone",)
            led_elsewhere = {(destination, table) for destination, leads, _, table in before if leads not in (None, device)}
            led_here = {(destination, table) for destination, leads, _, table in before if leads == device}
            wanted = set(destinations)
            failures += _remove_rules(rules, device, led_here, led_elsewhere, wanted)
            for route in own_routes(tables):
                destination, leads, _, table = route
                is_ours = (destination, table) in led_here or destination in wanted
                if leads == device or (leads is None and is_ours and (destination, table) not in led_elsewhere):
                    failures += _remove_route(netlink, route)
            return failures
    except HostError as error:
        return (error.cause,)
    except (NetlinkError, OSError) as error:
        return (f"netlink cannot be used ({reason(error)})",)


def _remove_device(netlink: Any, device: str) -> tuple[str, ...]:
    """Remove the device if it is ours; by attaching to it, which the kernel allows to just one process.

    One that has queues it lets many attach to, and tells how many there are.
    """
    alias = _alias(netlink, device)
    if alias is None:
        return ()
    if alias != ALIAS:
        return (f"the device {device} is not Kracauer's, and was left alone",)
    has_queues, queues_in_use = _queues(netlink, device)
    if queues_in_use:
        raise _InUseError
    flags = _IFF_TUN | _IFF_NO_PI | (_IFF_MULTI_QUEUE if has_queues else 0)
    try:
        descriptor = os.open(_CLONE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _TUNSETIFF, _INTERFACE_REQUEST.pack(device.encode(), flags))
            if _alias(netlink, device) == ALIAS:  # and not another that took the name in between
                fcntl.ioctl(descriptor, _TUNSETPERSIST, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _InUseError from error
        return (f"the device {device} could not be removed: {reason(error)}",)
    return ()


def _queues(netlink: Any, device: str) -> tuple[bool, int]:
    """Whether the device may have several queues, and how many of them somebody holds; (False, 0) for one that may not."""
    found = netlink.link_lookup(ifname=device)
    if not found:
        return False, 0
    (link,) = netlink.get_links(found[0])
    told = (
        link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", name) for name in ("IFLA_TUN_MULTI_QUEUE", "IFLA_TUN_NUM_QUEUES")
    )
    has_queues, count = told
    return (True, count or 0) if has_queues else (False, 0)


def _alias(netlink: Any, device: str) -> str | None:
    """What the device is called besides its name; None when there is no such device."""
    found = netlink.link_lookup(ifname=device)
    if not found:
        return None
    (link,) = netlink.get_links(found[0])
    return link.get("IFLA_IFALIAS") or ""


def _remove_rules(rules: RuleTable, device: str, led_here: Places, led_elsewhere: Places, wanted: Wanted) -> tuple[str, ...]:
    """Remove the rules about what leads into the device, or was to."""
    failures = []
    ours = list(own_rules(rules.read(), device, led_elsewhere))
    known = wanted | {destination for destination, _ in led_here}
    for rule in ours:
        if rule.iif == device or {rule.src, rule.dst} & known:
            try:
                withdraw(rules, rule)
            except HostError as error:
                failures.append(error.cause)
    try:
        tidy(rules)
    except HostError as error:
        failures.append(error.cause)
    return tuple(failures)


def _remove_route(netlink: Any, route: Identity) -> tuple[str, ...]:
    destination, device, metric, table = route
    try:
        run(netlink, DropRoute(destination, metric, device, table))
    except HostError as error:
        return (error.cause,)
    return ()
