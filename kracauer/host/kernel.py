"""Single steps, each handed to the kernel: netlink for links and routes, files for sysctls."""

import errno
import os
from contextlib import suppress
from typing import Any, Final

from pyroute2.netlink.exceptions import NetlinkError

from kracauer.errors import HostError
from kracauer.host.steps import ROUTE_PROTOCOL, AddRoute, DropRoute, SetLink, SetSysctl, Step

IFF_UP: Final = 1
_SCOPE_LINK: Final = 253

# What undoing meets when the kernel, or somebody else, has already taken the thing away.
ALREADY_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL})


def run(netlink: Any, step: Step, verb: str = "add") -> None:
    """Take a step; with "add" a route must not be there yet. Raises HostError."""
    try:
        match step:
            case SetLink(device=device, mtu=mtu):
                netlink.link("set", index=index_of(netlink, device), mtu=mtu, state="up")
            case AddRoute():
                netlink.route(verb, **route_request(netlink, step), **_metrics(step))
            case SetSysctl():
                _write_sysctl(step)
            case DropRoute(destination=destination, metric=metric, device=device, table=table):
                netlink.route("del", **route_request(netlink, AddRoute(destination, device, metric, table=table)))
    except (NetlinkError, OSError) as error:
        if not (isinstance(step, DropRoute) and errno_of(error) in ALREADY_GONE):
            raise explain(step, error) from error


def restore_setting(netlink: Any, step: Step) -> None:
    """Set a link's MTU or a sysctl again if it has changed; a link that is down stays down. Raises HostError."""
    match step:
        case SetLink(device=device, mtu=mtu) if read_link(netlink, device)[:1] not in ((), (mtu,)):
            try:
                netlink.link("set", index=index_of(netlink, device), mtu=mtu)
            except (NetlinkError, OSError) as error:
                raise explain(step, error) from error
        case SetSysctl(value=value) if read_sysctl(step) != (value,):
            run(netlink, step)


def restore_route(netlink: Any, step: AddRoute) -> None:
    """Set a route that is missing, unless it leads into a link that is down. Raises HostError."""
    if step.device is None or _is_up(netlink, step.device):
        run(netlink, step)


def route_request(netlink: Any, step: AddRoute) -> dict[str, object]:
    """What identifies the route, as pyroute2 wants to be told."""
    route: dict[str, object] = {"dst": str(step.destination), "proto": ROUTE_PROTOCOL, "priority": step.metric}
    route["table"] = step.table
    if step.device is None:
        return route | {"type": "unreachable"}
    if step.destination.version == 4:
        route["scope"] = _SCOPE_LINK
    return route | {"oif": index_of(netlink, step.device)}


def _metrics(step: AddRoute) -> dict[str, object]:
    return {"metrics": {"mtu": step.mtu}} if step.mtu else {}


def index_of(netlink: Any, device: str) -> int:
    """The interface's index. Raises OSError."""
    found = netlink.link_lookup(ifname=device)
    if not found:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    return int(found[0])


def _is_up(netlink: Any, device: str) -> bool:
    return any(flags & IFF_UP for flags in read_link(netlink, device)[1:])


def read_link(netlink: Any, device: str) -> tuple[int, ...]:
    """The link's MTU and flags; nothing where there is no such link."""
    with suppress(NetlinkError, OSError):
        (link,) = netlink.get_links(index_of(netlink, device))
        return (link.get("IFLA_MTU"), link["flags"])
    return ()


def read_sysctl(step: SetSysctl) -> tuple[int, ...]:
    """The value that it has; nothing where it cannot be read."""
    with suppress(OSError, ValueError):
        return (int(step.path.read_text(encoding="ascii")),)
    return ()


def _write_sysctl(step: SetSysctl) -> None:
    try:
        step.path.write_text(f"{step.value}\n", encoding="ascii")
    except OSError:
        if step.is_required:
            raise


def errno_of(error: NetlinkError | OSError) -> int | None:
    """What the kernel has answered."""
    return error.code if isinstance(error, NetlinkError) else error.errno


def reason(error: NetlinkError | OSError) -> str:
    """The same in words."""
    return os.strerror(errno_of(error) or 0)


def explain(step: Step, error: NetlinkError | OSError) -> HostError:
    """The cause and the remedy behind what the kernel has answered to `step`."""
    failed = f"`{step.render()}` failed ({reason(error)})"
    match errno_of(error):
        case errno.EPERM:
            remedy = "run Kracauer as root or with CAP_NET_ADMIN, or set network.manage = false and run it yourself"
        case errno.EROFS:
            remedy = "run it yourself where /proc/sys is writable (outside the container), before Kracauer starts"
        case errno.EACCES if isinstance(step, SetSysctl):
            remedy = "run Kracauer as root, or run it yourself before Kracauer starts"
        case errno.EACCES:
            remedy = "IPv6 is disabled on the device: look for net.ipv6.conf.*.disable_ipv6 in /etc/sysctl.d"
        case errno.EEXIST if isinstance(step, AddRoute):
            remedy = "another program set that route at this moment: find out which with `ip monitor route`"
        case errno.ENODEV | errno.ENETDOWN:
            remedy = "the device was removed or set down at this moment: find out by whom with `ip monitor link`"
        case errno.EINVAL if isinstance(step, SetLink):
            remedy = "set network.ipv4_mtu and network.ipv6_mtu to what the kernel accepts (at most 65535)"
        case _:
            remedy = "run that command by hand to see more; `dmesg` may tell the reason"
    return HostError(failed, remedy)
