"""One run of the service: the loop's tasks and signals, what it answers on the control socket, and how it ends."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from structlog.typing import FilteringBoundLogger

import kracauer
from kracauer.config import Config
from kracauer.daemon.backends import describe_backends
from kracauer.daemon.control import ControlServer, Handler
from kracauer.daemon.counters import Counters
from kracauer.daemon.estate import Estate
from kracauer.daemon.notify import Heartbeat, notify
from kracauer.daemon.reload import Reloader, summary
from kracauer.daemon.resolver import Resolver
from kracauer.daemon.routing import ServiceRoutes
from kracauer.daemon.service import PacketEngine, Service
from kracauer.daemon.stopping import StopRequest, StopSignals, hold_stop_signals


class Session:
    """Runs `service` with all that goes beside it; `control` is to be set before."""

    control: ControlServer

    def __init__(
        self,
        service: Service,
        engine: PacketEngine,
        reloader: Reloader,
        routes: ServiceRoutes | None,
        estate: Estate,
        log: FilteringBoundLogger,
        resolver: Resolver | None = None,
    ) -> None:
        self._service = service
        self._engine = engine
        self._reloader = reloader
        self._routes = routes
        self._estate = estate
        self._log = log
        self._resolver = resolver
        self._started = time.monotonic()
        self._heartbeat = Heartbeat(self._describe)

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._reloader.config

    @property
    def is_final(self) -> bool:
        """Whether nothing is to be kept."""
        return self._service.is_final

    @property
    def counters(self) -> Counters:
        """What has been seen so far."""
        return self._service.counters

    @property
    def uptime_s(self) -> float:
        """How long it has been."""
        return time.monotonic() - self._started

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What answers on the control socket, by command."""
        return {"reload": self._handle_reload, "stop": self._handle_stop, "status": self._handle_status}

    async def run(self, signals: StopSignals) -> None:
        """Serve until a stop is asked for, or not at all if that was done before. Raises DeviceLostError."""
        try:
            await self._service.run(lambda: self._begin(signals.request))
        finally:
            hold_stop_signals()  # before the loop takes its own handlers away
            notify("STOPPING=1")
            self._heartbeat.stop()
            await self.control.close()
            await self._reloader.close()
            if self._resolver is not None:
                await self._resolver.close()
            if self._routes is not None:
                await self._routes.close()

    def dismiss(self, outcome: Mapping[str, object]) -> None:
        """Tell those who asked for the stop how it went."""
        self.control.dismiss(outcome)

    def _begin(self, request: StopRequest | None) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reloader.request)
        self.control.start()
        if self._routes is not None:
            self._routes.start()
        if self._resolver is not None:
            self._resolver.start()
        self._log.info("ready", **summary(self.config), prefix=str(self.config.prefix), device=self.config.network.device)
        notify(f"READY=1\nSTATUS={self._describe()}")
        self._heartbeat.start()
        if request is not None:
            self._service.stop()

    def _describe(self) -> str:
        return f"{len(self._engine.flows)} connections, {len(self.config.routes)} names"

    async def _handle_reload(self, _request: Mapping[str, Any]) -> Mapping[str, object]:
        outcome = await asyncio.shield(self._reloader.request())
        return {"problems": outcome.problems, **outcome.summary}

    async def _handle_stop(self, request: Mapping[str, Any]) -> None:
        if request.get("forget") is True:
            self._service.stop_for_good()
        else:
            self._service.stop()

    async def _handle_status(self, _request: Mapping[str, Any]) -> Mapping[str, object]:
        last = self._reloader.last
        return {
            "version": kracauer.__version__,
            "pid": os.getpid(),
            "uptime_s": round(self.uptime_s, 3),
            "device": self.config.network.device,
            "prefix": str(self.config.prefix),
            **summary(self.config),
            "flows": dict(Counter(str(flow.state) for flow in self._engine.flows)),
            "backends": describe_backends(self._engine.backends(), time.monotonic()),
            "flows_kept": self._estate.flows_kept,
            "holdings": self._engine.holdings,
            "last_reload": None if last is None else {"at": last.at, "problems": last.problems},
            "offload": self._describe_fast_path(),
            "counters": self.counters.fields(),
        }

    def _describe_fast_path(self) -> Mapping[str, object]:
        path = self._service.fast_path
        standing = path.standing
        return {
            "wanted": self.config.network.offload,
            "hook": standing.hook or None,
            "flows": len(path),
            "survives": standing.survives,
            "kept_by": standing.kept_by or None,
            "cause": standing.cause or None,
            "remedy": standing.remedy or None,
        }
