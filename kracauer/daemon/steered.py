"""One worker's queue of the device: what comes out of it and is another worker's is handed over, and what others have is taken.

The kernel's program steers plain packets (`kracauer.offload.steering`). What it cannot know, fragments above all, comes here to
whom it may, and goes on in a datagram between processes: a byte, then the vnet header and the packet.
"""

import errno
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

from kracauer.daemon.service import PacketSource
from kracauer.steering import FragmentSteering, Share, find_worker, is_fragment, is_plain
from kracauer.tun import Device
from kracauer.wire.buffer import PACKET_START, VNET_START, Buffer, Frame

_TO_BE_STEERED: Final = b"\0"  # a fragment, to the worker where all of its datagram meet
_FOR_YOU: Final = b"\1"


class Neighbours:
    """The ways to the other workers, `outgoing` by their numbers, and the one from them; the sockets are this object's."""

    def __init__(self, share: Share, incoming: socket.socket, outgoing: Sequence[socket.socket | None]) -> None:
        self.share = share
        self.handed_over = 0
        self.lost: Counter[str] = Counter()  # by the name of the errno; the reader may clear it
        self._incoming = incoming
        self._outgoing = outgoing
        self._fragments = FragmentSteering(share.workers)
        self._waiting: deque[bytes] = deque()
        self._tag = bytearray(1)
        for each in (incoming, *outgoing):
            if each is not None:
                each.settimeout(0)

    def fileno(self) -> int:
        """Turns readable when another worker has handed something over."""
        return self._incoming.fileno()

    def read_into(self, frame: Frame) -> bool:
        """Fill `frame` with what others have handed over; False when there is nothing now."""
        while not self.load_waiting(frame):
            try:
                length, *_ = self._incoming.recvmsg_into([self._tag, frame.view[VNET_START:]])
            except BlockingIOError:
                return False
            frame.end = VNET_START + length - 1
            if frame.end < PACKET_START:
                continue
            if self._tag == _FOR_YOU:
                return True
            self._steer_fragment(frame)
        return True

    def keep(self, frame: Frame, *, is_steered: bool) -> bool:
        """Whether the packet in `frame`, out of this worker's queue, is its own; else it is on its way when this returns.

        `is_steered`: the kernel has chosen the queue, and of plain packets is right.
        """
        if is_steered and is_plain(frame):
            return True
        worker = find_worker(frame.view[PACKET_START : frame.end], self.share.workers)
        if not is_fragment(frame):
            if worker == self.share.number:
                return True
            self._hand_over(worker, _FOR_YOU, frame.view[VNET_START : frame.end])
        elif worker == self.share.number:
            self._steer_fragment(frame)
        else:
            self._hand_over(worker, _TO_BE_STEERED, frame.view[VNET_START : frame.end])
        return self.load_waiting(frame)

    def close(self) -> None:
        """Close the sockets."""
        for each in (self._incoming, *self._outgoing):
            if each is not None:
                each.close()

    def load_waiting(self, frame: Frame) -> bool:
        """Fill `frame` with a fragment of this worker's that has waited; False when there is none."""
        if not self._waiting:
            return False
        whole = self._waiting.popleft()
        frame.load(memoryview(whole)[PACKET_START - VNET_START :], whole[: PACKET_START - VNET_START])
        return True

    def _steer_fragment(self, frame: Frame) -> None:
        fragment = bytes(frame.view[PACKET_START : frame.end])
        behind = bytes(frame.view[VNET_START:PACKET_START])
        for worker, whole in self._fragments.receive(fragment, time.monotonic(), behind=behind):
            if worker == self.share.number:
                self._waiting.append(whole)
            else:
                self._hand_over(worker, _FOR_YOU, whole)
        if self._fragments.lost:
            self.lost["ETIME"] += self._fragments.lost
            self._fragments.lost = 0

    def _hand_over(self, worker: int, tag: bytes, whole: Buffer) -> None:
        way = self._outgoing[worker]
        assert way is not None
        try:
            way.sendmsg([tag, whole])
        except OSError as error:  # it has no room now, or is about to be started anew: as lost as on a network
            self.lost[errno.errorcode.get(error.errno or 0, "unknown")] += 1
        else:
            self.handed_over += 1


class SteeredSource:
    """What `source` has to say, without what is other workers': that is on its way to them."""

    def __init__(self, source: PacketSource, neighbours: Neighbours) -> None:
        self._source = source
        self._neighbours = neighbours

    def fileno(self) -> int:
        """That of the source."""
        return self._source.fileno()

    def read_into(self, frame: Frame) -> bool:
        """As the source's."""
        while self._source.read_into(frame):
            if self._neighbours.keep(frame, is_steered=False):
                return True
        return False


class SteeredDevice:
    """A worker's queue, as a device that gives out just what is the worker's own.

    `is_steered` tells that the kernel chooses the queue by our program. Until the queue has been empty once there may be
    something in it that came before that did, and belongs to anybody.
    """

    def __init__(self, queue: Device, neighbours: Neighbours, *, is_steered: bool) -> None:
        self._queue = queue
        self._neighbours = neighbours
        self._is_steered = is_steered
        self._is_trusted = False

    @property
    def name(self) -> str:
        """The interface's name."""
        return self._queue.name

    @property
    def has_offloads(self) -> bool:
        """As the queue has it."""
        return self._queue.has_offloads

    @property
    def refused(self) -> dict[str, int]:
        """Packets that could not be written, and those that could not be handed over, by the name of the errno."""
        refused = self._queue.refused
        for name, count in self._neighbours.lost.items():
            refused[name] = refused.get(name, 0) + count
        self._neighbours.lost.clear()
        return refused

    def fileno(self) -> int:
        """That of the queue."""
        return self._queue.fileno()

    def read_into(self, frame: Frame) -> bool:
        """As the queue's, without what is others'."""
        if self._neighbours.load_waiting(frame):
            return True
        while self._queue.read_into(frame):
            if self._neighbours.keep(frame, is_steered=self._is_trusted):
                return True
        self._is_trusted = self._is_steered
        return False

    def write(self, packet: Buffer) -> None:
        """As the queue's."""
        self._queue.write(packet)

    def close(self) -> None:
        """Close the queue, and the ways to the others."""
        self._queue.close()
        self._neighbours.close()
