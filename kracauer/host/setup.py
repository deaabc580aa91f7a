"""The steps of a plan, applied to the kernel and undone; safe to repeat, and all or nothing."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kracauer.host.kernel import (
    ALREADY_GONE,
    IFF_UP,
    errno_of,
    index_of,
    read_link,
    read_sysctl,
    reason,
    restore_route,
    restore_setting,
    route_request,
    run,
)
from kracauer.host.own import Identity, own_routes
from kracauer.host.routes import RouteTables
from kracauer.host.steps import AddRoute, DropRoute, SetLink, SetSysctl, Step


@dataclass(frozen=True, slots=True)
class _Done:
    """A step that was taken; `previous` is what it replaced, `is_left` tells that an earlier process had set it already."""

    step: Step
    previous: tuple[int, ...] = ()
    is_left: bool = False


class HostSetup:
    """What the service has set on the host, kept to undo it. Uses netlink synchronously: not from within an event loop.

    May be used from several threads. Where a process ends without `undo`, the next one's `apply` takes over what it has left.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps = tuple(steps)
        self._done: list[_Done] = []
        self._lock = threading.Lock()

    def apply(self) -> None:
        """Set everything. Raises HostError, and then nothing is left behind that was not there before."""
        self.extend(self._steps)

    def extend(self, steps: Iterable[Step]) -> None:
        """Set more, or again. Raises HostError, and then just what was there before this call remains."""
        with self._lock, _netlink() as (netlink, tables):
            standing = len(self._done)
            try:
                left = own_routes(tables)
                for step in steps:
                    self._apply_step(netlink, step, left)
            except BaseException as error:
                new = [done for done in self._take(standing) if not done.is_left]
                for failure in _undo_all(netlink, new):
                    error.add_note(failure)
                raise

    def restore_routes(self) -> None:
        """Set again what the kernel or somebody has removed: routes, MTU, sysctls. Raises HostError.

        A link that was set down stays down, and routes into it wait until it is up. A route that somebody has set in the place
        of ours is not replaced: that is an error.
        """
        with self._lock, _netlink() as (netlink, tables):
            # The MTU first: the kernel forgets IPv6 on a link whose MTU was below 1280, its sysctls included.
            for done in sorted(self._done, key=lambda done: not isinstance(done.step, SetLink)):
                restore_setting(netlink, done.step)
            present = own_routes(tables)
            for done in self._done:
                if isinstance(done.step, AddRoute) and _identity(done.step) not in present:
                    restore_route(netlink, done.step)

    def retire(self, destination: IPv4Network | IPv6Network) -> None:
        """Take the routes to `destination` away. Raises HostError; what is left of them is then tried again by `undo`."""
        with self._lock, _netlink() as (netlink, _):
            retired = [done for done in self._done if _leads_to(done.step, destination)]
            # Before it is done, so that word of it from the kernel finds the routes unwanted.
            self._done = [done for done in self._done if not _leads_to(done.step, destination)]
            try:
                while retired:
                    run(netlink, _removal(retired[-1].step))
                    retired.pop()
            finally:
                self._done += retired

    def undo(self) -> tuple[str, ...]:
        """Take back what was set, in reverse, and go on over failures; they are returned as lines for the log."""
        with self._lock, _netlink() as (netlink, _):
            return _undo_all(netlink, self._take(0))

    def wants(self, destination: IPv4Network | IPv6Network) -> bool:
        """Whether there should be routes of ours to `destination`; no longer so by the time that `retire` or `undo` act."""
        return any(_leads_to(done.step, destination) for done in self._done)

    @property
    def mtu(self) -> int | None:
        """The MTU that the device was given."""
        return next((done.step.mtu for done in self._done if isinstance(done.step, SetLink)), None)

    def _take(self, start: int) -> list[_Done]:
        taken = self._done[start:]
        del self._done[start:]
        return taken

    def _apply_step(self, netlink: Any, step: Step, left: frozenset[Identity]) -> None:
        is_left, previous = False, tuple[int, ...]()
        match step:
            case AddRoute():
                is_left = _identity(step) in left
            case SetSysctl(value=value):
                previous = read_sysctl(step)
                is_left = previous == (value,)
            case SetLink(device=device):
                previous = read_link(netlink, device)
        if not any(done.step == step for done in self._done):
            # Noted before it is done: a step that fails half-way, or is interrupted, is undone as well.
            self._done.append(_Done(step, previous, is_left))
        if isinstance(step, AddRoute) or not is_left:
            run(netlink, step, "replace" if is_left else "add")


def _undo_all(netlink: Any, taken: list[_Done]) -> tuple[str, ...]:
    failures = []
    while taken:
        done = taken.pop()
        try:
            _undo_step(netlink, done)
        except (NetlinkError, OSError) as error:
            if errno_of(error) not in ALREADY_GONE:
                failures.append(f"`{done.step.render()}` could not be undone: {reason(error)}")
    return tuple(failures)


def _undo_step(netlink: Any, done: _Done) -> None:
    match done:
        case _Done(step=SetLink(device=device), previous=(mtu, flags)):
            netlink.link("set", index=index_of(netlink, device), mtu=mtu, state="up" if flags & IFF_UP else "down")
        case _Done(step=AddRoute() as step):
            netlink.route("del", **route_request(netlink, step))
        case _Done(step=SetSysctl(path=path, is_required=True), previous=(value,)) if not done.is_left:
            path.write_text(f"{value}\n", encoding="ascii")


@contextmanager
def _netlink() -> Iterator[tuple[Any, RouteTables]]:
    with IPRoute() as netlink, RouteTables() as tables:
        yield netlink, tables


def _identity(step: AddRoute) -> Identity:
    return (step.destination, step.device, step.metric)


def _leads_to(step: Step, destination: IPv4Network | IPv6Network) -> bool:
    return isinstance(step, AddRoute) and step.destination == destination


def _removal(step: Step) -> Step:
    return DropRoute(step.destination, step.metric, step.device) if isinstance(step, AddRoute) else step
