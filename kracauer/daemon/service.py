"""The pump between device and engine on an asyncio loop: bounded batches, one timer, events to log and counters.

An exception out of the engine costs one packet; the loss of the device ends the service.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from structlog.typing import FilteringBoundLogger

from kracauer.daemon.counters import Counters
from kracauer.daemon.stopping import STOP_SIGNALS
from kracauer.errors import DeviceError, HostError
from kracauer.events import Event, PacketDropped
from kracauer.host import HostSetup, LinkWatch
from kracauer.logs import LEVELS, RepeatLog
from kracauer.tun import Device
from kracauer.wire.buffer import Buffer, Frame

BATCH: Final = 64  # packets before timers and signals get their turn: some 2 ms of work at worst
_LEAST_DELAY_S: Final = 0.001  # between two timer calls, whatever the engine asks for
_DELAY_AFTER_ERROR_S: Final = 1.0


class PacketEngine(Protocol):
    """What is asked of an engine."""

    def receive(self, frame: Frame, now: float) -> Sequence[Buffer]:
        """Take a packet; returns those to write, which may borrow from the frame."""

    def handle_timer(self, now: float) -> Sequence[Buffer]:
        """Do what was due; returns packets to write."""

    def next_deadline(self) -> float | None:
        """When something is due next, on the clock that `now` is from."""

    def next_event(self) -> Event | None:
        """The next thing that happened, until there is none."""


class Service:
    """Pumps packets until it is told to stop. `setup` and `watch` restore the host's routes after the link was down."""

    def __init__(
        self,
        device: Device,
        engine: PacketEngine,
        log: FilteringBoundLogger,
        *,
        log_level: str = "info",
        setup: HostSetup | None = None,
        watch: LinkWatch | None = None,
    ) -> None:
        self.counters = Counters()
        self._device = device
        self._engine = engine
        self._log = log
        self._log_threshold = LEVELS[log_level]
        self._repeats = RepeatLog(log)
        self._setup = setup
        self._watch = watch
        self._frame = Frame()
        self._stopped: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_deadline: float | None = None
        self._repeats_timer: asyncio.TimerHandle | None = None
        self._restoring: set[asyncio.Task[None]] = set()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until SIGTERM, SIGINT or `stop`; raises DeviceLostError. Calls `on_ready` once packets are taken."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._stopped = loop.create_future()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGUSR1, self.log_counters)
        loop.add_signal_handler(signal.SIGHUP, self._refuse_reload)
        loop.set_exception_handler(self._handle_loop_error)
        loop.add_reader(self._device.fileno(), self._handle_readable)
        if self._watch is not None:
            loop.add_reader(self._watch.fileno(), self._handle_link)
        self._arm_timer(time.monotonic())
        on_ready()
        try:
            await self._stopped
        finally:
            self._let_go()

    @property
    def is_running(self) -> bool:
        """Whether packets are taken: from `on_ready` until a stop was asked for or the device was lost."""
        return self._stopped is not None and not self._stopped.done()

    def stop(self, error: DeviceError | None = None) -> None:
        """End `run`, with `error` if there is one."""
        if self._stopped is None or self._stopped.done():
            return
        if error is None:
            self._stopped.set_result(None)
        else:
            self._stopped.set_exception(error)

    def log_counters(self) -> None:
        """One line with everything counted so far."""
        self._log.info("counters", **self.counters.fields())

    def _handle_readable(self) -> None:
        now = time.monotonic()
        try:
            self._pump(now)
        except DeviceError as error:
            self._loop.remove_reader(self._device.fileno())  # it stays readable, and has nothing more to say
            self.stop(error)
        self._settle(now)

    def _pump(self, now: float) -> None:
        device, engine, frame, monotonic = self._device, self._engine, self._frame, time.monotonic
        read = written = 0
        try:
            while read < BATCH and device.read_into(frame):
                read += 1
                try:
                    for packet in engine.receive(frame, monotonic()):
                        device.write(packet)
                        written += 1
                except DeviceError:
                    raise
                except Exception as error:  # a mistake of ours must not cost more than the packet that met it
                    self._note_internal_error(error, now)
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
            self._note_internal_error(error, now)
            delay_s = _DELAY_AFTER_ERROR_S  # what failed may still be due, and would be tried without end
        self._settle(now, delay_s)

    def _settle(self, now: float, delay_s: float = _LEAST_DELAY_S) -> None:
        """Log and count what has happened, and arm the timer anew."""
        while (event := self._engine.next_event()) is not None:
            self._handle_event(event, now)
        if self._device.refused:
            self._handle_refused(now)
        self._arm_timer(now, delay_s)
        if self._repeats_timer is None and (due := self._repeats.next_deadline) is not None:
            self._repeats_timer = self._loop.call_at(due, self._flush_repeats)

    def _handle_event(self, event: Event, now: float) -> None:
        is_shown = LEVELS[event.level] >= self._log_threshold
        if isinstance(event, PacketDropped):
            self.counters.dropped[event.reason] += 1
            if is_shown:
                self._repeats.note(now, event.reason, level=event.level, event=event.event, fields=event.fields)
            return
        self.counters.events[event.event] += 1
        if is_shown:
            self._log.log(LEVELS[event.level], event.event, **event.fields())

    def _handle_refused(self, now: float) -> None:
        for name, count in self._device.refused.items():
            self.counters.refused[name] += count
            fields = {"device": self._device.name, "errno": name}
            self._repeats.note(now, f"refused {name}", level="warning", event="write_refused", fields=fields.copy)
        self._device.refused.clear()

    def _note_internal_error(self, error: Exception, now: float) -> None:
        self.counters.internal_errors += 1
        fields = {"error": repr(error)}
        self._repeats.note(
            now, f"internal {type(error)}", level="error", event="internal_error", fields=fields.copy, error=error
        )

    def _arm_timer(self, now: float, delay_s: float = _LEAST_DELAY_S) -> None:
        deadline = self._engine.next_deadline()
        if deadline == self._timer_deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_deadline = deadline
        self._timer = None if deadline is None else self._loop.call_at(max(deadline, now + delay_s), self._handle_timer)

    def _flush_repeats(self) -> None:
        self._repeats_timer = None
        now = time.monotonic()
        self._repeats.flush(now)
        self._settle(now)

    def _handle_link(self) -> None:
        if self._watch is not None and self._watch.has_come_up():
            task = self._loop.create_task(self._restore_routes())
            self._restoring.add(task)
            task.add_done_callback(self._restoring.discard)

    async def _restore_routes(self) -> None:
        if self._setup is None:
            return
        try:
            await asyncio.to_thread(self._setup.restore_routes)
        except HostError as error:
            self._log.error("routes_not_restored", cause=error.cause, remedy=error.remedy)
        else:
            self._log.warning("routes_restored", device=self._device.name, cause="the link was down and came up again")

    def _handle_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Asyncio's last resort: what a callback of ours has let through."""
        error = context.get("exception")
        self._note_internal_error(error if isinstance(error, Exception) else RuntimeError(context["message"]), time.monotonic())

    def _refuse_reload(self) -> None:
        self._log.warning("reload_refused", cause="a running service cannot take a new configuration", remedy="restart it")

    def _let_go(self) -> None:
        self._loop.remove_reader(self._device.fileno())
        if self._watch is not None:
            self._loop.remove_reader(self._watch.fileno())
        for timer in (self._timer, self._repeats_timer):
            if timer is not None:
                timer.cancel()
        self._repeats.close()
