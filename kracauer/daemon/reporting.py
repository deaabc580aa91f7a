"""What the engine and the device have to tell, as log lines and numbers: everything is counted, not everything gets a line."""

from structlog.typing import FilteringBoundLogger

from kracauer.daemon.counters import Counters
from kracauer.events import BackendDown, BackendFailed, BackendUp, Event, FlowClosed, FlowRefused, PacketDropped
from kracauer.fast_path import FastPath
from kracauer.logs import LEVELS, RepeatLog, SurgeLog
from kracauer.tcp.state import SPLICED
from kracauer.tun import Device


class Reporter:
    """Counts events and logs those of `level` and worse, so that no client decides how much is written."""

    def __init__(self, log: FilteringBoundLogger, level: str) -> None:
        self.counters = Counters()
        self._threshold = LEVELS[level]
        self._repeats = RepeatLog(log)
        self._surges = SurgeLog(log)

    def set_level(self, level: str) -> None:
        """Log `level` and worse from now on."""
        self._threshold = LEVELS[level]

    def note_event(self, event: Event, now: float) -> None:
        """Count what the engine tells, and log it if it is to be shown and has not had its share of lines."""
        is_shown = LEVELS[event.level] >= self._threshold
        if isinstance(event, PacketDropped):
            self.counters.dropped[event.reason] += 1
            if is_shown:
                self._repeats.note(now, event.reason, level=event.level, event=event.event, fields=event.fields)
            return
        self.counters.events[event.event] += 1
        if is_shown:
            kind, reason = _kind(event)
            self._surges.note(now, kind, level=event.level, event=event.event, reason=reason, fields=event.fields)

    def note_refused(self, device: Device, now: float) -> None:
        """Count and log the packets that the kernel did not take, and have `device` count anew."""
        for name, count in device.refused.items():
            self.counters.refused[name] += count
            fields = {"device": device.name, "errno": name}
            self._repeats.note(now, f"refused {name}", level="warning", event="write_refused", fields=fields.copy, count=count)
        device.refused.clear()

    def note_not_taken(self, fast_path: FastPath, now: float) -> None:
        """Count and log the flows that a fast path could not take, and have it count anew."""
        for name, count in fast_path.refused.items():
            self.counters.offload_refused[name] += count
            fields = {"errno": name}
            self._repeats.note(
                now, f"offload {name}", level="warning", event="offload_refused", fields=fields.copy, count=count
            )
        fast_path.refused.clear()

    def note_internal_error(self, error: Exception, now: float) -> None:
        """Count a mistake of ours, and log the first of its type with its traceback."""
        self.counters.internal_errors += 1
        fields = {"error": repr(error)}
        self._repeats.note(
            now, f"internal {type(error)}", level="error", event="internal_error", fields=fields.copy, error=error
        )

    @property
    def next_deadline(self) -> float | None:
        """When `flush` next has something to do; None when nothing is pending."""
        pending = [due for due in (self._repeats.next_deadline, self._surges.next_deadline) if due is not None]
        return min(pending, default=None)

    def flush(self, now: float) -> None:
        """Log how many events there were of those that had no line of their own."""
        self._repeats.flush(now)
        self._surges.flush(now)

    def close(self) -> None:
        """Log what has been counted and not yet been said."""
        self._repeats.close()
        self._surges.close()


def _kind(event: Event) -> tuple[str, str]:
    """Which events share their lines, and what to count one under that gets none.

    Connections that came to nothing cost an attacker the least: they must not use up the lines of those that were served.
    """
    match event:
        case FlowClosed() if event.state in SPLICED:
            return "served", event.reason
        case BackendDown() | BackendUp():
            return "backends", event.event
        case FlowClosed() | FlowRefused() | BackendFailed():
            return "", event.reason
    return "", ""
