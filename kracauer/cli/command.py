"""What a module must have to be a command of the command line."""

from argparse import ArgumentParser, Namespace
from typing import Protocol


class Command(Protocol):
    """A module with these names; only `kracauer.cli.COMMANDS` must know it.

    Importing it must be cheap and need nothing optional: what is heavy or may be missing is imported inside `run`.
    """

    NAME: str  # the word on the command line
    HELP: str  # one line in the list of commands, without a full stop

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the command's own options to `parser`."""

    def run(self, arguments: Namespace) -> int:
        """Do it; returns an exit status of `kracauer.cli.exit_codes`."""
        ...
