"""Who may keep, by name, what of a fast path is to outlive its process: what this one and the next ask of such a keeper."""

import os
from collections.abc import Sequence
from typing import Protocol

from kracauer.errors import RemediableError


class UnkeptError(RemediableError):
    """The fast path cannot outlive the process."""

    @classmethod
    def join(cls, errors: "Sequence[UnkeptError]") -> "UnkeptError":
        """One for all keepers that there are, none of which takes it."""
        return cls(", and ".join(error.cause for error in errors), "; or ".join(error.remedy for error in errors))


class Keeper(Protocol):
    """Holds maps and links of the kernel's for one device. What cannot be read there counts as not there."""

    @property
    def kind(self) -> str:
        """What it is, in a word or two."""

    @property
    def where(self) -> str:
        """Which one, for people."""

    def names(self) -> list[str]:
        """What is there."""

    def open(self, name: str) -> int:
        """A descriptor of what is there by that name, which is the caller's; OSError where it is not, or not to be trusted."""

    def keep(self, objects: dict[str, int]) -> None:
        """Hold what is behind each descriptor by its name, in the place of what had that name.

        Raises UnkeptError, and holds none of them then.
        """

    def drop(self, names: list[str]) -> None:
        """Hold these no more; no error for what is not there. What is open stays so."""


class HandedDown:
    """What another process keeps, by descriptors of it that it has handed down: to be read, and its own to drop."""

    kind = "supervisor"
    where = "what the supervisor has handed down"

    def __init__(self, descriptors: dict[str, int]) -> None:
        self._descriptors = descriptors

    def names(self) -> list[str]:
        """As the protocol has it."""
        return sorted(self._descriptors)

    def open(self, name: str) -> int:
        """As the protocol has it."""
        return os.dup(self._descriptors[name])

    def keep(self, _objects: dict[str, int]) -> None:
        """Nothing is kept here."""
        raise UnkeptError(f"{self.where} is not to be added to", "have the supervisor keep it")

    def drop(self, _names: list[str]) -> None:
        """It is not ours to drop."""
