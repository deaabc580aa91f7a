"""The command line: `kracauer COMMAND`, one module a command."""

import os
import select
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final, cast

import kracauer
from kracauer.cli.command import Command
from kracauer.cli.exit_codes import ExitCode

# The word on the command line and its module, in the order of the help.
COMMANDS: Final = {
    "run": "kracauer.cli.run",
    "reload": "kracauer.cli.reload",
    "status": "kracauer.cli.status",
    "stop": "kracauer.cli.stop",
    "check-config": "kracauer.cli.check_config",
    "doctor": "kracauer.cli.doctor",
    "network": "kracauer.cli.network",
    "install-service": "kracauer.cli.install_service",
    "demo": "kracauer.cli.demo",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name; None: the process's own); returns the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        status = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # the last resort, where nothing is left but to say so
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            return ExitCode.OUTPUT_CLOSED
        traceback.print_exc()
        print("kracauer: internal error: please report the lines above", file=sys.stderr)
        return ExitCode.INTERNAL
    return status


def _is_output_closed() -> bool:
    """Whether the reader of our output, a pager perhaps, has left early; from then on the output goes nowhere."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # no file at all
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # or Python, flushing at exit, would complain
    return True


def _run(words: Sequence[str]) -> int:
    # Just the command asked for is imported: quick, and what another one lacks does not matter. The help needs all.
    asked = next((word for word in words if not word.startswith("-")), "")
    commands = {name: load(name) for name in ([asked] if asked in COMMANDS else COMMANDS)}
    if isinstance(missing := commands.get(asked), ImportError):
        print(f"kracauer {asked}: {missing}: install the missing package", file=sys.stderr)
        return ExitCode.UNAVAILABLE
    parser = _build_parser(commands)
    try:
        arguments = parser.parse_args(words)
    except SystemExit as request:  # after --help or --version, or a mistake that has been printed
        return ExitCode.USAGE if request.code else ExitCode.OK
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return ExitCode.USAGE
    status: int = arguments.run(arguments)
    return status


def load(name: str) -> Command | ImportError:
    """Import one of `COMMANDS`; what stops it is returned, for it need not stop the others."""
    try:
        return cast("Command", import_module(COMMANDS[name]))
    except ImportError as error:
        return error


def _build_parser(commands: Mapping[str, Command | ImportError]) -> ArgumentParser:
    parser = ArgumentParser(prog="kracauer", description=kracauer.__doc__)
    parser.add_argument("--version", action="version", version=f"kracauer {kracauer.__version__}")
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in commands.items():
        if isinstance(command, ImportError):
            subparsers.add_parser(name, help=f"not available here: {command}".replace("%", "%%"))
            continue
        subparser = subparsers.add_parser(name, help=command.HELP, description=f"{command.HELP}.")
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser
