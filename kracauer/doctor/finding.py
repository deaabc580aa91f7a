"""What an examination says: one finding for each thing looked at, and what mends it where it is not right."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

HERE: Final = "this machine"
CONFIGURATION: Final = "the configuration"


class Severity(StrEnum):
    """How a thing is. The values are words of the output, and are not renamed."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    SKIPPED = "skipped"


class Remedy(NamedTuple):
    """One way to mend something: a `command` for the shell, or `advice` where there is none; `place` is where it is for."""

    place: str
    command: str = ""
    advice: str = ""


def run_here(command: str) -> Remedy:
    """A command for this machine."""
    return Remedy(HERE, command)


def advise(advice: str, place: str = HERE) -> Remedy:
    """What to do, in words."""
    return Remedy(place, advice=advice)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found when `name` was checked, of `subject` where there are several such things, and why that matters."""

    name: str
    severity: Severity
    found: str
    why: str
    subject: str = ""
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True, slots=True)
class Topic:
    """What a check is about: its name, which is not changed once it is published, and why that matters in one sentence."""

    name: str
    why: str

    def ok(self, found: str, subject: str = "") -> Finding:
        """All is well."""
        return Finding(self.name, Severity.OK, found, self.why, subject)

    def skipped(self, reason: str, subject: str = "", remedies: tuple[Remedy, ...] = ()) -> Finding:
        """It cannot be said."""
        return Finding(self.name, Severity.SKIPPED, reason, self.why, subject, remedies)

    def warning(self, found: str, *remedies: Remedy, subject: str = "") -> Finding:
        """It works, or may work, but not as it should."""
        return Finding(self.name, Severity.WARNING, found, self.why, subject, remedies)

    def failure(self, found: str, *remedies: Remedy, subject: str = "") -> Finding:
        """The service does not work like this."""
        return Finding(self.name, Severity.FAILURE, found, self.why, subject, remedies)
