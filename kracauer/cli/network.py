"""`kracauer network`: what the service needs of the host's network, shown, set up, or taken back, without the service."""

import pwd
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Final

from kracauer.cli.config_file import add_config_argument, read_or_explain
from kracauer.cli.exit_codes import ExitCode
from kracauer.config import Config
from kracauer.errors import DeviceError, HostError, RemediableError

if TYPE_CHECKING:
    from kracauer.host import Facts, Step

NAME: Final = "network"
HELP: Final = "show, set up or take back what the service needs of this host's network"

_ACTIONS: Final = {
    "plan": "print the commands that would set it up, or what is in the way; takes no privileges",
    "apply": "set it up, and keep it until it is undone or the machine starts anew",
    "undo": "take back what was set up, and nothing else",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the three actions, each with `-c FILE`, and `--user NAME` where a device is made."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, does in _ACTIONS.items():
        action = actions.add_parser(name, help=does, description=f"{does[:1].upper()}{does[1:]}.")
        add_config_argument(action)
        if name != "undo":
            action.add_argument(
                "--user", metavar="NAME", type=_user, help="who may open the device without privileges (without: who runs this)"
            )


def run(arguments: Namespace) -> int:
    """Do it; returns 0, or the exit status that tells what was in the way."""
    file = read_or_explain(arguments.config)
    if file is None:
        return ExitCode.CONFIG_UNUSABLE
    config = file.config
    try:
        match arguments.action:
            case "plan":
                return _plan(config, arguments.user)
            case "apply":
                return _apply(config, arguments.user)
            case _:
                return _undo(config)
    except DeviceError as error:
        return _fail(error, ExitCode.DEVICE)
    except HostError as error:
        return _fail(error, ExitCode.NETWORK)


def _plan(config: Config, user: pwd.struct_passwd | None) -> int:
    from kracauer.host import pending  # noqa: PLC0415 - heavy

    facts, steps = _prepare(config)
    device = config.network.device
    if not _is_given(config) and not _is_left(device):
        queues = " multi_queue" if config.network.workers > 1 else ""
        print(f"ip tuntap add name {device} mode tun{f' user {user.pw_name}' if user else ''}{queues}")
        print(f"ip link set {device} alias kracauer")
    for step in pending(steps, facts):
        print(step.render())
    return ExitCode.OK


def _apply(config: Config, user: pwd.struct_passwd | None) -> int:
    from kracauer.daemon import is_running  # noqa: PLC0415 - heavy
    from kracauer.host import HostSetup  # noqa: PLC0415
    from kracauer.tun import open_device  # noqa: PLC0415

    device = config.network.device
    _, steps = _prepare(config)
    if is_running(device) or _is_given(config):  # what has to be set besides the device can be set again at any time
        HostSetup(steps).apply()
    else:
        opened = open_device(
            device,
            is_persistent=True,
            owner=None if user is None else user.pw_uid,
            has_queues=config.network.workers > 1,
            may_replace=True,
        )
        try:
            HostSetup(steps).apply()
        except BaseException:
            if not opened.is_found:
                opened.remove()
            raise
        finally:
            opened.close()
    print(f"set up: {device} and what leads into it (undo: kracauer network undo)")
    return ExitCode.OK


def _undo(config: Config) -> int:
    from kracauer.daemon import is_running  # noqa: PLC0415 - heavy
    from kracauer.host import destinations, forget  # noqa: PLC0415

    device = config.network.device
    if is_running(device):
        error = HostError(
            f"a service runs with the device {device}", "stop it with `kracauer stop`; its connections would end here"
        )
        return _fail(error, ExitCode.ALREADY_RUNNING)
    failures = forget(device, destinations(config))
    for failure in failures:
        print(f"kracauer: {failure}", file=sys.stderr)
    if failures:
        return ExitCode.NETWORK
    print(f"undone: {device} and what led into it are gone")
    return ExitCode.OK


def _prepare(config: Config) -> "tuple[Facts, tuple[Step, ...]]":
    """What the host is like, and what is to be done; what should be thought of besides is said on stderr. Raises HostError."""
    from kracauer.host import advise, advise_sharing, destinations, gather, plan, table  # noqa: PLC0415 - heavy

    facts = gather(config.network.device, destinations(config), table(config))
    steps = plan(config, facts)
    for advice in (*advise(facts), *advise_sharing(facts, config)):
        print(f"kracauer: {advice.cause}\n  → {advice.remedy}", file=sys.stderr)
    return facts, steps


def _is_given(config: Config) -> bool:
    """Whether the device is there, and the operator's own. Raises DeviceError if it should be ours."""
    from kracauer.tun.alias import ALIAS, read_alias  # noqa: PLC0415 - asks the kernel

    device = config.network.device
    if read_alias(device) in (None, ALIAS):
        return False
    if config.network.manage:
        raise DeviceError(
            f"there is an interface {device} that is not Kracauer's",
            "set network.device to another name, or network.manage = false if that one is meant",
        )
    return True


def _is_left(device: str) -> bool:
    from kracauer.tun.alias import read_alias  # noqa: PLC0415 - asks the kernel

    return read_alias(device) is not None


def _fail(error: RemediableError, code: ExitCode) -> ExitCode:
    print(f"kracauer: {error.cause}\n  → {error.remedy}", file=sys.stderr)
    return code


def _user(text: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(text)
    except KeyError:
        raise ArgumentTypeError(f"there is no user {text!r} here") from None
