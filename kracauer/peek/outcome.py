"""What a peek can come to: a name, no name, more bytes needed, or a refusal that says how to answer it."""

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final

from kracauer.errors import ParseError


class Protocol(StrEnum):
    """What a listener expects its clients to speak first; the values are those of the configuration."""

    TLS = "tls"
    HTTP = "http"
    AUTO = "auto"  # told by the first byte: 0x16 begins a TLS record and cannot begin an HTTP request


class Dialect(StrEnum):
    """What a client was found to speak, and so what it must be answered in."""

    TLS = "tls"
    HTTP = "http"


class Outcome(Enum):
    """The outcome that is no answer yet. One member, so that `is NEED_MORE` narrows a type."""

    NEED_MORE = "need_more"


NEED_MORE: Final = Outcome.NEED_MORE
NO_HOSTNAME: Final = None  # the value of `Peeked.hostname` when a well-formed beginning names no host

DEFAULT_LIMIT_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Peeked:
    """A complete and well-formed beginning; `hostname` is lower-case A-labels without port or trailing dot, or NO_HOSTNAME.

    `target` is the path and query of an HTTP request as its client wrote them, beginning with a slash; None where it has none.
    """

    dialect: Dialect
    hostname: str | None
    is_head_request: bool = False  # an HTTP answer to it carries no content (RFC 9110 §9.3.2)
    target: bytes | None = field(default=None, compare=False)


class PeekError(ParseError):
    """A beginning that can never become acceptable, and how to say so to the client.

    `dialect` tells which answer fits; `code` is the TLS AlertDescription (RFC 8446 §6) or the HTTP status code
    (RFC 9110 §15) of that answer. `is_head_request` is as in `Peeked`, as far as it was known.
    """

    def __init__(self, message: str, dialect: Dialect, code: int, *, is_head_request: bool = False) -> None:
        super().__init__(message)
        self.dialect = dialect
        self.code = code
        self.is_head_request = is_head_request

    def copy(self) -> "PeekError":
        """The same refusal without a traceback, which would keep the caller's buffers alive."""
        return PeekError(str(self), self.dialect, self.code, is_head_request=self.is_head_request)
