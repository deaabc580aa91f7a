"""From TOML text to `Config`: the prefix, the listeners and the hosts, and the settings around them."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Network
from types import MappingProxyType
from typing import Final

from kracauer.access import EVERYBODY, AccessList
from kracauer.config import addresses, checks, hostnames, settings
from kracauer.config.clients import ACCESS_KEYS, ClientNetworks, ReadFile
from kracauer.config.problems import ABSENT, Problems, child, render
from kracauer.config.reader import Table, checked
from kracauer.config.syntax import parse_toml
from kracauer.config.values import Config, Limits, Listener, Log, Network
from kracauer.errors import ConfigError
from kracauer.peek import Protocol
from kracauer.routes import DEFAULT, Backend, Route, RouteTable

_LISTEN_EXAMPLE: Final = '[[listen]] with address = "198.51.100.1" and port = 443'
_HOSTS_EXAMPLE: Final = '"www.example.com" = "2001:db8:1::2"'
_BACKENDS_EXAMPLE: Final = 'backends = "2001:db8:1::2"'
_HOST_KEYS: Final = ("backends", *ACCESS_KEYS)
_PROTOCOLS: Final = tuple(protocol.value for protocol in Protocol)


def parse_config(text: str | bytes, read_file: ReadFile | None = None) -> Config:
    """Read TOML (bytes: UTF-8) into a Config; raises ConfigError with every `Problem` found.

    `read_file` gives the content of the files that the configuration names, by the names as they stand there, and raises
    OSError. Without it such a name is a problem.
    """
    return parse_document(parse_toml(text), read_file)


def parse_document(document: Mapping[str, object], read_file: ReadFile | None = None) -> Config:
    """Read a parsed TOML document into a Config; raises ConfigError with every `Problem` found."""
    problems = Problems()
    config = _read_document(Table(document, "", problems), read_file)
    if config is None or problems:
        raise ConfigError(tuple(problems))
    return config


def _read_document(document: Table, read_file: ReadFile | None) -> Config | None:
    prefix = document.require("prefix", addresses.prefix, 'prefix = "2001:db8:46::/96"')
    clients = ClientNetworks(read_file, prefix)
    access = _read_access(document, clients)
    listeners = _read_listeners(document, prefix, clients)
    before = len(document.problems)
    routes = _read_hosts(document, prefix, clients)
    are_all_known = len(document.problems) == before
    backends = {backend.address for backend in routes.backends} if are_all_known else None
    profile, overrides = settings.read_profiles(document.table("backend_profile"), backends)
    timeouts = settings.read_timeouts(document.table("timeouts"))
    limits = settings.read_settings(document.table("limits"), Limits(), settings.LIMIT_CHECKS)
    network = settings.read_settings(document.table("network"), Network(), settings.NETWORK_CHECKS)
    log = settings.read_settings(document.table("log"), Log(), settings.LOG_CHECKS)
    document.report_unknown_keys()
    if prefix is None:
        return None
    return Config(prefix, listeners, routes, profile, timeouts, limits, network, log, MappingProxyType(overrides), access)


def _read_access(document: Table, clients: ClientNetworks) -> AccessList:
    table = document.table("access")
    access = clients.read(table)
    table.report_unknown_keys()
    return access


def _read_listeners(document: Table, prefix: IPv6Network | None, clients: ClientNetworks) -> tuple[Listener, ...]:
    problems, value = document.problems, document.get("listen")
    if value is ABSENT:
        problems.add("listen", ABSENT, f"is missing: write at least one {_LISTEN_EXAMPLE}")
        return ()
    if not isinstance(value, list) or not value or not all(isinstance(element, dict) for element in value):
        problems.add("listen", value, f"must be one table or more, each begun by a line [[listen]]: write {_LISTEN_EXAMPLE}")
        return ()
    seen: dict[tuple[IPv4Address, int], str] = {}
    listeners = []
    for index, element in enumerate(value):
        table = Table(element, child("listen", index), problems)
        listener = _read_listener(table, prefix, clients)
        if listener is None:
            continue
        first = seen.setdefault((listener.address, listener.port), table.path)
        if first != table.path:
            problems.add(table.path, str(listener), f"is already listened on by {first}: remove one of the two")
        listeners.append(listener)
    return tuple(listeners)


def _read_listener(table: Table, prefix: IPv6Network | None, clients: ClientNetworks) -> Listener | None:
    address = table.require("address", addresses.listener_address(prefix), 'address = "198.51.100.1"')
    port = table.require("port", checks.whole_number(1, 65535), "port = 443")
    protocol = table.read("protocol", checks.one_of(_PROTOCOLS), Protocol.AUTO.value)
    access = clients.read(table)
    table.report_unknown_keys()
    return None if address is None or port is None else Listener(address, port, Protocol(protocol), access)


def _read_hosts(document: Table, prefix: IPv6Network | None, clients: ClientNetworks) -> RouteTable:
    hosts = document.table("hosts")
    if not hosts.content and isinstance(document.content.get("hosts", {}), dict):
        hosts.problems.add("hosts", ABSENT, f"needs at least one name: write for example {_HOSTS_EXAMPLE}")
    first_key: dict[str, str] = {}
    routes = []
    for key, value in hosts.content.items():
        path = hosts.path_of(key)
        if isinstance(value, dict) and "." not in key and not _is_host(value):
            hosts.problems.add(path, value, _why_no_backends(key, value))
            continue
        pattern = checked(hosts.problems, path, key, hostnames.pattern, None)
        access = EVERYBODY
        if isinstance(value, dict):
            backends, access = _read_host(Table(value, path, hosts.problems), prefix, clients)
        else:
            backends = _read_backends(hosts.problems, path, value, prefix)
        if pattern is None:
            continue
        first = first_key.setdefault(pattern, key)
        if first != key:
            message = f"is the same name as {hosts.path_of(first)}, both being {pattern}: remove one of the two"
            hosts.problems.add(path, key, message)
        elif backends:
            routes.append(Route(pattern, backends, access))
    return RouteTable(routes)


def _is_host(content: Mapping[str, object]) -> bool:
    """Whether a table looks like that of a host, not like one of the tables that an unquoted name makes."""
    return any(key in content for key in _HOST_KEYS)


def _read_host(table: Table, prefix: IPv6Network | None, clients: ClientNetworks) -> tuple[tuple[Backend, ...], AccessList]:
    value = table.get("backends")
    if value is ABSENT:
        table.problems.add(table.path_of("backends"), ABSENT, f"is missing: write for example {_BACKENDS_EXAMPLE}")
        backends: tuple[Backend, ...] = ()
    else:
        backends = _read_backends(table.problems, table.path_of("backends"), value, prefix)
    access = clients.read(table)
    table.report_unknown_keys()
    return backends, access


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


def _read_backends(problems: Problems, path: str, value: object, prefix: IPv6Network | None) -> tuple[Backend, ...]:
    check = addresses.backend(prefix)
    if not isinstance(value, list):
        backend = checked(problems, path, value, check, None)
        return () if backend is None else (backend,)
    if not value:
        problems.add(path, value, 'must have at least one backend, as in ["2001:db8:1::3", "2001:db8:1::4"]')
    seen: dict[Backend, str] = {}
    for index, element in enumerate(value):
        place = child(path, index)
        backend = checked(problems, place, element, check, None)
        if backend is not None and seen.setdefault(backend, place) != place:
            problems.add(place, element, f"is the same backend as {seen[backend]}: remove one of the two")
    return tuple(seen)
