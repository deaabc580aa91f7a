"""A device of our own, there for some seconds: to see what the kernel gives, and to probe backends from the prefix.

Only the one address that probes come from is led to it, so that it meets no client's packet, and none of the connections that
an earlier service has left. The device is not persistent: however this process ends, the kernel removes it, with its settings
and its route.
"""

import os
import select
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import IPv6Network
from typing import Final

from kracauer.config import Config, Probes
from kracauer.daemon.backends import describe_backends
from kracauer.doctor.facts import Backend, Name, Offload
from kracauer.doctor.gathering.probes import of_statuses
from kracauer.engine import Engine
from kracauer.engine.health import HealthState
from kracauer.errors import HostError
from kracauer.host import AddRoute, HostSetup, SetLink, SetSysctl, expected
from kracauer.host.steps import IPV6_METRIC, PROBING_DEVICE
from kracauer.offload import bpf, pins
from kracauer.offload.kernel import KernelPath
from kracauer.tun import TunDevice, open_device
from kracauer.wire.buffer import Buffer, Frame

_SESSION_S: Final = 3.0
_PROBES: Final = Probes(enabled=True, interval_s=1.0, timeout_s=1.0, rise=1, fall=2)  # which come to a result soon
_SECRET_BYTES: Final = 32


def device_name() -> str:
    """A name that no other process has."""
    return f"{PROBING_DEVICE}{os.getpid()}"


@contextmanager
def short_lived_device() -> Iterator[TunDevice]:
    """A device with what offloads there are, gone afterwards. Raises DeviceError."""
    device = open_device(device_name())
    try:
        yield device
    finally:
        device.close()


def try_fast_path(device: TunDevice) -> Offload:
    """Put the program of the fast path on `device`, with room for one connection that never comes, and take it away again."""
    has_bpffs = bpf.is_bpffs(pins.ROOT)
    try:
        path = KernelPath.open(1)
        try:
            return Offload(hook=path.attach(device.name), has_bpffs=has_bpffs)
        finally:
            path.close()
    except bpf.OffloadError as error:
        return Offload(error=error.cause, remedy=error.remedy, has_bpffs=has_bpffs)


def probe(config: Config, names: Iterable[Name], device: TunDevice) -> tuple[Backend, ...]:
    """What probes through `device` tell of every backend that has an address. Raises HostError or DeviceLostError."""
    setup = HostSetup(_steps(config, device.name))
    setup.apply()
    try:
        engine = Engine(replace(config, probes=_PROBES), secret=os.urandom(_SECRET_BYTES), now=time.monotonic())
        for name in names:
            _write(device, engine.note_addresses(name.name, name.addresses, time.monotonic()))
        _pump(engine, device)
        return of_statuses(describe_backends(engine.backends(), time.monotonic()))
    finally:
        with suppress(HostError):
            setup.undo()


def _steps(config: Config, device: str) -> Iterator[SetSysctl | SetLink | AddRoute]:
    """What the service would set for its device, and a route for the probes' address alone."""
    own = replace(config, network=replace(config.network, device=device, ownership="routed"))
    for step in expected(own):
        if isinstance(step, SetSysctl | SetLink):
            yield step
    yield AddRoute(IPv6Network(config.prefix.network_address + 1), device, IPV6_METRIC)


def _pump(engine: Engine, device: TunDevice) -> None:
    """Carry packets until every backend is known as up or down, or the time is over."""
    frame = Frame()
    poller = select.poll()
    poller.register(device.fileno(), select.POLLIN)
    end = time.monotonic() + _SESSION_S
    while (now := time.monotonic()) < end and any(status.state is HealthState.UNKNOWN for status in engine.backends()):
        deadline = engine.next_deadline()
        wait_s = min(end if deadline is None else max(deadline, now + 0.001), end) - now
        poller.poll(wait_s * 1000)
        while device.read_into(frame):
            _write(device, engine.receive(frame, time.monotonic()))
        _write(device, engine.handle_timer(time.monotonic()))
        while engine.next_event() is not None:
            pass


def _write(device: TunDevice, packets: Sequence[Buffer]) -> None:
    for packet in packets:
        device.write(packet)
