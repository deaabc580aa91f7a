"""Checks of the prefix (RFC 6052 §2.2, §3.1), and of the addresses listened on."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from kracauer.config.checks import text
from kracauer.config.reader import Check, MistakeError

_PREFIX_EXAMPLE: Final = '"2001:db8:46::/96"'
_WELL_KNOWN_PREFIX: Final = IPv6Network("64:ff9b::/96")
_LOCAL_USE_PREFIX: Final = IPv6Network("64:ff9b:1::/48")

NO_UNICAST_V6: Final = (
    (IPv6Network("::/128"), "is the unspecified address"),
    (IPv6Network("::1/128"), "is the loopback address"),
    (IPv6Network("::/96"), "is an IPv4-compatible address, which RFC 4291 §2.5.5.1 abolished"),
    (IPv6Network("::ffff:0:0/96"), "is an IPv4 address written as IPv6"),
    (IPv6Network("ff00::/8"), "is multicast"),
    (IPv6Network("fe80::/10"), "is link-local"),
    (IPv6Network("fec0::/10"), "is site-local, which RFC 3879 §4 abolished"),
    (IPv6Network("100::/64"), "is the discard-only block of RFC 6666 §4"),
)

_NO_UNICAST_V4: Final = (
    (IPv4Network("255.255.255.255/32"), "is the broadcast address"),
    (IPv4Network("0.0.0.0/8"), "is no host's address (RFC 1122 §3.2.1.3)"),
    (IPv4Network("127.0.0.0/8"), "is a loopback address"),
    (IPv4Network("169.254.0.0/16"), "is link-local, which no router forwards (RFC 3927 §2.7)"),
    (IPv4Network("224.0.0.0/4"), "is multicast"),
    (IPv4Network("240.0.0.0/4"), "is of class E, reserved (RFC 1112 §4)"),
)


def prefix(value: object) -> IPv6Network:
    """The /96 in which clients appear to backends."""
    written = text(value)
    if "%" in written:
        raise MistakeError(f"must have no zone after %: write for example {_PREFIX_EXAMPLE}")
    network = _network(written)
    _check_prefix_place(network)
    if network.network_address.packed[8]:
        raise MistakeError("must have bits 64 to 71 zero (RFC 6052 §2.2): choose another /96")
    return network


def _network(written: str) -> IPv6Network:
    address, slash, length = written.partition("/")
    if is_v4(address):
        raise MistakeError(f"must be an IPv6 prefix, in which IPv4 clients are embedded, as in {_PREFIX_EXAMPLE}")
    try:
        inside = IPv6Address(address)
    except ValueError:
        raise MistakeError(f"must be an IPv6 prefix as in {_PREFIX_EXAMPLE}") from None
    right = str(IPv6Network((inside, 96), strict=False))
    if not slash or length != "96":
        raise MistakeError(
            f'must be a /96, whose last 32 bits take the client\'s IPv4 address (RFC 6052 §2.2), as in "{right}"'
        )
    if IPv6Network(right).network_address != inside:
        raise MistakeError(f'must end in 32 zero bits: did you mean "{right}"?')
    return IPv6Network(right)


def _check_prefix_place(network: IPv6Network) -> None:
    if network == _WELL_KNOWN_PREFIX:
        raise MistakeError(
            "is the well-known prefix, which must not stand for private IPv4 addresses (RFC 6052 §3.1) and belongs to the "
            "NAT64 of whole networks, whose replies it would draw here: use a /96 of your own, routed to this machine"
        )
    for refused, reason in NO_UNICAST_V6:
        if network.subnet_of(refused):
            raise MistakeError(f"{reason}: use a /96 of your own, routed to this machine")
    if not network.network_address.packed[0] and not network.subnet_of(_LOCAL_USE_PREFIX):
        raise MistakeError("is inside ::/8, reserved (RFC 4291 §2.4): use a /96 of your own, routed to this machine")


def listener_address(network: IPv6Network | None) -> Check[IPv4Address]:
    """A check for an IPv4 address that a client can dial; `network` is the prefix, where it is known."""

    def check(value: object) -> IPv4Address:
        written = text(value)
        try:
            address = IPv4Address(written)
        except ValueError:
            raise MistakeError(_why_no_listener(written, network)) from None
        for refused, reason in _NO_UNICAST_V4:
            if address in refused:
                raise MistakeError(f'{reason}: must be the IPv4 address that clients dial, as in "198.51.100.1"')
        return address

    return check


def router_sources(value: object) -> tuple[IPv4Address, ...]:
    """A list of different IPv4 addresses that packets may come from."""
    if not isinstance(value, list):
        raise MistakeError('must be a list of IPv4 addresses, as in ["203.0.113.8"]')
    found: dict[IPv4Address, None] = {}
    for written in value:
        try:
            address = IPv4Address(text(written))
        except ValueError:
            raise MistakeError(f'{written!r} is no IPv4 address: must be a list as in ["203.0.113.8"]') from None
        for refused, reason in _NO_UNICAST_V4:
            if address in refused:
                raise MistakeError(f"{written} {reason}: no packet may come from it")
        if address in found:
            raise MistakeError(f"{written} stands there twice: remove one of the two")
        found[address] = None
    return tuple(found)


def _why_no_listener(written: str, network: IPv6Network | None) -> str:
    right = 'must be an IPv4 address as in "198.51.100.1"'
    address, slash, _ = written.partition("/")
    if slash and is_v4(address):
        return f'must be one address: did you mean "{address}"?'
    address, colon, _ = written.partition(":")
    if colon and is_v4(address):
        return f'must be the address alone, the port has its own key: did you mean address = "{address}"?'
    try:
        inside = IPv6Address(written.strip("[]"))
    except ValueError:
        return right
    if inside.ipv4_mapped is not None:
        return f'is an IPv4 address written as IPv6: did you mean "{inside.ipv4_mapped}"?'
    if network is not None and inside in network:
        return f"is inside the prefix {network}, which is for clients alone: {right}"
    return f"is IPv6, and IPv6 clients reach the backends without a translator: {right}"


def is_v4(written: str) -> bool:
    """Whether `written` is an IPv4 address."""
    try:
        IPv4Address(written)
    except ValueError:
        return False
    return True
