"""`kracauer install-service`: has systemd run the service, or prints the unit with which it would."""

import difflib
import os
import pwd
import re
import subprocess
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Final

import kracauer
from kracauer.cli.config_file import add_config_argument, read_or_explain
from kracauer.cli.exit_codes import ExitCode
from kracauer.cli.systemd_unit import USER, Service, render_unit, unreachable
from kracauer.config import Config
from kracauer.errors import KracauerError

NAME: Final = "install-service"
HELP: Final = "have systemd run the service: write its unit, make its user"

UNIT: Final = "kracauer.service"
DIRECTORY: Final = Path("/etc/systemd/system")
_USER_NAME: Final = re.compile(r"[a-z_][a-z0-9_-]{0,30}")


class _InstallationError(KracauerError):
    """What is in the way, with what mends it."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add `-c FILE`, `--user NAME`, `--unit-directory DIR`, `--force` and `--print`."""
    add_config_argument(parser)
    parser.add_argument(
        "--user", metavar="NAME", type=_user_name, default=USER, help=f"run as this user, made if missing (without: {USER})"
    )
    parser.add_argument(
        "--unit-directory", metavar="DIR", type=Path, default=DIRECTORY, help=f"where the unit goes (without: {DIRECTORY})"
    )
    parser.add_argument("--force", action="store_true", help="write over a unit that is different")
    parser.add_argument("--print", action="store_true", help="print the unit and change nothing")


def run(arguments: Namespace) -> int:
    """Install the unit, or print it; returns 0, or the exit status that tells what was in the way."""
    file = read_or_explain(arguments.config)
    if file is None:
        return ExitCode.CONFIG_UNUSABLE
    path = Path(os.path.abspath(file.path))  # noqa: PTH100 - `resolve` would follow links that are meant
    config = file.config
    network = config.network
    service = Service(
        _own_command(),
        path,
        arguments.user,
        _name_servers(config),
        is_sharing=network.ownership == "shared",
        is_offloading=network.offload != "off",
    )
    problems = tuple(unreachable(_needed(path), arguments.user))
    for problem in problems:
        print(f"kracauer: {problem}", file=sys.stderr)
    if arguments.print:
        print(render_unit(service, _systemd_version()), end="")
        return ExitCode.OK
    if problems:
        return ExitCode.USAGE
    try:
        _install(service, arguments.unit_directory / UNIT, is_forced=arguments.force)
    except _InstallationError as error:
        print(f"kracauer: {error}", file=sys.stderr)
        return ExitCode.USAGE
    return ExitCode.OK


def _name_servers(config: Config) -> tuple[str, ...] | None:
    """Whom the service asks for names, as the unit wants to know it."""
    if not config.routes.names and not config.dns.serve_any:
        return ()
    return tuple(dict.fromkeys(str(server.address) for server in config.dns.servers)) or None


def _own_command() -> tuple[str, ...]:
    """The command that has started this very process, its first word absolute."""
    script = Path(sys.argv[0]).absolute()
    if script.name == "kracauer" and script.is_file() and os.access(script, os.X_OK):
        return (str(script),)
    return (sys.executable, "-m", "kracauer")


def _needed(config: Path) -> dict[str, Path]:
    """What the service has to read: the interpreter with its library, this package, what it imports, and the configuration."""
    package = Path(kracauer.__file__).parent
    return {
        "the interpreter": Path(sys.executable),
        "the standard library": Path(os.__file__).parent,
        "the package": package,
        "the configuration": config,
    }


def _install(service: Service, path: Path, *, is_forced: bool) -> None:
    """Write the unit, make the user, have systemd read its units anew; in this order a refusal has changed nothing."""
    text = render_unit(service, _systemd_version())
    is_new = _check_former(path, text, is_forced=is_forced)
    _make_user(service.user)
    if is_new:
        _write(path, text)
        print(f"{path}: written")
    else:
        print(f"{path}: already as it should be")
    _call("systemctl", "daemon-reload")
    print("start it, now and with the machine: systemctl enable --now kracauer")


def _check_former(path: Path, text: str, *, is_forced: bool) -> bool:
    """Whether there is anything to write; raises _InstallationError where that needs `--force`, and shows the difference."""
    try:
        former = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    except (OSError, UnicodeDecodeError) as error:
        raise _InstallationError(f"{path}: cannot be read ({error}): move it away") from error
    if former == text:
        return False
    if not is_forced:
        lines = difflib.unified_diff(former.splitlines(), text.splitlines(), str(path), "what would be written", lineterm="")
        print("\n".join(lines))
        raise _InstallationError(
            f"{path}: there is another one: --force writes over it; your own changes last in `systemctl edit {path.stem}`"
        )
    return True


def _make_user(name: str) -> None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        _call(
            "useradd",
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "--shell",
            "/usr/sbin/nologin",
            name,
        )
        print(f"user {name}: made")


def _write(path: Path, text: str) -> None:
    """Put the unit in place in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.chmod(0o644)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise _InstallationError(f"{path}: cannot be written ({error.strerror}): run this as root") from error


def _systemd_version() -> int | None:
    """The version of the systemd that is installed here; None where there is none to ask."""
    try:
        result = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"systemd (\d+)", result.stdout)
    return int(found[1]) if found else None


def _call(*words: str) -> None:
    try:
        result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        raise _InstallationError(f"{words[0]} is missing here: run `{' '.join(words)}` where it is") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _InstallationError(f"`{' '.join(words)}` failed: {error}") from error
    if result.returncode:
        said = result.stderr.strip() or f"exit status {result.returncode}"
        raise _InstallationError(f"`{' '.join(words)}` failed: {said}: run this as root, where systemd runs")


def _user_name(text: str) -> str:
    if _USER_NAME.fullmatch(text) is None:
        raise ArgumentTypeError(f"{text!r} is no name of a user: lower-case letters, digits, - and _, 31 at most")
    return text
