"""The steps of a plan, applied to the kernel and undone; safe to repeat, and all or nothing."""

import errno
import os
from contextlib import suppress
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kracauer.errors import HostError
from kracauer.host.steps import ROUTE_PROTOCOL, AddRoute, DropRoute, SetLink, SetSysctl, Step

_IFF_UP: Final = 1
_SCOPE_LINK: Final = 253

# What undoing meets when the kernel, or somebody else, has already taken the thing away.
_ALREADY_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL})


class HostSetup:
    """What the service has set on the host, kept to undo it. Uses netlink synchronously: not from within an event loop."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._steps = steps
        self._done: list[tuple[Step, tuple[int, ...]]] = []

    def apply(self) -> None:
        """Set everything. Raises HostError, and then nothing of it is left behind."""
        try:
            with IPRoute() as netlink:
                for step in self._steps:
                    self._apply_step(netlink, step)
        except BaseException as error:
            for failure in self.undo():
                error.add_note(failure)
            raise

    def restore_routes(self) -> None:
        """Set the routes again, which the kernel has removed with the link's going down. Raises HostError."""
        with IPRoute() as netlink:
            for step, _ in self._done:
                if isinstance(step, AddRoute):
                    _run(netlink, step)

    def undo(self) -> tuple[str, ...]:
        """Take back what was set, in reverse, and go on over failures; they are returned as lines for the log."""
        failures = []
        with IPRoute() as netlink:
            while self._done:
                step, previous = self._done.pop()
                try:
                    _undo_step(netlink, step, previous)
                except (NetlinkError, OSError) as error:
                    if _errno(error) not in _ALREADY_GONE:
                        failures.append(f"`{step.render()}` could not be undone: {_reason(error)}")
        return tuple(failures)

    def _apply_step(self, netlink: Any, step: Step) -> None:
        if isinstance(step, SetSysctl):
            previous = _read_sysctl(step)
            if previous == (step.value,):
                return
        else:
            previous = _read_link(netlink, step) if isinstance(step, SetLink) else ()
        # Noted before it is done: a step that fails half-way, or is interrupted, is undone as well.
        self._done.append((step, previous))
        _run(netlink, step)


def _run(netlink: Any, step: Step) -> None:
    try:
        match step:
            case SetLink(device=device, mtu=mtu):
                netlink.link("set", index=_index(netlink, device), mtu=mtu, state="up")
            case AddRoute():
                netlink.route("replace", **_route(netlink, step), **_metrics(step))
            case SetSysctl():
                _write_sysctl(step)
            case DropRoute(destination=destination, metric=metric):
                netlink.route("del", **_route(netlink, AddRoute(destination, None, metric)))
    except (NetlinkError, OSError) as error:
        if not (isinstance(step, DropRoute) and _errno(error) in _ALREADY_GONE):
            raise _explain(step, error) from error


def _undo_step(netlink: Any, step: Step, previous: tuple[int, ...]) -> None:
    match step:
        case SetLink(device=device) if previous:
            mtu, flags = previous
            netlink.link("set", index=_index(netlink, device), mtu=mtu, state="up" if flags & _IFF_UP else "down")
        case AddRoute():
            netlink.route("del", **_route(netlink, step))
        case SetSysctl(path=path, is_required=True) if previous:
            path.write_text(f"{previous[0]}\n", encoding="ascii")


def _route(netlink: Any, step: AddRoute) -> dict[str, object]:
    """What identifies the route, for pyroute2."""
    route: dict[str, object] = {"dst": str(step.destination), "proto": ROUTE_PROTOCOL, "priority": step.metric}
    if step.device is None:
        return route | {"type": "unreachable"}
    if step.destination.version == 4:
        route["scope"] = _SCOPE_LINK
    return route | {"oif": _index(netlink, step.device)}


def _metrics(step: AddRoute) -> dict[str, object]:
    return {"metrics": {"mtu": step.mtu}} if step.mtu else {}


def _index(netlink: Any, device: str) -> int:
    found = netlink.link_lookup(ifname=device)
    if not found:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    return int(found[0])


def _read_link(netlink: Any, step: SetLink) -> tuple[int, ...]:
    with suppress(NetlinkError, OSError):
        (link,) = netlink.get_links(_index(netlink, step.device))
        return (link.get("IFLA_MTU"), link["flags"])
    return ()


def _read_sysctl(step: SetSysctl) -> tuple[int, ...]:
    with suppress(OSError, ValueError):
        return (int(step.path.read_text(encoding="ascii")),)
    return ()


def _write_sysctl(step: SetSysctl) -> None:
    try:
        step.path.write_text(f"{step.value}\n", encoding="ascii")
    except OSError:
        if step.is_required:
            raise


def _errno(error: NetlinkError | OSError) -> int | None:
    return error.code if isinstance(error, NetlinkError) else error.errno


def _reason(error: NetlinkError | OSError) -> str:
    return os.strerror(_errno(error) or 0)


def _explain(step: Step, error: NetlinkError | OSError) -> HostError:
    """The cause and the remedy behind what the kernel has answered to `step`."""
    failed = f"`{step.render()}` failed ({_reason(error)})"
    match _errno(error):
        case errno.EPERM:
            remedy = "run Kracauer as root or with CAP_NET_ADMIN, or set network.manage = false and run it yourself"
        case errno.EROFS:
            remedy = "run it yourself where /proc/sys is writable (outside the container), before Kracauer starts"
        case errno.EACCES if isinstance(step, SetSysctl):
            remedy = "run Kracauer as root, or run it yourself before Kracauer starts"
        case errno.EACCES:
            remedy = "IPv6 is disabled on the device: look for net.ipv6.conf.*.disable_ipv6 in /etc/sysctl.d"
        case errno.EEXIST:
            remedy = "another program set that route at this moment: find out which with `ip monitor route`"
        case errno.ENODEV | errno.ENETDOWN:
            remedy = "the device was removed or set down at this moment: find out by whom with `ip monitor link`"
        case errno.EINVAL if isinstance(step, SetLink):
            remedy = "set network.ipv4_mtu and network.ipv6_mtu to what the kernel accepts (at most 65535)"
        case _:
            remedy = "run that command by hand to see more; `dmesg` may tell the reason"
    return HostError(failed, remedy)
