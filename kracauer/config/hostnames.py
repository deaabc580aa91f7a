"""Names of hosts as the peek will see them: lower-case A-labels, no trailing dot (RFC 5890 §2.3.2.1, RFC 6066 §3)."""

import re
from typing import Final

import idna

from kracauer.config.reader import MistakeError
from kracauer.routes import DEFAULT, WILDCARD

_LONGEST_NAME: Final = 253
_LONGEST_LABEL: Final = 63
# The underscore is no letter of RFC 952, yet browsers look up and send such names.
_ASCII_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?", re.ASCII)
# URL parsers take a name that ends in a number for an IPv4 address, and no top-level domain is one (RFC 3696 §2).
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_A_LABEL_PREFIX: Final = "xn--"


def pattern(written: str) -> str:
    """The pattern of a route: a normalised name, "*." and a normalised name, or "default"."""
    if written == DEFAULT:
        return DEFAULT
    if written == "*":
        raise MistakeError("matches every name: write default")
    is_wildcard = written.startswith(WILDCARD)
    name = normalise(written.removeprefix(WILDCARD) if is_wildcard else written)
    if name == DEFAULT:
        raise MistakeError("is the word for the catch-all: write default, in lower case and with nothing around it")
    return WILDCARD + name if is_wildcard else name


def normalise(written: str) -> str:
    """The A-label form of a host's name; raises MistakeError with the reason where there is none."""
    if "*" in written:
        raise MistakeError('has "*" where it cannot stand: only a whole first label may be one, as in "*.example.com"')
    if not written or len(written) > _LONGEST_NAME:
        raise MistakeError(f"must be a name of 1 to {_LONGEST_NAME} characters")
    if "[" in written or ":" in written or "/" in written:
        raise MistakeError('must be a name alone: no address, port or path, as in "www.example.com"')
    try:
        mapped = written.lower() if written.isascii() else idna.uts46_remap(written, std3_rules=False)
        name = ".".join(_label(label) for label in mapped.removesuffix(".").split("."))
    except UnicodeError as error:
        raise MistakeError(f"is no valid host name: {error}") from None
    if len(name) > _LONGEST_NAME:
        raise MistakeError(f"must have at most {_LONGEST_NAME} characters, and has {len(name)} as {name[:40]}…")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise MistakeError("is an IP address or ends like one, and clients send names: use default for those that send none")
    return name


def _label(label: str) -> str:
    if not label:
        raise MistakeError("has an empty label: two dots in a row, or one in front")
    if not label.isascii():
        return idna.alabel(label).decode("ascii")
    if len(label) > _LONGEST_LABEL:
        raise MistakeError(f"has a label of more than {_LONGEST_LABEL} characters")
    if not _ASCII_LABEL.fullmatch(label):
        raise MistakeError("is no valid host name: a label is made of letters, digits and hyphens, no hyphen first or last")
    if label.startswith(_A_LABEL_PREFIX):
        _check_a_label(label)
    return label


def _check_a_label(label: str) -> None:
    try:
        idna.ulabel(label)
    except idna.InvalidCodepoint:
        # IDNA 2008 has no symbols, but UTS #46 and so browsers do, and names like xn--i-7iq.ws exist.
        meant = label.removeprefix(_A_LABEL_PREFIX).encode("ascii").decode("punycode")
        if idna.uts46_remap(meant, std3_rules=False) != meant:
            raise
