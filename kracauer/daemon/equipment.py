"""What workers are handed down: a queue each, ways to one another, their part of the fast path, and the lock of the service."""

import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from structlog.typing import FilteringBoundLogger

from kracauer.config import Config, share_of
from kracauer.daemon.orders import Order, Queue
from kracauer.fast_path import Standing
from kracauer.host import IcmpSocket
from kracauer.offload import steering
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath
from kracauer.offload.shared import share_maps
from kracauer.steering import Share
from kracauer.tun import TunDevice, open_queue

_ROOM_BYTES: Final = 4 << 20  # for what is handed over; the kernel gives as much as it allows


class Equipment:
    """Holds all of it open for as long as the service lives, so that a worker that has died leaves its part to the next one.

    `lock` is the descriptor of the service's lock: held by the workers, too, it is free once the last of them has gone.
    """

    def __init__(
        self, first: TunDevice, config: Config, secret: bytes, boot_id: bytes, lock: int | None, log: FilteringBoundLogger
    ) -> None:
        self.icmp: IcmpSocket | None = None
        self._secret = secret
        self._boot_id = boot_id
        self._lock = lock
        self._workers = config.network.workers
        self._queues = [first]
        self._ways: list[tuple[socket.socket, socket.socket]] = []
        self._path: KernelPath | None = None
        self._left: tuple[dict[str, int], ...] = ()
        self._is_steered = False
        try:
            self._open(config, log)
        except BaseException:
            self.close()
            raise

    def take_fast_path(self, path: KernelPath | None, left: Iterable[dict[str, int]]) -> None:
        """Have workers use `path`, and the first of them collect from what is `left` of earlier ones, by descriptors."""
        self._path = path
        self._left = tuple(left)

    def close_left(self) -> None:
        """Let go of what is left of earlier ones: all workers have it."""
        for descriptors in self._left:
            for descriptor in descriptors.values():
                os.close(descriptor)
        self._left = ()

    def order(self, config: Config, number: int, standing: Standing, *, is_replacing: bool) -> tuple[Order, Sequence[int]]:
        """What worker `number` is told, and the descriptors that it is to find open."""
        queue = self._queues[number]
        incoming = self._ways[number][0].fileno()
        outgoing = tuple(None if other == number else way[1].fileno() for other, way in enumerate(self._ways))
        # One of them hears the errors that come for the host itself, and hands them on.
        icmp = None if self.icmp is None or number else self.icmp.fileno()
        path = self._path
        maps = None
        if path is not None and path.program >= 0:
            maps = share_maps(path, number)
        order = Order(
            config=share_of(config, self._workers),
            share=Share(number, self._workers),
            secret=self._secret,
            boot_id=self._boot_id,
            queue=Queue(queue.fileno(), queue.has_vnet_header, queue.has_offloads, self._is_steered),
            incoming=incoming,
            outgoing=outgoing,
            icmp=icmp,
            maps=maps,
            left=self._left,
            standing=standing,
            is_replacing=is_replacing,
        )
        given = [queue.fileno(), incoming, *outgoing, icmp, self._lock, *(() if maps is None else maps.descriptors)]
        given += [descriptor for descriptors in self._left for descriptor in descriptors.values()]
        return order, [descriptor for descriptor in given if descriptor is not None]

    def close(self) -> None:
        """Close all but the first queue, which is somebody else's to close. Closing twice is no error."""
        self.close_left()
        for queue in self._queues[1:]:
            queue.close()
        del self._queues[1:]
        for way in self._ways:
            for end in way:
                end.close()
        self._ways.clear()

    def _open(self, config: Config, log: FilteringBoundLogger) -> None:
        first = self._queues[0]
        while len(self._queues) < self._workers:
            self._queues.append(open_queue(first, has_offloads=config.network.offloads))
        try:
            steering.steer(first.fileno(), self._workers)
        except OffloadError as error:
            log.warning("steering_unavailable", device=first.name, cause=error.cause, remedy=error.remedy)
        else:
            self._is_steered = True
        for _ in range(self._workers):
            way = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._ways.append(way)
            with suppress(OSError):
                way[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM_BYTES)
