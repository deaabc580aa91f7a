"""Which names are served, and by which backends: the table [hosts]."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv6Network
from typing import Final

from kracauer.config import backends, checks, hostnames
from kracauer.config.backend_lists import AnyBackend, BackendList, read_backends
from kracauer.config.clients import ACCESS_KEYS, ClientNetworks
from kracauer.config.problems import ABSENT, render
from kracauer.config.reader import Check, Table, checked
from kracauer.routes import DEFAULT, Balance, Route, RouteTable

_HOSTS_EXAMPLE: Final = '"www.example.com" = "2001:db8:1::2"'
_BACKENDS_EXAMPLE: Final = 'backends = "2001:db8:1::2"'
_HOST_KEYS: Final = ("backends", "balance", "redirect", "max_flows", *ACCESS_KEYS)


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
        return self._make_route(pattern, read_backends(self._problems, path, value, self._check), Balance.ORDER)

    def _make_route(self, pattern: str, found: BackendList, balance: Balance) -> Route | None:
        if found.weight_path is not None and balance is not Balance.CLIENT:
            message = 'counts where clients are spread alone: write balance = "client" into the table of the name, or no weight'
            self._problems.add(found.weight_path, ABSENT, message)
        if not found.backends:
            return None
        return Route(pattern, found.backends, weights=found.weights, draining=found.draining, balance=balance)

    def _read_table(self, pattern: str, table: Table) -> Route | None:
        value = table.get("backends")
        found = BackendList()
        if value is ABSENT:
            self._problems.add(table.path_of("backends"), ABSENT, f"is missing: write for example {_BACKENDS_EXAMPLE}")
        else:
            found = read_backends(self._problems, table.path_of("backends"), value, self._check)
        balance = Balance(table.read("balance", checks.one_of(tuple(Balance)), Balance.ORDER))
        route = self._make_route(pattern, found, balance)
        redirect = table.read("redirect", checks.redirect, fallback=False)
        max_flows = table.read("max_flows", checks.whole_number(0, 1 << 24), 0)
        access = self._clients.read(table)
        table.report_unknown_keys()
        return None if route is None else replace(route, access=access, redirect=redirect, max_flows=max_flows)


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
