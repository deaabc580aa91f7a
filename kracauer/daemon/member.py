"""A worker as its supervisor has it: a process, a channel to it, and what it has said last."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any, Final

import kracauer
from kracauer.daemon import channel
from kracauer.daemon.channel import ChannelClosedError
from kracauer.daemon.orders import Order, Serve, Stop, Tell
from kracauer.errors import RemediableError

ANSWER_S: Final = 3.0
_BEGIN_S: Final = 120.0  # for its first words, and to take up what may be a hundred thousand flows on a busy machine
_END_S: Final = 5.0
_PAUSE_S: Final = 0.01
_MODULE: Final = "kracauer.daemon.worker"
# What a service manager tells the process that it has started is not for others to answer.
_SUPERVISORS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_REMEDY: Final = "look for what it has said on stderr, and whether there is memory for so many (network.workers)"


class WorkerError(RemediableError):
    """A worker has not begun to serve."""


class Member:
    """Worker `number`. In this order: `spawn`, `brief`, `await_adoption`, `serve`, `listen`; `kill` ends it at any time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.started = 0.0
        self.starts = 0
        self.report: Mapping[str, Any] = {}
        self.services: set[tuple[IPv4Address, int]] = set()
        self.last_words: Mapping[str, Any] | None = None
        self.heard_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._answers: list[tuple[str, asyncio.Future[Mapping[str, Any]]]] = []

    @property
    def pid(self) -> int | None:
        """Its process, once there is one."""
        return None if self._process is None else self._process.pid

    def spawn(self, descriptors: Collection[int]) -> None:
        """Start the process, with these descriptors open. Raises WorkerError."""
        ours, its = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name not in _SUPERVISORS}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        with its:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", _MODULE, str(its.fileno())],
                    pass_fds=(its.fileno(), *descriptors),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                )
            except OSError as error:
                ours.close()
                raise WorkerError(f"worker {self.number} cannot be started ({error.strerror})", _REMEDY) from error
        self._channel = ours
        self.started = self.heard_at = time.monotonic()
        self.starts += 1
        self.last_words = None
        ours.settimeout(_BEGIN_S)

    def brief(self, order: Order) -> None:
        """Wait until it is there, and tell it all. Raises WorkerError."""
        assert self._channel is not None
        try:
            said = channel.receive_words(self._channel)
            if said.get("version") != kracauer.__version__:
                raise WorkerError(
                    f"worker {self.number} would be of version {said.get('version')}, and this service is of "
                    f"{kracauer.__version__}: another one has been installed meanwhile",
                    "restart the service, which keeps connections",
                )
            channel.send_order(self._channel, order)
        except (ChannelClosedError, OSError) as error:
            raise self._failed() from error

    def await_adoption(self) -> Mapping[str, Any]:
        """Wait until it has taken up its flows; returns what it says of that. Raises WorkerError."""
        assert self._channel is not None
        try:
            said = channel.receive_words(self._channel)
        except (ChannelClosedError, OSError) as error:
            raise self._failed() from error
        self.report = said
        self.services = parse_services(said.get("services"))
        return said

    async def serve(self, serve: Serve) -> asyncio.StreamReader:
        """Have it take packets; returns where its words are read."""
        assert self._channel is not None
        reader, self._writer = await asyncio.open_connection(sock=self._channel)
        self.tell(serve)
        return reader

    async def listen(self, reader: asyncio.StreamReader, on_word: Callable[[Mapping[str, Any]], None]) -> None:
        """Take what it says until it has gone; answers go to who asked, all else to `on_word`."""
        try:
            while True:
                said = await channel.next_words(reader)
                self.heard_at = time.monotonic()
                self._take(said, on_word)
        except ChannelClosedError:
            pass
        finally:
            self._drop_answers()
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def tell(self, order: object) -> None:
        """Send an order; one that has gone misses it."""
        if self._writer is not None:
            self._writer.write(channel.pack_order(order))

    async def ask(self, order: object, word: str) -> Mapping[str, Any] | None:
        """Send an order and wait for the answer that begins with `word`; None where there is none in time."""
        if self._writer is None:
            return None
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers.append((word, answer))
        self.tell(order)
        await asyncio.wait((answer,), timeout=ANSWER_S)
        return answer.result() if answer.done() and not answer.cancelled() else None

    async def refresh(self) -> None:
        """Have `report` and `services` be what it says now."""
        said = await self.ask(Tell(), "report")
        if said is not None:
            self.report = said
            self.services = parse_services(said.get("services"))

    def stop(self, *, is_final: bool) -> None:
        """Have it stop; its last words tell how it went."""
        self.tell(Stop(is_final))

    def dismiss(self) -> None:
        """Close a channel that nobody has begun to listen on: the worker ends by that."""
        if self._channel is not None and self._writer is None:
            self._channel.close()

    def kill_now(self) -> None:
        """Have it end at once: it does not answer any more."""
        if self._process is not None:
            self._process.kill()

    def reap(self) -> int | None:
        """Its exit status, once it has ended; negative for the number of a signal."""
        return None if self._process is None else self._process.poll()

    def kill(self) -> int | None:
        """Wait a moment for its end, and then make one; returns the exit status."""
        process = self._process
        if process is None:
            return None
        self.dismiss()
        try:
            return process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    async def await_end(self) -> int | None:
        """As `kill`, in the running loop."""
        until = time.monotonic() + _END_S
        while (status := self.reap()) is None and self._process is not None and time.monotonic() < until:
            await asyncio.sleep(_PAUSE_S)
        if status is None and self._process is not None:
            self._process.kill()
            status = self._process.wait()
        return status

    def _take(self, said: Mapping[str, Any], on_word: Callable[[Mapping[str, Any]], None]) -> None:
        word = said.get("word")
        if word == "stopped":
            self.last_words = said
        for index, (wanted, answer) in enumerate(self._answers):
            if wanted == word:
                del self._answers[index]
                if not answer.done():
                    answer.set_result(said)
                return
        on_word(said)

    def _drop_answers(self) -> None:
        for _, answer in self._answers:
            answer.cancel()
        self._answers.clear()

    def _failed(self) -> WorkerError:
        with suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(1)
        return WorkerError(f"worker {self.number} {describe_end(self.reap())} before it served", _REMEDY)


def describe_end(status: int | None) -> str:
    """How a process has ended, in words."""
    if status is None:
        return "has not answered"
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def parse_services(said: object) -> set[tuple[IPv4Address, int]]:
    """What a worker has said of its services; whatever is not of that form is none."""
    found: set[tuple[IPv4Address, int]] = set()
    for each in said if isinstance(said, list) else ():
        with suppress(ValueError, TypeError):
            address, port = each
            found.add((IPv4Address(address), int(port)))
    return found
