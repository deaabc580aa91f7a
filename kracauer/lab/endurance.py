"""Connections that are to last, many at a time, each moving known content: `python -m kracauer.lab.endurance ADDRESS NAME…`.

Each makes one transfer after the other, paced by whoever sends, until SIGTERM; the transfers under way are then brought to
their end. Prints a line once all are in their first transfer, and at the end a JSON object: how many transfers were whole, the
longest pause that each connection has seen in what it received, and what went wrong how often. No connection is made anew.
"""

import argparse
import asyncio
import hashlib
import json
import signal
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from kracauer.lab import content
from kracauer.lab.namespaces import python_module
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import SERVICE, Lab

TIMEOUT_S: Final = 30.0  # for anything at all to arrive
READY: Final = "all connections are in a transfer"
_OPENED_PER_SECOND: Final = 500


class WrongAnswerError(Exception):
    """Something else came than was asked for."""


@dataclass(slots=True)
class Outcome:
    """What became of all connections; `pauses_s` are those of the ones that download, the longest of each."""

    transfers: int = 0
    pauses_s: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def pause(self, share: float) -> float:
        """The time that this share of the connections has not had to wait longer than."""
        ordered = sorted(self.pauses_s)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("inf")


@dataclass(frozen=True, slots=True)
class Pace:
    """What one transfer moves, and in how many pieces a second it is sent."""

    length: int = 32_768
    rate: int = 8192
    pieces: int = 2


class Connections:
    """So many connections to one address; every second one uploads if `has_uploads`."""

    def __init__(self, address: str, port: int, names: Sequence[str], pace: Pace, *, has_uploads: bool) -> None:
        self._destination = (address, port)
        self._names = names
        self._pace = pace
        self._has_uploads = has_uploads
        self._waited_for = 0
        self._is_over = False
        self.outcome = Outcome()

    async def run(self, count: int) -> Outcome:
        """Transfer until SIGTERM."""
        self._waited_for = count
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._end)
        tasks = []
        for number in range(count):
            tasks.append(asyncio.create_task(self._last(number)))
            await asyncio.sleep(1 / _OPENED_PER_SECOND)
        await asyncio.gather(*tasks)
        return self.outcome

    def _end(self) -> None:
        self._is_over = True

    async def _last(self, number: int) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_connection(*self._destination)
            connection = _Connection(reader, writer, self._names[number % len(self._names)], self._pace)
            try:
                await connection.greet()
                await self._transfer(connection, is_upload=self._has_uploads and number % 2 == 1)
            finally:
                writer.close()
        except (OSError, EOFError, TimeoutError, WrongAnswerError) as error:
            self.outcome.failures[f"{type(error).__name__}: {error}"] += 1

    async def _transfer(self, connection: "_Connection", *, is_upload: bool) -> None:
        await (connection.begin_upload() if is_upload else connection.begin_download())
        self._waited_for -= 1
        if self._waited_for == 0:
            print(READY, flush=True)
        while True:
            await (connection.finish_upload() if is_upload else connection.finish_download())
            self.outcome.transfers += 1
            if self._is_over:
                break
            await (connection.begin_upload() if is_upload else connection.begin_download())
        if not is_upload:
            self.outcome.pauses_s.append(round(connection.longest_pause_s, 6))


class _Connection:
    """One connection, and the longest time in which nothing arrived of what was being sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, pace: Pace) -> None:
        self._reader = reader
        self._writer = writer
        self._name = name
        self._pace = pace
        self._heard = 0.0
        self.longest_pause_s = 0.0

    async def greet(self) -> None:
        """Have an answer, which shows that both ends have the connection."""
        self._request("GET /bytes/1")
        self._check_head(await self._hear(self._reader.readuntil(b"\r\n\r\n")))
        await self._hear(self._reader.readexactly(1))
        self.longest_pause_s = 0.0

    async def begin_download(self) -> None:
        """Ask, and read the head of the answer."""
        pace = self._pace
        self._heard = time.monotonic()
        self._request(f"GET /bytes/{pace.length}?rate={pace.rate}&pieces={pace.pieces}")
        self._check_head(await self._hear(self._reader.readuntil(b"\r\n\r\n")))

    async def finish_download(self) -> None:
        """Read the rest, and see that it is what it should be."""
        sha256, left = hashlib.sha256(), self._pace.length
        while left:
            piece = await self._hear(self._reader.read(left))
            if not piece:
                raise WrongAnswerError("the stream ended early")
            sha256.update(piece)
            left -= len(piece)
        self._check(sha256.hexdigest())

    async def begin_upload(self) -> None:
        """Announce what is to come."""
        self._request("PUT /upload", f"Content-Length: {self._pace.length}\r\n")

    async def finish_upload(self) -> None:
        """Send it, and see that it has come to the other end as it should."""
        pace = self._pace
        whole, size = content.content(pace.length), pace.rate // pace.pieces
        for start in range(0, pace.length, size):
            self._writer.write(whole[start : start + size])
            async with asyncio.timeout(TIMEOUT_S):
                await self._writer.drain()
            await asyncio.sleep(1 / pace.pieces)
        self._heard = time.monotonic()
        self._check_head(await self._hear(self._reader.readuntil(b"\r\n\r\n")))
        self._check(json.loads(await self._hear(self._reader.readuntil(b"\n")))["sha256"])

    def _request(self, line: str, fields: str = "") -> None:
        self._writer.write(f"{line} HTTP/1.1\r\nHost: {self._name}\r\n{fields}\r\n".encode("ascii"))

    async def _hear(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        async with asyncio.timeout(TIMEOUT_S):
            heard: bytes = await reading
        now = time.monotonic()
        self.longest_pause_s = max(self.longest_pause_s, now - self._heard)
        self._heard = now
        return heard

    def _check(self, digest: str) -> None:
        if digest != content.digest(self._pace.length):
            raise WrongAnswerError("the content was not what was sent")

    @staticmethod
    def _check_head(head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 200 "):
            raise WrongAnswerError(f"answered {head[:40]!r}")


def launch(
    lab: Lab,
    names: Sequence[str],
    count: int,
    *,
    pace: Pace | None = None,
    has_uploads: bool = False,
    address: str = SERVICE,
    timeout_s: float = 30,
) -> BackgroundProcess:
    """Open so many connections from the lab's client, and return once all are in a transfer; `outcome` ends them."""
    pace = pace or Pace()
    options = [part for key, value in asdict(pace).items() for part in (f"--{key}", str(value))]
    options += ["--connections", str(count), *(["--uploads"] if has_uploads else [])]
    process = lab.start("endurance", lab.client, python_module("kracauer.lab.endurance", address, *names, *options))
    process.wait_for(READY, timeout_s)
    return process


def outcome(process: BackgroundProcess, timeout_s: float = 60) -> Outcome:
    """Have the connections of `launch` make an end, and return what became of them."""
    process.stop(timeout_s)
    fields = process.events[-1]
    return Outcome(fields["transfers"], fields["pauses_s"], Counter(fields["failures"]))


def main() -> None:
    """Transfer until SIGTERM, and print what became of it."""
    parser = argparse.ArgumentParser(prog="kracauer.lab.endurance", description=__doc__.partition("\n")[0])
    parser.add_argument("address")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--length", type=int, default=Pace().length, help="bytes of one transfer")
    parser.add_argument("--rate", type=int, default=Pace().rate, help="bytes a second of one connection")
    parser.add_argument("--pieces", type=int, default=Pace().pieces, help="into how many a second's bytes are cut")
    parser.add_argument("--uploads", action="store_true", help="have every second connection upload")
    options = parser.parse_args()
    pace = Pace(options.length, options.rate, options.pieces)
    connections = Connections(options.address, options.port, options.names, pace, has_uploads=options.uploads)
    became = asyncio.run(connections.run(options.connections))
    shown = {"transfers": became.transfers, "pauses_s": became.pauses_s, "failures": dict(became.failures)}
    print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
