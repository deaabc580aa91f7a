"""A wire with faults between two interfaces, for kernels without netem: `python -m kracauer.lab.wire IF_A IF_B --loss 1 …`.

The interfaces lie without addresses in a namespace of their own. Frames are taken and put with packet(7) sockets that carry
vnet headers, so that unfinished checksums and super-packets cross as they are. For faults that hit single packets, and that a
checksum can find out, switch offloads off at both far ends. Neighbour discovery and ARP are never harmed: a test is about
TCP, not about luck. SIGTERM ends it and prints its counters as JSON.
"""

import argparse
import contextlib
import dataclasses
import heapq
import json
import random
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Final

ETH_P_ALL: Final = 3
SOL_PACKET: Final = 263
PACKET_ADD_MEMBERSHIP: Final = 1
PACKET_VNET_HDR: Final = 15
PACKET_IGNORE_OUTGOING: Final = 23
PACKET_MR_PROMISC: Final = 1
VNET_HEADER: Final = 10
ETHERNET_HEADER: Final = 14
MAX_FRAME: Final = VNET_HEADER + ETHERNET_HEADER + 65_536 + 40
BUFFER_BYTES: Final = 16 << 20
BATCH: Final = 64
READY: Final = "wire ready"

ICMPV6: Final = 58
NEIGHBOUR_DISCOVERY: Final = range(133, 138)  # RFC 4861 §4
TCP: Final = 6
TWO_NOPS: Final = b"\x01\x01"


@dataclasses.dataclass(frozen=True, slots=True)
class Impairment:
    """What a wire does to packets; shares are percentages of the packets that pass."""

    loss: float = 0.0
    burst: int = 0  # packets lost after each one lost
    dup: float = 0.0
    reorder: float = 0.0  # held back by `delay_ms`, by 2 ms at least
    corrupt: float = 0.0  # one bit flipped behind the IPv4 header's end
    repad: float = 0.0  # TCP options that begin with two NOPs end with them instead, which says the same
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    rate_mbit: float = 0.0  # 0: unlimited
    direction: str = "both"  # "ab", "ba" or "both"
    only: str = "ip"  # or "tcp"
    seed: int = 1

    def arguments(self) -> list[str]:
        """Return the command-line options that say the same."""
        return [
            part
            for item in dataclasses.fields(self)
            for part in (f"--{item.name.replace('_', '-')}", str(getattr(self, item.name)))
        ]


@dataclasses.dataclass(slots=True)
class Counters:
    """What has become of the frames that came in."""

    forwarded: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    repadded: int = 0
    unsendable: int = 0  # refused by the interface, too long for it for instance


def ip_protocol(frame: bytes) -> int | None:
    """Return the IP protocol of an Ethernet frame; None where faults would hit addresses' discovery, not traffic."""
    match frame[12:14]:
        case b"\x08\x00":
            return frame[23]
        case b"\x86\xdd":
            protocol = frame[20]
            return None if protocol == ICMPV6 and frame[54] in NEIGHBOUR_DISCOVERY else protocol
    return None


def repad(frame: bytes) -> bytes:
    """Return a TCP segment whose options begin with two NOPs with these behind them; any other frame as it is.

    A checksum has the same sixteen-bit words to add up as before.
    """
    start = ETHERNET_HEADER + (40 if frame[12:14] == b"\x86\xdd" else (frame[ETHERNET_HEADER] & 0x0F) * 4)
    options, end = start + 20, start + (frame[start + 12] >> 4) * 4
    if frame[options : options + 2] != TWO_NOPS or end > len(frame):
        return frame
    return frame[:options] + frame[options + 2 : end] + TWO_NOPS + frame[end:]


class Faults:
    """Decides the fate of frames: which come out, when, and in what shape. No I/O; `random` is seeded."""

    def __init__(self, impairment: Impairment) -> None:
        self.impairment = impairment
        self.counters = Counters()
        self._random = random.Random(impairment.seed)
        self._lose_next = 0
        self._line_free_at = {"ab": 0.0, "ba": 0.0}

    def _strikes(self, share: float) -> bool:
        return share > 0 and self._random.random() * 100 < share

    def _is_harmless_to(self, frame: bytes, direction: str) -> bool:
        protocol = ip_protocol(frame)
        is_chosen = self.impairment.only == "ip" or protocol == TCP
        return protocol is None or not is_chosen or self.impairment.direction not in ("both", direction)

    def _is_lost(self) -> bool:
        if self._lose_next:
            self._lose_next -= 1
        elif self._strikes(self.impairment.loss):
            self._lose_next = self.impairment.burst
        else:
            return False
        self.counters.lost += 1
        return True

    def _corrupted(self, frame: bytes) -> bytes:
        spoiled = bytearray(frame)
        spoiled[self._random.randrange(ETHERNET_HEADER + 20, len(frame))] ^= 1 << self._random.randrange(8)
        self.counters.corrupted += 1
        return bytes(spoiled)

    def _repadded(self, frame: bytes) -> bytes:
        changed = repad(frame) if ip_protocol(frame) == TCP else frame
        self.counters.repadded += changed != frame
        return changed

    def _departure(self, frame: bytes, direction: str, time_s: float) -> float:
        if rate := self.impairment.rate_mbit:
            time_s = max(time_s, self._line_free_at[direction]) + len(frame) * 8 / (rate * 1e6)
            self._line_free_at[direction] = time_s
        return time_s

    def apply(self, frame: bytes, direction: str, now: float) -> Iterator[tuple[float, bytes]]:
        """Yield (time to send, frame) for a frame that came in at `now`: none, one or two of them."""
        if self._is_harmless_to(frame, direction):
            yield self._departure(frame, direction, now), frame
            return
        if self._is_lost():
            return
        wanted = self.impairment
        time_s = now + wanted.delay_ms / 1e3
        if wanted.jitter_ms:
            time_s += self._random.uniform(0, wanted.jitter_ms) / 1e3
        if self._strikes(wanted.reorder):
            self.counters.reordered += 1
            time_s += max(wanted.delay_ms, 2) / 1e3
        if self._strikes(wanted.repad):
            frame = self._repadded(frame)
        if self._strikes(wanted.corrupt):
            frame = self._corrupted(frame)
        yield self._departure(frame, direction, time_s), frame
        if self._strikes(wanted.dup):
            self.counters.duplicated += 1
            yield self._departure(frame, direction, time_s), frame


def open_interface(name: str) -> socket.socket:
    """Return a socket that takes in and puts out whole frames behind vnet headers on an interface."""
    interface = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    interface.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    interface.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        interface.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    promiscuous = struct.pack("=iHH8x", socket.if_nametoindex(name), PACKET_MR_PROMISC, 0)
    interface.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous)
    interface.bind((name, ETH_P_ALL))
    interface.settimeout(0)
    return interface


class Wire:
    """Carries frames between two interfaces through `faults`."""

    def __init__(self, a: socket.socket, b: socket.socket, faults: Faults) -> None:
        self._inputs = {a.fileno(): (a, "ab"), b.fileno(): (b, "ba")}
        self._outputs = {"ab": b, "ba": a}
        self._faults = faults
        self._queue: list[tuple[float, int, str, bytes, bytes]] = []
        self._serial = 0

    def run(self) -> None:
        """Carry frames for ever; a signal handler's exception ends it."""
        poller = select.epoll()
        for descriptor in self._inputs:
            poller.register(descriptor, select.EPOLLIN)
        while True:
            wait_s = max(0.0, self._queue[0][0] - time.monotonic()) if self._queue else -1
            for descriptor, _ in poller.poll(wait_s):
                self._take(*self._inputs[descriptor])
            self._put_what_is_due(time.monotonic())

    def _take(self, interface: socket.socket, direction: str) -> None:
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            for _ in range(BATCH):
                taken = interface.recv(MAX_FRAME)
                header, frame = taken[:VNET_HEADER], taken[VNET_HEADER:]
                for time_s, fate in self._faults.apply(frame, direction, now):
                    self._serial += 1
                    heapq.heappush(self._queue, (time_s, self._serial, direction, header, fate))

    def _put_what_is_due(self, now: float) -> None:
        counters = self._faults.counters
        while self._queue and self._queue[0][0] <= now:
            _, _, direction, header, frame = heapq.heappop(self._queue)
            try:
                self._outputs[direction].send(header + frame)
                counters.forwarded += 1
            except OSError:
                counters.unsendable += 1


def parse_arguments() -> argparse.Namespace:
    """Return the two interfaces and every field of an `Impairment`."""
    parser = argparse.ArgumentParser(prog="kracauer.lab.wire", description=__doc__.partition("\n")[0])
    parser.add_argument("a")
    parser.add_argument("b")
    for item in dataclasses.fields(Impairment):
        parser.add_argument(f"--{item.name.replace('_', '-')}", type=type(item.default), default=item.default)
    return parser.parse_args()


def main() -> None:
    """Carry frames until SIGTERM or SIGINT, then print the counters."""
    options = vars(parse_arguments())
    a, b = open_interface(options.pop("a")), open_interface(options.pop("b"))
    faults = Faults(Impairment(**options))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    print(READY, flush=True)
    try:
        Wire(a, b, faults).run()
    finally:
        print(json.dumps(dataclasses.asdict(faults.counters)), flush=True)


if __name__ == "__main__":
    main()
