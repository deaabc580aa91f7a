"""The pump between device and engine on an asyncio loop: bounded batches, one timer, events to log and counters.

An exception out of the engine costs one packet; the loss of the device ends the service.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv6Address
from typing import Any, Final, Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from kracauer.config import Config
from kracauer.daemon.counters import Counters
from kracauer.daemon.reporting import Reporter
from kracauer.daemon.stopping import Stoppable
from kracauer.engine import BackendStatus
from kracauer.errors import DeviceError
from kracauer.events import Event
from kracauer.fast_path import FastPath, NoFastPath
from kracauer.flows import FlowTable
from kracauer.tcp.splice import Splice
from kracauer.tun import Device
from kracauer.wire.buffer import Buffer, Frame

# Before timers and signals get their turn: so many packets, or no further one after so many seconds.
BATCH: Final = 64
BATCH_S: Final = 0.002
# How old what the records tell of packets that pass without us may get, should the process be killed.
SWEEP_S: Final = 1.0
FOLLOWED: Final = 256  # of the flows that have ended since, some 8 µs each; then packets have their turn
# What other threads do, the reading of a large configuration above all, must not hold up packets for Python's usual 5 ms each.
SWITCH_INTERVAL_S: Final = 0.0005
EventKind = TypeVar("EventKind", bound=Event)

_LEAST_DELAY_S: Final = 0.001  # between two timer calls, whatever the engine asks for
_DELAY_AFTER_ERROR_S: Final = 1.0


class AdoptedFlows(Protocol):
    """What came of the records of an earlier process."""

    @property
    def adopted(self) -> int:
        """Flows that go on."""

    @property
    def discarded(self) -> int:
        """Records of which no flow could be made."""


class PacketEngine(Protocol):
    """What is asked of an engine."""

    @property
    def flows(self) -> FlowTable:
        """Every flow there is; not to be altered."""

    @property
    def holdings(self) -> dict[str, int]:
        """What is held of what all clients share, by name."""

    def backends(self) -> Sequence[BackendStatus]:
        """What is known of each backend in use."""

    def adopt(self, now: float) -> AdoptedFlows:
        """Make flows of what the records hold; called once, before any packet."""

    def reconfigure(self, config: Config, now: float) -> None:
        """Go by `config` from now on; flows there are keep what they have."""

    def note_addresses(self, name: str, addresses: Collection[IPv6Address] | None, now: float) -> Sequence[Buffer]:
        """Go by what a DNS name has now, None where that is not known; returns packets to write."""

    def follow(self, moved: Iterable[Splice]) -> None:
        """Go by what the fast path has seen of these flows, as its `sweep` said."""

    def abort(self, now: float) -> Sequence[Buffer]:
        """End every flow; returns packets to write that tell either side."""

    def receive(self, frame: Frame, now: float) -> Sequence[Buffer]:
        """Take a packet; returns those to write, which may borrow from the frame."""

    def handle_timer(self, now: float) -> Sequence[Buffer]:
        """Do what was due; returns packets to write."""

    def age(self, now: float) -> None:
        """Let what was learnt age, though no packet should come."""

    def next_deadline(self) -> float | None:
        """When something is due next, on the clock that `now` is from."""

    def next_event(self) -> Event | None:
        """The next thing that happened, until there is none."""


class PacketSource(Protocol):
    """Where packets come from besides the device, never to be waited for."""

    def fileno(self) -> int:
        """A descriptor that turns readable when there are some."""

    def read_into(self, frame: Frame) -> bool:
        """Fill `frame` with the next one; False when none is there now."""


class Service(Stoppable):
    """Pumps packets until it is told to stop. `is_final` then says whether nothing is to be kept for a successor.

    Packets come from `device` and from `sources`. Without `has_signals` it leaves signals to others.
    """

    def __init__(
        self,
        device: Device,
        engine: PacketEngine,
        log: FilteringBoundLogger,
        *,
        log_level: str = "info",
        sources: Sequence[PacketSource] = (),
        fast_path: FastPath | None = None,
        has_signals: bool = True,
    ) -> None:
        super().__init__()
        self._has_signals = has_signals
        self._device = device
        self._sources = (device, *sources)
        self._fast_path = NoFastPath() if fast_path is None else fast_path
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._moved: list[Splice] = []
        self._follow_handle: asyncio.Handle | None = None
        self._engine = engine
        self._log = log
        self._reporter = Reporter(log, log_level)
        self._reporter.counters.carried = self._fast_path.carried
        self._frame = Frame()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_deadline: float | None = None
        self._reports_timer: asyncio.TimerHandle | None = None
        self._handlers: dict[type[Event], Callable[[Any], None]] = {}

    @property
    def counters(self) -> Counters:
        """What has been seen so far."""
        return self._reporter.counters

    @property
    def fast_path(self) -> FastPath:
        """What takes packets before they come here."""
        return self._fast_path

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until SIGTERM, SIGINT or `stop`; raises DeviceLostError. Calls `on_ready` once packets are taken."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._stopped = loop.create_future()
        if self._has_signals:
            loop.add_signal_handler(signal.SIGTERM, self.stop)
            loop.add_signal_handler(signal.SIGINT, self.stop_for_good)
            loop.add_signal_handler(signal.SIGUSR1, self.log_counters)
        loop.set_exception_handler(self._handle_loop_error)
        for source in self._sources:
            loop.add_reader(source.fileno(), self._handle_readable, source)
        self._arm_timer(time.monotonic())
        self._sweep()
        on_ready()
        try:
            await self._stopped
            if self.is_final:
                self._abort()
        finally:
            self._let_go()

    def log_counters(self) -> None:
        """One line with everything counted so far."""
        self._log.info("counters", **self.counters.fields())

    def reconfigure(self, config: Config) -> None:
        """Hand `config` to the engine, between two packets, and log as it says."""
        now = time.monotonic()
        self._engine.reconfigure(config, now)
        self._reporter.set_level(config.log.level)
        self._settle(now)

    def on(self, kind: type[EventKind], handler: Callable[[EventKind], None]) -> None:
        """Have `handler` called with every event of this `kind`, of which there is to be no more than one."""
        self._handlers[kind] = handler

    def note_event(self, event: Event) -> None:
        """Count and log what others than the engine have to tell."""
        self._reporter.note_event(event, time.monotonic())

    def note_internal_error(self, error: Exception) -> None:
        """Count and log a mistake of ours in what goes beside the packets."""
        self._reporter.note_internal_error(error, time.monotonic())

    def note_addresses(self, name: str, addresses: Collection[IPv6Address] | None) -> None:
        """Hand what a DNS name has now to the engine, between two packets."""
        if not self.is_running:
            return
        now = time.monotonic()
        try:
            for packet in self._engine.note_addresses(name, addresses, now):
                self._device.write(packet)
                self.counters.packets_written += 1
        except DeviceError as error:
            self.stop(error)
        except Exception as error:  # a mistake of ours costs those who wait for this name
            self._reporter.note_internal_error(error, now)
        self._settle(now)

    def _handle_readable(self, source: PacketSource) -> None:
        now = time.monotonic()
        try:
            self._pump(source, now)
        except DeviceError as error:
            self._loop.remove_reader(self._device.fileno())  # it stays readable, and has nothing more to say
            self.stop(error)
        self._settle(now)

    def _pump(self, source: PacketSource, now: float) -> None:
        device, engine, frame, monotonic = self._device, self._engine, self._frame, time.monotonic
        read = written = 0
        until = now + BATCH_S
        try:
            while read < BATCH and now < until and source.read_into(frame):
                read += 1
                now = monotonic()
                try:
                    for packet in engine.receive(frame, now):
                        device.write(packet)
                        written += 1
                except DeviceError:
                    raise
                except Exception as error:  # a mistake of ours must not cost more than the packet that met it
                    self._reporter.note_internal_error(error, now)
        finally:
            self.counters.packets_read += read
            self.counters.packets_written += written

    def _handle_timer(self) -> None:
        self._timer = self._timer_deadline = None
        now = time.monotonic()
        delay_s = _LEAST_DELAY_S
        try:
            for packet in self._engine.handle_timer(now):
                self._device.write(packet)
                self.counters.packets_written += 1
        except DeviceError as error:
            self.stop(error)
        except Exception as error:
            self._reporter.note_internal_error(error, now)
            delay_s = _DELAY_AFTER_ERROR_S  # what failed may still be due, and would be tried without end
        self._settle(now, delay_s)

    def _settle(self, now: float, delay_s: float = _LEAST_DELAY_S) -> None:
        """Log and count what has happened, and arm the timers anew."""
        reporter = self._reporter
        while (event := self._engine.next_event()) is not None:
            reporter.note_event(event, now)
            handler = self._handlers.get(type(event))
            if handler is not None:
                handler(event)
        if self._device.refused:
            reporter.note_refused(self._device, now)
        self._arm_timer(now, delay_s)
        if self._reports_timer is None and (due := reporter.next_deadline) is not None:
            self._reports_timer = self._loop.call_at(due, self._flush_reports)

    def _arm_timer(self, now: float, delay_s: float = _LEAST_DELAY_S) -> None:
        deadline = self._engine.next_deadline()
        if deadline == self._timer_deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_deadline = deadline
        self._timer = None if deadline is None else self._loop.call_at(max(deadline, now + delay_s), self._handle_timer)

    def _sweep(self) -> None:
        """Have the records tell what passes without us, and the fast path that we are there."""
        self._sweep_timer = self._loop.call_later(SWEEP_S, self._sweep)
        now = time.monotonic()
        try:
            self._moved += self._fast_path.sweep(now)
            self._engine.age(now)
        except Exception as error:  # a mistake of ours: the flows go on, and the next sweep may do better
            self._reporter.note_internal_error(error, now)
        if self._follow_handle is None:
            self._follow(now)
        if self._fast_path.refused:
            self._reporter.note_not_taken(self._fast_path, now)
            self._settle(now)

    def _follow(self, now: float) -> None:
        """Tell the engine of flows that the fast path has moved on, some at a time: packets have their turn in between."""
        self._follow_handle = None
        moved, self._moved = self._moved[:FOLLOWED], self._moved[FOLLOWED:]
        if not moved:
            return
        try:
            self._engine.follow(moved)
        except Exception as error:  # likewise, and whoever looks at one of these flows finds out what it has missed
            self._reporter.note_internal_error(error, now)
        self._arm_timer(now)
        if self._moved:
            self._follow_handle = self._loop.call_soon(self._follow, now)

    def _flush_reports(self) -> None:
        self._reports_timer = None
        now = time.monotonic()
        self._reporter.flush(now)
        self._settle(now)

    def _abort(self) -> None:
        """Nobody will go on with the flows: better that their ends hear of it than that they wait."""
        now = time.monotonic()
        try:
            for packet in self._engine.abort(now):
                self._device.write(packet)
                self.counters.packets_written += 1
        except Exception as error:  # the stop goes on without
            self._reporter.note_internal_error(error, now)
        self._settle(now)

    def _handle_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Asyncio's last resort: what a callback of ours has let through."""
        error = context.get("exception")
        self._reporter.note_internal_error(
            error if isinstance(error, Exception) else RuntimeError(context["message"]), time.monotonic()
        )

    def _let_go(self) -> None:
        for source in self._sources:
            self._loop.remove_reader(source.fileno())
        for timer in (self._timer, self._reports_timer, self._sweep_timer, self._follow_handle):
            if timer is not None:
                timer.cancel()
        if self._fast_path.refused:
            self._reporter.note_not_taken(self._fast_path, time.monotonic())
        self._reporter.close()
