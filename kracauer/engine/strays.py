"""Telling a stale connection from one whose first segment is late."""

from collections import OrderedDict
from typing import Final

STALE_AFTER_S: Final = 3.0
FORGET_AFTER_S: Final = 180.0  # longer than the 75 s between two keep-alives of Linux
# So long one is kept even where room is wanted for another: a sender doubles the time before each repetition, so one of them
# comes between three and six seconds after the first. A flood takes the places of others, and does not empty them.
KEEP_S: Final = 8.0
CAPACITY: Final = 16_384


class Strays:
    """Connections whose segments fit neither a flow nor a cookie, and since when; at most 16,384 of them.

    A cookie is checked against the first segment of a connection alone. When the network delivers the second one first it looks
    like a segment of a connection long gone, and a reset would kill a handshake that is about to complete. So a reset is due
    only when segments keep coming: by then a live client would have repeated its first one.
    """

    __slots__ = ("_first_seen",)

    def __init__(self) -> None:
        # In a plain dictionary the oldest is found behind the places of all that went before it, a flood's worth of them.
        self._first_seen: OrderedDict[bytes, float] = OrderedDict()

    def is_stale(self, key: bytes, now: float) -> bool:
        """Note a segment of `key` at `now`; returns whether the connection has been a stray for long enough to reset it."""
        first_seen = self._first_seen.get(key)
        if first_seen is not None and now - first_seen <= FORGET_AFTER_S:
            if now - first_seen < STALE_AFTER_S:
                return False
            del self._first_seen[key]
            return True
        self._first_seen.pop(key, None)
        if len(self._first_seen) >= CAPACITY:
            if now - next(iter(self._first_seen.values())) < KEEP_S:
                return False
            self._first_seen.popitem(last=False)
        self._first_seen[key] = now
        return False
