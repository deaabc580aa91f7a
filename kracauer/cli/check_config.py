"""`kracauer check-config`: says whether a configuration is valid, and what it means or what is wrong with it."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from kracauer.cli.config_file import ConfigFile, ConfigFileError, add_config_argument, find_config, read_config
from kracauer.cli.exit_codes import ExitCode
from kracauer.config import Config, Listener
from kracauer.errors import ConfigError
from kracauer.routes import DEFAULT, Backend, Balance, Route

NAME: Final = "check-config"
HELP: Final = "check a configuration, and summarise it or list every problem"

_REDIRECTED: Final = "plain HTTP is sent to HTTPS"
_EXAMPLE_CLIENT: Final = IPv4Address("192.0.2.7")


def add_arguments(parser: ArgumentParser) -> None:
    """Add `-c FILE`."""
    add_config_argument(parser)


def run(arguments: Namespace) -> int:
    """Print the summary and return 0, or every problem on stderr and return 1."""
    try:
        path = find_config(arguments.config)
        file = read_config(path)
    except ConfigFileError as error:
        print(f"kracauer: {error}", file=sys.stderr)
        return ExitCode.CONFIG_PROBLEMS
    except ConfigError as error:
        for problem in error.problems:
            print(f"{path}: {problem}", file=sys.stderr)
        count = len(error.problems)
        print(f"{path}: {count} problem{'s' if count > 1 else ''}", file=sys.stderr)
        return ExitCode.CONFIG_PROBLEMS
    for line in render_summary(file):
        print(line)
    return ExitCode.OK


def render_summary(file: ConfigFile) -> Iterator[str]:
    """What the configuration means, line by line."""
    config = file.config
    mapped = IPv6Address(int(config.prefix.network_address) | int(_EXAMPLE_CLIENT))
    yield f"{file.path}: valid"
    yield ""
    yield f"prefix     {config.prefix}   (backends see {_EXAMPLE_CLIENT} as {mapped})"
    yield from _section("listeners", [(str(listener), _protocol(listener)) for listener in config.listeners])
    yield from _section("names", _names(config))
    if config.backend_networks:
        yield from _section("backends", [("all within", ", ".join(map(str, config.backend_networks)))])
    lists = list(_lists(config))
    if lists:
        yield from _section("clients", lists)


def _names(config: Config) -> list[tuple[str, str]]:
    names = [(route.pattern, "; ".join((_backends(route), *_conditions(route)))) for route in config.routes]
    if config.dns.serve_any:
        return [*names, ("(any other)", "its own AAAA records")]
    has_default = any(route.pattern == DEFAULT for route in config.routes)
    return names if has_default else [*names, ("(any other)", "refused")]


def _protocol(listener: Listener) -> str:
    return f"{listener.protocol.value}; {_REDIRECTED}" if listener.redirect else listener.protocol.value


def _conditions(route: Route) -> Iterator[str]:
    if route.redirect:
        yield _REDIRECTED
    if route.max_flows:
        yield f"at most {route.max_flows} connection{'' if route.max_flows == 1 else 's'}"


def _backends(route: Route) -> str:
    """The backends of `route` in their order, or, where clients are spread over them, with their weights."""
    weights = route.weights or (1,) * len(route.backends)
    shown = []
    for backend, weight in zip(route.backends, weights, strict=True):
        notes = [] if isinstance(backend, Backend) else ["looked up"]
        notes += [f"weight {weight}"] if weight > 1 else []
        notes += ["to be emptied"] if backend in route.draining else []
        shown.append(f"{backend} ({', '.join(notes)})" if notes else str(backend))
    return (", then " if route.balance is Balance.ORDER else " or ").join(shown)


def _lists(config: Config) -> Iterator[tuple[str, str]]:
    """Where there is a list of clients, and how long it is."""
    places = [("(everywhere)", config.access)]
    places += [(str(listener), listener.access) for listener in config.listeners]
    places += [(route.pattern, route.access) for route in config.routes]
    for place, access in places:
        parts = [] if access.allow is None else [f"{_networks(len(access.allow))} allowed"]
        parts += [f"{_networks(len(access.deny))} denied"] if access.deny else []
        if parts:
            yield place, ", ".join(parts)


def _networks(count: int) -> str:
    return f"{count} network{'' if count == 1 else 's'}"


def _section(title: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max(len(left) for left, _ in rows)
    for number, (left, right) in enumerate(rows):
        yield f"{'' if number else title:<11}{left:<{width}}   {right}"
