"""Routes and rules of a running service: restored when lost, added before a reload needs them, gone after the last flow."""

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final, TypeAlias

from structlog.typing import FilteringBoundLogger

from kracauer.config import Config, Listener
from kracauer.daemon.background import in_background
from kracauer.errors import HostError
from kracauer.flows import FlowTable
from kracauer.host import AddRoute, HostSetup, HostWatch, Step, Way, extension, gather, table, way, ways

RETIRE_INTERVAL_S: Final = 10.0
_TIMEOUT_S: Final = 30.0
_RETRY_S: Final = (1.0, 30.0)  # at first, and at most: each failure doubles it
_REMEDIES: Final = {
    errno.EMFILE: "raise LimitNOFILE",
    errno.ENFILE: "raise fs.file-max",
    errno.ENOMEM: "give it more memory",
    errno.EAGAIN: "allow it more threads (LimitNPROC, TasksMax) or more memory",
}
# What tells the addresses and ports that there are flows to.
Services: TypeAlias = Callable[[], Iterable[tuple[IPv4Address, int]]]

_ADDRESS: Final = slice(4, 8)  # of a flow's client key: the service's address, and its port
_PORT: Final = slice(10, 12)


class ServiceRoutes:
    """Which ways are led into the device: those listened on, and those that flows are left of."""

    def __init__(
        self, config: Config, setup: HostSetup, watch: HostWatch, services: Services, log: FilteringBoundLogger
    ) -> None:
        self.ways = set(ways(config))
        self._wanted = set(ways(config))
        self._config = config
        self._device = config.network.device
        self._setup = setup
        self._watch = watch
        self._services = services
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._retry_s = _RETRY_S[0]
        self._failure: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def lead_flows(self, config: Config) -> None:
        """Have the flows of an earlier process go on whose way is no longer listened on, as far as the host allows it."""
        for left in occupied(config, self._services()) - self.ways:
            listeners = (*config.listeners, Listener(left.address, left.port or 1))
            try:
                self._setup.extend(_steps(replace(config, listeners=listeners), {left}))
            except HostError as error:
                self._log.warning("flows_cut_off", address=str(left), cause=error.cause, remedy=error.remedy)
            else:
                self.ways.add(left)

    def start(self) -> None:
        """Begin to watch, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._watch.fileno(), self._handle_word)
        self._plan_retirement()

    async def close(self) -> None:
        """End it, once what has been begun is done."""
        if self._loop is None:
            return
        self._loop.remove_reader(self._watch.fileno())
        if self._timer is not None:
            self._timer.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_TIMEOUT_S)
        if self._retry_timer is not None:
            self._retry_timer.cancel()

    async def prepare(self, config: Config) -> None:
        """Lead what `config` listens on into the device, as far as it is not. Raises HostError, having changed nothing."""
        async with self._turn:
            added = set(ways(config)) - self.ways
            if added:
                await _ask_kernel(lambda: self._setup.extend(_steps(config, added)))
                self.ways |= added

    def settle(self, config: Config) -> None:
        """Let go of what `config` does not listen on, as soon as no flow is left of it."""
        self._wanted = set(ways(config))
        self._plan_retirement()

    def _handle_word(self) -> None:
        cause = self._watch.has_lost_routes()
        if cause is not None:
            self._begin(self._restore(cause))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _restore(self, cause: str) -> None:
        async with self._turn:
            try:
                await _ask_kernel(self._setup.restore_routes)
            except HostError as error:
                if error.cause != self._failure:
                    self._log.error("routes_not_restored", cause=error.cause, remedy=error.remedy)
                self._failure = error.cause
                self._plan_retry(cause)
            else:
                self._log.warning("routes_restored", device=self._device, cause=cause)
                self._failure, self._retry_s = None, _RETRY_S[0]

    def _plan_retry(self, cause: str) -> None:
        """Whoever was in the way may go, and the kernel has no word for that."""
        assert self._loop is not None
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        self._retry_timer = self._loop.call_later(self._retry_s, lambda: self._begin(self._restore(cause)))
        self._retry_s = min(2 * self._retry_s, _RETRY_S[1])

    def _plan_retirement(self) -> None:
        if self._loop is not None and self._timer is None and self.ways != self._wanted:
            self._timer = self._loop.call_later(RETIRE_INTERVAL_S, self._handle_timer)

    def _handle_timer(self) -> None:
        self._timer = None
        idle = self.ways - self._wanted - occupied(self._config, self._services())
        if idle:
            self._begin(self._retire(idle))
        self._plan_retirement()

    async def _retire(self, idle: Iterable[Way]) -> None:
        async with self._turn:
            for left in idle:
                if left in self._wanted or left not in self.ways:  # a reload has come in between
                    continue
                try:
                    await _ask_kernel(partial(self._setup.retire, IPv4Network(left.address), left.port))
                except HostError as error:
                    self._log.warning("route_not_retired", address=str(left), cause=error.cause, remedy=error.remedy)
                    continue
                self.ways.discard(left)
                self._log.info("route_retired", address=str(left))


async def _ask_kernel(work: Callable[[], None]) -> None:
    """Do `work`, which waits for the kernel. Raises HostError."""
    try:
        await in_background(work, _TIMEOUT_S)
    except TimeoutError:
        raise HostError(f"the kernel has not answered within {_TIMEOUT_S:g} s", "see `dmesg` for the reason") from None
    except (OSError, MemoryError) as error:
        number = (error.errno if isinstance(error, OSError) else errno.ENOMEM) or 0
        cause = f"the kernel could not be asked ({os.strerror(number) if number else error})"
        raise HostError(cause, _REMEDIES.get(number, "see `dmesg` for the reason")) from error


def occupied(config: Config, services: Iterable[tuple[IPv4Address, int]]) -> set[Way]:
    """The ways that flows to these addresses and ports are of."""
    return {way(config, address, port) for address, port in services}


def services_of(flows: FlowTable) -> set[tuple[IPv4Address, int]]:
    """The addresses and ports that the clients of these flows have dialled."""
    found = {(key[_ADDRESS], key[_PORT]) for key in flows.by_client}
    return {(IPv4Address(address), int.from_bytes(port, "big")) for address, port in found}


def _steps(config: Config, added: set[Way]) -> tuple[Step, ...]:
    """What leads `added`, on which `config` listens, into the device. Raises HostError when the host does not allow it."""
    listeners = tuple(listener for listener in config.listeners if way(config, listener.address, listener.port) in added)
    facts = gather(config.network.device, {IPv4Network(way.address) for way in added}, table(config))
    steps = extension(replace(config, listeners=listeners), facts)
    return tuple(step for step in steps if not (isinstance(step, AddRoute) and step.destination == config.prefix))
