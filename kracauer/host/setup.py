"""The steps of a plan, applied to the kernel and undone; safe to repeat, and all or nothing."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kracauer.errors import HostError
from kracauer.host.kernel import (
    ALREADY_GONE,
    IFF_UP,
    errno_of,
    explain,
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
from kracauer.host.precedence import append, arrange, is_in_place, tidy, withdraw
from kracauer.host.routes import TABLE_MAIN, RouteTables
from kracauer.host.rules import Rule, RuleTable
from kracauer.host.steps import (
    AddRoute,
    AddRule,
    DropRoute,
    DropRule,
    MoveLocalRule,
    SetLink,
    SetSysctl,
    Step,
)


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
        with self._lock, _netlink() as kernel:
            standing = len(self._done)
            try:
                left = own_routes(kernel.routes)
                for step in steps:
                    self._apply_step(kernel, step, left)
            except BaseException as error:
                new = [done for done in self._take(standing) if not done.is_left]
                for failure in _undo_all(kernel, new):
                    error.add_note(failure)
                raise

    def restore_routes(self) -> None:
        """Set again what the kernel or somebody has removed: routes, rules, MTU, sysctls. Raises HostError.

        A link that was set down stays down, and routes into it wait until it is up. A route that somebody has set in the place
        of ours is not replaced: that is an error.
        """
        with self._lock, _netlink() as kernel:
            # The MTU first: the kernel forgets IPv6 on a link whose MTU was below 1280, its sysctls included.
            for done in sorted(self._done, key=lambda done: not isinstance(done.step, SetLink)):
                restore_setting(kernel.netlink, done.step)
            present = own_routes(kernel.routes)
            for done in self._done:
                if isinstance(done.step, AddRoute) and _identity(done.step) not in present:
                    restore_route(kernel.netlink, done.step)
            if rules := self._rules:
                _set_rules(kernel.rules, MoveLocalRule(), rules)

    def retire(self, destination: IPv4Network | IPv6Network, port: int | None = None) -> None:
        """Take away what leads `destination` into the device, or just `port` of it, and with the last of its ports the rest.

        Raises HostError; what is left of it is then tried again by `undo`.
        """
        with self._lock, _netlink() as kernel:
            others = [rule for rule in self._rules if rule.dst == destination and rule.dport != port]
            retired = [
                done
                for done in self._done
                if _is_about(done.step, destination, port) or (_leads_to(done.step, destination) and not (port and others))
            ]
            # Before it is done, so that word of it from the kernel finds the routes unwanted.
            self._done = [done for done in self._done if done not in retired]
            try:
                while retired:
                    _remove(kernel, retired[-1].step)
                    retired.pop()
            finally:
                self._done += retired

    def undo(self) -> tuple[str, ...]:
        """Take back what was set, in reverse, and go on over failures; they are returned as lines for the log."""
        with self._lock, _netlink() as kernel:
            return _undo_all(kernel, self._take(0))

    def wants(self, destination: IPv4Network | IPv6Network, table: int = TABLE_MAIN) -> bool:
        """Whether there should be routes of ours to `destination`; no longer so by the time that `retire` or `undo` act."""
        return any(_leads_to(done.step, destination, table) for done in self._done)

    def has_rules_in_place(self) -> bool:
        """Whether the rules are what they should be, and where. Raises OSError; unlike the rest it waits for nobody."""
        wanted = self._rules
        if not wanted:
            return True
        with RuleTable() as rules:
            return is_in_place(rules.read(), wanted)

    @property
    def _rules(self) -> tuple[Rule, ...]:
        return tuple(done.step.rule for done in self._done if isinstance(done.step, AddRule))

    @property
    def mtu(self) -> int | None:
        """The MTU that the device was given."""
        return next((done.step.mtu for done in self._done if isinstance(done.step, SetLink)), None)

    def _take(self, start: int) -> list[_Done]:
        taken = self._done[start:]
        del self._done[start:]
        return taken

    def _apply_step(self, kernel: "_Kernel", step: Step, left: frozenset[Identity]) -> None:
        is_left, previous = False, tuple[int, ...]()
        match step:
            case AddRoute():
                is_left = _identity(step) in left
            case AddRule(rule=rule):
                is_left = rule in kernel.read_rules(step)
            case SetSysctl(value=value):
                previous = read_sysctl(step)
                is_left = previous == (value,)
            case SetLink(device=device):
                previous = read_link(kernel.netlink, device)
        if not any(done.step == step for done in self._done):
            # Noted before it is done: a step that fails half-way, or is interrupted, is undone as well.
            self._done.append(_Done(step, previous, is_left))
        if isinstance(step, AddRule | MoveLocalRule | DropRule):
            _set_rules(kernel.rules, step, self._rules)
        elif isinstance(step, AddRoute) or not is_left:
            run(kernel.netlink, step, "replace" if is_left else "add")


class _Kernel(NamedTuple):
    """The channels on which it is asked and told."""

    netlink: Any
    routes: RouteTables
    rules: RuleTable

    def read_rules(self, step: Step) -> tuple[Rule, ...]:
        try:
            return self.rules.read()
        except OSError as error:
            raise explain(step, error) from error


def _set_rules(table: RuleTable, step: Step, wanted: Sequence[Rule]) -> None:
    """Take a step that is about rules; `wanted` are all that there are to be. Raises HostError."""
    try:
        match step:
            case AddRule(rule=rule):
                append(table, rule)
            case DropRule(rule=rule):
                withdraw(table, rule)
            case MoveLocalRule():
                arrange(table, wanted)
    except OSError as error:
        raise explain(step, error) from error


def _remove(kernel: _Kernel, step: Step) -> None:
    match step:
        case AddRoute():
            run(kernel.netlink, DropRoute(step.destination, step.metric, step.device, step.table))
        case AddRule(rule=rule):
            _set_rules(kernel.rules, DropRule(rule), ())


def _undo_all(kernel: _Kernel, taken: list[_Done]) -> tuple[str, ...]:
    failures = []
    while taken:
        done = taken.pop()
        try:
            _undo_step(kernel, done)
        except HostError as error:
            failures.append(error.cause)
        except (NetlinkError, OSError) as error:
            if errno_of(error) not in ALREADY_GONE:
                failures.append(f"`{done.step.render()}` could not be undone: {reason(error)}")
    return tuple(failures)


def _undo_step(kernel: _Kernel, done: _Done) -> None:
    netlink = kernel.netlink
    match done:
        case _Done(step=SetLink(device=device), previous=(mtu, flags)):
            netlink.link("set", index=index_of(netlink, device), mtu=mtu, state="up" if flags & IFF_UP else "down")
        case _Done(step=AddRoute() as step):
            netlink.route("del", **route_request(netlink, step))
        case _Done(step=AddRule(rule=rule)):
            withdraw(kernel.rules, rule)
        case _Done(step=MoveLocalRule()):
            tidy(kernel.rules)
        case _Done(step=SetSysctl(path=path, is_required=True), previous=(value,)) if not done.is_left:
            path.write_text(f"{value}\n", encoding="ascii")


@contextmanager
def _netlink() -> Iterator[_Kernel]:
    with IPRoute() as netlink, RouteTables() as routes, RuleTable() as rules:
        yield _Kernel(netlink, routes, rules)


def _identity(step: AddRoute) -> Identity:
    return (step.destination, step.device, step.metric, step.table)


def _leads_to(step: Step, destination: IPv4Network | IPv6Network, table: int | None = None) -> bool:
    return isinstance(step, AddRoute) and step.destination == destination and table in (None, step.table)


def _is_about(step: Step, destination: IPv4Network | IPv6Network, port: int | None) -> bool:
    """Whether it is a rule about this port of the address, or any if there is none."""
    if not isinstance(step, AddRule):
        return False
    rule = step.rule
    return destination in (rule.src, rule.dst) and port in (None, rule.sport or rule.dport)
