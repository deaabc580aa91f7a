"""Engines as tests make them: alone, or behind a fast path, as the daemon's stands behind the one in the kernel."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from kracauer.config import Config
from kracauer.engine import Engine
from kracauer.offload.collecting import LEASE_S
from kracauer.offload.memory import MemoryPath
from kracauer.tcp.record import Records
from kracauer.wire.buffer import Buffer, Frame

# As seldom as the lease allows: records that are brought up to date for no other reason hide who forgets to.
SWEEP_EVERY_S: Final = LEASE_S - 1


class EngineBehind(Engine):
    """An engine that gets what a fast path in memory leaves it; for whoever puts packets in it is like any other one."""

    def __init__(self, config: Config, *, secret: bytes, now: float, records: Records | None = None) -> None:
        self.path = MemoryPath(1 << 20)
        self.taken = 0
        self._swept_at = now
        self.path.sweep(now)
        super().__init__(config, secret=secret, now=now, records=records, fast_path=self.path)

    def receive(self, frame: Frame, now: float) -> Sequence[Buffer]:
        """What comes of the packet in `frame`, whoever makes it."""
        if now - self._swept_at >= SWEEP_EVERY_S:
            self.sweep(now)
        packet = self.path.receive(frame, now)
        if packet is None:
            return super().receive(frame, now)
        self.taken += 1
        return (packet,)

    def sweep(self, now: float) -> None:
        """Do what the daemon does each second."""
        self._swept_at = now
        self.path.sweep(now)


_kind: type[Engine] = Engine


@contextmanager
def behind_fast_path() -> Iterator[None]:
    """Have the engines that are made meanwhile stand behind a fast path."""
    global _kind  # noqa: PLW0603 - what all the helpers make goes by it
    former, _kind = _kind, EngineBehind
    try:
        yield
    finally:
        _kind = former


def make_engine(config: Config, *, secret: bytes, now: float, records: Records | None = None) -> Engine:
    """An engine of the kind that is wanted now."""
    return _kind(config, secret=secret, now=now, records=records)


def collect(engine: Engine) -> None:
    """Have the records of `engine` say all that has passed: what whoever comes after a dead one does first."""
    if isinstance(engine, EngineBehind):
        for splice in [flow.splice for flow in engine.flows if flow.splice is not None]:
            engine.path.refresh(splice)
