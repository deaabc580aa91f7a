"""The peek: whatever a client says first, there is one outcome, and it does not depend on how the bytes were cut."""

import json
from pathlib import Path
from typing import Final, TypeAlias

from hellos import client_hello, http_request

from kracauer.peek import NEED_MORE, Dialect, Outcome, Peeked, Peeker, PeekError, Protocol, peek
from kracauer.peek.hostname import parse_authority, parse_hostname
from kracauer.replies import http_error

VECTORS: Final = Path(__file__).parent.parent / "vectors"
LIMITS: Final = (64, 517, 4096, 65_536)
Told: TypeAlias = Peeked | Outcome | tuple[str, Dialect, int, bool]


def play_tls(data: bytes) -> int:
    """As `_play`, of a listener for TLS; a name that was found is one that a configuration could have."""
    return _play(Protocol.TLS, data)


def play_http(data: bytes) -> int:
    """As `_play`, of a listener for HTTP."""
    return _play(Protocol.HTTP, data)


def play_auto(data: bytes) -> int:
    """As `_play`, of a listener that tells by the first byte; it says what the listener for that protocol says."""
    limit, stream = LIMITS[data[0] & 3] if data else 64, data[2:]
    if stream:
        protocol = Protocol.TLS if stream[0] == 0x16 else Protocol.HTTP
        assert _told(Protocol.AUTO, stream, limit) == _told(protocol, stream, limit)
    return _play(Protocol.AUTO, data)


def _play(protocol: Protocol, data: bytes) -> int:
    """Nothing but PeekError is raised; NEED_MORE up to some byte, and one and the same answer from that byte on.

    It comes within the limit; and pieces of any size come to the same as all bytes at once: the first two bytes say how many.
    """
    limit, step, stream = LIMITS[data[0] & 3] if data else 64, (data[1] & 63 if len(data) > 1 else 0) + 1, data[2:]
    whole = _told(protocol, stream, limit)
    peeker = Peeker(protocol, limit)
    answer: Told = NEED_MORE
    for end in (*range(step, len(stream), step), len(stream)):
        told = _update(peeker, stream[:end])
        assert answer is NEED_MORE or told == answer, "an answer that did not stay"
        if told is not NEED_MORE and answer is NEED_MORE:
            assert _told(protocol, stream[:end], limit) == told, "pieces say another thing than the whole of them"
        answer = told
    assert answer == whole, "pieces say another thing than all at once"
    assert whole is not NEED_MORE or len(stream) < limit, "more wanted than the limit"
    if isinstance(whole, Peeked):
        _check_hostname(whole.hostname)
        assert _told(protocol, stream + b"\xff", limit) == whole, "an answer that the next byte contradicts"
    elif isinstance(whole, tuple) and whole[1] is Dialect.HTTP:
        assert http_error(whole[2], is_head=whole[3])
    return 1


def _check_hostname(hostname: str | None) -> None:
    if hostname is None:
        return
    assert hostname == hostname.lower()
    assert 0 < len(hostname) <= 253
    assert not hostname.endswith(".")
    assert parse_hostname(hostname.encode("ascii")) == hostname
    assert parse_authority(hostname.encode("ascii")) == hostname


def _told(protocol: Protocol, stream: bytes, limit: int) -> Told:
    try:
        return peek(protocol, stream, limit)
    except PeekError as error:
        return _refusal(error)


def _update(peeker: Peeker, stream: bytes) -> Told:
    try:
        return peeker.update(stream)
    except PeekError as error:
        return _refusal(error)


def _refusal(error: PeekError) -> Told:
    assert str(error).isprintable(), "a message that is not fit for a log"
    return str(error), error.dialect, error.code, error.is_head_request


def _recorded(kind: str) -> list[bytes]:
    files = sorted((VECTORS / kind).glob("*.json"))
    return [bytes.fromhex("".join(json.loads(file.read_text(encoding="utf-8"))["hex"])) for file in files]


def seeds_tls() -> list[bytes]:
    """Every recorded hello, small ones, one in records of a few bytes each."""
    small = [client_hello("www.example.com"), client_hello(None), client_hello("a" * 63 + ".example")]
    message = small[0][5:]
    records = b"".join(b"\x16\x03\x01\x00\x09" + message[at : at + 9] for at in range(0, len(message) - 9, 9))
    return [b"\3\x3f" + hello for hello in (*small, records, *_recorded("client_hellos"))]


def seeds_http() -> list[bytes]:
    """Every recorded request head, and forms of a target that no recording has."""
    lines = (b"CONNECT www.example.com:443 HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET http://[2001:db8::1]:80/ HTTP/1.0")
    heads = [b"\r\n" + line + b"\r\nHost: www.example.com:80\r\n\r\n" for line in lines]
    return [b"\3\x3f" + head for head in (http_request("www.example.com"), *heads, *_recorded("request_heads"))]


def seeds_auto() -> list[bytes]:
    """A few of either."""
    return [*seeds_tls()[:4], *seeds_http()[:4]]
