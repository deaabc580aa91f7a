"""What the service has seen so far, in numbers."""

from collections import Counter
from dataclasses import asdict, dataclass, field

from kracauer.errors import DropReason
from kracauer.fast_path import Carried


@dataclass(slots=True)
class Counters:
    """Totals since the start; `refused` by errno, `dropped` by DropReason, `events` by the name of the event.

    `carried` is what did not come here, and `offload_refused` the flows whose packets had to come, by errno.
    """

    packets_read: int = 0
    packets_written: int = 0
    internal_errors: int = 0
    carried: Carried = field(default_factory=Carried)
    refused: Counter[str] = field(default_factory=Counter)
    offload_refused: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    def fields(self) -> dict[str, object]:
        """All of them, for the log; empty tables are left out. Guesses are dropped for one reason, whoever drops them."""
        carried = asdict(self.carried)
        guesses = Counter({str(DropReason.BAD_COOKIE): carried.pop("guesses")})
        tables = {
            "carried": carried if any(carried.values()) else {},
            "refused": self.refused,
            "offload_refused": self.offload_refused,
            "dropped": self.dropped + guesses,
            "events": self.events,
        }
        return {
            "packets_read": self.packets_read,
            "packets_written": self.packets_written,
            "internal_errors": self.internal_errors,
            **{name: dict(table) for name, table in tables.items() if table},
        }
