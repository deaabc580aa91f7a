"""What the names of backends stand for: looked up in the background, again when answers age, and kept when nobody answers.

The names of the configuration are looked up always, those that clients come with (`dns.serve_any`) when they do.
"""

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from ipaddress import IPv6Address
from typing import Final, Protocol, TypeAlias

from kracauer.config import Config, Dns
from kracauer.daemon.lookup import Answer, LookupFailedError
from kracauer.events import Event, NameFailed
from kracauer.ratelimit import TokenBucket

AT_ONCE: Final = 64
# Of these as many at most are for names that clients come with: such a name may have servers that never answer.
ON_DEMAND_AT_ONCE: Final = 48
MAX_QUEUED: Final = 1024  # names on demand; whoever comes then is told at once that nothing is known
ON_DEMAND_PER_S: Final = 100.0
ON_DEMAND_BURST: Final = 200.0
# Of all: one takes half a millisecond of the loop, during which no packet is looked at.
LOOKUPS_PER_S: Final = 250.0
LOOKUP_BURST: Final = 16.0
RETRY_S: Final = 1.0  # doubled with every failure
LONGEST_RETRY_S: Final = 60.0
# Look-ups of names that were asked for together shall not stay together.
JITTER: Final = 0.1

Tell: TypeAlias = Callable[[str, Collection[IPv6Address] | None], None]


class Asking(Protocol):
    """What looks names up."""

    def configure(self, settings: Dns) -> None:
        """Ask as `settings` say from now on."""

    async def ask(self, name: str) -> Answer:
        """What `name` has now. Raises LookupFailedError."""


class _Entry:
    """One name. `addresses` None: nothing is known; until `stale_at` what is known outlives failures."""

    __slots__ = (
        "addresses",
        "failures",
        "is_on_demand",
        "is_queued",
        "is_used",
        "name",
        "stale_at",
        "task",
        "timer",
        "tried_at",
    )

    def __init__(self, name: str, *, is_on_demand: bool) -> None:
        self.name = name
        self.is_on_demand = is_on_demand
        self.addresses: tuple[IPv6Address, ...] | None = None
        self.stale_at = 0.0
        self.tried_at = 0.0
        self.failures = 0
        self.is_queued = False
        self.is_used = True
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Resolver:
    """Looks names up by `lookup`, and has `tell` take what comes of it: addresses, none, or None where nothing is known.

    `note` takes the events about it, `note_error` what should not have happened. Nothing is done until `start`, which is to be
    called in the running loop.
    """

    def __init__(
        self,
        config: Config,
        lookup: Asking,
        tell: Tell,
        note: Callable[[Event], None],
        note_error: Callable[[Exception], None],
    ) -> None:
        self._lookup = lookup
        self._tell = tell
        self._note = note
        self._note_error = note_error
        self._config = config
        self._settings = config.dns
        self._loop: asyncio.AbstractEventLoop | None = None
        self._random = random.Random()
        self._names: dict[str, _Entry] = {}
        # On demand, and known: those that can be served and those that cannot, the one used last at the end. The latter give
        # way first, so that a flood of names that do not exist, or are others', forgets none of ours.
        self._found: OrderedDict[str, _Entry] = OrderedDict()
        self._missing: OrderedDict[str, _Entry] = OrderedDict()
        self._queue: deque[_Entry] = deque()
        self._demands: deque[_Entry] = deque()
        self._running = 0
        self._running_on_demand = 0
        self._rate = TokenBucket(ON_DEMAND_PER_S, ON_DEMAND_BURST)
        self._pace = TokenBucket(LOOKUPS_PER_S, LOOKUP_BURST)
        self._pause: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._names)

    def start(self) -> None:
        """Look up the names of the configuration."""
        self._loop = asyncio.get_running_loop()
        self._take_names()

    def reconfigure(self, config: Config) -> None:
        """Go by `config` from now on: names that stay keep what is known of them."""
        self._config, self._settings = config, config.dns
        self._lookup.configure(config.dns)
        if self._loop is not None:
            self._take_names()

    def _take_names(self) -> None:
        config = self._config
        wanted = dict.fromkeys(config.routes.names)
        for entry in list(self._names.values()):
            if entry.name in wanted:
                entry.is_on_demand = False
                self._found.pop(entry.name, None)
                self._missing.pop(entry.name, None)
            elif not entry.is_on_demand or not self._settings.serve_any:
                self._drop(entry)
        for name in wanted:
            if name not in self._names:
                entry = self._names[name] = _Entry(name, is_on_demand=False)
                self._enqueue(entry)
        self._evict()
        self._pump()

    async def close(self) -> None:
        """Look nothing up any more."""
        self._loop = None
        if self._pause is not None:
            self._pause.cancel()
        tasks = [entry.task for entry in self._names.values() if entry.task is not None]
        for entry in self._names.values():
            self._stop(entry)
        self._names.clear()
        if tasks:
            await asyncio.wait(tasks, timeout=1)

    def want(self, name: str) -> None:
        """Somebody waits for `name`, of which nothing has been told, or nothing lately."""
        if self._loop is None:
            return
        entry = self._names.get(name)
        if entry is None:
            self._demand(name)
        elif entry.addresses is not None:
            self._loop.call_soon(self._tell, name, entry.addresses)
        elif entry.is_on_demand and not entry.is_queued and entry.task is None:
            # It has failed just now.
            self._loop.call_soon(self._tell, name, None)
        elif not entry.is_on_demand:
            self._hasten(entry, self._loop.time())

    def touch(self, name: str | None) -> None:
        """Somebody has been served by what is known of `name`, if that is one on demand."""
        entry = None if name is None else self._found.get(name)
        if entry is not None:
            entry.is_used = True
            self._found.move_to_end(entry.name)

    def _demand(self, name: str) -> None:
        assert self._loop is not None
        is_served = self._settings.serve_any and len(self._demands) < MAX_QUEUED
        if not is_served or not self._rate.take(self._loop.time()):
            self._loop.call_soon(self._tell, name, None)
            return
        entry = self._names[name] = _Entry(name, is_on_demand=True)
        self._enqueue(entry)
        self._pump()

    def _hasten(self, entry: _Entry, now: float) -> None:
        """Look up a name of the configuration before others, and before its time, because somebody waits for it."""
        if entry.is_queued:
            self._queue.remove(entry)
            self._queue.appendleft(entry)
        elif entry.timer is not None and now - entry.tried_at >= RETRY_S:
            entry.timer.cancel()
            self._enqueue(entry)
            self._pump()

    def _enqueue(self, entry: _Entry) -> None:
        entry.timer = None
        entry.is_queued = True
        # One that clients already use is looked up anew along with those of the configuration.
        is_new = entry.is_on_demand and entry.addresses is None
        (self._demands if is_new else self._queue).append(entry)

    def _pump(self) -> None:
        """Begin what there is room and time for."""
        while self._loop is not None and self._pause is None and self._running < AT_ONCE:
            # Their own rate keeps those on demand from taking all of the time.
            is_demand = bool(self._demands) and self._running_on_demand < ON_DEMAND_AT_ONCE
            queue = self._demands if is_demand else self._queue
            while queue and self._names.get(queue[0].name) is not queue[0]:
                queue.popleft()
            if not queue:
                if is_demand:
                    continue
                return
            if not self._pace.take(self._loop.time()):
                self._pause = self._loop.call_later(1 / LOOKUPS_PER_S, self._resume)
                return
            self._begin(queue.popleft(), is_demand=is_demand)

    def _resume(self) -> None:
        self._pause = None
        self._pump()

    def _begin(self, entry: _Entry, *, is_demand: bool) -> None:
        assert self._loop is not None
        entry.is_queued = False
        self._running += 1
        self._running_on_demand += is_demand
        entry.task = self._loop.create_task(self._work(entry, is_demand=is_demand))

    async def _work(self, entry: _Entry, *, is_demand: bool) -> None:
        answer: Answer | None = None
        cause = ""
        try:
            answer = await self._lookup.ask(entry.name)
        except LookupFailedError as error:
            cause = str(error)
        except Exception as error:  # a mistake of ours costs this look-up, not the name
            self._note_error(error)
            cause = "internal error"
        finally:
            entry.task = None
            self._running -= 1
            self._running_on_demand -= is_demand
            self._pump()
        if self._loop is None or self._names.get(entry.name) is not entry:
            return
        entry.tried_at = now = self._loop.time()
        if answer is None:
            self._fail(entry, cause, now)
        else:
            self._take(entry, answer, now)

    def _take(self, entry: _Entry, answer: Answer, now: float) -> None:
        ttl_s = min(max(answer.ttl_s, self._settings.min_ttl_s), self._settings.max_ttl_s)
        entry.failures = 0
        entry.addresses = answer.addresses
        entry.stale_at = now + ttl_s + self._settings.stale_s
        entry.is_used = False
        # A little before its time, so that it is never out of date as long as somebody answers.
        self._schedule(entry, ttl_s)
        if entry.is_on_demand:
            self._found.pop(entry.name, None)
            self._missing.pop(entry.name, None)
            (self._found if self._is_ours(answer) else self._missing)[entry.name] = entry
        self._tell(entry.name, entry.addresses)
        self._evict()

    def _fail(self, entry: _Entry, cause: str, now: float) -> None:
        keeps = entry.addresses is not None and now < entry.stale_at
        has_lost = entry.addresses is not None and not keeps
        entry.failures += 1
        if entry.failures == 1 or has_lost:
            self._note(NameFailed(entry.name, cause, keeps))
        self._schedule(entry, min(RETRY_S * 2.0 ** min(entry.failures - 1, 16), LONGEST_RETRY_S))
        if not keeps:
            entry.addresses = None
            if entry.is_on_demand:
                self._found.pop(entry.name, None)
                self._missing[entry.name] = entry
                self._tell(entry.name, None)
            elif has_lost:
                self._tell(entry.name, None)
            self._evict()

    def _schedule(self, entry: _Entry, delay_s: float) -> None:
        assert self._loop is not None
        entry.timer = self._loop.call_later(delay_s * (1 - JITTER * self._random.random()), self._handle_due, entry)

    def _handle_due(self, entry: _Entry) -> None:
        entry.timer = None
        if entry.is_on_demand and not (entry.name in self._found and entry.is_used):
            # Nobody has asked for it since: it is looked up again when somebody does.
            self._drop(entry)
            return
        self._enqueue(entry)
        self._pump()

    def _is_ours(self, answer: Answer) -> bool:
        networks = self._config.backend_networks
        return any(address in network for address in answer.addresses for network in networks)

    def _evict(self) -> None:
        """Forget names on demand that are too many."""
        while len(self._found) + len(self._missing) > self._settings.max_names:
            self._drop(next(iter((self._missing or self._found).values())))

    def _drop(self, entry: _Entry) -> None:
        self._stop(entry)
        del self._names[entry.name]
        self._found.pop(entry.name, None)
        self._missing.pop(entry.name, None)
        self._tell(entry.name, None)

    @staticmethod
    def _stop(entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if entry.task is not None:
            entry.task.cancel()
