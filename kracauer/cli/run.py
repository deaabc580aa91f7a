"""`kracauer run`: the service itself, in the foreground."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kracauer.cli.config_file import ConfigFileError, add_config_argument, find_config, read_config
from kracauer.cli.exit_codes import ExitCode
from kracauer.config import Config
from kracauer.errors import ConfigError, DeviceError, HostError, RemediableError

NAME: Final = "run"
HELP: Final = "run the service until SIGTERM (which keeps connections) or SIGINT"


def add_arguments(parser: ArgumentParser) -> None:
    """Add `-c FILE` and `--record FILE`."""
    add_config_argument(parser)
    parser.add_argument(
        "--record", metavar="FILE", type=Path, help="keep every packet in this pcapng file (for debugging; it grows fast)"
    )


def run(arguments: Namespace) -> int:
    """Serve; returns 0 after a clean stop, or the exit status that tells what was in the way."""
    try:
        path = find_config(arguments.config)
        config = read_config(path).config
    except ConfigFileError as error:
        print(f"kracauer: {error}", file=sys.stderr)
        return ExitCode.CONFIG_UNUSABLE
    except ConfigError as error:
        for problem in error.problems:
            print(f"{path}: {problem}", file=sys.stderr)
        return ExitCode.CONFIG_UNUSABLE
    return _serve(config, lambda: read_config(path).config, arguments.record)


def _serve(config: Config, reread: Callable[[], Config], record: Path | None) -> int:
    from kracauer import logs  # noqa: PLC0415 - heavy: no other command should pay for them
    from kracauer.daemon import AlreadyRunningError, RecordingError, serve  # noqa: PLC0415
    from kracauer.engine import Engine  # noqa: PLC0415
    from kracauer.tun import DeviceLostError  # noqa: PLC0415

    codes: Final[dict[type[RemediableError], tuple[ExitCode, str]]] = {
        DeviceLostError: (ExitCode.DEVICE_LOST, "device_lost"),
        DeviceError: (ExitCode.DEVICE, "device_unusable"),
        HostError: (ExitCode.NETWORK, "network_unusable"),
        RecordingError: (ExitCode.USAGE, "recording_impossible"),
        AlreadyRunningError: (ExitCode.ALREADY_RUNNING, "already_running"),
    }
    log = logs.configure(config.log.level, config.log.format)
    try:
        serve(config, Engine, read_config=reread, record=record)
    except tuple(codes) as error:
        code, event = next(code for kind, code in codes.items() if isinstance(error, kind))
        log.error(event, cause=error.cause, remedy=error.remedy)
        return code
    return ExitCode.OK
