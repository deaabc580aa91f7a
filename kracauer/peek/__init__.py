"""The first bytes of a client's stream to the hostname it asks for: TLS server name, or HTTP host.

The outcome is NEED_MORE for every beginning of the stream up to some length, and for every longer one the same `Peeked`
or the same `PeekError`: it never depends on how the bytes were cut.
"""

from kracauer.peek import http, tls
from kracauer.peek.outcome import (
    DEFAULT_LIMIT_BYTES,
    NEED_MORE,
    NO_HOSTNAME,
    Dialect,
    Outcome,
    Peeked,
    PeekError,
    Protocol,
)
from kracauer.wire.buffer import Buffer

__all__ = [
    "DEFAULT_LIMIT_BYTES",
    "NEED_MORE",
    "NO_HOSTNAME",
    "Dialect",
    "Outcome",
    "PeekError",
    "Peeked",
    "Peeker",
    "Protocol",
    "peek",
]


def peek(protocol: Protocol, data: Buffer, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Peeked | Outcome:
    """Look at a stream's contiguous first bytes without consuming them; raises PeekError for what can never be served.

    The answer must come within `limit_bytes` of the stream, TLS record headers included. Bytes beyond it are not looked
    at. Each call begins anew: for a stream that grows segment by segment, `Peeker` says the same at a linear cost.
    """
    stream = bytes(data[:limit_bytes])
    match _choose(protocol, stream):
        case Dialect.TLS:
            return tls.peek(stream, limit_bytes)
        case Dialect.HTTP:
            return http.peek(stream, limit_bytes)
        case None:
            return NEED_MORE


class Peeker:
    """Peeks at one stream as it grows, looking at each byte once; keeps a copy of at most `limit_bytes` of it."""

    __slots__ = ("_limit_bytes", "_outcome", "_protocol", "_reader", "_taken")

    def __init__(self, protocol: Protocol, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._protocol = protocol
        self._limit_bytes = limit_bytes
        self._taken = 0
        self._reader: tls.HelloReader | http.HeadReader | None = None
        self._outcome: Peeked | PeekError | Outcome = NEED_MORE

    def update(self, data: Buffer) -> Peeked | Outcome:
        """Say what `peek` says of `data`: all contiguous bytes so far, beginning with those of every earlier call.

        Once there is an answer it stays, and a PeekError is raised again.
        """
        if self._outcome is NEED_MORE and len(data) > self._taken:
            piece = bytes(memoryview(data)[self._taken :])
            self._taken += len(piece)
            try:
                self._outcome = self._feed(piece)
            except PeekError as error:
                self._reader = None
                self._outcome = error.copy()
        if isinstance(self._outcome, PeekError):
            raise self._outcome.copy()
        return self._outcome

    def _feed(self, piece: bytes) -> Peeked | Outcome:
        if self._reader is None:
            is_tls = _choose(self._protocol, piece) is Dialect.TLS
            self._reader = tls.HelloReader(self._limit_bytes) if is_tls else http.HeadReader(self._limit_bytes)
        return self._reader.feed(piece)


def _choose(protocol: Protocol, stream: bytes) -> Dialect | None:
    """The dialect to read `stream` in; None while an AUTO listener's first byte is missing."""
    match protocol:
        case Protocol.TLS:
            return Dialect.TLS
        case Protocol.HTTP:
            return Dialect.HTTP
        case Protocol.AUTO if stream:
            return Dialect.TLS if stream[0] == tls.CONTENT_TYPE_HANDSHAKE else Dialect.HTTP
        case Protocol.AUTO:
            return None
