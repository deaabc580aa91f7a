r"""The host an HTTP/1.x request is meant for (RFC 9112 §2.2, §3, §3.2 and §5, RFC 9110 §5.1, §5.5 and §7.2).

The head is judged line by line and answered for only when its empty line is there: the outcome is NEED_MORE up to some
byte of the stream and the same answer from that byte on, however the bytes were cut.

The bytes go to the backend as they came. So whatever one reader could take otherwise than another is refused, and never
mended: two Hosts, folded or unnameable fields, space before a colon, bare CR or LF, control bytes, odd spacing in the
request-line. RFC 9112 §2.2 allows a lone LF to end a line; to a backend that keeps to CRLF it would not, and what looks
like a Host to one would be inside another field to the other. Where an absolute-form target and Host differ the target
wins, as RFC 9112 §3.2.2 obliges the backend to read it too. A request after the first goes where the first went, whatever
it names: the choice of a backend is no access control, the backend judges each request itself.

HTTP/2 with prior knowledge (RFC 9113 §3.4) has its names in compressed header blocks: its preface names no host, so a default
route can serve it and no other. `peek` and `HeadReader` are the plain and the incremental reading of the same rules.
"""

import re
from typing import Final

from kracauer.errors import ParseError
from kracauer.peek.hostname import parse_authority
from kracauer.peek.outcome import DEFAULT_LIMIT_BYTES, NEED_MORE, Dialect, Outcome, Peeked, PeekError

BAD_REQUEST: Final = 400
HEAD_TOO_LARGE: Final = 431
VERSION_NOT_SUPPORTED: Final = 505

_MAX_EMPTY_LINES: Final = 4  # RFC 9112 §2.2 asks for one; old clients sent a stray CRLF after a body
_TCHAR: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_FIRST_BYTE: Final = re.compile(rb"%b|[\r\n]" % _TCHAR)
# What must not stand in a head, a lone CR or LF included; a CR at the very end may still get its LF.
_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=[^\n])|(?<!\r)\n")
_REQUEST_LINE: Final = re.compile(rb"(?P<method>%b+) (?P<target>[^ \t]+) HTTP/(?P<major>[0-9])\.(?P<minor>[0-9])" % _TCHAR)
_FIELD_NAME: Final = re.compile(rb"(?P<name>%b+):" % _TCHAR)
_ABSOLUTE_FORM: Final = re.compile(
    rb"[A-Za-z][A-Za-z0-9+.-]*://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?:#.*)?", re.DOTALL
)
_LONE: Final = {b"\r": "lone CR", b"\n": "lone LF"}
_HTTP2_PREFACE: Final = (b"PRI * HTTP/2.0", b"", b"SM", b"")


def peek(data: bytes, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Peeked | Outcome:
    """Find the host in the first bytes of a stream, of which `limit_bytes` at most may be needed."""
    stream = data[:limit_bytes]
    head = _Head()
    position = 0
    while position < len(stream):
        line_end = stream.find(b"\n", position) + 1
        line = stream[position : line_end or len(stream)]
        head.check_bytes(line)
        if not line_end:
            break
        if (outcome := head.take_line(line[:-2])) is not NEED_MORE:
            return outcome
        position = line_end
    if len(data) >= limit_bytes:
        raise head.too_large(limit_bytes)
    return NEED_MORE


class HeadReader:
    """Reads the same as `peek` from pieces of the stream, each fed once and in order, at a cost linear in their bytes."""

    __slots__ = ("_head", "_limit_bytes", "_line", "_taken")

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._taken = 0
        self._head = _Head()
        self._line = bytearray()

    def feed(self, piece: bytes) -> Peeked | Outcome:
        """Take the next bytes; not to be called again after an answer or an error."""
        piece = piece[: self._limit_bytes - self._taken]
        self._taken += len(piece)
        position = 0
        while position < len(piece):
            line_end = piece.find(b"\n", position) + 1
            start, position = position, line_end or len(piece)
            judged = max(0, len(self._line) - 1)  # a CR that came last is judged with what follows it
            self._line += piece[start:position]
            self._head.check_bytes(self._line, judged)
            if line_end:
                line = bytes(self._line[:-2])
                self._line.clear()
                if (outcome := self._head.take_line(line)) is not NEED_MORE:
                    return outcome
        if self._taken >= self._limit_bytes:
            raise self._head.too_large(self._limit_bytes)
        return NEED_MORE


class _Head:
    """One request head as far as its lines have been taken: empty ones, the request-line, fields, the empty one at the end."""

    __slots__ = (
        "_empty_lines",
        "_has_request_line",
        "_hosts",
        "_is_head_request",
        "_needs_host",
        "_preface_lines",
        "_target",
        "_target_hosts",
    )

    def __init__(self) -> None:
        self._empty_lines = 0
        self._has_request_line = False
        self._is_head_request = False
        self._needs_host = False
        self._preface_lines = 0  # how much of the HTTP/2 preface has been seen
        self._hosts: list[str | None] = []  # of the Host field: none or one
        self._target: bytes | None = None  # path and query
        self._target_hosts: list[str | None] = []  # of a request-target in absolute-form or authority-form: none or one

    def check_bytes(self, line: bytes | bytearray, start: int = 0) -> None:
        """Judge the bytes from `start` of a line with its line end, of which the last may not have come yet."""
        if not self._has_request_line and line and not _FIRST_BYTE.match(line):
            raise self._refuse(f"byte {line[0]:#04x} cannot begin a request{' (a TLS hello?)' if line[0] == 0x16 else ''}")
        if found := _FORBIDDEN.search(line, start):
            raise self._refuse(f"{_LONE.get(found[0], 'control')} byte {found[0][0]:#04x} in the request head")

    def take_line(self, line: bytes) -> Peeked | Outcome:
        """Take the next line, without its CRLF and with its bytes already judged."""
        if self._preface_lines:
            return self._take_preface_line(line)
        if not self._has_request_line:
            self._take_request_line(line)
        elif line:
            self._take_field_line(line)
        else:
            return self._finish()
        return NEED_MORE

    def too_large(self, limit_bytes: int) -> PeekError:
        """The refusal of a head that has no end within the limit."""
        return self._refuse(f"no complete request head within {limit_bytes} bytes", HEAD_TOO_LARGE)

    def _take_preface_line(self, line: bytes) -> Peeked | Outcome:
        if line != _HTTP2_PREFACE[self._preface_lines]:
            raise self._refuse("malformed HTTP/2 connection preface")
        self._preface_lines += 1
        return Peeked(Dialect.HTTP, None) if self._preface_lines == len(_HTTP2_PREFACE) else NEED_MORE

    def _take_request_line(self, line: bytes) -> None:
        if not line:
            self._empty_lines += 1
            if self._empty_lines > _MAX_EMPTY_LINES:
                raise self._refuse(f"more than {_MAX_EMPTY_LINES} empty lines before the request")
            return
        self._has_request_line = True
        if line == _HTTP2_PREFACE[0]:
            self._preface_lines = 1
            return
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise self._refuse("malformed request-line, or HTTP/0.9")
        if match["major"] != b"1":
            raise self._refuse(f"HTTP version {match['major'].decode()}.{match['minor'].decode()}", VERSION_NOT_SUPPORTED)
        self._is_head_request = match["method"] == b"HEAD"
        self._needs_host = match["minor"] != b"0"
        self._take_target(match["method"], match["target"])

    def _take_target(self, method: bytes, target: bytes) -> None:
        """Tell the four forms of a request-target apart (RFC 9112 §3.2), and keep the host of the two that have one."""
        if method == b"CONNECT":
            self._target_hosts.append(self._parse_host(target, needs_port=True))
        elif target == b"*":
            if method != b"OPTIONS":
                raise self._refuse("request-target * is for OPTIONS alone")
        elif target.startswith(b"/"):
            self._target = target.partition(b"#")[0]
        else:
            absolute = _ABSOLUTE_FORM.fullmatch(target)
            if absolute is None:
                raise self._refuse("request-target in none of the four forms")
            self._target_hosts.append(self._parse_host(absolute["authority"]))
            self._target = (absolute["path"] or b"/") + (absolute["query"] or b"")

    def _take_field_line(self, line: bytes) -> None:
        if line[:1] in b" \t":  # RFC 9112 §2.2 and §5.2
            raise self._refuse("folded field line, or space before the first one")
        match = _FIELD_NAME.match(line)
        if match is None:  # RFC 9112 §5.1 on the space, RFC 9110 §5.1 on the name
            raise self._refuse("field line without a colon, with an invalid name, or with space before its colon")
        if match["name"].lower() != b"host":
            return
        if self._hosts:
            raise self._refuse("more than one Host")
        # An empty Host is what a request without an authority must carry (RFC 9112 §3.2).
        value = line[match.end() :].strip(b" \t")
        self._hosts.append(self._parse_host(value) if value else None)

    def _finish(self) -> Peeked:
        """The head is complete: the target's own host wins over Host (RFC 9112 §3.2.2)."""
        if self._needs_host and not self._hosts:  # RFC 9112 §3.2, whatever the target's form
            raise self._refuse("HTTP/1.1 request without Host")
        hosts = self._target_hosts or self._hosts or [None]
        return Peeked(Dialect.HTTP, hosts[0], self._is_head_request, self._target)

    def _parse_host(self, raw: bytes, *, needs_port: bool = False) -> str | None:
        try:
            return parse_authority(raw, needs_port=needs_port)
        except ParseError as error:
            raise self._refuse(str(error)) from None

    def _refuse(self, message: str, status: int = BAD_REQUEST) -> PeekError:
        return PeekError(f"HTTP: {message}", Dialect.HTTP, status, is_head_request=self._is_head_request)
