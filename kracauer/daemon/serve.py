"""From a configuration to a running service and back: lock, open, set up, adopt, serve; then keep, or give back."""

import asyncio
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog
from structlog.typing import FilteringBoundLogger

from kracauer import logs
from kracauer.config import Config
from kracauer.daemon.control import ControlServer
from kracauer.daemon.estate import Estate
from kracauer.daemon.flow_files import arrange_flow_files
from kracauer.daemon.lock import ServiceLock, hold_lock
from kracauer.daemon.offloading import Offload
from kracauer.daemon.privileges import drop_privileges
from kracauer.daemon.reload import ReadConfig, Reloader
from kracauer.daemon.routing import ServiceRoutes, Services, occupied
from kracauer.daemon.runtime import boot_id, runtime_file
from kracauer.daemon.secret import load_secret
from kracauer.daemon.service import SWITCH_INTERVAL_S
from kracauer.daemon.session import Session
from kracauer.daemon.stopping import StopRequest, StopSignals, hold_stop_signals, stop_signals_as_interrupts
from kracauer.daemon.taking_up import Circumstances, EngineFactory, take_up_alone, take_up_together
from kracauer.errors import RemediableError
from kracauer.host import (
    SHARED,
    HostSetup,
    HostWatch,
    IcmpSocket,
    advise,
    advise_sharing,
    destinations,
    expected,
    gather,
    plan,
    table,
)
from kracauer.tun import Device, RecordingDevice, TunDevice, open_device


class RecordingError(RemediableError):
    """The file for the packets cannot be written."""


def serve(config: Config, engine_factory: EngineFactory, *, read_config: ReadConfig, record: Path | None = None) -> None:
    """Serve until SIGTERM, which keeps connections, device and routes for a successor, or SIGINT, which gives them back.

    `read_config` is for reloads, and is called in a thread. Main thread only. Raises AlreadyRunningError, DeviceError,
    DeviceLostError, HostError, OffloadError, RecordingError or WorkerError.
    """
    log: FilteringBoundLogger = structlog.get_logger()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with stop_signals_as_interrupts() as signals, ExitStack() as stack:
        try:
            lock = hold_lock(config.network.device, log)
        except StopRequest:
            _log_early_stop(log)
            return
        stack.callback(lock.release)
        if (output := logs.output()) is not None:
            stack.callback(output.close)
        estate = Estate(config, log)
        try:
            session = _start(config, engine_factory, read_config, record, log, lock, estate, stack)
        except BaseException as error:
            _give_up(error, signals, estate, config, log)
            if not isinstance(error, KeyboardInterrupt):
                raise
            return
        _run(session, signals, estate, log)


def _give_up(error: BaseException, signals: StopSignals, estate: Estate, config: Config, log: FilteringBoundLogger) -> None:
    hold_stop_signals()
    if signals.request is not None and signals.request.is_final:
        estate.forget(config)
    else:
        estate.abandon()
    if isinstance(error, KeyboardInterrupt):
        _log_early_stop(log)


def _log_early_stop(log: FilteringBoundLogger) -> None:
    log.info("stopped", cause="asked to stop before it was ready")


def _run(session: Session, signals: StopSignals, estate: Estate, log: FilteringBoundLogger) -> None:
    try:
        with suppress(StopRequest):  # just before the loop had handlers of its own
            asyncio.run(session.run(signals))
    finally:
        hold_stop_signals()
        is_final = session.is_final or (signals.request is not None and signals.request.is_final)
        outcome = estate.forget(session.config) if is_final else estate.keep()
        log.info("stopped", uptime_s=round(session.uptime_s, 3), **outcome, **session.totals())
        session.dismiss(outcome)


def _start(
    config: Config,
    engine_factory: EngineFactory,
    read_config: ReadConfig,
    record: Path | None,
    log: FilteringBoundLogger,
    lock: ServiceLock,
    estate: Estate,
    stack: ExitStack,
) -> Session:
    network = config.network
    if record is not None and network.workers > 1:
        cause = f"the packets of {network.workers} workers cannot be recorded in one file"
        raise RecordingError(cause, "set network.workers = 1 for as long as you record; a restart keeps connections")
    secret, boot = load_secret(network.device, log), boot_id()
    device = _open_device(config, record, log, estate, stack)
    arrange_flow_files(network.device, network.workers, prefix=config.prefix, boot_id=boot, log=log)
    offload = estate.offload = Offload(config, network.device, log)
    icmp = _open_icmp(config, log, stack)
    given = Circumstances(config, secret, boot, estate, offload, icmp, lock.descriptor, log)
    if network.workers == 1:
        work = take_up_alone(given, engine_factory, device, is_recording=record is not None)
    else:
        work = take_up_together(given, stack)
    # Only now: the routes that adopted flows need are not those of the configuration alone.
    _set_up_host(config, log, estate, work.services)
    routes = None
    if estate.setup is not None:
        watch = HostWatch(network.device, estate.setup)
        stack.callback(watch.close)
        routes = ServiceRoutes(config, estate.setup, watch, work.services, log)
        routes.lead_flows(config)
    serving, reconfigurable, resolver = work.begin()
    reloader = Reloader(config, read_config, reconfigurable, routes, log, resolver)
    session = Session(serving, reloader, routes, log, resolver)
    control = ControlServer(runtime_file(network.device, "sock"), session.handlers, log)
    control.open()
    session.control = control
    capabilities = drop_privileges(keep_net_admin=network.manage)
    log.debug("privileges_dropped", capabilities=capabilities)
    offload.check()
    # Only now: a thread that was there before would have kept them.
    if (output := logs.output()) is not None:
        output.start()
    return session


def _open_device(config: Config, record: Path | None, log: FilteringBoundLogger, estate: Estate, stack: ExitStack) -> Device:
    network = config.network
    tun = estate.tun = open_device(
        network.device,
        has_offloads=network.offloads,
        is_adopting=not network.manage,
        is_persistent=network.manage,
        has_queues=network.workers > 1,
        may_replace=True,
    )
    if tun.is_replaced:
        log.info("device_remade", device=tun.name, workers=network.workers)
    if tun.fallback:
        log.warning("offloads_unavailable", device=tun.name, cause=tun.fallback)
    return tun if record is None else _open_recording(tun, record, log, stack)


def _open_recording(tun: TunDevice, path: Path, log: FilteringBoundLogger, stack: ExitStack) -> Device:
    def warn(error: OSError) -> None:
        log.warning("recording_ended", path=str(path), cause=error.strerror)

    try:
        device = RecordingDevice(tun, path, on_failure=warn)
    except OSError as error:
        raise RecordingError(f"{path} cannot be written ({error.strerror})", "name another file for --record") from error
    stack.callback(device.close)
    return device


def _set_up_host(config: Config, log: FilteringBoundLogger, estate: Estate, services: Services) -> None:
    if not config.network.manage:
        log.info("network_unmanaged", device=config.network.device, expects=[step.render() for step in expected(config)])
        return
    facts = gather(config.network.device, destinations(config), table(config))
    for advice in advise(facts):
        log.warning("forwarding_off", cause=advice.cause, remedy=advice.remedy)
    for advice in advise_sharing(facts, config):
        log.warning("sharing_hampered", cause=advice.cause, remedy=advice.remedy)
    setup = HostSetup(plan(config, facts, in_use=occupied(config, services())))
    setup.apply()
    estate.setup = setup


def _open_icmp(config: Config, log: FilteringBoundLogger, stack: ExitStack) -> IcmpSocket | None:
    """What hears the ICMP errors that come for a shared address; those for one that is routed come by the device."""
    if config.network.ownership != SHARED:
        return None
    try:
        errors = IcmpSocket()
    except OSError as error:
        log.warning(
            "icmp_unheard",
            cause=f"ICMP errors that come for this host's own address cannot be heard ({error.strerror}): clients behind a "
            "narrow link will find their connections stall",
            remedy="run Kracauer as root or with CAP_NET_RAW, which it gives up once it has begun",
        )
        return None
    stack.callback(errors.close)
    return errors
