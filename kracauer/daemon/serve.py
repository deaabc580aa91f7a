"""From a configuration to a running service and back: open, set up, serve, undo, close."""

import asyncio
import gc
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import structlog
from structlog.typing import FilteringBoundLogger

from kracauer.config import Config
from kracauer.daemon.notify import notify
from kracauer.daemon.secret import load_secret
from kracauer.daemon.service import PacketEngine, Service
from kracauer.daemon.stopping import hold_stop_signals, stop_signals_as_interrupts
from kracauer.errors import RemediableError
from kracauer.host import HostSetup, LinkWatch, advise, destinations, expected, gather, plan
from kracauer.tun import Device, RecordingDevice, TunDevice, open_device

EngineFactory: TypeAlias = Callable[[Config, bytes, float], PacketEngine]


class RecordingError(RemediableError):
    """The file for the packets cannot be written."""


def serve(config: Config, engine_factory: EngineFactory, *, record: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Raises DeviceError, DeviceLostError, HostError or RecordingError; main thread only.

    However it ends, the host is left as it was found.
    """
    log: FilteringBoundLogger = structlog.get_logger()
    with stop_signals_as_interrupts(), ExitStack() as stack:
        try:
            service = _start(config, engine_factory, record, log, stack)
        except KeyboardInterrupt:
            hold_stop_signals()
            log.info("stopped", cause="asked to stop before it was ready")
            return
        started = time.monotonic()
        try:
            asyncio.run(_run(service, config, log))
        finally:
            log.info("stopped", uptime_s=round(time.monotonic() - started, 3), **service.counters.fields())


async def _run(service: Service, config: Config, log: FilteringBoundLogger) -> None:
    try:
        await service.run(lambda: _announce(config, log))
    finally:
        hold_stop_signals()  # before the loop takes its own handlers away
        notify("STOPPING=1")


def _start(
    config: Config, engine_factory: EngineFactory, record: Path | None, log: FilteringBoundLogger, stack: ExitStack
) -> Service:
    tun = open_device(config.network.device, has_offloads=config.network.offloads, is_adopting=not config.network.manage)
    stack.callback(tun.close)
    if tun.fallback:
        log.warning("offloads_unavailable", device=tun.name, cause=tun.fallback)
    device = tun if record is None else _open_recording(tun, record, log, stack)
    setup = watch = None
    if config.network.manage:
        setup = _set_up_host(config, log, stack)
        watch = LinkWatch(tun.name)
        stack.callback(watch.close)
    else:
        log.info("network_unmanaged", device=tun.name, expects=[step.render() for step in expected(config)])
    engine = engine_factory(config, load_secret(tun.name, log), time.monotonic())
    return Service(device, engine, log, log_level=config.log.level, setup=setup, watch=watch)


def _open_recording(tun: TunDevice, path: Path, log: FilteringBoundLogger, stack: ExitStack) -> Device:
    def warn(error: OSError) -> None:
        log.warning("recording_ended", path=str(path), cause=error.strerror)

    try:
        device = RecordingDevice(tun, path, on_failure=warn)
    except OSError as error:
        raise RecordingError(f"{path} cannot be written ({error.strerror})", "name another file for --record") from error
    stack.callback(device.close)
    return device


def _set_up_host(config: Config, log: FilteringBoundLogger, stack: ExitStack) -> HostSetup:
    facts = gather(config.network.device, destinations(config))
    for advice in advise(facts):
        log.warning("forwarding_off", cause=advice.cause, remedy=advice.remedy)
    setup = HostSetup(plan(config, facts))

    def undo() -> None:
        for failure in setup.undo():
            log.warning("undo_incomplete", cause=failure)

    setup.apply()
    stack.callback(undo)
    return setup


def _announce(config: Config, log: FilteringBoundLogger) -> None:
    # What exists by now lives until the end: no collection needs to look at it again.
    gc.collect()
    gc.freeze()
    log.info(
        "ready",
        listening=[f"{listener} ({listener.protocol})" for listener in config.listeners],
        prefix=str(config.prefix),
        names=len(config.routes),
        device=config.network.device,
    )
    notify("READY=1")
