"""Engines as tests make them: alone, or behind a fast path, as the daemon's stands behind the one in the kernel."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from kracauer.config import Config
from kracauer.engine import Engine
from kracauer.offload.collecting import LEASE_S
from kracauer.offload.memory import MemoryPath
from kracauer.tcp.record import Records
from kracauer.tcp.splice import Splice
from kracauer.wire import tcp
from kracauer.wire.buffer import PACKET_START, Buffer, Frame

# As seldom as the lease allows: records that are brought up to date for no other reason hide who forgets to.
SWEEP_EVERY_S: Final = LEASE_S - 1


class HeirPath(MemoryPath):
    """A fast path that comes after another one, whose flows have been its own to the end."""

    def __init__(self, capacity: int, held: frozenset[bytes]) -> None:
        super().__init__(capacity)
        self._held = held

    def inherits(self, splice: Splice) -> bool:
        """As the contract has it."""
        return _ends(splice) in self._held

    def stay(self, now: float) -> None:
        """Have SYNs answered as after a sweep, and nothing else done."""
        self._answers.sweep(now)


class EngineBehind(Engine):
    """An engine that gets what a fast path in memory leaves it; for whoever puts packets in it is like any other one.

    `former` is one that has died, and whose fast path has not.
    """

    def __init__(
        self,
        config: Config,
        *,
        secret: bytes,
        now: float,
        records: Records | None = None,
        former: "EngineBehind | None" = None,
    ) -> None:
        self.path = HeirPath(1 << 20, frozenset() if former is None else former.installed)
        self.taken = 0
        self.lags = False  # whether no sweep comes between a FIN that the fast path takes and what is next
        self.swept_at = now
        self.path.sweep(now)
        super().__init__(config, secret=secret, now=now, records=records, fast_path=self.path)

    @property
    def installed(self) -> frozenset[bytes]:
        """What tells the flows apart whose packets the fast path takes."""
        splices = (flow.splice for flow in self.flows)
        return frozenset(_ends(splice) for splice in splices if splice is not None and splice in self.path)

    def receive(self, frame: Frame, now: float) -> Sequence[Buffer]:
        """What comes of the packet in `frame`, whoever makes it."""
        if now - self.swept_at >= SWEEP_EVERY_S:
            self.sweep(now)
        self.path.stay(now)
        self.age(now)
        has_fin = _has_fin(frame)
        packet = self.path.receive(frame, now)
        if packet is None:
            return super().receive(frame, now)
        self.taken += 1
        if has_fin and not self.lags:
            self.sweep(now)
        return (packet,)

    def sweep(self, now: float) -> None:
        """Do what the daemon does each second."""
        self.swept_at = now
        self.follow(self.path.sweep(now))


_make: Callable[..., Engine] = Engine


@contextmanager
def behind_fast_path(former: Engine | None = None) -> Iterator[None]:
    """Have the engines that are made meanwhile stand behind a fast path, which comes after that of `former` if it had one."""
    global _make  # noqa: PLW0603 - what all the helpers make goes by it
    before, _make = _make, partial(EngineBehind, former=former if isinstance(former, EngineBehind) else None)
    try:
        yield
    finally:
        _make = before


def make_engine(config: Config, *, secret: bytes, now: float, records: Records | None = None) -> Engine:
    """An engine of the kind that is wanted now."""
    return _make(config, secret=secret, now=now, records=records)


def collect(engine: Engine) -> None:
    """Have the records of `engine` say all that has passed: what whoever comes after a dead one does first."""
    if isinstance(engine, EngineBehind):
        engine.sweep(engine.swept_at)


def _has_fin(frame: Frame) -> bool:
    """Whether what the fast path may take of this has one; of what it never takes, either answer will do."""
    at = PACKET_START + (33 if frame.buffer[PACKET_START] == 0x45 else 53)
    return bool(frame.buffer[at] & tcp.FIN)


def _ends(splice: Splice) -> bytes:
    constants = splice.constants
    return constants.v4_addresses + bytes(divmod(constants.client_port, 256)) + bytes(divmod(constants.service_port, 256))
