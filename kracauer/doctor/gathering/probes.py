"""What probes from the prefix tell of the backends: the running service's own, or those of a session of ours."""

import time
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv6Address
from typing import Any, Final

from kracauer.config import Config
from kracauer.daemon import ControlError, ask
from kracauer.doctor.facts import Answer, Backend, Name

# A backend that was down is asked again every interval; more than this nobody waits for a doctor.
_LONGEST_WAIT_S: Final = 6.0
_PAUSE_S: Final = 0.25
_ANSWERS: Final = {"refused": Answer.REFUSED, "silent": Answer.SILENT, "unreachable": Answer.UNREACHABLE}


def of_service(config: Config, status: Mapping[str, Any], until: float) -> tuple[Backend, ...]:
    """What the service has found out by `until` at the latest, or once every backend is up."""
    statuses = status.get("backends", ())
    while config.probes.enabled and any(entry["state"] != "up" for entry in statuses) and time.monotonic() < until:
        time.sleep(_PAUSE_S)
        try:
            statuses = ask(config.network.device, "status", timeout_s=_PAUSE_S * 4).get("backends", ())
        except ControlError:
            break
    return of_statuses(statuses)


def next_round(config: Config) -> float:
    """When a service will have asked every backend once more, on the monotonic clock; or when waiting has to end."""
    probes = config.probes
    return time.monotonic() + min(probes.interval_s + 2 * probes.timeout_s, _LONGEST_WAIT_S)


def of_statuses(statuses: Iterable[Mapping[str, Any]]) -> tuple[Backend, ...]:
    """The backends of which the service's status tells."""
    return tuple(
        Backend(IPv6Address(entry["address"]), entry["port"], probe=_answer(entry), round_trip_s=entry["round_trip_s"])
        for entry in statuses
    )


def _answer(entry: Mapping[str, Any]) -> Answer:
    if entry["state"] == "up":
        return Answer.ACCEPTED
    if entry["last_failure"] is None:
        return Answer.UNTRIED
    return _ANSWERS.get(entry["last_failure"], Answer.SILENT)


def unprobed(config: Config, names: Iterable[Name]) -> tuple[Backend, ...]:
    """Every backend that the configuration leads to, where none could be probed."""
    return tuple(dict.fromkeys(Backend(address, port) for address, port in _targets(config, names)))


def _targets(config: Config, names: Iterable[Name]) -> Iterator[tuple[IPv6Address, int]]:
    addresses = {name.name: name.addresses for name in names}
    ports = tuple(dict.fromkeys(listener.port for listener in config.listeners if not listener.redirect))
    for backend in config.routes.backends:
        yield from ((backend.address, port) for port in ((backend.port,) if backend.port else ports))
    for named in config.routes.named_backends:
        for address in addresses.get(named.name, ()):
            yield from ((address, port) for port in ((named.port,) if named.port else ports))
