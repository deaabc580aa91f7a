"""A service between a device in memory and an engine that does what a test tells it, and what the service logs."""

import asyncio
import io
import json
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from ipaddress import IPv6Address
from typing import Any

from kracauer.config import Config
from kracauer.daemon.service import Service
from kracauer.engine import BackendStatus
from kracauer.engine.adopting import Adoption
from kracauer.events import Endpoint4, Event, FlowRefused, RefusalReason
from kracauer.flows import FlowTable
from kracauer.logs import configure
from kracauer.tcp.splice import Splice
from kracauer.tun import MemoryDevice
from kracauer.wire.buffer import PACKET_START, VNET_START, Buffer, Frame

CLIENT = Endpoint4(bytes([192, 0, 2, 7]), 40000)
SERVICE = Endpoint4(bytes([198, 51, 100, 1]), 443)


class ScriptedEngine:
    """Answers each packet by itself, but raises at b"bad"; `due` are deadlines and `events` what is told."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.due: deque[float] = deque()
        self.timer_calls: list[float] = []
        self.aged: list[float] = []
        self.timer_error: Exception | None = None
        self.is_stuck = False
        self.events: deque[Event] = deque()
        self.flows = FlowTable(16)
        self.holdings: dict[str, int] = {}
        self.configs: list[Config] = []
        self.noted: list[tuple[str, Collection[IPv6Address] | None]] = []
        self.reconfigure_error: Exception | None = None
        self.followed: list[Splice] = []

    def backends(self) -> Sequence[BackendStatus]:
        return ()

    def adopt(self, _now: float) -> Adoption:
        return Adoption(0, 0)

    def reconfigure(self, config: Config, _now: float) -> None:
        if self.reconfigure_error is not None:
            raise self.reconfigure_error
        self.configs.append(config)

    def note_addresses(self, name: str, addresses: Collection[IPv6Address] | None, _now: float) -> Sequence[Buffer]:
        self.noted.append((name, addresses))
        return [bytes(10) + name.encode()]

    def follow(self, moved: Iterable[Splice]) -> None:
        self.followed += moved

    def abort(self, _now: float) -> Sequence[Buffer]:
        return [bytes(10) + b"end"]

    def receive(self, frame: Frame, now: float) -> Sequence[Buffer]:
        assert abs(now - time.monotonic()) < 5
        packet = bytes(frame.buffer[PACKET_START : frame.end])
        self.received.append(packet)
        if packet == b"bad":
            raise ValueError("the engine stumbled")
        return [frame.view[VNET_START : frame.end]]

    def handle_timer(self, now: float) -> Sequence[Buffer]:
        self.timer_calls.append(now)
        if self.timer_error is not None:
            raise self.timer_error
        while self.due and self.due[0] <= now and not self.is_stuck:
            self.due.popleft()
        return [bytes(10) + b"timer"]

    def age(self, now: float) -> None:
        self.aged.append(now)

    def next_deadline(self) -> float | None:
        return self.due[0] if self.due else None

    def next_event(self) -> Event | None:
        return self.events.popleft() if self.events else None


class Stage:
    """A service between a device and an engine, and what it logs."""

    def __init__(self, level: str = "debug") -> None:
        self.device = MemoryDevice()
        self.engine = ScriptedEngine()
        self.stream = io.StringIO()
        self.service = Service(self.device, self.engine, configure(level, "json", self.stream), log_level=level)

    def play(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the service, `act` beside it, and stop it."""

        async def both() -> None:
            is_ready = asyncio.Event()
            running = asyncio.create_task(self.service.run(is_ready.set))
            await is_ready.wait()
            try:
                await act()
            finally:
                self.service.stop()
                await running

        asyncio.run(both())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    def refuse_a_flow(self) -> None:
        """Have the engine tell of a client that it refused."""
        self.engine.events.append(FlowRefused(CLIENT, SERVICE, RefusalReason.NO_ROUTE, "alert"))
        self.device.inject(b"one")
