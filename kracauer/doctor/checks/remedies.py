"""Remedies out of what other parts of Kracauer say in words, with the commands in backquotes."""

import re
from typing import Final

from kracauer.doctor.finding import HERE, Remedy

_COMMAND: Final = re.compile(r"`([a-z][^`]* [^`]*)`")


def from_text(text: str) -> tuple[Remedy, ...]:
    """A remedy for each command in `text`, the first with all of the text as its advice; without any, the advice alone."""
    commands = _COMMAND.findall(text)
    if not commands:
        return (Remedy(HERE, advice=text),)
    return (Remedy(HERE, commands[0], text), *(Remedy(HERE, command) for command in commands[1:]))
