"""Reads TOML tables key by key, so that what nobody asked for is known to be a mistake."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from kracauer.config.problems import ABSENT, Absent, Problems, child, nearest

Given = TypeVar("Given")
Value = TypeVar("Value")
Fallback = TypeVar("Fallback")


class MistakeError(Exception):
    """Raised by a check: the message says what would be right in place of the value."""


Check = Callable[[object], Value]


class Table:
    """One TOML table and its path; each key read becomes known, `report_unknown_keys` tells of the others."""

    def __init__(self, content: Mapping[str, object], path: str, problems: Problems) -> None:
        self.content = content
        self.path = path
        self.problems = problems
        self._known: list[str] = []

    def path_of(self, key: str) -> str:
        """The whole path of `key`."""
        return child(self.path, key)

    def get(self, key: str) -> object | Absent:
        """The value of `key` as it stands, or ABSENT."""
        self._known.append(key)
        return self.content.get(key, ABSENT)

    def read(self, key: str, check: Check[Value], fallback: Fallback) -> Value | Fallback:
        """The checked value of `key`, or `fallback` where it is missing or wrong; the latter becomes a problem."""
        value = self.get(key)
        return fallback if value is ABSENT else checked(self.problems, self.path_of(key), value, check, fallback)

    def require(self, key: str, check: Check[Value], example: str) -> Value | None:
        """The checked value of `key`; None, and a problem, where it is missing or wrong."""
        value = self.get(key)
        if value is ABSENT:
            self.problems.add(self.path_of(key), ABSENT, f"is missing: write for example {example}")
            return None
        return checked(self.problems, self.path_of(key), value, check, None)

    def table(self, key: str) -> "Table":
        """The table `key`, empty where it is missing or no table."""
        value = self.get(key)
        path = self.path_of(key)
        if isinstance(value, dict):
            return Table(value, path, self.problems)
        if value is not ABSENT:
            self.problems.add(path, value, f"must be a table: begin it with a line [{path}]")
        return Table({}, path, self.problems)

    def report_unknown_keys(self) -> None:
        """Make a problem of every key that was never asked for."""
        for key, value in self.content.items():
            if key not in self._known:
                meant = nearest(key, self._known)
                hint = f"did you mean {meant}?" if meant else "known are " + ", ".join(self._known)
                self.problems.add(self.path_of(key), value, f"is not a key of {self.path or 'this file'}: {hint}")


def checked(
    problems: Problems, path: str, value: Given, check: Callable[[Given], Value], fallback: Fallback
) -> Value | Fallback:
    """What `check` makes of `value`; `fallback`, and a problem at `path`, where it refuses."""
    try:
        return check(value)
    except MistakeError as mistake:
        problems.add(path, value, str(mistake))
        return fallback
