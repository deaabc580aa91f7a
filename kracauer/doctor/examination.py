"""One examination: everything is gathered, then every check is made."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from kracauer.config import Config
from kracauer.doctor.checks import diagnose
from kracauer.doctor.checks.device import NET_ADMIN
from kracauer.doctor.checks.fast_path import BPF
from kracauer.doctor.facts import Answer, Backend, Facts, Name, Offload, Service, ServiceState, Source, Tun
from kracauer.doctor.finding import Finding
from kracauer.doctor.gathering import direct, filters, interfaces, machine, names, probes, session
from kracauer.errors import RemediableError
from kracauer.tun import TunDevice

_CLONE_DEVICE: Final = Path("/dev/net/tun")
# Where the service says nothing of its backends, and none may be probed in its place.
_NO_PROBES: Final = {
    ServiceState.HIDDEN: "the service that runs here may not be asked by this user",
    ServiceState.MUTE: "the service that runs here does not answer",
}

Found = TypeVar("Found")


def examine(source: Source, device: str) -> tuple[Finding, ...]:
    """Look at everything that stands between `source` and a working service; takes up to ten seconds."""
    return diagnose(gather_facts(source, device))


def gather_facts(source: Source, device: str) -> Facts:
    """Everything that can be found out with the privileges there are."""
    missing: dict[str, str] = {}

    def attempt(field: str, look: Callable[[], Found]) -> Found | None:
        try:
            return look()
        except RemediableError as error:
            missing[field] = error.cause
        except OSError as error:
            missing[field] = error.strerror or str(error)
        return None

    config = source.config
    facts = Facts(
        source,
        capabilities=machine.capabilities(),
        user=os.geteuid(),
        interface=attempt("interface", lambda: interfaces.look_at_interface(device)),
        service=machine.look_at_service(device),
        storage=attempt("storage", lambda: machine.look_at_storage(device)),
        network=attempt("network", lambda: interfaces.look_at_network(config)) if config is not None else None,
        firewall=filters.look_at_firewall(),
        names=names.look_up_names(config) if config is not None else (),
    )
    if config is None:
        missing |= dict.fromkeys(("network", "backends", "probes"), "there is no valid configuration")
    tun, offload, backends = _open_device(facts, missing)
    if config is not None and facts.is_running:
        backends = _ask_service(config, facts.service.status, missing)
    elif config is not None:
        backends = _try_directly(_with_ways(backends or probes.unprobed(config, facts.names)))
    return replace(facts, tun=tun, offload=offload, backends=backends, missing=missing)


def _open_device(facts: Facts, missing: dict[str, str]) -> tuple[Tun, Offload | None, tuple[Backend, ...]]:
    """See what the kernel gives, and probe backends unless a service does that already."""
    if NET_ADMIN not in facts.capabilities:
        missing["probes"] = "probing takes CAP_NET_ADMIN"
        missing["offload"] = "trying it takes CAP_NET_ADMIN and CAP_BPF"
        return (Tun(is_tried=False) if _CLONE_DEVICE.exists() else _no_tun()), None, ()
    backends: tuple[Backend, ...] = ()
    offload = None
    try:
        with session.short_lived_device() as device:
            tun = Tun(fallback=device.fallback)
            offload = _try_fast_path(device, facts, missing)
            if facts.config is not None and not facts.is_running:
                backends = _probe_through(device, facts.config, facts.names, facts.service, missing)
    except RemediableError as error:
        missing["probes"] = "there is no device to probe through"
        return Tun(error=error.cause, remedy=error.remedy), None, ()
    return tun, offload, backends


def _try_fast_path(device: TunDevice, facts: Facts, missing: dict[str, str]) -> Offload | None:
    """What the kernel says to the program, unless a service says it or nobody wants to know."""
    if facts.config is None or facts.config.network.offload == "off" or facts.service.state is not ServiceState.ABSENT:
        return None
    if facts.user != 0 and not facts.capabilities & BPF:  # as root it would be the service that lacks it as well
        missing["offload"] = "trying it takes CAP_BPF"
        return None
    return session.try_fast_path(device)


def _probe_through(
    device: TunDevice, config: Config, known: Sequence[Name], service: Service, missing: dict[str, str]
) -> tuple[Backend, ...]:
    if service.state in _NO_PROBES:
        missing["probes"] = _NO_PROBES[service.state]
        return ()
    try:
        return session.probe(config, known, device)
    except RemediableError as error:
        missing["probes"] = error.cause
        return ()


def _ask_service(config: Config, status: Mapping[str, Any], missing: dict[str, str]) -> tuple[Backend, ...]:
    """What the service knows of its backends, after one more round of its probes; meanwhile we try ourselves."""
    if not config.probes.enabled:
        missing["probes"] = "probes.enabled = false"
    else:
        missing.pop("probes", None)
    until = probes.next_round(config)
    tried = {str(backend): backend for backend in _try_directly(_with_ways(probes.of_statuses(status.get("backends", ()))))}
    found = _with_ways(probes.of_service(config, status, until))
    if not found:
        return _try_directly(_with_ways(probes.unprobed(config, ())))
    return tuple(_joined(backend, tried.get(str(backend))) for backend in found)


def _joined(backend: Backend, tried: Backend | None) -> Backend:
    return backend if tried is None else replace(backend, direct=tried.direct, is_pinged=tried.is_pinged)


def _no_tun() -> Tun:
    return Tun(error=f"{_CLONE_DEVICE} is missing", remedy="load the module with `modprobe tun`")


def _with_ways(backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
    try:
        ways = interfaces.find_ways(backend.address for backend in backends)
    except OSError:
        return backends
    return tuple(replace(backend, way=ways[backend.address]) for backend in backends)


def _try_directly(backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
    """Try from our own address those that have not answered a probe."""
    fine = {Answer.ACCEPTED, Answer.REFUSED}
    open_questions = [backend for backend in backends if backend.probe not in fine and backend.way.kind]
    if not open_questions:
        return backends
    tried = dict(zip(open_questions, direct.try_directly(open_questions), strict=True))
    return tuple(tried.get(backend, backend) for backend in backends)
