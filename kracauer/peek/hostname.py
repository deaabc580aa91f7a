"""Hostnames as clients write them: normalised, checked, told from addresses (RFC 1123 §2.1, RFC 5890 §2.3.1, RFC 3986 §3.2).

A name is letters, digits, hyphens and underscores in labels of 1–63 bytes, 253 in all, and one trailing dot is forgiven:
it names the same host. Underscores and hyphens at a label's edge are outside the LDH rule but are resolved, and connected
to, by every common client; nothing about them is ambiguous, and a wildcard route may well want them. Anything else is:
U-labels must have become A-labels before they reach the wire (RFC 5891 §4.4), and a percent-encoded name is read by
one server as written and by the next as decoded.
"""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Final

from kracauer.errors import ParseError

_MAX_LENGTH: Final = 253
_LABEL: Final = rb"[A-Za-z0-9_-]{1,63}"
_NAME: Final = re.compile(rb"%b(?:\.%b)*\.?" % (_LABEL, _LABEL))
# URL parsers take a name whose last label is a number for an IPv4 address, in forms like 0x7f.1 too (RFC 3986 §7.4);
# no top-level domain is a number (RFC 3696 §2), so such a name is never a host's.
_NUMERIC_LAST_LABEL: Final = re.compile(rb"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?")
_IPV6_CHARACTERS: Final = re.compile(rb"[0-9A-Fa-f:.]+")
_IP_FUTURE: Final = re.compile(rb"[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+")
_AUTHORITY: Final = re.compile(rb"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?P<port>:[0-9]{0,5})?")
_MAX_PORT: Final = 65_535
_REMEMBERED: Final = 4096  # names in use are few next to the connections to them


@lru_cache(maxsize=_REMEMBERED)
def parse_hostname(raw: bytes) -> str | None:
    """Normalise one name; None for an IP literal. Raises ParseError for what is neither."""
    if b":" in raw:
        is_bracketed = raw.startswith(b"[") and raw.endswith(b"]")
        _check_ip_literal(raw[1:-1] if is_bracketed else raw)
        return None
    if _NAME.fullmatch(raw) is None:
        raise ParseError(f"{_render(raw)} is not a hostname")
    if _NUMERIC_LAST_LABEL.fullmatch(raw):
        return None
    name = raw.removesuffix(b".")
    if len(name) > _MAX_LENGTH:
        raise ParseError(f"a hostname of {len(name)} bytes, more than {_MAX_LENGTH}")
    return name.decode("ascii").lower()


def parse_authority(raw: bytes, *, needs_port: bool = False) -> str | None:
    """Normalise the host of `uri-host [":" port]` (RFC 9110 §7.2), checking and dropping the port; None for an IP literal.

    The port may be absent or empty unless `needs_port`. User information is malformed (RFC 9110 §4.2.4).
    """
    match = _AUTHORITY.fullmatch(raw)
    if match is None:
        raise ParseError(f"{_render(raw)} is not a host and port")
    host, port = match["host"], (match["port"] or b"").removeprefix(b":")
    if (needs_port and not port) or int(port or b"0") > _MAX_PORT:
        raise ParseError(f"{_render(raw)} has no valid port")
    if host.startswith(b"["):
        _check_ip_literal(host[1:-1])
        return None
    return parse_hostname(host)


def _check_ip_literal(raw: bytes) -> None:
    """Raise ParseError unless `raw` is what RFC 3986 §3.2.2 allows between brackets."""
    if _IP_FUTURE.fullmatch(raw):
        return
    if _IPV6_CHARACTERS.fullmatch(raw):
        try:
            IPv6Address(raw.decode("ascii"))
        except AddressValueError:
            pass
        else:
            return
    raise ParseError(f"{_render(raw)} is neither a hostname nor an IP literal")


def _render(raw: bytes) -> str:
    """`raw` fit for a log line: escaped, and cut where it grows long."""
    shown = raw[:64].decode("ascii", "backslashreplace").encode("unicode_escape").decode("ascii")
    return f'"{shown}{"…" if len(raw) > 64 else ""}"'
