"""What is wrong with a configuration: where, what stands there, and what would be right."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Final

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_VALUE: Final = 80


class Absent(Enum):
    """The type of `ABSENT`, the value of a problem about something that is not there."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: the key's path (lists count from 0), the offending value or ABSENT, and what would be right."""

    path: str
    value: object
    message: str

    def __str__(self) -> str:
        parts = [self.path, self.message] if self.value is ABSENT else [self.path, render(self.value), self.message]
        return ": ".join(part for part in parts if part)


class Problems:
    """Gathers problems, so that all of them are told at once."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(self, path: str, value: object, message: str) -> None:
        """Note one problem and go on."""
        self._found.append(Problem(path, value, message))

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def child(path: str, key: str | int) -> str:
    """The path of an element (int) or a key (str) below `path`, keys quoted as TOML wants them."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    name = key if _BARE_KEY.fullmatch(key) else _quoted(key)
    return f"{path}.{name}" if path else name


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be."""
    return next(iter(get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)), None)


def render(value: object) -> str:
    """`value` as TOML would write it, on one line, cut where it is long and with nothing a terminal would obey."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # str() of an int refuses more than some 4,300 digits, and a hexadecimal TOML integer can have them.
        return str(value) if value.bit_length() <= 256 else f"a number of {value.bit_length()} bits"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return str(value)


def _quoted(text: str) -> str:
    clipped = text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
    quote = "'" if '"' in clipped and "'" not in clipped and "\\" not in clipped and clipped.isprintable() else '"'
    return quote + "".join(_escaped(character, quote) for character in clipped) + quote


def _escaped(character: str, quote: str) -> str:
    if quote == '"' and character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return f"\\u{ord(character):04X}" if ord(character) <= 0xFFFF else f"\\U{ord(character):08X}"
