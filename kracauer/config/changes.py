"""What a running service cannot take over from a new configuration."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Final

from kracauer.config.problems import Problem, child, render
from kracauer.config.values import Config, Network

# Of `network`: just a number in a packet, and nothing on the host depends on it.
_CHANGEABLE: Final = frozenset({"router_sources"})
_KEEPS_CONNECTIONS: Final = "takes a restart, which keeps connections"
# The addresses that backends know clients by, and the name under which connections are kept.
_ENDS_CONNECTIONS: Final = "takes a restart, and no connection that is open outlives this change"
_ENDING: Final = frozenset({"prefix", "network.device"})


def restart_problems(running: Config, wanted: Config) -> tuple[Problem, ...]:
    """One problem for each key whose new value cannot come into force while the service runs; none: a reload will do."""
    return tuple(
        Problem(path, new, f"is {render(old)} in the running service: {_message(path)}")
        for path, old, new in _fixed(running, wanted)
        if old != new
    )


def _fixed(running: Config, wanted: Config) -> Iterator[tuple[str, object, object]]:
    """Path, old and new value of every key that stays as it was at the start."""
    yield "prefix", str(running.prefix), str(wanted.prefix)
    for field in fields(Network):
        if field.name not in _CHANGEABLE:
            yield child("network", field.name), getattr(running.network, field.name), getattr(wanted.network, field.name)
    yield "log.format", running.log.format, wanted.log.format


def _message(path: str) -> str:
    return _ENDS_CONNECTIONS if path in _ENDING else _KEEPS_CONNECTIONS
