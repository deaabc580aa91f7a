"""The daemon with an engine that hands its spliced flows to the kernel: `offloading_daemon.py run -c FILE`.

The engine knows nothing of a fast path yet. This one watches it from outside: whatever a packet or a timer has made of a flow,
the fast path is told before anything is written.
"""

import sys
from collections.abc import Sequence
from typing import Any

import kracauer.engine
from kracauer.cli import main
from kracauer.config import Config
from kracauer.engine.core import Engine
from kracauer.events import CloseReason
from kracauer.flows import Flow
from kracauer.fast_path import FastPath
from kracauer.offload.kernel import KernelPath
from kracauer.wire.buffer import PACKET_START, Buffer, Frame

SWEEP_S = 0.2
_TCP = 6


class OffloadingEngine(Engine):
    """Sweeps before each timer, brings a flow's record up to date before each packet of it that is not plain."""

    def __init__(self, config: Config, **rest: Any) -> None:
        super().__init__(config, **rest)
        path = KernelPath.open(config.limits.flows)
        self._path: FastPath = path
        how = path.attach(config.network.device)
        print(f"attached {how}", flush=True)
        self._watched: dict[Flow, None] = {}
        self._next_sweep = 0.0
        self._close_flow = self._context.close
        self._context.close = self._close_after_removal  # type: ignore[method-assign]  # the hook that is to be there

    def _close_after_removal(self, flow: Flow, reason: CloseReason, now: float) -> None:
        if flow.splice is not None:
            self._path.remove(flow.splice)
        self._watched.pop(flow, None)
        self._close_flow(flow, reason, now)

    def receive(self, frame: Frame, now: float) -> Sequence[Buffer]:
        buffer = frame.buffer
        is_v4 = buffer[PACKET_START] >> 4 == 4
        if buffer[PACKET_START + (9 if is_v4 else 6)] != _TCP:
            self._path.sweep(now)  # an ICMP error is judged by what its flow has acknowledged
        by_client, by_backend = self.flows.by_client, self.flows.by_backend
        client_key = bytes(buffer[PACKET_START + 12 : PACKET_START + 24])
        backend_key = bytes(buffer[PACKET_START + 8 : PACKET_START + 44])

        def find() -> Flow | None:
            return by_client.get(client_key) if is_v4 else by_backend.get(backend_key)

        before = find()
        if before is not None and before.splice is not None:
            self._path.refresh(before.splice)
        packets = super().receive(frame, now)
        for flow in {before, find()} - {None}:
            assert flow is not None
            self._follow(flow)
        return packets

    def handle_timer(self, now: float) -> Sequence[Buffer]:
        self._path.sweep(now)
        self._next_sweep = now + SWEEP_S
        packets = super().handle_timer(now)
        for flow in list(self._watched):
            self._follow(flow)
        return packets

    def next_deadline(self) -> float | None:
        deadline = super().next_deadline()
        return self._next_sweep if deadline is None else min(deadline, self._next_sweep)

    def _follow(self, flow: Flow) -> None:
        if flow.splice is None:
            return
        if flow.fast is flow.splice and self._path.install(flow.splice):
            self._watched[flow] = None
        else:
            self._path.remove(flow.splice)
            self._watched.pop(flow, None)


if __name__ == "__main__":
    kracauer.engine.Engine = OffloadingEngine  # type: ignore[misc]
    sys.exit(main())
