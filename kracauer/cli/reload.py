"""`kracauer reload`: have the running service read its configuration anew."""

import sys
from argparse import ArgumentParser, Namespace
from typing import Final

from kracauer.cli.exit_codes import ExitCode
from kracauer.cli.running_service import add_service_arguments, ask, find_device

NAME: Final = "reload"
HELP: Final = "have the running service read its configuration anew"


def add_arguments(parser: ArgumentParser) -> None:
    """Add `-c FILE` and `--device NAME`."""
    add_service_arguments(parser)


def run(arguments: Namespace) -> int:
    """Print what is in force now and return 0, or every problem on stderr and return 1."""
    reply = ask(find_device(arguments), "reload")
    if isinstance(reply, ExitCode):
        return reply
    problems = reply["problems"]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        print(f"not reloaded: {count}; the configuration in force stays", file=sys.stderr)
        return ExitCode.CONFIG_PROBLEMS
    names = f"{reply['names']} name{'s' if reply['names'] > 1 else ''}"
    print(f"reloaded: {names}, listening on {', '.join(reply['listening'])}")
    return ExitCode.OK
