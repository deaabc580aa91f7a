"""Deadlines of many items behind one timer: a hashed wheel whose entries can be taken back at once."""

import heapq
from typing import Final, Generic, Protocol, TypeVar

TICKS_PER_SECOND: Final = 20
_SLACK: Final = 64  # emptied ticks that are not worth clearing away


class Timed(Protocol):
    """What the wheel schedules: hashable by identity, with a slot for the tick it hangs on (None: on none)."""

    tick: int | None


T = TypeVar("T", bound=Timed)


class _Bucket(set[T]):
    """The items of one tick, whose number they all share: one for each would be most of what a timer costs."""

    __slots__ = ("tick",)

    tick: int


class TimerWheel(Generic[T]):
    """Items by the tick of their deadline. An item that is rescheduled or cancelled leaves no trace behind.

    Deadlines are rounded up to a tick of 50 ms, so that an item is never due early and thousands share an entry.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket[T]] = {}
        self._ticks: list[int] = []

    def schedule(self, item: T, deadline: float, leeway_s: float = 0.0) -> None:
        """Have `item` come due at `deadline` (monotonic seconds) and no longer at any earlier one it was given.

        It may come up to `leeway_s` too early: then many items share an entry that would else have one each.
        """
        tick = -int(-deadline * TICKS_PER_SECOND // 1)
        if tick / TICKS_PER_SECOND < deadline:
            # The product was rounded down onto a whole tick: the item would come due a hair early, and again and again.
            tick += 1
        coarse = int(leeway_s * TICKS_PER_SECOND)
        if coarse > 1:
            tick -= tick % coarse
        if tick == item.tick:
            return
        self.cancel(item)
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = _Bucket()
            bucket.tick = tick
            heapq.heappush(self._ticks, tick)
        bucket.add(item)
        item.tick = bucket.tick

    def cancel(self, item: T) -> None:
        """Forget `item`'s deadline; no harm when it has none."""
        if item.tick is None:
            return
        bucket = self._buckets[item.tick]
        bucket.discard(item)
        if not bucket:
            del self._buckets[item.tick]
            # The heap keeps emptied ticks until they come to its head, or are the most of it.
            if len(self._ticks) > 2 * len(self._buckets) + _SLACK:
                self._ticks = sorted(self._buckets)
        item.tick = None

    def pop_due(self, now: float) -> list[T]:
        """Take out and return every item that is due at `now`."""
        due: list[T] = []
        while self._ticks and self._ticks[0] <= now * TICKS_PER_SECOND:
            for item in self._buckets.pop(heapq.heappop(self._ticks), ()):
                item.tick = None
                due.append(item)
        return due

    def next_deadline(self) -> float | None:
        """When the next item comes due, or None; emptied ticks on the way are cleared."""
        while self._ticks and self._ticks[0] not in self._buckets:
            heapq.heappop(self._ticks)
        return self._ticks[0] / TICKS_PER_SECOND if self._ticks else None
