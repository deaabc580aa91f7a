"""What operators read: one event a line on stderr, for people on a terminal and as JSON for everything else.

Each line has `timestamp`, `level` and `event` (a stable snake_case name) and the event's own fields.
"""

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


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
        logger_factory=lambda *_: _Output(output),
        cache_logger_on_first_use=False,
    )
    return cast("FilteringBoundLogger", structlog.get_logger())


def escape_control_characters(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what is not printable in strings by its escape sequence: a structlog processor."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = value.encode("unicode_escape").decode("ascii")
    return event


class _Output:
    """Writes lines and lets nothing go wrong by it: a closed terminal or a full disk must not stop the traffic."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = msg


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
    ) -> None:
        """Log `event` if it is the first of its `kind` for a while, with the traceback of `error`; count it if not."""
        window = self._windows.get(kind)
        if window is not None and now < window.until:
            window.count += 1
            return
        self.flush(now)
        self._windows[kind] = _Window(now + self._interval_s, level, event, fields())
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
