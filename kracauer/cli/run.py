"""`kracauer run`: the service itself, in the foreground."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kracauer.cli.config_file import add_config_argument, read_config, read_or_explain
from kracauer.cli.exit_codes import ExitCode
from kracauer.config import Config
from kracauer.errors import DeviceError, HostError, RemediableError

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
    file = read_or_explain(arguments.config)
    if file is None:
        return ExitCode.CONFIG_UNUSABLE
    return _serve(file.config, lambda: read_config(file.path).config, arguments.record)


def _serve(config: Config, reread: Callable[[], Config], record: Path | None) -> int:
    from kracauer import logs  # noqa: PLC0415 - heavy: no other command should pay for them
    from kracauer.daemon import AlreadyRunningError, RecordingError, WorkerError, serve  # noqa: PLC0415
    from kracauer.engine import Engine  # noqa: PLC0415
    from kracauer.offload.bpf import OffloadError  # noqa: PLC0415
    from kracauer.tun import DeviceLostError  # noqa: PLC0415

    codes: Final[dict[type[RemediableError], tuple[ExitCode, str]]] = {
        DeviceLostError: (ExitCode.DEVICE_LOST, "device_lost"),
        DeviceError: (ExitCode.DEVICE, "device_unusable"),
        OffloadError: (ExitCode.DEVICE, "offload_unusable"),
        HostError: (ExitCode.NETWORK, "network_unusable"),
        RecordingError: (ExitCode.USAGE, "recording_impossible"),
        WorkerError: (ExitCode.WORKERS, "worker_unusable"),
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
