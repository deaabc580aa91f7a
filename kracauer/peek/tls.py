r"""The server name in a TLS ClientHello (RFC 8446 §4.1.2 and §5.1, RFC 5246 §7.4.1.2, RFC 6066 §3).

    record:     | type 22 | version 3.x (2) | length (2) | fragment ...          any number of records
    fragments:  | msg_type 1 | length (3) | ClientHello ...                      joined: one handshake message

The record layer and the handshake header are judged byte by byte; the ClientHello is read only when it is complete, and
then read to its end. So the outcome is NEED_MORE up to some byte of the stream and the same answer from that byte on,
however the bytes were cut: no malformed tail can contradict an answer already given.

Two readings of the same rules stand side by side: `peek` looks at all bytes anew each time it is asked, `HelloReader`
takes each byte once. A property test holds them to one another.
"""

import struct
from typing import Final

from kracauer.errors import ParseError
from kracauer.peek.cursor import Cursor
from kracauer.peek.hostname import parse_hostname
from kracauer.peek.outcome import DEFAULT_LIMIT_BYTES, NEED_MORE, Dialect, Outcome, Peeked, PeekError

# AlertDescription (RFC 8446 §6)
UNEXPECTED_MESSAGE: Final = 10
RECORD_OVERFLOW: Final = 22
ILLEGAL_PARAMETER: Final = 47
DECODE_ERROR: Final = 50
PROTOCOL_VERSION: Final = 70

CONTENT_TYPE_HANDSHAKE: Final = 22
RECORD_HEADER_LENGTH: Final = 5
_MAX_FRAGMENT_LENGTH: Final = 1 << 14
_MAJOR_VERSION: Final = 3

_MSG_TYPE_CLIENT_HELLO: Final = 1
_HANDSHAKE_HEADER_LENGTH: Final = 4

_RANDOM_LENGTH: Final = 32
_SESSION_ID_AT: Final = _HANDSHAKE_HEADER_LENGTH + 2 + _RANDOM_LENGTH
_MAX_SESSION_ID_LENGTH: Final = 32
_EXTENSION_SERVER_NAME: Final = 0
_NAME_TYPE_HOST_NAME: Final = 0

_RECORD: Final = struct.Struct("!BBxHI")  # the record's header and the message's own
_EXTENSION: Final = struct.Struct("!HH")
_NAME: Final = struct.Struct("!HBH")  # of a list with a single name: its length, the name's type and length


def peek(data: bytes, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Peeked | Outcome:
    """Find the server name in the first bytes of a stream, of which `limit_bytes` at most may be needed."""
    stream = data[:limit_bytes]
    position, message = 0, b""
    while True:
        header = stream[position : position + RECORD_HEADER_LENGTH]
        fragment_length = _check_record_header(header)
        if fragment_length is None:
            break
        position += RECORD_HEADER_LENGTH
        overhead = position - len(message)
        fragment = stream[position : position + fragment_length]
        position += len(fragment)
        message += fragment
        missing = fragment_length - len(fragment)
        message_length = _check_fit(message, missing, overhead, limit_bytes)
        if len(message) == message_length:
            return Peeked(Dialect.TLS, parse_client_hello(message))
        if missing:
            break
    if len(data) >= limit_bytes:
        raise _too_long(limit_bytes)
    return NEED_MORE


class HelloReader:
    """Reads the same as `peek` from pieces of the stream, each fed once and in order, at a cost linear in their bytes."""

    __slots__ = ("_limit_bytes", "_message", "_missing", "_overhead", "_record_header", "_taken")

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._taken = 0
        self._record_header = bytearray()
        self._missing = 0  # bytes of the current record's fragment not yet fed
        self._overhead = 0  # bytes of the record headers so far
        self._message = bytearray()

    def feed(self, piece: bytes) -> Peeked | Outcome:
        """Take the next bytes; not to be called again after an answer or an error."""
        if not self._taken and len(piece) <= self._limit_bytes and _is_one_record(piece):
            return Peeked(Dialect.TLS, parse_client_hello(piece[RECORD_HEADER_LENGTH:]))
        piece = piece[: self._limit_bytes - self._taken]
        self._taken += len(piece)
        position = 0
        while position < len(piece):
            if self._missing == 0:
                position = self._take_record_header(piece, position)
                continue
            start, position = position, min(position + self._missing, len(piece))
            self._message += piece[start:position]
            self._missing -= position - start
            message_length = _check_fit(self._message, self._missing, self._overhead, self._limit_bytes)
            if len(self._message) == message_length:
                return Peeked(Dialect.TLS, parse_client_hello(bytes(self._message)))
        if self._taken >= self._limit_bytes:
            raise _too_long(self._limit_bytes)
        return NEED_MORE

    def _take_record_header(self, piece: bytes, position: int) -> int:
        start, position = position, position + RECORD_HEADER_LENGTH - len(self._record_header)
        self._record_header += piece[start:position]
        fragment_length = _check_record_header(self._record_header)
        if fragment_length is None:
            return len(piece)
        self._record_header.clear()
        self._missing = fragment_length
        self._overhead += RECORD_HEADER_LENGTH
        _check_fit(self._message, fragment_length, self._overhead, self._limit_bytes)
        return position


def _is_one_record(piece: bytes) -> bool:
    """Whether `piece` is one record with one ClientHello and nothing else, as nearly all clients send it."""
    if len(piece) < _RECORD.size:
        return False
    length = len(piece) - RECORD_HEADER_LENGTH
    expected = CONTENT_TYPE_HANDSHAKE, _MAJOR_VERSION, length, _MSG_TYPE_CLIENT_HELLO << 24 | length - _HANDSHAKE_HEADER_LENGTH
    return length <= _MAX_FRAGMENT_LENGTH and _RECORD.unpack_from(piece) == expected


def _check_record_header(header: bytes | bytearray) -> int | None:
    """Judge the up to five bytes that are there; the fragment's length once all are."""
    if len(header) >= 1 and header[0] != CONTENT_TYPE_HANDSHAKE:
        raise _not_a_handshake_record(header[0])
    # Deviation: RFC 8446 §5.1 ignores legacy_record_version. Its major number has been 3 since SSL 3.0, RFC 5246
    # appendix E.1 promises acceptance to {3, x} alone, and it keeps what is not TLS at all from being waited for.
    if len(header) >= 2 and header[1] != _MAJOR_VERSION:
        raise _refuse(PROTOCOL_VERSION, f"record of major version {header[1]}, not {_MAJOR_VERSION}")
    if len(header) < RECORD_HEADER_LENGTH:
        return None
    length = int.from_bytes(header[3:5], "big")
    if length > _MAX_FRAGMENT_LENGTH:
        raise _refuse(RECORD_OVERFLOW, f"record of {length} bytes, more than {_MAX_FRAGMENT_LENGTH}")
    if length == 0:  # RFC 8446 §5.1: "MUST NOT send zero-length fragments of Handshake types"
        raise _refuse(UNEXPECTED_MESSAGE, "empty handshake record")
    return length


def _not_a_handshake_record(first: int) -> PeekError:
    """Say what the byte where a handshake record must begin makes of this client."""
    if first & 0x80:  # the two-byte record header of RFC 5246 appendix E.2
        return _refuse(PROTOCOL_VERSION, f"byte {first:#04x} where a record must begin: an SSL 2.0 hello, or no TLS at all")
    if chr(first).isupper():
        return _refuse(UNEXPECTED_MESSAGE, f"{chr(first)!r} where a record must begin: plain text such as HTTP, not TLS")
    return _refuse(UNEXPECTED_MESSAGE, f"record of content type {first}, not handshake")


def _check_fit(message: bytes | bytearray, missing: int, overhead: int, limit_bytes: int) -> int | None:
    """Judge the handshake header as far as it is there against its record and the limit; the message's length once known.

    `missing` counts the bytes of the current record still to come, `overhead` those of all record headers so far.
    """
    if message and message[0] != _MSG_TYPE_CLIENT_HELLO:
        raise _refuse(UNEXPECTED_MESSAGE, f"handshake message of type {message[0]}, not client_hello")
    if len(message) < _HANDSHAKE_HEADER_LENGTH:
        return None
    length = _HANDSHAKE_HEADER_LENGTH + int.from_bytes(message[1:4], "big")
    if overhead + length > limit_bytes:
        raise _too_long(limit_bytes)
    # RFC 8446 §5.1: a ClientHello ends with its record. Nothing may follow it before the server has answered.
    if len(message) + missing > length:
        raise _refuse(UNEXPECTED_MESSAGE, "the record goes on beyond the end of its ClientHello")
    return length


def parse_client_hello(message: bytes) -> str | None:
    """Read a whole handshake message, header included, to its end; None when it names no host. Raises PeekError."""
    return _skim(message) or read_client_hello(message)


def _skim(message: bytes) -> str | None:
    """The hostname in a message that is right from beginning to end; None otherwise, and `read_client_hello` says why.

    Flat, because it is most of what a connection's first bytes cost.
    """
    try:
        end, at = len(message), _SESSION_ID_AT + 1 + message[_SESSION_ID_AT]
        ciphers_length = message[at] << 8 | message[at + 1]
        if message[_HANDSHAKE_HEADER_LENGTH] < _MAJOR_VERSION or message[_SESSION_ID_AT] > _MAX_SESSION_ID_LENGTH:
            return None
        at += 2 + ciphers_length
        if not ciphers_length or ciphers_length & 1 or not message[at]:
            return None
        at += 3 + message[at]
        if at + (message[at - 2] << 8 | message[at - 1]) != end:
            return None
        name, seen, count = b"", set[int](), 0
        while at < end:
            extension_type, length = _EXTENSION.unpack_from(message, at)
            at += 4
            if extension_type == _EXTENSION_SERVER_NAME:
                if length < _NAME.size:
                    return None
                list_length, name_type, name_length = _NAME.unpack_from(message, at)
                if list_length != length - 2 or name_type != _NAME_TYPE_HOST_NAME or name_length != length - _NAME.size:
                    return None
                name = message[at + _NAME.size : at + length]
            seen.add(extension_type)
            at += length
            count += 1
        return parse_hostname(name) if at == end and len(seen) == count and name else None
    except (IndexError, struct.error, ParseError):
        return None


def read_client_hello(message: bytes) -> str | None:
    """As `parse_client_hello`, one field after the other: what its short way is held to."""
    try:
        return _parse_client_hello(Cursor(message, _HANDSHAKE_HEADER_LENGTH))
    except PeekError:
        raise
    except ParseError as error:
        raise _refuse(DECODE_ERROR, f"ClientHello: {error}") from None


def _parse_client_hello(hello: Cursor) -> str | None:
    # Any later version is a client's to offer and a server's to answer with its own (RFC 5246 appendix E.1).
    if (version := hello.pull_uint(2, "legacy_version")) < _MAJOR_VERSION << 8:
        raise _refuse(PROTOCOL_VERSION, f"ClientHello of version {version >> 8}.{version & 0xFF}")
    hello.pull_bytes(_RANDOM_LENGTH, "random")
    if len(hello.pull_vector(1, "legacy_session_id")) > _MAX_SESSION_ID_LENGTH:
        raise ParseError(f"legacy_session_id longer than {_MAX_SESSION_ID_LENGTH} bytes")
    cipher_suites = hello.pull_vector(2, "cipher_suites")
    if not cipher_suites or len(cipher_suites) % 2:
        raise ParseError(f"cipher_suites of {len(cipher_suites)} bytes")
    if not hello.pull_vector(1, "legacy_compression_methods"):
        raise ParseError("no compression method")
    if hello.is_at_end:  # RFC 5246 §7.4.1.2: extensions may be missing altogether
        return None
    extensions = hello.pull_block(2, "extensions")
    hello.expect_end("ClientHello")
    return _find_server_name(extensions)


def _find_server_name(extensions: Cursor) -> str | None:
    """Walk every extension, so that a block cut short or a repeated type is found wherever it stands."""
    hostname = None
    seen: set[int] = set()
    while not extensions.is_at_end:
        extension_type = extensions.pull_uint(2, "extension_type")
        if extension_type in seen:  # RFC 8446 §4.2
            raise _refuse(ILLEGAL_PARAMETER, f"extension {extension_type} given twice")
        seen.add(extension_type)
        extension_data = extensions.pull_block(2, "extension_data")
        if extension_type == _EXTENSION_SERVER_NAME:
            hostname = _parse_server_name(extension_data)
    return hostname


def _parse_server_name(extension_data: Cursor) -> str | None:
    names = extension_data.pull_block(2, "server_name_list")
    extension_data.expect_end("server_name")
    if names.is_at_end:
        raise ParseError("server_name_list is empty")
    hostname = None
    seen: set[int] = set()
    while not names.is_at_end:
        name_type = names.pull_uint(1, "name_type")
        if name_type in seen:
            raise _refuse(ILLEGAL_PARAMETER, f"two server names of type {name_type}")
        seen.add(name_type)
        name = names.pull_vector(2, "server name")  # RFC 6066 §3: a name of any type begins with a 16-bit length
        if name_type == _NAME_TYPE_HOST_NAME:
            hostname = _parse_host_name(name)
    return hostname


def _parse_host_name(name: bytes) -> str | None:
    # Deviation: RFC 6066 §3 allows neither a trailing dot nor an address. A dot changes nothing about which host is meant,
    # and some clients put addresses there all the same: such a hello names no host, as if the extension were not there.
    if not name:
        raise ParseError("host_name is empty")
    try:
        return parse_hostname(name)
    except ParseError as error:
        raise _refuse(ILLEGAL_PARAMETER, f"server_name: {error}") from None


def _too_long(limit_bytes: int) -> PeekError:
    return _refuse(ILLEGAL_PARAMETER, f"no complete ClientHello within {limit_bytes} bytes")


def _refuse(alert: int, message: str) -> PeekError:
    return PeekError(f"TLS: {message}", Dialect.TLS, alert)
