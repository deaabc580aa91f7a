"""What supervisor and worker say to each other: messages on a stream socket, each behind its length in four bytes.

Orders go down pickled, with configurations in them. Words come up as JSON: a worker is who reads what strangers send, and
what it says is taken for data and nothing else.
"""

import asyncio
import copyreg
import io
import json
import pickle
import socket
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

_LENGTH: Final = struct.Struct("!I")
MOST_BYTES: Final = 1 << 30  # no configuration is as large
MOST_SAID: Final = 1 << 26  # nor is what there is to say of ten thousand backends


class ChannelClosedError(Exception):
    """The other side has gone."""


def send_order(channel: socket.socket, order: object) -> None:
    """Send `order` down a socket that waits."""
    channel.sendall(pack_order(order))


def receive_order(channel: socket.socket) -> Any:
    """The next order, from a socket that waits; raises ChannelClosedError."""
    (length,) = _LENGTH.unpack(_receive(channel, _LENGTH.size))
    return pickle.loads(_receive(channel, length))


def send_words(channel: socket.socket, words: Mapping[str, object]) -> None:
    """Send `words` up a socket that waits; raises ChannelClosedError."""
    try:
        channel.sendall(pack_words(words))
    except OSError:
        raise ChannelClosedError from None


def receive_words(channel: socket.socket) -> dict[str, Any]:
    """The next words, from a socket that waits; raises ChannelClosedError, or TimeoutError as the socket says."""
    (length,) = _LENGTH.unpack(_receive(channel, _LENGTH.size))
    if length > MOST_SAID:
        raise ChannelClosedError
    return _parse_words(_receive(channel, length))


def pack_order(order: object) -> bytes:
    """An order as it is sent."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream)
    pickler.dispatch_table = copyreg.dispatch_table | {MappingProxyType: _reduce_proxy}
    pickler.dump(order)
    return _pack(stream.getvalue())


def pack_words(words: Mapping[str, object]) -> bytes:
    """Words as they are sent."""
    return _pack(json.dumps(words, default=str).encode())


async def next_order(reader: asyncio.StreamReader) -> Any:
    """The next order; raises ChannelClosedError."""
    return pickle.loads(await _read(reader, MOST_BYTES))


async def next_words(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next words; raises ChannelClosedError."""
    return _parse_words(await _read(reader, MOST_SAID))


def _reduce_proxy(proxy: MappingProxyType[Any, Any]) -> tuple[Callable[..., object], tuple[dict[Any, Any]]]:
    return make_proxy, (dict(proxy),)


def make_proxy(content: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    """A mapping as configurations have it, which pickle does not know by its own name."""
    return MappingProxyType(content)


def _pack(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message


def _parse_words(message: bytes) -> dict[str, Any]:
    try:
        words = json.loads(message)
    except (ValueError, RecursionError):
        raise ChannelClosedError from None
    if not isinstance(words, dict):
        raise ChannelClosedError
    return words


async def _read(reader: asyncio.StreamReader, most: int) -> bytes:
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > most:
            raise ChannelClosedError
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError):
        raise ChannelClosedError from None


def _receive(channel: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        try:
            part = channel.recv(min(length - len(received), 1 << 20))
        except TimeoutError:
            raise
        except OSError:
            part = b""
        if not part:
            raise ChannelClosedError
        received += part
    return bytes(received)
