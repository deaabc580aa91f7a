"""Path MTUs as ICMP reported them, each forgotten after ten minutes (RFC 1191 §6.3, RFC 8201 §5.2)."""

from typing import Final

LIFETIME_S: Final = 600.0
CAPACITY: Final = 4096


class PathMtus:
    """The smallest MTU reported towards each address, in bytes of that address's family; at most 4,096, the oldest give way."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, float]] = {}

    def learn(self, address: bytes, mtu: int, now: float) -> bool:
        """Note `mtu` towards `address`, unless a smaller one is known; returns whether anything changed."""
        known = self.get(address, now)
        if known is not None and known <= mtu:
            return False
        self._known.pop(address, None)
        if len(self._known) >= CAPACITY:
            del self._known[next(iter(self._known))]
        self._known[address] = (mtu, now + LIFETIME_S)
        return True

    def get(self, address: bytes, now: float) -> int | None:
        """What is known towards `address`, or None."""
        known = self._known.get(address)
        return known[0] if known is not None and now < known[1] else None

    def expire(self, now: float) -> list[bytes]:
        """Forget what has aged; returns towards which addresses. They are kept in the order in which they age."""
        expired = []
        while self._known:
            address = next(iter(self._known))
            if now < self._known[address][1]:
                break
            del self._known[address]
            expired.append(address)
        return expired
