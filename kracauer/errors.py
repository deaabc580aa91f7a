"""Everything that can go wrong, by name: exceptions for programs, drop reasons for packets."""

from enum import StrEnum
from typing import NamedTuple


class KracauerError(Exception):
    """What every error raised on purpose by this package derives from."""


class ParseError(KracauerError):
    """Bytes that are not what they claim to be; the message says which rule they break."""


class ConfigError(KracauerError):
    """A configuration that cannot be used; carries every problem found, not just the first.

    `problems` is a tuple of `kracauer.config.Problem`-like values, each rendered by `str()` as one line.
    """

    def __init__(self, problems: tuple[object, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class RemediableError(KracauerError):
    """A failure of the machine around us: says what happened (`cause`) and what mends it (`remedy`)."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}: {remedy}" if remedy else cause)
        self.cause = cause
        self.remedy = remedy


class DeviceError(RemediableError):
    """The TUN device cannot be opened, or has gone away."""


class HostError(RemediableError):
    """Addresses, routes or links could not be set up."""


class LabError(RemediableError):
    """The network-namespace lab cannot be built here."""


class DropReason(StrEnum):
    """Why a packet was dropped. The values are log fields and metric labels: never rename one lightly."""

    MALFORMED_IPV4 = "malformed_ipv4"
    MALFORMED_IPV6 = "malformed_ipv6"
    MALFORMED_TCP = "malformed_tcp"
    MALFORMED_ICMP = "malformed_icmp"
    BAD_CHECKSUM = "bad_checksum"
    NOT_IP = "not_ip"
    NOT_TCP = "not_tcp"
    FRAGMENT = "fragment"
    FRAGMENT_TINY = "fragment_tiny"
    FRAGMENT_OVERLAP = "fragment_overlap"
    FRAGMENT_INCONSISTENT = "fragment_inconsistent"
    FRAGMENT_TIMEOUT = "fragment_timeout"
    FRAGMENTS_FULL = "fragments_full"
    UNTRANSLATABLE_ICMP = "untranslatable_icmp"
    ILLEGAL_SOURCE = "illegal_source"
    ILLEGAL_FLAGS = "illegal_flags"
    SOURCE_ROUTE = "source_route"
    TTL_EXPIRED = "ttl_expired"
    TOO_BIG = "too_big"
    NO_LISTENER = "no_listener"
    NO_FLOW = "no_flow"
    BAD_COOKIE = "bad_cookie"
    AUTHENTICATED_SYN = "authenticated_syn"
    TABLE_FULL = "table_full"
    CLIENT_FULL = "client_full"
    CLIENT_RATE = "client_rate"
    UNPROVEN_FULL = "unproven_full"
    OUT_OF_WINDOW = "out_of_window"
    UNEXPECTED = "unexpected"
    RATE_LIMITED = "rate_limited"
    HELD_BYTES_FULL = "held_bytes_full"
    DENIED = "denied"


class IcmpAnswer(NamedTuple):
    """The ICMP error that a packet's sender is owed, in the family of the packet; `rest` is the message's second word."""

    type: int
    code: int
    rest: int = 0


class Dropped(KracauerError):  # noqa: N818  what happened, not a failure
    """Raised inside the engine, never out of it, to end a packet's way: becomes a `PacketDropped` event and the answer."""

    def __init__(self, reason: DropReason, detail: str | None = None, answer: IcmpAnswer | None = None) -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail
        self.answer = answer


class Untranslatable(Dropped):
    """A well-formed packet without a counterpart in the other family, to be dropped in silence (RFC 7915 §4.2, §5.2)."""
