"""Checks of backends, given by an address or by a DNS name, and of the networks that they may be in."""

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from kracauer.config import hostnames
from kracauer.config.addresses import NO_UNICAST_V6, is_v4
from kracauer.config.checks import text, whole_number
from kracauer.config.reader import Check, MistakeError
from kracauer.routes import Backend, NamedBackend

NETWORKS_EXAMPLE: Final = 'backend_networks = ["2001:db8:1::/64"]'
_EXAMPLES: Final = (
    'an IPv6 address, as in "2001:db8:1::2", or with a port, as in "[2001:db8:1::2]:8443"; '
    'or a DNS name, as in "web1.example.net"'
)
_BRACKETED: Final = re.compile(r"\[([^\]]*)\](?::(.*))?", re.DOTALL)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_NUMBERS: Final = re.compile(r"[0-9.]+", re.ASCII)


def backend(prefix: IPv6Network | None, networks: Sequence[IPv6Network]) -> Check[Backend | NamedBackend]:
    """A check for "address", "[address]:port", "name" or "name:port".

    `prefix` is that of the clients, where it is known; `networks` are all that backends may be in, unless there are none.
    """

    def check(value: object) -> Backend | NamedBackend:
        if not isinstance(value, str):
            raise MistakeError('must be text as in "2001:db8:1::2", "[2001:db8:1::2]:8443" or "web1.example.net"')
        written, port = _split_port(value)
        # One colon parts a name from its port, an address has two at least.
        if ":" not in written and not is_v4(written) and not _NUMBERS.fullmatch(written) and not set(written) & set("/%[]"):
            if value.startswith("["):
                raise MistakeError(f'has brackets, which are for addresses: did you mean "{_joined(written, port)}"?')
            return NamedBackend(_name(written), port)
        address = backend_address(written)
        if prefix is not None and address in prefix:
            raise MistakeError(f"is inside the prefix {prefix}, which leads back here: a backend needs another address")
        if networks and not any(address in network for network in networks):
            raise MistakeError("is in none of backend_networks: add its network there, or mend the address")
        return Backend(address, port)

    return check


def _name(written: str) -> str:
    if not written.strip():
        raise MistakeError(f"must be {_EXAMPLES}")
    try:
        name = hostnames.normalise(written)
    except MistakeError as mistake:
        raise MistakeError(f"is no IPv6 address, and as a DNS name it {mistake}") from None
    if "." not in name:
        raise MistakeError(
            'has no dot: a DNS name must be written as a whole, without search domains, as in "web1.example.net"'
        )
    return name


def backend_address(written: str) -> IPv6Address:
    """The unicast IPv6 address of a backend."""
    if "%" in written:
        raise MistakeError("has a zone after %, and a backend must be reachable by routing: use a global address")
    try:
        address = IPv6Address(written)
    except ValueError:
        raise MistakeError(_why_no_backend(written)) from None
    for refused, reason in NO_UNICAST_V6:
        if address in refused:
            raise MistakeError(f'{reason}: a backend needs a routable IPv6 address, as in "2001:db8:1::2"')
    return address


def networks(prefix: IPv6Network | None) -> Check[tuple[IPv6Network, ...]]:
    """A check for the list of networks that backends may be in; `prefix` is that of the clients, where it is known."""

    def check(value: object) -> tuple[IPv6Network, ...]:
        if not isinstance(value, list) or not value:
            raise MistakeError(f"must be a list of at least one IPv6 network, as in {NETWORKS_EXAMPLE}")
        found: dict[IPv6Network, None] = {}
        for element in value:
            network = _network(element, prefix)
            if network in found:
                raise MistakeError(f"has {network} twice: remove one of the two")
            found[network] = None
        return tuple(found)

    return check


def _network(value: object, prefix: IPv6Network | None) -> IPv6Network:
    written = text(value)
    address, slash, _ = written.partition("/")
    if is_v4(address):
        raise MistakeError(f"has {written}, and backends are IPv6 only: must be as in {NETWORKS_EXAMPLE}")
    try:
        network = IPv6Network(written, strict=False)
    except ValueError:
        raise MistakeError(f'has "{written}", which is no IPv6 network: must be as in {NETWORKS_EXAMPLE}') from None
    if slash and network.network_address != IPv6Address(address):
        raise MistakeError(f'has {written}, with bits set behind its first {network.prefixlen}: did you mean "{network}"?')
    # Around the prefix there may be backends: what is inside it is never dialled.
    if prefix is not None and network.subnet_of(prefix):
        raise MistakeError(
            f"has {network}, which is inside the prefix {prefix}, and that leads back here: name the backends' networks alone"
        )
    for refused, reason in NO_UNICAST_V6:
        if network.subnet_of(refused):
            raise MistakeError(f"has {network}, and {refused} {reason}: no backend can be there")
        if network.overlaps(refused):
            raise MistakeError(
                f"has {network}, with {refused} in it, where no backend can be: name the backends' networks alone"
            )
    return network


def _split_port(written: str) -> tuple[str, int | None]:
    bracketed = _BRACKETED.fullmatch(written)
    if bracketed is not None:
        address, port = bracketed.groups()
    elif written.count(":") == 1 and "/" not in written:
        address, _, port = written.partition(":")
    else:
        return written, None
    if port is None or is_v4(address):
        return address, None
    example = "[2001:db8:1::2]:8443" if ":" in address else "web1.example.net:8443"
    try:
        return address, whole_number(1, 65535)(int(port) if _PORT.fullmatch(port) else port)
    except MistakeError as mistake:
        raise MistakeError(f'its port {mistake}, as in "{example}"') from None


def _joined(name: str, port: int | None) -> str:
    return name if port is None else f"{name}:{port}"


def _why_no_backend(written: str) -> str:
    if is_v4(written.partition(":")[0]) or is_v4(written.partition("/")[0]):
        return (
            "is IPv4, and backends are IPv6 only: TCP is translated to IPv6 so that they see their clients' own addresses; "
            'give the host an IPv6 address, as in "2001:db8:1::2"'
        )
    if "://" in written:
        return 'must be an address or a name, not a URL, as in "2001:db8:1::2" or "web1.example.net"'
    if "/" in written:
        return 'must be one address without "/", as in "2001:db8:1::2"'
    return f"must be {_EXAMPLES}"
