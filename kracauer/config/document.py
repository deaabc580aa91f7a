"""From TOML text to `Config`: the prefix, the listeners and the hosts, and the settings around them."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Network
from types import MappingProxyType
from typing import Final

from kracauer.access import AccessList
from kracauer.config import addresses, backends, checks, settings
from kracauer.config.clients import ClientNetworks, ReadFile
from kracauer.config.hosts import read_hosts
from kracauer.config.names import check_names
from kracauer.config.problems import ABSENT, Problems, child
from kracauer.config.reader import Table
from kracauer.config.syntax import parse_toml
from kracauer.config.values import Config, Limits, Listener, Log, Network
from kracauer.errors import ConfigError
from kracauer.peek import Protocol

_LISTEN_EXAMPLE: Final = '[[listen]] with address = "198.51.100.1" and port = 443'
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
    networks = document.read("backend_networks", backends.networks(prefix), ())
    dns = settings.read_dns(document.table("dns"))
    before = len(document.problems)
    routes = read_hosts(document, prefix, networks, clients, may_be_empty=dns.serve_any)
    known = {backend.address for backend in routes.backends} if len(document.problems) == before else None
    check_names(document, routes, networks, dns)
    looked_up = networks if routes.names or dns.serve_any else ()
    profile, overrides = settings.read_profiles(document.table("backend_profile"), known, looked_up)
    timeouts = settings.read_timeouts(document.table("timeouts"))
    limits = settings.read_settings(document.table("limits"), Limits(), settings.LIMIT_CHECKS)
    probes = settings.read_probes(document.table("probes"))
    network = settings.read_settings(document.table("network"), Network(), settings.NETWORK_CHECKS)
    log = settings.read_settings(document.table("log"), Log(), settings.LOG_CHECKS)
    document.report_unknown_keys()
    if prefix is None:
        return None
    return Config(
        prefix=prefix,
        listeners=listeners,
        routes=routes,
        profile=profile,
        timeouts=timeouts,
        limits=limits,
        network=network,
        log=log,
        profile_overrides=MappingProxyType(overrides),
        access=access,
        backend_networks=networks,
        dns=dns,
        probes=probes,
    )


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
    redirect = table.read("redirect", checks.redirect, fallback=False)
    if redirect and protocol == Protocol.TLS:
        message = 'has nobody to send on, as who comes here speaks TLS already: remove it, or write protocol = "http"'
        table.problems.add(table.path_of("redirect"), table.content["redirect"], message)
    access = clients.read(table)
    table.report_unknown_keys()
    return None if address is None or port is None else Listener(address, port, Protocol(protocol), access, redirect)
