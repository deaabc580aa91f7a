"""One of several workers: a process that has a queue of the device, an engine and a flow file to itself, and no privileges.

It is started by `kracauer.daemon.crew`, is told all on its channel, and ends when that is closed. Signals are the supervisor's
to answer: a terminal and a service manager send theirs to all.
"""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Final

from structlog.typing import FilteringBoundLogger

import kracauer
from kracauer import logs
from kracauer.daemon import channel
from kracauer.daemon.channel import ChannelClosedError
from kracauer.daemon.estate import count_kept
from kracauer.daemon.flow_file import FlowFile, open_flow_file
from kracauer.daemon.flow_files import flow_path
from kracauer.daemon.garbage import spare_the_old
from kracauer.daemon.orders import LogCounters, Order, Reconfigure, Serve, Stop, Tell
from kracauer.daemon.privileges import drop_privileges
from kracauer.daemon.routing import services_of
from kracauer.daemon.service import SWITCH_INTERVAL_S, PacketSource, Service
from kracauer.daemon.serving import describe, make_resolver
from kracauer.daemon.steered import Neighbours, SteeredDevice, SteeredSource
from kracauer.engine import Engine
from kracauer.errors import DeviceError
from kracauer.fast_path import FastPath, NoFastPath, Standing
from kracauer.host import IcmpSocket
from kracauer.offload.pins import Former
from kracauer.offload.shared import WorkerPath
from kracauer.tun import InheritedQueue, TunDevice

_OTHERS_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Worker:
    """What a worker has, from its order on: flows adopted, and nothing read yet. `begin` is to be told how that went."""

    def __init__(self, order: Order, log: FilteringBoundLogger, stack: ExitStack) -> None:
        self.share = order.share
        network = order.config.network
        self._device_name = network.device
        self._log = log
        self.flow_file = self._open_flow_file(order)
        stack.callback(self.flow_file.close)
        self._former = None if order.maps is None or order.is_replacing else Former.inherit(network.device, order.left)
        self.path = self._join(order)
        began = time.monotonic()
        self.engine = Engine(
            order.config,
            secret=order.secret,
            now=began,
            records=self.flow_file.records,
            fast_path=self.path,
            share=order.share,
        )
        spare_the_old()
        self.adoption = self.engine.adopt(began)
        self.adoption_s = round(time.monotonic() - began, 6)
        if isinstance(self.path, WorkerPath):
            self.path.release_left()
        self.service = self._make_service(order, stack)
        self.resolver = make_resolver(order.config, self.service)

    @property
    def services(self) -> list[tuple[str, int]]:
        """What clients have dialled."""
        return [(str(address), port) for address, port in services_of(self.engine.flows)]

    @property
    def kept(self) -> int:
        """How many flows would outlive the process."""
        return count_kept(self.engine.flows, self.flow_file)

    def begin(self, standing: Standing) -> None:
        """Go on now that the fast path has come to stand as told."""
        if isinstance(self.path, WorkerPath):
            self.path.standing = standing
            if not standing.hook:
                self.path.close()
                self.path.standing = standing
        if self._former is not None:
            moved = self._former.collect(self.flow_file.records)  # what was carried while we took up the flows
            if isinstance(self.path, WorkerPath):
                self.path.note_moved(moved)
            if self._former.flows:
                self._log.info("offload_taken_over", device=self._device_name, flows=self._former.flows)
            self._former.close()

    def end(self, *, is_final: bool) -> dict[str, object]:
        """Leave all to a successor, or nothing; returns the last words."""
        self.path.close()  # first of all: it has the records tell what it has carried
        kept = 0 if is_final else self.kept
        if is_final:
            self.flow_file.remove()
        return {"word": "stopped", "flows_kept": kept, "counters": self.service.counters.fields()}

    def report(self) -> dict[str, object]:
        """How things stand."""
        return {"word": "report", "services": self.services, **describe(self.service, self.engine, self.kept)}

    def _open_flow_file(self, order: Order) -> FlowFile:
        path = flow_path(order.config.network.device, order.share.number, order.share.workers)
        return open_flow_file(path, prefix=order.config.prefix, boot_id=order.boot_id, log=self._log)

    def _join(self, order: Order) -> FastPath:
        if order.maps is None:
            return NoFastPath(order.standing)
        path = WorkerPath.join(order.maps, order.standing, self._former)
        if order.is_replacing:
            path.reclaim(self.flow_file.records)
        elif self._former is not None:
            self._former.collect(self.flow_file.records)
        return path

    def _make_service(self, order: Order, stack: ExitStack) -> Service:
        queue, config = order.queue, order.config
        incoming, *outgoing = (
            None if number is None else socket.socket(fileno=number) for number in (order.incoming, *order.outgoing)
        )
        assert incoming is not None
        neighbours = Neighbours(order.share, incoming, outgoing)
        tun = TunDevice(
            InheritedQueue(queue.descriptor, config.network.device),
            has_vnet_header=queue.has_vnet_header,
            has_offloads=queue.has_offloads,
        )
        device = SteeredDevice(tun, neighbours, is_steered=queue.is_steered)
        stack.callback(device.close)
        sources: list[PacketSource] = [neighbours]
        if order.icmp is not None:
            errors = IcmpSocket(order.icmp)
            stack.callback(errors.close)
            sources.append(SteeredSource(errors, neighbours))
        return Service(
            device, self.engine, self._log, log_level=config.log.level, sources=sources, fast_path=self.path, has_signals=False
        )


class Post:
    """The channel of a worker that serves: orders are followed, one after the other, and answered."""

    def __init__(self, worker: Worker, writer: asyncio.StreamWriter) -> None:
        self.is_final = False
        self._worker = worker
        self._writer = writer

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Follow orders until the channel is closed, which is an order to stop."""
        service = self._worker.service
        try:
            with suppress(ChannelClosedError):
                while not isinstance(order := await channel.next_order(reader), Stop):
                    self._follow(order)
                self.is_final = order.is_final
        finally:
            if self.is_final:
                service.stop_for_good()
            else:
                service.stop()

    def say(self, words: Mapping[str, object]) -> None:
        """Send `words` up; who does not listen misses them."""
        self._writer.write(channel.pack_words(words))

    def _follow(self, order: object) -> None:
        worker = self._worker
        match order:
            case Tell():
                self.say(worker.report())
            case Reconfigure(config=config):
                try:
                    worker.service.reconfigure(config)
                    worker.resolver.reconfigure(config)
                    logs.set_level(config.log.level)
                except Exception as error:  # a mistake of ours: the traffic goes on, with what is in force
                    worker.service.note_internal_error(error)
                    self.say({"word": "reconfigured", "error": repr(error)})
                else:
                    self.say({"word": "reconfigured"})
            case LogCounters():
                worker.service.log_counters()


async def _serve(worker: Worker, channel_socket: socket.socket) -> bool:
    """Serve until told to stop; returns whether for good. Raises DeviceError."""
    reader, writer = await asyncio.open_connection(sock=channel_socket)
    post = Post(worker, writer)
    orders = asyncio.get_running_loop().create_task(post.serve(reader))

    def on_ready() -> None:
        worker.resolver.start()
        post.say({"word": "ready"})

    try:
        await worker.service.run(on_ready)
    except DeviceError as error:
        post.say({"word": "lost", "cause": error.cause, "remedy": error.remedy})
        raise
    finally:
        orders.cancel()
        await worker.resolver.close()
        with suppress(OSError):
            await writer.drain()
    post.say(worker.end(is_final=post.is_final))
    with suppress(OSError):
        await writer.drain()
    writer.close()
    return post.is_final


def main(arguments: Iterable[str]) -> int:
    """Be the worker whose channel has the descriptor that is the only argument; returns the exit status."""
    for number in _OTHERS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    (descriptor,) = arguments
    channel_socket = socket.socket(fileno=int(descriptor))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with ExitStack() as stack:
        try:
            channel.send_words(channel_socket, {"word": "here", "version": kracauer.__version__})
            order: Order = channel.receive_order(channel_socket)
            log = logs.configure(order.config.log.level, order.config.log.format).bind(worker=order.share.number)
            worker = Worker(order, log, stack)
            drop_privileges(keep_net_admin=False)
            if (output := logs.output()) is not None:
                stack.callback(output.close)
                output.start()
            channel.send_words(
                channel_socket,
                {
                    "word": "adopted",
                    "flows": worker.adoption.adopted,
                    "discarded": worker.adoption.discarded,
                    "duration_s": worker.adoption_s,
                    "services": worker.services,
                    "flows_kept": worker.kept,
                },
            )
            serve: Serve = channel.receive_order(channel_socket)
        except ChannelClosedError:
            return 0  # the supervisor has changed its mind
        worker.begin(serve.standing)
        try:
            asyncio.run(_serve(worker, channel_socket))
        except DeviceError:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
