"""A new configuration for a running service: read, checked, prepared on the host, then put in force at once or not at all."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol, TypeAlias

from structlog.typing import FilteringBoundLogger

from kracauer import logs
from kracauer.config import Config, restart_problems
from kracauer.daemon.background import in_background
from kracauer.daemon.notify import notify, notify_reloading
from kracauer.daemon.resolver import Resolver
from kracauer.daemon.routing import ServiceRoutes
from kracauer.errors import ConfigError, HostError

ReadConfig: TypeAlias = Callable[[], Config]  # raises ConfigError

_TIMEOUT_S: Final = 30.0
_LONGEST_CLOSE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a reload: the `problems` for which it was refused, or none, and what is in force since; `at` is UTC."""

    at: str
    problems: tuple[str, ...]
    summary: dict[str, object]


class Reconfigurable(Protocol):
    """What is reloaded."""

    def reconfigure(self, config: Config) -> Awaitable[None] | None:
        """Go by `config` from now on, or from the moment on that what is returned is done."""


class Reloader:
    """Reloads when asked to, one at a time; all who ask meanwhile share the next one."""

    def __init__(
        self,
        config: Config,
        read_config: ReadConfig,
        service: Reconfigurable,
        routes: ServiceRoutes | None,
        log: FilteringBoundLogger,
        resolver: Resolver | None = None,
    ) -> None:
        self.config = config
        self.last: Outcome | None = None
        self._read_config = read_config
        self._service = service
        self._routes = routes
        self._log = log
        self._resolver = resolver
        self._next: asyncio.Future[Outcome] | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    def request(self) -> asyncio.Future[Outcome]:
        """Reload; what is returned comes of a reload that has not begun yet."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._work())
        return self._next

    async def close(self) -> None:
        """Begin nothing more, and wait a moment for what has been begun."""
        self._is_closing = True
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_LONGEST_CLOSE_S)

    async def _work(self) -> None:
        while self._next is not None:
            asked, self._next = self._next, None
            notify_reloading()
            problems = await self._reload()
            self.last = Outcome(datetime.now(UTC).isoformat(timespec="seconds"), problems, summary(self.config))
            count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
            status = f"the last reload was refused: {count}" if problems else "reloaded"
            notify(f"READY=1\nSTATUS={status}")
            if not asked.cancelled():
                asked.set_result(self.last)
        self._task = None

    async def _reload(self) -> tuple[str, ...]:
        began = time.monotonic()
        try:
            wanted = await self._read()
            if self._routes is not None:
                await self._routes.prepare(wanted)
            await self._put_in_force(wanted)
        except ConfigError as error:
            problems = tuple(str(problem) for problem in error.problems)
        except HostError as error:
            problems = (str(error),)
        except Exception as error:
            # A mistake of ours: the traffic goes on, with what is in force.
            self._log.error("internal_error", error=repr(error), exc_info=error)
            problems = (f"internal error: {error!r}",)
        else:
            self._log.info("reloaded", **summary(wanted), duration_s=round(time.monotonic() - began, 3))
            return ()
        finally:
            if self._routes is not None:
                self._routes.settle(self.config)
        self._log.warning("reload_refused", problems=problems)
        return problems

    async def _read(self) -> Config:
        """The new configuration, if it can be put in force. Raises ConfigError."""
        try:
            wanted = await in_background(self._read_config, _TIMEOUT_S)
        except TimeoutError:
            raise ConfigError((f"the configuration could not be read within {_TIMEOUT_S:g} s",)) from None
        except (OSError, MemoryError) as error:
            reason = error.strerror if isinstance(error, OSError) else "out of memory"
            raise ConfigError((f"the configuration could not be read ({reason})",)) from error
        problems: tuple[object, ...] = restart_problems(self.config, wanted)
        if not problems and self._is_closing:
            problems = ("the service is stopping",)
        if problems:
            raise ConfigError(problems)
        return wanted

    async def _put_in_force(self, wanted: Config) -> None:
        pending = self._service.reconfigure(wanted)
        if pending is not None:
            await pending
        if self._resolver is not None:
            self._resolver.reconfigure(wanted)
        self.config = wanted
        logs.set_level(wanted.log.level)


def summary(config: Config) -> dict[str, object]:
    """What is served, in short, for logs and replies."""
    return {"listening": [f"{listener} ({listener.protocol})" for listener in config.listeners], "names": len(config.routes)}
