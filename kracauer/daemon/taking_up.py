"""Taking up the work of a service, by one process or by several: flows first, then the fast path, and packets at the end."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple, Protocol

from structlog.typing import FilteringBoundLogger

from kracauer.config import Config
from kracauer.daemon.crew import Crew
from kracauer.daemon.equipment import Equipment
from kracauer.daemon.estate import Estate, count_kept
from kracauer.daemon.flow_file import open_flow_file
from kracauer.daemon.flow_files import flow_path
from kracauer.daemon.garbage import spare_the_old
from kracauer.daemon.offloading import Offload
from kracauer.daemon.reload import Reconfigurable
from kracauer.daemon.resolver import Resolver
from kracauer.daemon.routing import Services, services_of
from kracauer.daemon.service import PacketEngine, Service
from kracauer.daemon.serving import Alone, Serving, make_resolver
from kracauer.fast_path import FastPath
from kracauer.host import IcmpSocket
from kracauer.tcp.record import Records
from kracauer.tun import Device


class EngineFactory(Protocol):
    """What makes an engine, whose flows are to lie in `records`, and may be carried by `fast_path`."""

    def __call__(
        self, config: Config, *, secret: bytes, now: float, records: Records | None, fast_path: FastPath | None
    ) -> PacketEngine:
        """Make it; `secret` is for the SYN cookies, `now` on the monotonic clock."""


class Hands(NamedTuple):
    """Who does the work: served by, reloaded by, and looking names up for it, where that is not done further down."""

    serving: Serving
    reconfigurable: Reconfigurable
    resolver: Resolver | None


class Work(NamedTuple):
    """Work that was taken up: what clients have dialled, and how to `begin`, once nothing more can fail."""

    services: Services
    begin: Callable[[], Hands]


class Circumstances(NamedTuple):
    """What it is done with. `lock` is the descriptor of the service's lock."""

    config: Config
    secret: bytes
    boot_id: bytes
    estate: Estate
    offload: Offload
    icmp: IcmpSocket | None
    lock: int | None
    log: FilteringBoundLogger


def take_up_alone(given: Circumstances, engine_factory: EngineFactory, device: Device, *, is_recording: bool) -> Work:
    """Do all in this process. Raises OffloadError."""
    config, estate, offload, log = given.config, given.estate, given.offload, given.log
    path = flow_path(config.network.device, 0, 1)
    flow_file = estate.flow_file = open_flow_file(path, prefix=config.prefix, boot_id=given.boot_id, log=log)
    records = flow_file.records
    offload.open(records, is_recording=is_recording)
    fast_path = offload.path
    engine = engine_factory(config, secret=given.secret, now=time.monotonic(), records=records, fast_path=fast_path)
    estate.count_kept = lambda: count_kept(engine.flows, flow_file)
    spare_the_old()
    _adopt(engine, log)
    # Only now: whatever flow it finds in its maps it takes at once.
    offload.attach(records)

    def begin() -> Hands:
        sources = () if given.icmp is None else (given.icmp,)
        service = Service(device, engine, log, log_level=config.log.level, sources=sources, fast_path=fast_path)
        return Hands(Alone(service, engine, lambda: estate.flows_kept), service, make_resolver(config, service))

    return Work(lambda: services_of(engine.flows), begin)


def take_up_together(given: Circumstances, stack: ExitStack) -> Work:
    """Have workers do it. Raises OffloadError, DeviceError or WorkerError."""
    config, estate, offload = given.config, given.estate, given.offload
    assert estate.tun is not None
    equipment = Equipment(estate.tun, config, given.secret, given.boot_id, given.lock, given.log)
    stack.callback(equipment.close)
    equipment.icmp = given.icmp
    offload.open(None)
    equipment.take_fast_path(offload.kernel, offload.hand_down())
    crew = Crew(config, equipment, given.log, lambda: offload.path.standing)

    def end() -> None:
        crew.close()
        equipment.close()

    estate.end_work = end
    estate.count_kept = lambda: crew.kept
    crew.start()
    equipment.close_left()
    offload.attach(None)
    return Work(crew.services, lambda: Hands(crew, crew, None))


def _adopt(engine: PacketEngine, log: FilteringBoundLogger) -> None:
    began = time.monotonic()
    adoption = engine.adopt(began)
    if adoption.adopted or adoption.discarded:
        duration_s = round(time.monotonic() - began, 6)
        log.info("flows_adopted", flows=adoption.adopted, discarded=adoption.discarded, duration_s=duration_s)
