"""Whether hosts answer this machine's own address: a TCP connection that is closed at once, and a ping (RFC 4443 §4.1)."""

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Final

from kracauer.doctor.facts import Answer, Backend

# A neighbour that is not there is known as such after three seconds (RFC 4861 §10).
TIMEOUT_S: Final = 3.3
AT_MOST: Final = 256
_ECHO: Final = struct.Struct("!BBHHH")
_ECHO_REQUEST: Final = 128
_ECHO_REPLY: Final = 129
_UNREACHABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EADDRNOTAVAIL})


def try_directly(backends: Sequence[Backend]) -> tuple[Backend, ...]:
    """The same, with what came of it; those beyond the first `AT_MOST` are left as they are."""
    return asyncio.run(_try_all(backends))


async def _try_all(backends: Sequence[Backend]) -> tuple[Backend, ...]:
    tried = await asyncio.gather(*(_try(backend) for backend in backends[:AT_MOST]))
    return (*tried, *backends[AT_MOST:])


async def _try(backend: Backend) -> Backend:
    direct, is_pinged = await asyncio.gather(_connect(backend.address, backend.port), _ping(backend.address))
    return replace(backend, direct=direct, is_pinged=is_pinged)


async def _connect(address: IPv6Address, port: int) -> Answer:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as connection:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
        except TimeoutError:
            return Answer.SILENT
        except ConnectionRefusedError:
            return Answer.REFUSED
        except OSError as error:
            return Answer.UNREACHABLE if error.errno in _UNREACHABLE else Answer.SILENT
    return Answer.ACCEPTED


async def _ping(address: IPv6Address) -> bool | None:
    """Whether an echo request is answered; None where this user may not send one."""
    try:
        channel = _open_ping()
    except OSError:
        return None
    with channel:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                await loop.sock_connect(channel, (str(address), 0))
                await loop.sock_sendall(channel, _ECHO.pack(_ECHO_REQUEST, 0, 0, os.getpid() & 0xFFFF, 1))
                while True:
                    if (await loop.sock_recv(channel, 256))[:1] == bytes((_ECHO_REPLY,)):
                        return True
    return False


def _open_ping() -> socket.socket:
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | flags, socket.IPPROTO_ICMPV6)
    except OSError:
        return socket.socket(socket.AF_INET6, socket.SOCK_RAW | flags, socket.IPPROTO_ICMPV6)
