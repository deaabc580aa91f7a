"""A token bucket: what bounds the packets we originate on our own account (RFC 4443 §2.4 (f))."""


class TokenBucket:
    """Allows `rate` events a second on average and `burst` at once; takes the clock from its caller."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated: float | None = None

    def take(self, now: float) -> bool:
        """Whether one more event is allowed at `now`, in seconds of a monotonic clock."""
        if self._updated is not None and now > self._updated:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
