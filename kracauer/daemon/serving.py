"""What a session runs, whether one process does all the work or several: and what one process has to tell of itself."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from kracauer.config import Config
from kracauer.daemon.backends import describe_backends
from kracauer.daemon.lookup import Lookup
from kracauer.daemon.resolver import Resolver
from kracauer.daemon.service import PacketEngine, Service
from kracauer.events import FlowSpliced, NameWanted
from kracauer.fast_path import FastPath


class Serving(Protocol):
    """Serves until it is told to stop."""

    @property
    def is_final(self) -> bool:
        """Whether nothing is to be kept."""

    @property
    def connections(self) -> int:
        """How many flows there are, as far as is known here."""

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until SIGTERM, SIGINT or `stop`; raises DeviceLostError. Calls `on_ready` once packets are taken."""

    def stop(self) -> None:
        """End `run`."""

    def stop_for_good(self) -> None:
        """End `run`, and have `is_final` say that there is to be no successor."""

    async def report(self) -> Mapping[str, object]:
        """All that `kracauer status` shows of flows, backends and packets."""

    def totals(self) -> Mapping[str, object]:
        """What was counted until the end, for the last line of the log."""


class Alone:
    """One process that does all: `service` with its `engine`; `kept` tells how many flows would outlive it."""

    def __init__(self, service: Service, engine: PacketEngine, kept: Callable[[], int]) -> None:
        self._service = service
        self._engine = engine
        self._kept = kept

    @property
    def is_final(self) -> bool:
        """As the service has it."""
        return self._service.is_final

    @property
    def connections(self) -> int:
        """How many flows there are."""
        return len(self._engine.flows)

    async def run(self, on_ready: Callable[[], None]) -> None:
        """As the service has it."""
        await self._service.run(on_ready)

    def stop(self) -> None:
        """As the service has it."""
        self._service.stop()

    def stop_for_good(self) -> None:
        """As the service has it."""
        self._service.stop_for_good()

    async def report(self) -> Mapping[str, object]:
        """What is told on the control socket."""
        return describe(self._service, self._engine, self._kept())

    def totals(self) -> Mapping[str, object]:
        """The counters."""
        return self._service.counters.fields()


def make_resolver(config: Config, service: Service) -> Resolver:
    """What looks names up for `service`, and hears from it which are wanted."""
    resolver = Resolver(config, Lookup(config.dns), service.note_addresses, service.note_event, service.note_internal_error)
    service.on(NameWanted, lambda event: resolver.want(event.name))
    service.on(FlowSpliced, lambda event: resolver.touch(event.hostname))
    return resolver


def describe(service: Service, engine: PacketEngine, flows_kept: int) -> dict[str, object]:
    """One process's flows by state, backends, and counters, as plain values."""
    return {
        "flows": dict(Counter(str(flow.state) for flow in engine.flows)),
        "backends": describe_backends(engine.backends(), time.monotonic()),
        "flows_kept": flows_kept,
        "holdings": engine.holdings,
        "offload": _describe_fast_path(service.fast_path),
        "counters": service.counters.fields(),
    }


def _describe_fast_path(path: FastPath) -> dict[str, object]:
    standing = path.standing
    return {
        "hook": standing.hook or None,
        "flows": len(path),
        "survives": standing.survives,
        "kept_by": standing.kept_by or None,
        "cause": standing.cause or None,
        "remedy": standing.remedy or None,
    }
