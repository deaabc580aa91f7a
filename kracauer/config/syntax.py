"""TOML text to a dictionary; what is wrong with the text is said with its line and column."""

import re
from typing import Final

import tomli

from kracauer.config.problems import ABSENT, Problem
from kracauer.errors import ConfigError

_POSITION: Final = re.compile(r" \(at (line \d+, column \d+|end of document)\)$")


def parse_toml(text: str | bytes) -> dict[str, object]:
    """Read `text` (bytes: UTF-8); raises ConfigError with the one problem that stops the reading."""
    if isinstance(text, bytes):
        text = _decode(text)
    text = text.removeprefix("\ufeff")
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigError((_syntax_problem(text, str(error)),)) from None
    except (ValueError, RecursionError) as error:
        # Integers of thousands of digits and tables nested a thousand deep: well-formed, but nothing Python would read.
        raise ConfigError((Problem("", ABSENT, f"cannot be read as TOML: {error}"),)) from None


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before.rpartition(b"\n")[2].decode()) + 1
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        raise ConfigError((Problem(f"line {line}, column {column}", ABSENT, message),)) from None


def _syntax_problem(text: str, message: str) -> Problem:
    position = _POSITION.search(message)
    reason = _POSITION.sub("", message)
    if position is None or position[1] == "end of document":
        lines = text.split("\n")
        # tomli says "end of document" also of a mistake on its last line.
        line, column = len(lines), len(lines[-1]) + 1
    else:
        line, column = (int(number) for number in re.findall(r"\d+", position[1]))
    written = text.split("\n")[line - 1].strip()
    hint = f"is not valid TOML: {reason[:1].lower()}{reason[1:]}"
    return Problem(f"line {line}, column {column}", written or ABSENT, hint)
