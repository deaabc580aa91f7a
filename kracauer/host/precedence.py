"""Rules put before the local one, whose moving must never leave the host without it: without it, nobody reaches this host.

The local rule of a fresh host has preference 0, the least there is. So it is not moved to a worse preference, but added anew
behind our rules, at the same preference 0, where order is that of arrival; then the one before them is removed. To whoever
looks it is the kernel's own, as ever: systemd-networkd, which may remove what it has not set, spares it, and so does
`ip rule flush` with all of preference 0. A rule that is added without a preference, which the kernel gives the one below that
of the second rule there is, still comes behind the local one. When our rules go, nothing has to be put back.

At every step a dead process leaves a host that is reached as ever. Whoever finds rules changed by others at the same time gives
up, and takes back what it has added.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from kracauer.errors import HostError
from kracauer.host.rules import Rule, RuleTable, first_meant
from kracauer.host.steps import LOCAL_RULE, ROUTE_PROTOCOL

_NAMESPACE: Final = Path("/proc/thread-self/ns/net")
_PATIENCE_S: Final = 5.0
_PAUSE_S: Final = 0.005


def is_in_place(rules: Sequence[Rule], wanted: Sequence[Rule]) -> bool:
    """Whether all of `wanted` are there, each once; those of preference 0 in this order and before the local rule."""
    first = [rule for rule in wanted if not rule.preference]
    places = [rules.index(rule) for rule in first if rule in rules]
    local = next((place for place, rule in enumerate(rules) if rule.is_local), -1)
    is_ordered = places == sorted(places) and (not places or places[-1] < local)
    has_spare = any(rules.count(rule) > 1 for rule in (*wanted, LOCAL_RULE))
    return is_ordered and not has_spare and all(rule in rules for rule in wanted)


def obstacle(rules: Sequence[Rule]) -> Rule | None:
    """The rule of somebody else that comes behind the local one at the same preference, and before it were that moved."""
    at_front = [rule for rule in rules if not rule.preference]
    behind = at_front[next((place for place, rule in enumerate(at_front) if rule.is_local), len(at_front)) :]
    return next((rule for rule in behind if not rule.is_local and rule.protocol != ROUTE_PROTOCOL), None)


def append(table: RuleTable, rule: Rule) -> None:
    """Put `rule` behind all others of its preference, if it is not there. Raises HostError and OSError."""
    with _alone():
        if rule not in table.read():
            _add(table, (rule,))


def arrange(table: RuleTable, wanted: Sequence[Rule]) -> None:
    """Have `wanted`, each once, and those of preference 0 in this order before the local rule. Raises HostError and OSError."""
    with _alone():
        rules = table.read()
        if is_in_place(rules, wanted):
            return
        for rule in wanted:
            if rule.preference and rule not in rules:
                _add(table, (rule,))
        first = [rule for rule in wanted if not rule.preference]
        if first:
            _put_first(table, rules, first)


def _put_first(table: RuleTable, rules: Sequence[Rule], first: Sequence[Rule]) -> None:
    at_front = [rule for rule in rules if not rule.preference]
    has_local = any(rule.is_local for rule in at_front)
    in_the_way = obstacle(rules)
    if in_the_way is not None:
        raise refusal(in_the_way)
    if not any(rule.is_local for rule in rules):
        raise HostError(f"this host has no rule `{LOCAL_RULE}`", f"add it with `ip rule add {LOCAL_RULE}`")
    _add(table, (*first, LOCAL_RULE) if has_local else first)
    # The new ones are all there, behind what they replace. What came before can go, from the front on.
    _delete(table, [rule for rule in at_front if rule.is_local or rule in first])


def withdraw(table: RuleTable, rule: Rule) -> None:
    """Delete `rule`, however often it is there. Raises OSError and HostError."""
    with _alone():
        _delete(table, [rule] * table.read().count(rule))


def tidy(table: RuleTable) -> None:
    """Have no more than one local rule, where a process has died with two; unless a rule that came between would move ahead.

    Raises OSError and HostError.
    """
    with _alone():
        rules = table.read()
        if obstacle(rules) is None:
            _delete(table, [LOCAL_RULE] * (rules.count(LOCAL_RULE) - 1))


def refusal(in_the_way: Rule) -> HostError:
    """What to say of an `obstacle`."""
    return HostError(
        f"the rule `{in_the_way}` of another program has the preference of the local one, and would come before it",
        "give it a preference of its own, such as 1000, wherever it is set up, and remove the one that is there",
    )


def _add(table: RuleTable, rules: Sequence[Rule]) -> None:
    """Add `rules`, and see that the kernel has understood all of each; none is left behind when that fails."""
    before = table.read()
    added: list[Rule] = []
    try:
        for rule in rules:
            added.append(rule)
            table.add(rule)
        now = table.read()
        for rule in set(rules):
            if now.count(rule) != before.count(rule) + rules.count(rule):
                raise HostError(
                    f"`ip rule add {rule}` has not led to that rule",
                    "use Linux 4.17 or later, which can tell ports apart; find out with `ip monitor rule` who else sets rules",
                )
    except BaseException:
        for rule in added:
            if first_meant(table.read(), rule) == rule and (not rule.is_local or _is_spare(table)):
                table.delete(rule)
        raise


def _is_spare(table: RuleTable) -> bool:
    return sum(rule.is_local for rule in table.read()) > 1


def _delete(table: RuleTable, rules: Sequence[Rule]) -> None:
    """Delete `rules`, each the first of its kind; never one that is not meant, and never the last local rule."""
    for rule in rules:
        present = table.read()
        meant = first_meant(present, rule)
        if meant is None:
            continue  # somebody was faster
        if meant != rule or (rule.is_local and not _is_spare(table)):
            raise HostError(
                f"the rule `{rule}` cannot be removed without taking `{meant}`",
                "find out with `ip rule` and `ip monitor rule` who else sets rules before the local one",
            )
        table.delete(rule)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Be the only Kracauer that changes rules in this network namespace, which the lock is on; none holds it for long.

    Anybody may hold it, so it is not waited for without end: two that act at once are harmless but in the most unlikely order.
    """
    try:
        descriptor = os.open(_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(_PAUSE_S)
            else:
                break
        yield
    finally:
        os.close(descriptor)
