"""The routes of a running service: restored when lost, added before a reload needs them, taken away after the last flow."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from kracauer.config import Config, Listener
from kracauer.daemon.background import in_background
from kracauer.errors import HostError
from kracauer.flows import FlowTable
from kracauer.host import AddRoute, HostSetup, HostWatch, Step, extension, gather

RETIRE_INTERVAL_S: Final = 10.0
_TIMEOUT_S: Final = 30.0
_SERVICE: Final = slice(4, 8)  # of a flow's client key


class ServiceRoutes:
    """Which service addresses are led into the device: those listened on, and those that flows are left of."""

    def __init__(self, config: Config, setup: HostSetup, watch: HostWatch, flows: FlowTable, log: FilteringBoundLogger) -> None:
        self.addresses = set(config.service_addresses)
        self._wanted = set(config.service_addresses)
        self._device = config.network.device
        self._setup = setup
        self._watch = watch
        self._flows = flows
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def lead_flows(self, config: Config) -> None:
        """Have the flows of an earlier process go on whose address is no longer listened on, as far as the host allows it."""
        for address in self._occupied() - self.addresses:
            listeners = (*config.listeners, Listener(address, 1))
            try:
                self._setup.extend(_steps(replace(config, listeners=listeners), {address}))
            except HostError as error:
                self._log.warning("flows_cut_off", address=str(address), cause=error.cause, remedy=error.remedy)
            else:
                self.addresses.add(address)

    def _occupied(self) -> set[IPv4Address]:
        """The addresses that flows are of."""
        return {IPv4Address(address) for address in {key[_SERVICE] for key in self._flows.by_client}}

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

    async def prepare(self, config: Config) -> None:
        """Lead what `config` listens on into the device, as far as it is not. Raises HostError, having changed nothing."""
        async with self._turn:
            added = set(config.service_addresses) - self.addresses
            if added:
                await _ask_kernel(lambda: self._setup.extend(_steps(config, added)))
                self.addresses |= added

    def settle(self, config: Config) -> None:
        """Let go of what `config` does not listen on, as soon as no flow is left of it."""
        self._wanted = set(config.service_addresses)
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
                self._log.error("routes_not_restored", cause=error.cause, remedy=error.remedy)
            else:
                self._log.warning("routes_restored", device=self._device, cause=cause)

    def _plan_retirement(self) -> None:
        if self._loop is not None and self._timer is None and self.addresses != self._wanted:
            self._timer = self._loop.call_later(RETIRE_INTERVAL_S, self._handle_timer)

    def _handle_timer(self) -> None:
        self._timer = None
        idle = self.addresses - self._wanted - self._occupied()
        if idle:
            self._begin(self._retire(idle))
        self._plan_retirement()

    async def _retire(self, addresses: Iterable[IPv4Address]) -> None:
        async with self._turn:
            for address in addresses:
                if address in self._wanted or address not in self.addresses:  # a reload has come in between
                    continue
                network = IPv4Network(address)
                try:
                    await _ask_kernel(partial(self._setup.retire, network))
                except HostError as error:
                    self._log.warning("route_not_retired", address=str(address), cause=error.cause, remedy=error.remedy)
                    continue
                self.addresses.discard(address)
                self._log.info("route_retired", address=str(address))


async def _ask_kernel(work: Callable[[], None]) -> None:
    """Do `work`, which waits for the kernel. Raises HostError."""
    try:
        await in_background(work, _TIMEOUT_S)
    except TimeoutError:
        raise HostError(f"the kernel has not answered within {_TIMEOUT_S:g} s", "see `dmesg` for the reason") from None


def _steps(config: Config, addresses: Iterable[IPv4Address]) -> tuple[Step, ...]:
    """What leads `addresses`, which `config` listens on, into the device. Raises HostError when the host does not allow it."""
    networks = {IPv4Network(address) for address in addresses}
    steps = extension(config, gather(config.network.device, networks))
    return tuple(step for step in steps if isinstance(step, AddRoute) and step.destination in networks)
