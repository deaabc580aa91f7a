"""What the commands that ask a running service have in common: which service is meant, and what stands in the way of asking."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any, Final

import tomli

from kracauer.cli.config_file import ConfigFileError, add_config_argument, find_config
from kracauer.cli.exit_codes import ExitCode
from kracauer.config import Network
from kracauer.errors import RemediableError

DEFAULT_DEVICE: Final = Network().device


def add_service_arguments(parser: ArgumentParser) -> None:
    """Add `-c FILE` and `--device NAME`, which say which service is meant."""
    add_config_argument(parser)
    parser.add_argument(
        "--device",
        metavar="NAME",
        help=f"the service's device (without: network.device of the configuration, {DEFAULT_DEVICE})",
    )


def find_device(arguments: Namespace) -> str:
    """The device of the service that is meant; a configuration that is missing or has problems says as much as it can."""
    if arguments.device is not None:
        return str(arguments.device)
    try:
        content = tomli.loads(find_config(arguments.config).read_text(encoding="utf-8"))
    except (ConfigFileError, OSError, ValueError):
        return DEFAULT_DEVICE
    network = content.get("network")
    device = network.get("device") if isinstance(network, dict) else None
    return device if isinstance(device, str) and device and "/" not in device else DEFAULT_DEVICE


def ask(device: str, command: str, *, forget: bool = False) -> Mapping[str, Any] | ExitCode:
    """The reply of the service, or the exit status for its absence, which has been explained on stderr."""
    from kracauer.daemon import ControlError, NotPermittedError, NotRunningError, ask  # noqa: PLC0415 - heavy

    try:
        return ask(device, command, forget=forget)
    except NotRunningError as error:
        if forget:  # there may be something to forget all the same
            return ExitCode.NOT_RUNNING
        code = ExitCode.NOT_RUNNING
        problem: RemediableError = error
    except NotPermittedError as error:
        code, problem = ExitCode.NOT_PERMITTED, error
    except ControlError as error:
        code, problem = ExitCode.NO_ANSWER, error
    print(f"kracauer: {problem.cause}\n  → {problem.remedy}", file=sys.stderr)
    return code
