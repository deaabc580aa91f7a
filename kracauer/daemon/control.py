"""The control socket: one request a connection, one reply, each a line of JSON; for the service's own user and root alone."""

import asyncio
import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from structlog.typing import FilteringBoundLogger

LONGEST_REQUEST: Final = 65536
TIMEOUT_S: Final = 10.0
CLIENTS_AT_ONCE: Final = 8
_RETRY_S: Final = 1.0
_PEER: Final = struct.Struct("=iII")  # struct ucred of unix(7): process, user, group
_SHORT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# What answers a request; None: `dismiss` will, when the service has come to its end.
Handler: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, object] | None]]


class RequestError(Exception):
    """Raised for a request that makes no sense; the message goes to the client."""


class ControlServer:
    """Listens at `path` and answers with `handlers`, by the request's "command"."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler], log: FilteringBoundLogger) -> None:
        self._path = path
        self._handlers = handlers
        self._log = log
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: list[socket.socket] = []
        self._is_listening = False
        self._has_warned = False

    def open(self) -> None:
        """Make the socket, in place of one that a killed service has left; where there can be none, warn and go on."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self._path.unlink(missing_ok=True)
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            listener.listen(CLIENTS_AT_ONCE)
        except OSError as error:
            listener.close()
            self._warn(error, "make that directory writable; until then only signals reach this service")
        else:
            self._listener = listener

    def start(self) -> None:
        """Answer from now on, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._listen()

    async def close(self) -> None:
        """Answer nobody any more, but those who wait for the end; whoever is being answered gets a moment."""
        if self._listener is None:
            return
        self._mute()
        self._listener.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._listener = None
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=1)
            for task in late:
                task.cancel()

    def dismiss(self, outcome: Mapping[str, object]) -> None:
        """Tell those who wait for the end how it was."""
        for connection in self._waiting:
            with contextlib.suppress(OSError):
                connection.settimeout(1)
                connection.sendall(_encode(outcome))
            connection.close()
        self._waiting.clear()

    def _listen(self) -> None:
        if self._listener is not None and not self._is_listening:
            self._is_listening = True
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _mute(self) -> None:
        if self._listener is not None and self._is_listening:
            self._is_listening = False
            self._loop.remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _SHORT_OF_RESOURCES:
                # The connection waits, and would have the loop come here again and again.
                self._mute()
                self._loop.call_later(_RETRY_S, self._listen)
                self._warn(error, "raise LimitNOFILE; this is tried again every second")
            return
        connection.settimeout(0)
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        if len(self._tasks) >= CLIENTS_AT_ONCE:
            self._mute()

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._listen()

    async def _serve(self, connection: socket.socket) -> None:
        reply: Mapping[str, object] | None = None
        is_waiting = False
        try:
            try:
                reply = await self._answer(connection)
                is_waiting = reply is None
            except RequestError as error:
                reply = {"error": str(error)}
            if reply is not None:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._loop.sock_sendall(connection, _encode(reply))
        except (OSError, TimeoutError):
            return  # gone, or too slow: nobody is left to be told
        finally:
            if is_waiting:
                self._waiting.append(connection)
            else:
                connection.close()

    async def _answer(self, connection: socket.socket) -> Mapping[str, object] | None:
        async with asyncio.timeout(TIMEOUT_S):
            line = await self._read(connection)  # first of all: to close with something unread would reset the reply
        _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if user not in (0, os.geteuid()):
            raise RequestError("only root and the service's own user may ask")
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            raise RequestError("the request is no JSON") from None
        handler = self._handlers.get(str(request.get("command"))) if isinstance(request, dict) else None
        if handler is None:
            raise RequestError(f"the request has no command of {', '.join(self._handlers)}")
        return await handler(request)

    async def _read(self, connection: socket.socket) -> bytes:
        content = b""
        while b"\n" not in content:
            chunk = await self._loop.sock_recv(connection, 4096)
            content += chunk
            if not chunk:
                raise RequestError("the request does not end")
            if len(content) > LONGEST_REQUEST:
                raise RequestError(f"the request is longer than {LONGEST_REQUEST} bytes")
        return content.partition(b"\n")[0]

    def _warn(self, error: OSError, remedy: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._log.warning("control_unavailable", path=str(self._path), cause=error.strerror or str(error), remedy=remedy)


def _encode(reply: Mapping[str, object]) -> bytes:
    return json.dumps(reply, default=str).encode() + b"\n"
