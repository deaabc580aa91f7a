"""A new configuration for a running service: all of it or nothing, one at a time, and nobody's request is forgotten."""

import asyncio
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from daemon_stage import Stage

from kracauer.config import Config, parse_config
from kracauer.daemon.reload import Outcome, Reloader
from kracauer.daemon.routing import ServiceRoutes
from kracauer.engine import Engine
from kracauer.errors import ConfigError, HostError

CONFIG = """
prefix = "2001:db8:46::/96"
[[listen]]
address = "198.51.100.1"
port = 443
[hosts]
default = "2001:db8:1::2"
"""
OTHER = CONFIG.replace("443", "8443")


class Desk:
    """A reloader, the file that it reads, and the service that it reloads."""

    def __init__(self, routes: ServiceRoutes | None = None) -> None:
        self.stage = Stage("info")
        self.text = CONFIG
        self.reads = 0
        self.is_readable = threading.Event()
        self.is_readable.set()
        log = structlog.get_logger()
        self.reloader = Reloader(parse_config(CONFIG), self._read, self.stage.service, routes, log)

    def _read(self) -> Config:
        text = self.text
        self.reads += 1
        assert self.is_readable.wait(20)
        return parse_config(text)

    def play(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            try:
                await act()
            finally:
                await self.reloader.close()

        self.stage.play(whole)

    async def reload(self, text: str) -> Outcome:
        self.text = text
        return await self.reloader.request()


@pytest.fixture
def desk() -> Iterator[Desk]:
    before = structlog.get_config()
    opened = Desk()
    yield opened
    opened.stage.device.close()
    structlog.configure(**before)


def test_a_new_configuration_is_put_in_force(desk: Desk) -> None:
    async def act() -> None:
        outcome = await desk.reload(OTHER)
        assert outcome.problems == ()
        assert outcome.summary["listening"] == ["198.51.100.1:8443 (auto)"]

    desk.play(act)

    assert [config.listeners[0].port for config in desk.stage.engine.configs] == [8443]
    assert desk.reloader.config.listeners[0].port == 8443
    (line,) = desk.stage.logged("reloaded")
    assert (line["names"], line["listening"]) == (1, ["198.51.100.1:8443 (auto)"])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("[", 1),
        (OTHER.replace("/96", "/64").replace("8443", "70000"), 2),
        (OTHER.replace("46::", "47::"), 1),
        (f'{OTHER}[network]\ndevice = "other0"\nipv4_mtu = 1400\n[log]\nformat = "json"\n', 3),
    ],
)
def test_with_any_problem_nothing_changes_and_all_are_told(desk: Desk, text: str, count: int) -> None:
    async def act() -> None:
        outcome = await desk.reload(text)
        assert len(outcome.problems) == count

    desk.play(act)

    assert desk.stage.engine.configs == []
    assert desk.reloader.config == parse_config(CONFIG)
    (line,) = desk.stage.logged("reload_refused")
    assert len(line["problems"]) == count


def test_the_traffic_goes_on_while_the_file_is_read(desk: Desk) -> None:
    async def act() -> None:
        desk.is_readable.clear()
        asked = desk.reloader.request()
        desk.stage.device.inject(b"one")
        await desk.stage.until(lambda: len(desk.stage.device.outgoing) == 1)
        assert not asked.done()
        desk.is_readable.set()
        assert (await asked).problems == ()

    desk.play(act)


def test_requests_meanwhile_become_one_more_which_begins_after_them(desk: Desk) -> None:
    async def act() -> None:
        desk.is_readable.clear()
        first = desk.reloader.request()
        await desk.stage.until(lambda: desk.reads == 1)
        desk.text = OTHER
        later = [desk.reloader.request() for _ in range(50)]
        desk.is_readable.set()
        assert (await first).summary["listening"] == ["198.51.100.1:443 (auto)"]
        for outcome in await asyncio.gather(*later):
            assert outcome.summary["listening"] == ["198.51.100.1:8443 (auto)"]

    desk.play(act)

    assert desk.reads == 2


def test_a_file_that_cannot_be_read_in_time_is_a_problem(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kracauer.daemon.reload._TIMEOUT_S", 0.05)

    async def act() -> None:
        desk.is_readable.clear()
        assert "within" in (await desk.reload(OTHER)).problems[0]
        desk.is_readable.set()
        assert (await desk.reload(OTHER)).problems == ()

    desk.play(act)


def test_a_mistake_of_ours_costs_the_reload_and_no_more(desk: Desk) -> None:
    async def act() -> None:
        desk.stage.engine.reconfigure_error = ValueError("odd")
        assert "internal error" in (await desk.reload(OTHER)).problems[0]
        desk.stage.engine.reconfigure_error = None
        assert (await desk.reload(OTHER)).problems == ()

    desk.play(act)

    assert "ValueError: odd" in desk.stage.logged("internal_error")[0]["exception"]


def test_the_new_level_counts_at_once_for_lines_and_for_events(desk: Desk) -> None:
    async def act() -> None:
        await desk.reload(f'{CONFIG}[log]\nlevel = "error"\n')
        desk.stage.refuse_a_flow()
        await desk.stage.until(lambda: not desk.stage.engine.events)
        structlog.get_logger().warning("quiet")
        await desk.reload(f'{CONFIG}[log]\nlevel = "debug"\n')
        structlog.get_logger().debug("loud")

    desk.play(act)

    assert desk.stage.logged("flow_refused") == []
    assert desk.stage.service.counters.events == {"flow_refused": 1}
    assert (desk.stage.logged("quiet"), len(desk.stage.logged("loud"))) == ([], 1)


class FakeRoutes:
    """The host's part, as a list of what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.error: HostError | None = None

    async def prepare(self, config: Config) -> None:
        self.calls.append(("prepare", config.listeners[0].port))
        if self.error is not None:
            raise self.error

    def settle(self, config: Config) -> None:
        self.calls.append(("settle", config.listeners[0].port))


def test_the_host_is_prepared_before_and_a_failure_there_refuses_the_reload() -> None:
    before = structlog.get_config()
    routes = FakeRoutes()
    desk = Desk(routes)  # type: ignore[arg-type]
    try:

        async def act() -> None:
            routes.error = HostError("the address is taken", "use another")
            assert (await desk.reload(OTHER)).problems == ("the address is taken: use another",)
            assert desk.stage.engine.configs == []
            routes.error = None
            assert (await desk.reload(OTHER)).problems == ()

        desk.play(act)

        assert routes.calls == [("prepare", 8443), ("settle", 443), ("prepare", 8443), ("settle", 8443)]
    finally:
        desk.stage.device.close()
        structlog.configure(**before)


def test_the_service_manager_hears_of_each_reload_refused_ones_too(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)

        async def act() -> None:
            await desk.reload(OTHER)
            await desk.reload("[")

        desk.play(act)

        said = [manager.recv(1000).decode().splitlines() for _ in range(4)]
    assert [lines[0] for lines in said] == ["RELOADING=1", "READY=1"] * 2
    assert said[0][1].removeprefix("MONOTONIC_USEC=").isdigit()
    assert [said[1][1], said[3][1]] == ["STATUS=reloaded", "STATUS=the last reload was refused: 1 problem"]


def test_a_stop_in_the_middle_refuses_what_has_not_been_put_in_force(desk: Desk) -> None:
    async def act() -> None:
        desk.is_readable.clear()
        asked = desk.reloader.request()
        await desk.stage.until(lambda: desk.reads == 1)
        closing = asyncio.create_task(desk.reloader.close())
        await asyncio.sleep(0)
        desk.is_readable.set()
        await closing
        assert (await asked).problems == ("the service is stopping",)

    desk.play(act)

    assert desk.stage.engine.configs == []


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_reloads_without_end_take_no_memory(desk: Desk) -> None:
    names = "".join(f'"www{number}.example.com" = "2001:db8:1::2"\n' for number in range(500))
    configs = [parse_config(CONFIG + names.replace("www", word)) for word in ("one", "two")]
    engine = Engine(configs[0], secret=bytes(32), now=0.0)
    gc.collect()
    gc.freeze()
    try:

        async def act() -> None:
            for number in range(60):
                if number == 20:
                    desk.before = resident_bytes()  # type: ignore[attr-defined]
                assert (await desk.reload(CONFIG + names.replace("www", f"n{number}"))).problems == ()
                engine.reconfigure(replace(desk.reloader.config), float(number))
                desk.stage.engine.configs.clear()

        desk.play(act)

        assert resident_bytes() - desk.before < 4 << 20  # type: ignore[attr-defined]
    finally:
        gc.unfreeze()


def test_sighup_is_a_request_like_any_other(desk: Desk) -> None:
    async def act() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, desk.reloader.request)
        desk.text = OTHER
        os.kill(os.getpid(), signal.SIGHUP)
        await desk.stage.until(lambda: bool(desk.stage.engine.configs))
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)

    desk.play(act)


def test_a_reader_that_raises_what_it_likes_is_a_problem(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Config:
        raise ConfigError(("k.toml: there is no such file",))

    monkeypatch.setattr(desk.reloader, "_read_config", fail)

    async def act() -> None:
        assert (await desk.reload("")).problems == ("k.toml: there is no such file",)

    desk.play(act)
