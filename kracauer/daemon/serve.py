"""From a configuration to a running service and back: lock, open, set up, adopt, serve; then keep, or give back."""

import asyncio
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Protocol

import structlog
from structlog.typing import FilteringBoundLogger

from kracauer import logs
from kracauer.config import Config
from kracauer.daemon.control import ControlServer
from kracauer.daemon.estate import Estate
from kracauer.daemon.flow_file import open_flow_file
from kracauer.daemon.garbage import spare_the_old
from kracauer.daemon.lock import hold_lock
from kracauer.daemon.lookup import Lookup
from kracauer.daemon.offloading import Offload
from kracauer.daemon.privileges import drop_privileges
from kracauer.daemon.reload import ReadConfig, Reloader
from kracauer.daemon.resolver import Resolver
from kracauer.daemon.routing import ServiceRoutes, occupied
from kracauer.daemon.runtime import boot_id, runtime_file
from kracauer.daemon.secret import load_secret
from kracauer.daemon.service import PacketEngine, Service
from kracauer.daemon.session import Session
from kracauer.daemon.stopping import StopRequest, StopSignals, hold_stop_signals, stop_signals_as_interrupts
from kracauer.errors import RemediableError
from kracauer.events import FlowSpliced, NameWanted
from kracauer.fast_path import FastPath
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
from kracauer.tcp.record import Records
from kracauer.tun import Device, RecordingDevice, TunDevice, open_device

# What other threads do, the reading of a large configuration above all, must not hold up packets for Python's usual 5 ms each.
_SWITCH_INTERVAL_S: Final = 0.0005


class EngineFactory(Protocol):
    """What makes an engine, whose flows are to lie in `records`, and may be carried by `fast_path`."""

    def __call__(
        self, config: Config, *, secret: bytes, now: float, records: Records | None, fast_path: FastPath | None
    ) -> PacketEngine:
        """Make it; `secret` is for the SYN cookies, `now` on the monotonic clock."""


class RecordingError(RemediableError):
    """The file for the packets cannot be written."""


def serve(config: Config, engine_factory: EngineFactory, *, read_config: ReadConfig, record: Path | None = None) -> None:
    """Serve until SIGTERM, which keeps connections, device and routes for a successor, or SIGINT, which gives them back.

    `read_config` is for reloads, and is called in a thread. Raises AlreadyRunningError, DeviceError, DeviceLostError, HostError
    or RecordingError; main thread only.
    """
    log: FilteringBoundLogger = structlog.get_logger()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with stop_signals_as_interrupts() as signals, ExitStack() as stack:
        try:
            stack.callback(hold_lock(config.network.device, log).release)
        except StopRequest:
            _log_early_stop(log)
            return
        if (output := logs.output()) is not None:
            stack.callback(output.close)
        estate = Estate(config, log)
        try:
            session = _start(config, engine_factory, read_config, record, log, estate, stack)
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
        log.info("stopped", uptime_s=round(session.uptime_s, 3), **outcome, **session.counters.fields())
        session.dismiss(outcome)


def _start(
    config: Config,
    engine_factory: EngineFactory,
    read_config: ReadConfig,
    record: Path | None,
    log: FilteringBoundLogger,
    estate: Estate,
    stack: ExitStack,
) -> Session:
    network = config.network
    secret = load_secret(network.device, log)
    device = _open_device(config, record, log, estate, stack)
    estate.flow_file = open_flow_file(runtime_file(network.device, "flows"), prefix=config.prefix, boot_id=boot_id(), log=log)
    records = estate.flow_file.records
    offload = estate.offload = Offload(config, device.name, log)
    offload.open(records, is_recording=record is not None)
    path = offload.path
    engine = engine_factory(config, secret=secret, now=time.monotonic(), records=records, fast_path=path)
    estate.flows = engine.flows
    spare_the_old()
    _adopt(engine, log)
    # Only now: whatever flow it finds in its maps it takes at once.
    offload.attach(records)
    # Only now: the routes that adopted flows need are not those of the configuration alone.
    _set_up_host(config, log, estate)
    routes = None
    if estate.setup is not None:
        watch = HostWatch(network.device, estate.setup)
        stack.callback(watch.close)
        routes = ServiceRoutes(config, estate.setup, watch, engine.flows, log)
        routes.lead_flows(config)
    service = Service(device, engine, log, log_level=config.log.level, errors=_open_icmp(config, log, stack), fast_path=path)
    resolver = _make_resolver(config, service)
    reloader = Reloader(config, read_config, service, routes, log, resolver)
    session = Session(service, engine, reloader, routes, estate, log, resolver)
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


def _make_resolver(config: Config, service: Service) -> Resolver:
    lookup = Lookup(config.dns)
    resolver = Resolver(config, lookup, service.note_addresses, service.note_event, service.note_internal_error)
    service.on(NameWanted, lambda event: resolver.want(event.name))
    service.on(FlowSpliced, lambda event: resolver.touch(event.hostname))
    return resolver


def _open_device(config: Config, record: Path | None, log: FilteringBoundLogger, estate: Estate, stack: ExitStack) -> Device:
    network = config.network
    tun = estate.tun = open_device(
        network.device, has_offloads=network.offloads, is_adopting=not network.manage, is_persistent=network.manage
    )
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


def _set_up_host(config: Config, log: FilteringBoundLogger, estate: Estate) -> None:
    if not config.network.manage:
        log.info("network_unmanaged", device=config.network.device, expects=[step.render() for step in expected(config)])
        return
    facts = gather(config.network.device, destinations(config), table(config))
    for advice in advise(facts):
        log.warning("forwarding_off", cause=advice.cause, remedy=advice.remedy)
    for advice in advise_sharing(facts, config):
        log.warning("sharing_hampered", cause=advice.cause, remedy=advice.remedy)
    in_use = () if estate.flows is None else occupied(config, estate.flows)
    setup = HostSetup(plan(config, facts, in_use=in_use))
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


def _adopt(engine: PacketEngine, log: FilteringBoundLogger) -> None:
    began = time.monotonic()
    adoption = engine.adopt(began)
    if adoption.adopted or adoption.discarded:
        duration_s = round(time.monotonic() - began, 6)
        log.info("flows_adopted", flows=adoption.adopted, discarded=adoption.discarded, duration_s=duration_s)
