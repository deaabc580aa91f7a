"""The control socket: every request gets one answer, and no client costs the service more than that."""

import asyncio
import io
import json
import os
import resource
import socket
import stat
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kracauer.daemon import control
from kracauer.daemon.control import CLIENTS_AT_ONCE, LONGEST_REQUEST, ControlServer
from kracauer.daemon.request import ControlError, NotPermittedError, NotRunningError, ask, await_end
from kracauer.logs import configure


class Stage:
    """A server that echoes, fails, waits, or keeps its clients to the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream = io.StringIO()
        handlers = {"echo": self._echo, "wait": self._wait, "stop": self._stop}
        self.server = ControlServer(path, handlers, configure("info", "json", self.stream))
        self.released: asyncio.Event | None = None

    async def _echo(self, request: Mapping[str, Any]) -> Mapping[str, object]:
        return {"echo": request.get("word")}

    async def _wait(self, _request: Mapping[str, Any]) -> Mapping[str, object]:
        assert self.released is not None
        await self.released.wait()
        return {"waited": True}

    async def _stop(self, _request: Mapping[str, Any]) -> None:
        return None

    def play(self, act: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            self.released = asyncio.Event()
            self.server.start()
            try:
                async with asyncio.timeout(30):
                    await act()
            finally:
                await self.server.close()

        self.server.open()
        asyncio.run(run())

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.stream.getvalue().splitlines()]

    async def talk(self, content: bytes) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(str(self.path), limit=1 << 20)
        try:
            writer.write(content)
            reply = await reader.read()
        finally:
            writer.close()
        answer: dict[str, Any] = json.loads(reply)
        return answer


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return Stage(tmp_path / "kracauer0.sock")


def request(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def test_a_request_is_answered_and_nobody_else_can_ask(stage: Stage) -> None:
    async def act() -> None:
        assert await stage.talk(request(command="echo", word="kept")) == {"echo": "kept"}
        assert stat.S_IMODE(stage.path.stat().st_mode) == 0o600

    stage.play(act)

    assert not stage.path.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b"{\n",
        b"[]\n",
        b"null\n",
        b'{"command": "none"}\n',
        b'{"command": ["echo"]}\n',
        b"\xff\xfe\n",
        b"[" * 60000 + b"\n",
        b"x" * (LONGEST_REQUEST + 1),
        b"1" * 60000 + b"\n",
    ],
)
def test_what_makes_no_sense_is_told_so(stage: Stage, content: bytes) -> None:
    async def act() -> None:
        assert "error" in await stage.talk(content)
        assert await stage.talk(request(command="echo", word=1)) == {"echo": 1}

    stage.play(act)


def test_a_request_that_does_not_end_is_told_so_or_given_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TIMEOUT_S", 0.05)

    async def act() -> None:
        reader, writer = await asyncio.open_unix_connection(str(stage.path))
        writer.write(b'{"command"')
        writer.write_eof()
        assert b"does not end" in await reader.read()
        writer.close()
        reader, writer = await asyncio.open_unix_connection(str(stage.path))
        assert await reader.read() == b""
        writer.close()

    stage.play(act)


def test_somebody_else_is_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(control, "_PEER", SomebodyElse())

    async def act() -> None:
        with pytest.raises(NotPermittedError):
            await asyncio.to_thread(ask, "kracauer0", "echo")

    stage.play(act)


class SomebodyElse:
    size = 12

    def unpack(self, _credentials: bytes) -> tuple[int, int, int]:
        return 1, 65534, 65534


def test_more_clients_than_a_handful_wait_for_their_turn(stage: Stage) -> None:
    async def act() -> None:
        assert stage.released is not None
        waiting = [asyncio.create_task(stage.talk(request(command="wait"))) for _ in range(CLIENTS_AT_ONCE)]
        await asyncio.sleep(0.05)
        late = asyncio.create_task(stage.talk(request(command="echo", word="late")))
        await asyncio.sleep(0.05)
        assert not late.done()
        stage.released.set()
        assert await asyncio.gather(*waiting) == [{"waited": True}] * CLIENTS_AT_ONCE
        assert await late == {"echo": "late"}

    stage.play(act)


def test_a_client_that_leaves_is_no_error(stage: Stage) -> None:
    async def act() -> None:
        _, writer = await asyncio.open_unix_connection(str(stage.path))
        writer.write(request(command="wait"))
        await asyncio.sleep(0.02)
        writer.close()
        assert stage.released is not None
        stage.released.set()
        assert await stage.talk(request(command="echo", word=1)) == {"echo": 1}

    stage.play(act)


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Take every descriptor there may be."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        try:
            while True:
                descriptor = os.dup(0)
                stack.callback(os.close, descriptor)
        except OSError:
            yield


def test_without_descriptors_the_service_neither_dies_nor_spins(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_RETRY_S", 0.1)
    turns = 0

    async def act() -> None:
        nonlocal turns
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(0)
        with no_descriptors_left():
            client.connect(str(stage.path))
            client.send(request(command="echo", word="patient"))
            loop = asyncio.get_running_loop()
            deadline = loop.time() + 0.35
            while loop.time() < deadline:
                await asyncio.sleep(0.02)
                turns += 1
        assert json.loads(await loop.sock_recv(client, 4096)) == {"echo": "patient"}
        client.close()

    stage.play(act)

    assert turns > 5
    assert stage.events == ["control_unavailable"]


def test_a_socket_that_a_killed_service_has_left_is_replaced(stage: Stage) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stage.path))
    with pytest.raises(NotRunningError):
        ask("kracauer0", "echo")

    async def act() -> None:
        assert await asyncio.to_thread(ask, "kracauer0", "echo", word=1) == {"echo": 1}

    stage.play(act)


def test_where_there_can_be_no_socket_one_warning_is_all(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "none" / "kracauer0.sock")

    async def act() -> None:
        await asyncio.sleep(0)

    stage.play(act)

    assert stage.events == ["control_unavailable"]


def test_who_asks_for_the_end_hears_how_it_was(stage: Stage) -> None:
    heard: list[Mapping[str, Any]] = []
    thread = threading.Thread(target=lambda: heard.append(ask("kracauer0", "stop")))

    async def act() -> None:
        thread.start()
        while not stage.server._waiting:
            await asyncio.sleep(0.01)

    stage.play(act)
    assert heard == []
    stage.server.dismiss({"kept": True, "flows": 3})
    thread.join(10)

    assert heard == [{"kept": True, "flows": 3}]


def test_a_service_that_says_nothing_is_not_waited_for_for_ever(stage: Stage) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(stage.path))
        silent.listen()

        with pytest.raises(ControlError, match="not answered"):
            ask("kracauer0", "status", timeout_s=0.1)


def test_the_end_of_a_service_that_never_was_has_come(stage: Stage) -> None:
    assert await_end("kracauer0", 0)
    assert list(stage.path.parent.iterdir()) == []
