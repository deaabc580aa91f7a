"""Which names are served, and by which backends: the table [hosts]."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv6Network
from typing import Final, TypeAlias

from kracauer.config import backends, checks, hostnames
from kracauer.config.clients import ACCESS_KEYS, ClientNetworks
from kracauer.config.problems import ABSENT, child, render
from kracauer.config.reader import Check, Table, checked
from kracauer.routes import DEFAULT, Backend, NamedBackend, Route, RouteTable

_HOSTS_EXAMPLE: Final = '"www.example.com" = "2001:db8:1::2"'
_BACKENDS_EXAMPLE: Final = 'backends = "2001:db8:1::2"'
_HOST_KEYS: Final = ("backends", "redirect", "max_flows", *ACCESS_KEYS)

AnyBackend: TypeAlias = Backend | NamedBackend


class Hosts:
    """Reads the routes; `check` is that of a single backend."""

    def __init__(self, table: Table, check: Check[AnyBackend], clients: ClientNetworks) -> None:
        self._table = table
        self._problems = table.problems
        self._check = check
        self._clients = clients

    def read(self) -> RouteTable:
        """Every route there is; what is wrong with the others becomes a problem."""
        first_key: dict[str, str] = {}
        routes = []
        for key, value in self._table.content.items():
            path = self._table.path_of(key)
            if isinstance(value, dict) and "." not in key and not _is_host(value):
                self._problems.add(path, value, _why_no_backends(key, value))
                continue
            pattern = checked(self._problems, path, key, hostnames.pattern, None)
            route = self._read_route(key if pattern is None else pattern, path, value)
            if pattern is None:
                continue
            first = first_key.setdefault(pattern, key)
            if first != key:
                message = f"is the same name as {self._table.path_of(first)}, both being {pattern}: remove one of the two"
                self._problems.add(path, key, message)
            elif route is not None:
                routes.append(route)
        return RouteTable(routes)

    def _read_route(self, pattern: str, path: str, value: object) -> Route | None:
        """The route that `value` makes; None where it has no backend."""
        if isinstance(value, dict):
            return self._read_table(pattern, Table(value, path, self._problems))
        backends = self._read_backends(path, value)
        return Route(pattern, backends) if backends else None

    def _read_table(self, pattern: str, table: Table) -> Route | None:
        value = table.get("backends")
        backends: tuple[AnyBackend, ...] = ()
        if value is ABSENT:
            self._problems.add(table.path_of("backends"), ABSENT, f"is missing: write for example {_BACKENDS_EXAMPLE}")
        else:
            backends = self._read_backends(table.path_of("backends"), value)
        route = Route(pattern, backends) if backends else None
        redirect = table.read("redirect", checks.redirect, fallback=False)
        max_flows = table.read("max_flows", checks.whole_number(0, 1 << 24), 0)
        access = self._clients.read(table)
        table.report_unknown_keys()
        return None if route is None else replace(route, access=access, redirect=redirect, max_flows=max_flows)

    def _read_backends(self, path: str, value: object) -> tuple[AnyBackend, ...]:
        check = self._check
        if not isinstance(value, list):
            backend = checked(self._problems, path, value, check, None)
            return () if backend is None else (backend,)
        if not value:
            self._problems.add(path, value, 'must have at least one backend, as in ["2001:db8:1::3", "2001:db8:1::4"]')
        seen: dict[AnyBackend, str] = {}
        for index, element in enumerate(value):
            place = child(path, index)
            backend = checked(self._problems, place, element, check, None)
            if backend is not None and seen.setdefault(backend, place) != place:
                self._problems.add(place, element, f"is the same backend as {seen[backend]}: remove one of the two")
        return tuple(seen)


def read_hosts(
    document: Table, prefix: IPv6Network | None, networks: Sequence[IPv6Network], clients: ClientNetworks, *, may_be_empty: bool
) -> RouteTable:
    """The routes of [hosts]; none at all is a problem, unless `may_be_empty`.

    `prefix` is the network in which backends see the clients, where it is known; `networks` are those of the backends.
    """
    table = document.table("hosts")
    if not table.content and not may_be_empty and isinstance(document.content.get("hosts", {}), dict):
        table.problems.add("hosts", ABSENT, f"needs at least one name: write for example {_HOSTS_EXAMPLE}")
    return Hosts(table, backends.backend(prefix, networks), clients).read()


def _is_host(content: Mapping[str, object]) -> bool:
    """Whether a table looks like that of a host, not like one of the tables that an unquoted name makes."""
    return any(key in content for key in _HOST_KEYS)


def _why_no_backends(key: str, value: Mapping[str, object]) -> str:
    # TOML reads www.example.com = "…" as a key in a table in a table: the mistake everybody makes once.
    what = "must be an address, a list, or a table with backends: TOML wants quotes around a name with dots"
    name, inner = key, value
    while len(inner) == 1 and key != DEFAULT:
        below, content = next(iter(inner.items()))
        name += f".{below}"
        if not isinstance(content, dict) or _is_host(content):
            return f"{what}, did you mean {render(name)}?"
        inner = content
    return f"{what}, as in {_HOSTS_EXAMPLE}"
