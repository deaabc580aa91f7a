"""Hostname to backends: the exact name, then the longest wildcard, then the default.

Names are compared as they arrive from the peek and from the configuration: lower-case A-labels (RFC 5890 §2.3.2.1) without a
trailing dot.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv6Address
from typing import Final

from kracauer.access import EVERYBODY, AccessList

DEFAULT: Final = "default"
WILDCARD: Final = "*."


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a name lives; `port` None stands for the port of the listener that the client dialled."""

    address: IPv6Address
    port: int | None = None
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Backends are looked up several times for each connection, and an address takes its time to be hashed.
        object.__setattr__(self, "_hash", hash((self.address, self.port)))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type["Backend"], tuple[IPv6Address, int | None]]:
        return Backend, (self.address, self.port)  # in another process an address has another hash

    def __str__(self) -> str:
        return str(self.address) if self.port is None else f"[{self.address}]:{self.port}"


@dataclass(frozen=True, slots=True)
class NamedBackend:
    """A DNS name whose AAAA records are backends, each with `port` as in `Backend`; the name is normalised like hostnames."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        return self.name if self.port is None else f"{self.name}:{self.port}"


class Balance(StrEnum):
    """Which of several backends a client is led to. The values are words of the configuration."""

    ORDER = "order"  # the first that can be reached
    CLIENT = "client"  # by the client's address, so that clients are spread and each comes back to the same one


@dataclass(frozen=True, slots=True)
class Route:
    """A pattern ("www.example.com", "*.example.org" or "default"), its backends in order of preference, and its clients.

    `weights` stand for the backends in the same places (empty: 1 each); those in `draining` get no new connections while
    another one can. `redirect` sends plain HTTP to HTTPS. `max_flows` connections at most (0: any number) have this route.
    """

    pattern: str
    backends: tuple[Backend | NamedBackend, ...]
    access: AccessList = EVERYBODY
    weights: tuple[int, ...] = ()
    draining: frozenset[Backend | NamedBackend] = frozenset()
    balance: Balance = Balance.ORDER
    redirect: bool = False
    max_flows: int = 0

    def __post_init__(self) -> None:
        if not self.backends:
            raise ValueError(f"route {self.pattern}: no backend")
        if self.weights and len(self.weights) != len(self.backends):
            raise ValueError(f"route {self.pattern}: as many weights as backends, or none")


class RouteTable:
    """Every route of a configuration, looked up in time that depends on the name asked for and not on the number of routes.

    A wildcard matches at any depth: "*.example.org" takes a.example.org and a.b.example.org, but never example.org itself.
    Raises ValueError when two routes have one pattern.
    """

    __slots__ = ("_backends", "_default", "_exact", "_longest_suffix", "_named", "_names", "_routes", "_suffixes")

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(routes)
        self._exact: dict[str, Route] = {}
        self._suffixes: dict[str, Route] = {}
        self._default: Route | None = None
        for route in self._routes:
            self._insert(route)
        self._longest_suffix = max(map(len, self._suffixes), default=-1)
        distinct = dict.fromkeys(backend for route in self._routes for backend in route.backends)
        self._backends = tuple(backend for backend in distinct if isinstance(backend, Backend))
        self._named = tuple(backend for backend in distinct if isinstance(backend, NamedBackend))
        self._names = tuple(dict.fromkeys(backend.name for backend in self._named))

    def _insert(self, route: Route) -> None:
        if route.pattern == DEFAULT:
            is_known, self._default = self._default is not None, route
        else:
            is_wildcard = route.pattern.startswith(WILDCARD)
            names = self._suffixes if is_wildcard else self._exact
            name = route.pattern.removeprefix(WILDCARD) if is_wildcard else route.pattern
            is_known, names[name] = name in names, route
        if is_known:
            raise ValueError(f"two routes for {route.pattern}")

    def lookup(self, hostname: str | None) -> Route | None:
        """Find the route of a normalised `hostname`; None (no name was said) has just the default route."""
        if hostname is None:
            return self._default
        route = self._exact.get(hostname)
        if route is not None:
            return route
        # A tail longer than every wildcard cannot match: skipping those bounds the work for names made of thousands of dots.
        dot = hostname.find(".", max(0, len(hostname) - 1 - self._longest_suffix))
        while dot != -1:
            route = self._suffixes.get(hostname[dot + 1 :])
            if route is not None:
                return route
            dot = hostname.find(".", dot + 1)
        return self._default

    @property
    def backends(self) -> tuple[Backend, ...]:
        """Every distinct backend that is given by its address, in the order in which the routes first name it."""
        return self._backends

    @property
    def named_backends(self) -> tuple[NamedBackend, ...]:
        """Every distinct backend that is given by a DNS name, likewise."""
        return self._named

    @property
    def names(self) -> tuple[str, ...]:
        """Every distinct DNS name of a backend, likewise."""
        return self._names

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def __len__(self) -> int:
        return len(self._routes)

    def __eq__(self, other: object) -> bool:
        return self._routes == other._routes if isinstance(other, RouteTable) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._routes)

    def __repr__(self) -> str:
        return f"RouteTable({self._routes!r})"
