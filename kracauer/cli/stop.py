"""`kracauer stop`: end the running service, and keep its connections for the next one, or give everything back."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Final

from kracauer.cli.config_file import find_config, read_config
from kracauer.cli.exit_codes import ExitCode
from kracauer.cli.running_service import add_service_arguments, ask, find_device
from kracauer.config import Config
from kracauer.errors import ConfigError

NAME: Final = "stop"
HELP: Final = "end the running service; connections are kept for the next one, unless --forget"
END_TIMEOUT_S: Final = 30.0


def add_arguments(parser: ArgumentParser) -> None:
    """Add `-c FILE`, `--device NAME` and `--forget`."""
    add_service_arguments(parser)
    parser.add_argument(
        "--forget",
        action="store_true",
        help="keep nothing: remove device, routes and connections, also those that a killed service has left",
    )


def run(arguments: Namespace) -> int:
    """Return 0 once the service is gone, or say what is in the way."""
    from kracauer.daemon import await_end  # noqa: PLC0415 - heavy

    device = find_device(arguments)
    reply = ask(device, "stop", forget=arguments.forget)
    if reply is ExitCode.NOT_RUNNING and arguments.forget:
        return _clear(device, arguments)
    if isinstance(reply, ExitCode):
        return reply
    if not await_end(device, END_TIMEOUT_S):
        print(f"kracauer: the service has ended, but its process is still there after {END_TIMEOUT_S:g} s", file=sys.stderr)
        return ExitCode.NO_ANSWER
    if reply["kept"]:
        print(f"stopped: {reply['flows']} connections are kept for the next start (undo: {reply['undo']})")
        return ExitCode.OK
    return _report(device, reply.get("failures", ()))


def _clear(device: str, arguments: Namespace) -> int:
    """Take away what a service that is no more has left; the configuration, if there is one, says which routes it had."""
    from kracauer.daemon import AlreadyRunningError, clear_up  # noqa: PLC0415 - heavy

    config: Config | None = None
    try:
        config = read_config(find_config(arguments.config)).config
    except ConfigError as error:
        if arguments.device is None:
            print(f"kracauer: only what {device} itself tells is removed: {error}", file=sys.stderr)
    try:
        failures = clear_up(device, config)
    except AlreadyRunningError as error:
        print(f"kracauer: {error.cause}, but does not answer\n  → end it with SIGINT", file=sys.stderr)
        return ExitCode.NO_ANSWER
    return _report(device, failures)


def _report(device: str, failures: Sequence[str]) -> int:
    for failure in failures:
        print(f"kracauer: {failure}", file=sys.stderr)
    if failures:
        return ExitCode.NETWORK
    print(f"stopped: nothing is kept, {device} and its routes are gone")
    return ExitCode.OK
