"""What operators read: one event a line on stderr, for people on a terminal and as JSON for everything else.

Each line has `timestamp`, `level` and `event` (a stable snake_case name) and the event's own fields.
"""

import contextlib
import logging
import os
import select
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from kracauer.ratelimit import TokenBucket

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
QUEUE_BYTES: Final = 4 * 1024 * 1024  # of lines that wait for a slow reader
LINES_PER_S: Final = 100.0
LINES_AT_ONCE: Final = 1000.0


def configure(level: str, form: str, stream: TextIO | None = None) -> FilteringBoundLogger:
    """Write `level` and worse to `stream` (stderr), as `form` "console", "json", or "auto": by whether it is a terminal."""
    output = sys.stderr if stream is None else stream
    is_terminal = output.isatty()
    is_console = form == "console" or (form == "auto" and is_terminal)
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if is_console:
        # A client chooses its hostname, and with raw control characters would choose what the terminal does.
        processors += [
            escape_control_characters,
            structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=structlog.dev.plain_traceback),
        ]
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=Output(output),
        cache_logger_on_first_use=False,
    )
    return cast("FilteringBoundLogger", structlog.get_logger())


def set_level(level: str) -> None:
    """Write `level` and worse from now on; nothing else of what `configure` has set changes."""
    structlog.configure(**structlog.get_config() | {"wrapper_class": structlog.make_filtering_bound_logger(LEVELS[level])})


def output() -> "Output | None":
    """Where the lines go since `configure`; None before."""
    factory = structlog.get_config()["logger_factory"]
    return factory if isinstance(factory, Output) else None


def escape_control_characters(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what is not printable in strings by its escape sequence: a structlog processor."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = value.encode("unicode_escape").decode("ascii")
    return event


class Output:
    """Writes lines to a stream and lets nothing go wrong by it: a closed terminal or a full disk must not stop the traffic.

    Whoever logs a line writes it, until `start`. From then on a thread does, so that a reader that has stalled does not hold up
    the traffic either: what has no room in the queue is lost, and the event `log_lines_lost` says how many lines that were.
    """

    def __init__(self, stream: TextIO, queue_bytes: int = QUEUE_BYTES) -> None:
        self._stream = stream
        self._queue_bytes = queue_bytes
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._size = 0
        self._lost = 0
        self._thread: threading.Thread | None = None
        self._is_closing = False

    def __call__(self, *_: object) -> "Output":
        """Be its own logger factory."""
        return self

    def start(self) -> None:
        """Have a thread write from now on; a stream that is no file goes on as before."""
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError):
            return
        # A daemon: one that is stuck in a full pipe must not keep the process alive.
        self._thread = threading.Thread(target=self._work, args=(descriptor,), name="log", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued, for at most that long; where it could not be, whatever is logged later is lost as well."""
        if self._thread is None:
            return
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._thread = None
            self._is_closing = False

    def msg(self, line: str) -> None:
        """Write one line, or queue it."""
        if self._thread is None:
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(line + "\n")
                self._stream.flush()
            return
        content = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            is_own = threading.current_thread() is self._thread  # how much was lost must not be lost itself
            if not is_own and (self._is_closing or self._size + len(content) > self._queue_bytes):
                self._lost += 1
                return
            self._lines.append(content)
            self._size += len(content)
            if len(self._lines) == 1:
                self._changed.notify()

    debug = info = warning = error = critical = msg

    def _work(self, descriptor: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._is_closing)
                if not self._lines:
                    return
                lines, self._lines, self._size = self._lines, [], 0
            if not _write_all(descriptor, b"".join(lines)):
                with self._changed:
                    self._lost += len(lines)
            elif self._lost:
                with self._changed:
                    lost, self._lost = self._lost, 0
                log: FilteringBoundLogger = structlog.get_logger()
                log.warning("log_lines_lost", lines=lost)


def _write_all(descriptor: int, content: bytes) -> bool:
    """Write it, however long that takes; False when it cannot be."""
    rest = memoryview(content)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # somebody who shares the pipe with us has set it so
            select.select([], [descriptor], [])
        except OSError:
            return False
    return True


@dataclass(slots=True)
class _Window:
    """One kind of event, heard of recently: until when it is only counted, and how often it has been."""

    until: float
    level: str
    event: str
    fields: Mapping[str, object]
    count: int = 0


class RepeatLog:
    """Logs the first event of its kind at once, and then how many more there were, at most once every `interval_s`."""

    def __init__(self, log: FilteringBoundLogger, interval_s: float = 10.0) -> None:
        self._log = log
        self._interval_s = interval_s
        self._windows: dict[str, _Window] = {}

    def note(
        self,
        now: float,
        kind: str,
        *,
        level: str,
        event: str,
        fields: Callable[[], Mapping[str, object]],
        error: BaseException | None = None,
        count: int = 1,
    ) -> None:
        """Log `event` if it is the first of its `kind` for a while, with the traceback of `error`; count it if not.

        `count` is how often it has been at once.
        """
        window = self._windows.get(kind)
        if window is not None and now < window.until:
            window.count += count
            return
        self.flush(now)
        self._windows[kind] = _Window(now + self._interval_s, level, event, fields(), count - 1)
        self._emit(level, event, {**fields(), "exc_info": error} if error else fields())

    def flush(self, now: float) -> None:
        """Log how many there were of each kind whose interval has passed."""
        for kind, window in list(self._windows.items()):
            if window.until > now:
                continue
            if window.count == 0:
                del self._windows[kind]
                continue
            self._summarise(window)
            window.until = now + self._interval_s
            window.count = 0

    def close(self) -> None:
        """Log what has been counted and not yet been said."""
        for window in self._windows.values():
            if window.count:
                self._summarise(window)
        self._windows.clear()

    @property
    def next_deadline(self) -> float | None:
        """When `flush` next has something to do; None when nothing is pending."""
        return min((window.until for window in self._windows.values()), default=None)

    def _summarise(self, window: _Window) -> None:
        self._emit(window.level, window.event, {**window.fields, "repeated": window.count})

    def _emit(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        self._log.log(LEVELS[level], event, **fields)


@dataclass(slots=True)
class _Surge:
    """One kind of event: how many lines it may have, and what has come beyond that, by reason, to be told at `until`."""

    bucket: TokenBucket
    level: str
    surplus: Counter[str]
    until: float | None = None


class SurgeLog:
    """Logs every event of a kind as long as there are not too many: clients bring them about, and must not fill the disk.

    Beyond `rate` lines a second (`burst` at once) events are counted only; every `interval_s` one line says how many.
    """

    def __init__(
        self, log: FilteringBoundLogger, rate: float = LINES_PER_S, burst: float = LINES_AT_ONCE, interval_s: float = 10.0
    ) -> None:
        self._log = log
        self._rate = rate
        self._burst = burst
        self._interval_s = interval_s
        self._surges: dict[tuple[str, str], _Surge] = {}

    def note(
        self, now: float, kind: str, *, level: str, event: str, reason: str, fields: Callable[[], Mapping[str, object]]
    ) -> None:
        """Log `event`, or count it under its `reason` where its `kind` has had its share of lines."""
        surge = self._surges.get((event, kind))
        if surge is None:
            surge = self._surges[event, kind] = _Surge(TokenBucket(self._rate, self._burst), level, Counter())
        if surge.bucket.take(now):
            self._log.log(LEVELS[level], event, **fields())
            return
        surge.surplus[reason] += 1
        if surge.until is None:
            surge.until = now + self._interval_s

    def flush(self, now: float) -> None:
        """Log how many there were of each kind whose interval has passed."""
        for (event, _), surge in self._surges.items():
            if surge.until is not None and surge.until <= now:
                surge.until = None
                self._summarise(event, surge)

    def close(self) -> None:
        """Log what has been counted and not yet been said."""
        for (event, _), surge in self._surges.items():
            if surge.surplus:
                self._summarise(event, surge)
        self._surges.clear()

    @property
    def next_deadline(self) -> float | None:
        """When `flush` next has something to do; None when nothing is pending."""
        return min((surge.until for surge in self._surges.values() if surge.until is not None), default=None)

    def _summarise(self, event: str, surge: _Surge) -> None:
        reasons = {reason: count for reason, count in surge.surplus.items() if reason}
        fields = {"reasons": reasons} if reasons else {}
        self._log.log(LEVELS[surge.level], event, repeated=surge.surplus.total(), **fields)
        surge.surplus.clear()
