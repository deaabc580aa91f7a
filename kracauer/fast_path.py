"""What the engine may ask of a fast path, whatever stands behind it: all it ever does is take work away."""

from collections.abc import Sequence
from typing import Protocol

from kracauer.tcp.splice import Splice


class FastPath(Protocol):
    """Takes plain packets of spliced flows before the engine sees them, and does with them what `Splice` would.

    Everything else still comes to the engine: other flows, SYN, FIN, RST, fragments, packets too big or with options unheard
    of; and all packets, once nobody has called `sweep` for a while. What a flow has carried stands in its record after
    `refresh`, `remove` or a `sweep`, and may be missing from it until then.
    """

    @property
    def refused(self) -> dict[str, int]:
        """Flows that could not be taken, by the name of the errno. The reader may clear it."""

    def install(self, splice: Splice) -> bool:
        """Take the packets of this flow from now on; False where that cannot be, and nothing is changed then.

        Only for a flow whose packets need no look at all. It may have been installed already.
        """

    def remove(self, splice: Splice) -> None:
        """Leave this flow's packets alone from now on, and bring its record up to date; no error if it is not installed."""

    def refresh(self, splice: Splice) -> None:
        """Bring this flow's record up to date: before anything is decided by it."""

    def sweep(self, now: float) -> Sequence[Splice]:
        """Bring all records up to date, and say that somebody is there; returns the flows that have carried something since.

        `now` in seconds of the monotonic clock. Packets are taken from the first call on.
        """

    def close(self) -> None:
        """Leave all packets alone. Closing twice is no error."""


class NoFastPath:
    """Takes nothing: every packet is the engine's."""

    def __init__(self) -> None:
        self.refused: dict[str, int] = {}

    def install(self, _splice: Splice) -> bool:
        """Take nothing."""
        return False

    def remove(self, _splice: Splice) -> None:
        """There is nothing to leave alone."""

    def refresh(self, _splice: Splice) -> None:
        """Its record is up to date."""

    def sweep(self, _now: float) -> Sequence[Splice]:
        """Nothing has been carried."""
        return ()

    def close(self) -> None:
        """There is nothing to close."""
