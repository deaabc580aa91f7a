"""Several workers at the work of one service: started, told, asked, and started anew when one of them has died.

Each has its own queue, engine and flows. What all have in common is here, and in the kernel: the device, the fast path's maps.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Address
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from kracauer.config import Config, share_of
from kracauer.daemon.background import in_background
from kracauer.daemon.equipment import Equipment
from kracauer.daemon.member import Member, WorkerError, describe_end
from kracauer.daemon.merging import NOTHING_HEARD, merge_numbers, merge_reports
from kracauer.daemon.orders import LogCounters, Order, Reconfigure, Serve
from kracauer.daemon.stopping import Stoppable
from kracauer.fast_path import Standing
from kracauer.tun import DeviceLostError

POLL_S: Final = 5.0
SILENCE_S: Final = 15.0  # after which a worker is taken for one that hangs
_READY_S: Final = 30.0
_START_S: Final = 240.0  # for a worker to be started anew
_LONGEST_PAUSE_S: Final = 30.0  # before a worker is started anew
_STEADY_S: Final = 60.0  # who has served so long has not died of how it began


class Crew(Stoppable):
    """The workers of one service. `start` waits until they have taken up their flows, `run` has them serve.

    `standing` tells how the fast path stands at the moment.
    """

    def __init__(
        self, config: Config, equipment: Equipment, log: FilteringBoundLogger, standing: Callable[[], Standing]
    ) -> None:
        super().__init__()
        self.members = [Member(number) for number in range(config.network.workers)]
        self._config = config
        self._equipment = equipment
        self._log = log
        self._standing = standing
        self._former_counters: dict[str, Any] = {}
        self._briefed: dict[int, Config] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = {member.number for member in self.members}
        self._are_ready = asyncio.Event()
        self._is_stopping = False

    def start(self) -> None:
        """Have all of them begin, each in its own time; raises WorkerError when one cannot."""
        orders = [self._spawn(member, is_replacing=False) for member in self.members]
        for member, order in zip(self.members, orders, strict=True):
            member.brief(order)
        for member in self.members:
            self._log_adoption(member, member.await_adoption())

    def close(self) -> None:
        """End those that are left."""
        for member in self.members:
            member.dismiss()
        for member in self.members:
            member.kill()

    def services(self) -> set[tuple[IPv4Address, int]]:
        """What clients have dialled, as of a few seconds ago."""
        return set().union(*(member.services for member in self.members))

    @property
    def kept(self) -> int:
        """How many flows would outlive the service, or do, as far as is known."""
        told = (member.last_words or member.report for member in self.members)
        return sum(each.get("flows_kept", 0) for each in told)

    @property
    def connections(self) -> int:
        """How many flows there are, as of a few seconds ago."""
        return sum(sum(member.report.get("flows", {}).values()) for member in self.members if "counters" in member.report)

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until SIGTERM, SIGINT or `stop`; raises DeviceLostError, or WorkerError where the beginning fails."""
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop_for_good)
        loop.add_signal_handler(signal.SIGUSR1, self._log_counters)
        loop.set_exception_handler(self._handle_loop_error)
        try:
            for member in self.members:
                self._begin(self._attend(member))
            await self._await_ready()
            await self._refresh()
            on_ready()
            self._begin(self._watch())
            await self._stopped
        finally:
            await self._end()

    def reconfigure(self, config: Config) -> Awaitable[None]:
        """Have all go by `config`, those too that are started from now on."""
        self._config = config
        return self._reconfigure(share_of(config, len(self.members)))

    async def report(self) -> Mapping[str, object]:
        """As one process reports, with what there is to say of each worker."""
        await self._refresh()
        reports = [member.report for member in self.members if "counters" in member.report] or [NOTHING_HEARD]
        return merge_reports(reports, [self._former_counters]) | {"workers": [_describe(member) for member in self.members]}

    def totals(self) -> Mapping[str, object]:
        """What all have counted."""
        told = (member.last_words or member.report for member in self.members)
        return merge_numbers((self._former_counters, *(each.get("counters", {}) for each in told)))

    def _spawn(self, member: Member, *, is_replacing: bool) -> Order:
        order, descriptors = self._equipment.order(self._config, member.number, self._standing(), is_replacing=is_replacing)
        self._briefed[member.number] = self._config
        member.spawn(descriptors)
        return order

    def _log_adoption(self, member: Member, said: Mapping[str, Any]) -> None:
        flows, discarded = said.get("flows"), said.get("discarded")
        if flows or discarded:
            self._log.info(
                "flows_adopted", worker=member.number, flows=flows, discarded=discarded, duration_s=said.get("duration_s")
            )

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("internal_error", error=repr(error), exc_info=error)

    def _handle_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Asyncio's last resort: what a callback, or whoever asks on the control socket, has let through."""
        error = context.get("exception")
        self._log.error("internal_error", error=repr(error) if error else context["message"], exc_info=error)

    async def _await_ready(self) -> None:
        assert self._stopped is not None
        ready = asyncio.ensure_future(self._are_ready.wait())
        await asyncio.wait((ready, self._stopped), timeout=_READY_S, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not self._are_ready.is_set() and not self._stopped.done():
            late = ", ".join(map(str, sorted(self._waiting)))
            raise WorkerError(
                f"workers have not begun to serve in {_READY_S:g} s: {late}", "look for what they have said on stderr"
            )

    async def _attend(self, member: Member) -> None:
        """Have `member` serve, and take its place again with another process whenever it ends."""
        failures = 0
        while not self._is_stopping:
            reader = await member.serve(Serve(self._standing()))
            if self._briefed[member.number] is not self._config:  # there was a reload meanwhile
                member.tell(Reconfigure(share_of(self._config, len(self.members))))
            await member.listen(reader, lambda said: self._take(member, said))
            status = await member.await_end()
            if self._is_stopping:
                return
            if member.number in self._waiting:
                cause = f"worker {member.number} {describe_end(status)} before it served"
                self.stop(WorkerError(cause, "look for what it has said on stderr"))
                return
            served_s = time.monotonic() - member.started
            failures = 1 if served_s > _STEADY_S else failures + 1
            self._note_end(member, status, served_s, _pause_s(failures))
            while not await self._replace(member, _pause_s(failures)):
                failures += 1

    def _note_end(self, member: Member, status: int | None, served_s: float, pause_s: float) -> None:
        self._log.error(
            "worker_died",
            worker=member.number,
            cause=describe_end(status),
            served_s=round(served_s, 3),
            next_start_in_s=pause_s,
        )
        # What it has counted since it was last asked is lost with it.
        counters = member.report.get("counters", {})
        self._former_counters = merge_numbers((self._former_counters, counters))
        member.report = {}

    async def _replace(self, member: Member, pause_s: float) -> bool:
        """Start another process in the place of one that has died; returns whether that was done."""
        await asyncio.sleep(pause_s)
        if self._is_stopping:
            return True
        try:
            await in_background(lambda: self._respawn(member), _START_S)
        except (WorkerError, OSError, TimeoutError) as error:
            cause = error.cause if isinstance(error, WorkerError) else repr(error)
            remedy = error.remedy if isinstance(error, WorkerError) else "see `dmesg` for the reason"
            self._log.error("worker_unusable", worker=member.number, cause=cause, remedy=remedy)
            await member.await_end()
            return False
        self._log.info("worker_replaced", worker=member.number, pid=member.pid)
        return True

    def _respawn(self, member: Member) -> None:
        member.brief(self._spawn(member, is_replacing=True))
        self._log_adoption(member, member.await_adoption())

    def _take(self, member: Member, said: Mapping[str, Any]) -> None:
        match said.get("word"):
            case "ready":
                self._waiting.discard(member.number)
                if not self._waiting:
                    self._are_ready.set()
            case "lost":
                self.stop(DeviceLostError(str(said.get("cause")), str(said.get("remedy"))))

    async def _watch(self) -> None:
        """Ask all how things stand, again and again; whoever says nothing any more is ended, and so started anew."""
        while True:
            await asyncio.sleep(POLL_S)
            await self._refresh()
            for member in self.members:
                silent_s = time.monotonic() - member.heard_at
                if "counters" in member.report and silent_s > SILENCE_S:
                    self._log.error("worker_hangs", worker=member.number, pid=member.pid, silent_s=round(silent_s, 1))
                    member.kill_now()

    async def _refresh(self) -> None:
        await asyncio.gather(*(member.refresh() for member in self.members))

    async def _reconfigure(self, share: Config) -> None:
        answers = await asyncio.gather(*(member.ask(Reconfigure(share), "reconfigured") for member in self.members))
        errors = [answer["error"] for answer in answers if answer is not None and "error" in answer]
        if errors:
            raise RuntimeError(f"workers go by what they had: {errors[0]}")

    def _log_counters(self) -> None:
        for member in self.members:
            member.tell(LogCounters())

    async def _end(self) -> None:
        self._is_stopping = True
        for member in self.members:
            member.stop(is_final=self.is_final)
            member.dismiss()  # one that is only just beginning
        await asyncio.gather(*(member.await_end() for member in self.members))
        tasks = list(self._tasks)
        if tasks:  # they take the last words
            await asyncio.wait(tasks, timeout=1)
        for task in tasks:
            task.cancel()


def _pause_s(failures: int) -> float:
    """How long to wait before a worker that has failed so many times in a row is started anew: at first not at all."""
    return 0.0 if failures <= 1 else min(2.0 ** (failures - 2), _LONGEST_PAUSE_S)


def _describe(member: Member) -> dict[str, object]:
    report = member.report
    return {
        "number": member.number,
        "pid": member.pid,
        "uptime_s": round(time.monotonic() - member.started, 3),
        "starts": member.starts,
        "flows": sum(report["flows"].values()) if "counters" in report else None,
        "packets_read": report["counters"]["packets_read"] if "counters" in report else None,
    }
