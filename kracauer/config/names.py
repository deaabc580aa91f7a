"""What goes with names as backends: who is asked for their addresses, and what else there has to be."""

from ipaddress import IPv6Network, ip_address
from typing import Final

from kracauer.config.backends import NETWORKS_EXAMPLE
from kracauer.config.checks import text, whole_number
from kracauer.config.problems import ABSENT, render
from kracauer.config.reader import MistakeError, Table
from kracauer.config.values import Dns, NameServer
from kracauer.routes import DEFAULT, RouteTable

_DNS_PORT: Final = 53


def name_servers(value: object) -> tuple[NameServer, ...]:
    """A list of different addresses, with or without a port, of either family: a resolver may be on this very host."""
    if not isinstance(value, list):
        raise MistakeError('must be a list of addresses, as in ["2001:db8::53", "192.0.2.53"]')
    found: dict[NameServer, None] = {}
    for element in value:
        server = _name_server(text(element))
        if server in found:
            raise MistakeError(f"has {server} twice: remove one of the two")
        found[server] = None
    return tuple(found)


def _name_server(written: str) -> NameServer:
    address, port = written, str(_DNS_PORT)
    if written.startswith("["):
        address, _, rest = written.removeprefix("[").partition("]")
        port = rest.removeprefix(":") if rest else port
    elif written.count(":") == 1:
        address, _, port = written.partition(":")
    try:
        number = whole_number(1, 65535)(int(port) if port.isascii() and port.isdigit() else port)
        found = ip_address(address)
    except (ValueError, MistakeError):
        raise MistakeError(
            f'has "{written}", which is no address: must be as in ["2001:db8::53", "192.0.2.53", "[2001:db8::53]:5353"]'
        ) from None
    if found.is_multicast or found.is_unspecified:
        raise MistakeError(f"has {found}, where no name server can be")
    return NameServer(found, number)


def check_names(document: Table, routes: RouteTable, networks: tuple[IPv6Network, ...], dns: Dns) -> None:
    """Make a problem of what names need and is not there, and of what does not go together."""
    problems = document.problems
    if dns.serve_any and any(route.pattern == DEFAULT for route in routes):
        message = "takes every name that is not in hosts, and so does hosts.default: remove one of the two"
        problems.add("dns.serve_any", dns.serve_any, message)
    if networks or "backend_networks" in document.content:
        return
    if routes.names:
        reason = f"whoever answers for the DNS name {render(routes.names[0])} could have any address dialled"
    elif dns.serve_any:
        reason = "with dns.serve_any clients could have any address dialled"
    else:
        return
    message = f"is missing, and without it {reason}: write the networks of your backends, as in {NETWORKS_EXAMPLE}"
    problems.add("backend_networks", ABSENT, message)
