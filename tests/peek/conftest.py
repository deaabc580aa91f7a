"""What the tests of the peek share: a ClientHello builder, and outcomes that can be compared."""

from collections.abc import Callable, Iterable

import pytest

from kracauer.peek import NEED_MORE, Outcome, Peeked, PeekError

Verdict = Peeked | Outcome | tuple[str, str, int, bool]


def _vector(length_size: int, content: bytes) -> bytes:
    return len(content).to_bytes(length_size, "big") + content


def _server_name(*names: bytes, name_type: int = 0) -> bytes:
    """A server_name extension's data."""
    return _vector(2, b"".join(bytes([name_type]) + _vector(2, name) for name in names))


def _hello(
    extensions: Iterable[tuple[int, bytes]] | None = None,
    *,
    version: bytes = b"\x03\x03",
    session_id: bytes = bytes(32),
    cipher_suites: bytes = b"\x13\x01\x13\x02",
    compression_methods: bytes = b"\x00",
    tail: bytes = b"",
) -> bytes:
    """A ClientHello message with these (type, data) extensions, or without an extensions block; `tail` comes last in it."""
    body = version + bytes(32) + _vector(1, session_id) + _vector(2, cipher_suites) + _vector(1, compression_methods)
    if extensions is not None:
        body += _vector(2, b"".join(kind.to_bytes(2, "big") + _vector(2, data) for kind, data in extensions))
    return b"\x01" + _vector(3, body + tail)


def _records(message: bytes, size: int = 16_384) -> bytes:
    """The message in records of `size` bytes, the last one shorter."""
    fragments = (message[start : start + size] for start in range(0, len(message), size))
    return b"".join(b"\x16\x03\x01" + _vector(2, fragment) for fragment in fragments)


def _verdict(peeking: Callable[..., Peeked | Outcome], *args: object) -> Verdict:
    """What came out, errors included, as a value; any exception but PeekError goes through."""
    try:
        outcome = peeking(*args)
    except PeekError as error:
        return str(error), error.dialect, error.code, error.is_head_request
    assert outcome is NEED_MORE or isinstance(outcome, Peeked)
    return outcome


@pytest.fixture(scope="session")
def vector() -> Callable[[int, bytes], bytes]:
    return _vector


@pytest.fixture(scope="session")
def server_name() -> Callable[..., bytes]:
    return _server_name


@pytest.fixture(scope="session")
def hello() -> Callable[..., bytes]:
    return _hello


@pytest.fixture(scope="session")
def records() -> Callable[..., bytes]:
    return _records


@pytest.fixture(scope="session")
def verdict() -> Callable[..., Verdict]:
    return _verdict
