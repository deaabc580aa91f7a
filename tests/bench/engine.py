"""The engine alone, without any I/O: packets a second on the established path, in a flood, and in each step of a connection.

    python tests/bench/engine.py --packets 200000

Prints the best of several rounds for each path, in processor time. To compare two versions, run it in turns with each one's
checkout on the path.
"""

import argparse
import json
import struct
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Final

from kracauer.config import parse_config
from kracauer.engine import Engine
from kracauer.replies import Endpoints, build_segment
from kracauer.wire import tcp
from kracauer.wire.buffer import PACKET_START, VNET_START, Frame
from kracauer.wire.tcp import TcpOptions

CONFIG: Final = """
prefix = "2001:db8:46::/96"
probes.enabled = false
[[listen]]
address = "198.51.100.1"
port = 80
protocol = "http"
[hosts]
"www.example.com" = "2001:db8:1::2"
"""
CLIENT, SERVICE = bytes((192, 0, 2, 7)), bytes((198, 51, 100, 1))
PREFIX: Final = bytes.fromhex("20010db80046000000000000")
MAPPED: Final = PREFIX + CLIENT
BACKEND = bytes.fromhex("20010db8000100000000000000000002")
HELLO: Final = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"
ROUNDS: Final = 5
SENDERS: Final = 20_000  # more than are remembered of a flood
YOUNG, SETTLED = 1.0, 1000.0  # ages of the engine: at first it takes a cookie of any window scale for its own
SYN_OPTIONS: Final = tcp.build_options(TcpOptions(mss=1460, window_scale=7, sack_permitted=True, timestamps=(1, 0)))
SYN_ACK_OPTIONS: Final = tcp.build_options(TcpOptions(mss=1440, window_scale=7, sack_permitted=True, timestamps=(500, 2)))


def stamped(tsval: int, tsecr: int) -> bytes:
    """The 12 bytes of a timestamp option as stacks send it."""
    return struct.pack("!BBBBII", 1, 1, 8, 10, tsval, tsecr)


class Joined:
    """An engine with one spliced flow, and the packets that belong to it."""

    def __init__(self) -> None:
        self.engine = Engine(parse_config(CONFIG), secret=bytes(16), now=0.0)
        self.frame = Frame()

    def send(self, packet: bytes) -> list[bytes]:
        """Have the engine take in `packet`, which begins with its vnet header; returns what came out."""
        self.frame.load(packet[10:], packet[:10])
        return [bytes(out) for out in self.engine.receive(self.frame, YOUNG)]

    def open(self, port: int) -> tuple[int, int]:
        """Open a flow from the client's `port`; returns our initial sequence number and TSval."""
        up, down = Endpoints(CLIENT, SERVICE, port, 80), Endpoints(BACKEND, MAPPED, 80, port)
        (answer,) = self.send(build_segment(up, seq=999, ack=0, flags=tcp.SYN, window=64240, options=SYN_OPTIONS))
        header = tcp.parse(answer, 30)
        timestamps = tcp.parse_options(header.options).timestamps
        tsval = timestamps[0] if timestamps else 0
        hello = build_segment(
            up,
            seq=1000,
            ack=header.seq + 1 & 0xFFFFFFFF,
            flags=tcp.ACK | tcp.PSH,
            window=502,
            options=stamped(2, tsval),
            payload=HELLO,
        )
        self.send(hello)
        accept = build_segment(down, seq=7000, ack=1000, flags=tcp.SYN | tcp.ACK, window=64800, options=SYN_ACK_OPTIONS)
        self.send(accept)
        assert len(self.engine.flows) >= 1
        return header.seq, tsval

    def load(self, packet: bytes, gso_size: int) -> None:
        """Put `packet` into the frame, as a super-packet with a partial checksum where `gso_size` is not 0."""
        start = 20 if packet[10] >> 4 == 4 else 40
        vnet = bytes(10)
        if gso_size:
            vnet = struct.pack("=BBHHHH", 1, 1 if start == 20 else 4, start + 32, gso_size, start, 16)
        self.frame.load(packet[10:], vnet)


def measure(joined: Joined, heads: Sequence[bytes], count: int, now: float, *, is_idle: bool = False) -> float:
    """Return the microseconds that the engine takes for what is loaded, with each of `heads` in turn put back before it.

    The rewrite leaves the payload alone: only vnet header and packet headers have to be. `is_idle` leaves the engine out.
    """
    frame, receive, next_event = joined.frame, joined.engine.receive, joined.engine.next_event
    end, best = frame.end, float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for head in islice(cycle(heads), count):
            frame.buffer[VNET_START : VNET_START + len(head)] = head
            frame.end = end
            if not is_idle:
                receive(frame, now)
            next_event()
        best = min(best, time.process_time() - started)
    return best / count * 1e6


def flood(flags: int, options: bytes = b"") -> list[bytes]:
    """Packets with `flags` to the service, each from a client of its own."""
    senders = [bytes((203, 0, 113, number & 0xFF)) for number in range(SENDERS)]
    return [
        build_segment(Endpoints(src, SERVICE, 1024 + number, 80), seq=number * 7919, ack=number, flags=flags, options=options)
        for number, src in enumerate(senders)
    ]


class Connections:
    """Whole connections, a step of all of them at a time: what each step costs the engine."""

    def __init__(self, count: int) -> None:
        self.engine = Engine(parse_config(CONFIG), secret=bytes(16), now=0.0)
        self.frame = Frame()
        self.microseconds: dict[str, float] = {}
        self.ups = [Endpoints(bytes((203, 0, 113, number & 0xFF)), SERVICE, 1024 + number // 4, 80) for number in range(count)]
        self.downs = [Endpoints(BACKEND, PREFIX + up.src, 80, up.src_port) for up in self.ups]
        self.isns: list[int] = []
        self.tsvals: list[int] = []

    def step(self, name: str, packets: Sequence[bytes]) -> list[list[bytes]]:
        """Have the engine take in a packet of each connection; returns what came out."""
        receive, next_event, frame, clock = self.engine.receive, self.engine.next_event, self.frame, time.perf_counter
        spent, answers = 0.0, []
        for packet in packets:
            frame.load(packet[10:], packet[:10])
            started = clock()
            sent = receive(frame, YOUNG)
            spent += clock() - started
            answers.append([bytes(out) for out in sent])
        started = clock()
        while next_event() is not None:
            pass
        self.microseconds[name] = (spent + clock() - started) / len(packets) * 1e6
        return answers

    def of_client(self, flags: int, sent: int, heard: int, payload: bytes = b"") -> list[bytes]:
        """A segment of each client that has sent so many bytes and heard so many."""
        return [
            build_segment(
                up,
                seq=1000 + sent,
                ack=isn + 1 + heard & 0xFFFFFFFF,
                flags=tcp.ACK | flags,
                window=502,
                options=stamped(2, tsval),
                payload=payload,
            )
            for up, isn, tsval in zip(self.ups, self.isns, self.tsvals, strict=True)
        ]

    def of_backend(self, flags: int, sent: int, heard: int, payload: bytes = b"") -> list[bytes]:
        """Likewise of each backend."""
        options = SYN_ACK_OPTIONS if flags & tcp.SYN else stamped(501, 2)
        return [
            build_segment(
                down, seq=7001 + sent, ack=1000 + heard, flags=tcp.ACK | flags, window=502, options=options, payload=payload
            )
            for down in self.downs
        ]

    def run(self) -> dict[str, float]:
        """Take all connections from the first SYN to the last ACK; returns microseconds by step."""
        syns = [build_segment(up, seq=999, ack=0, flags=tcp.SYN, window=64240, options=SYN_OPTIONS) for up in self.ups]
        for (answer,) in self.step("SYN", syns):
            header = tcp.parse(answer, 30)
            self.isns.append(header.seq)
            timestamps = tcp.parse_options(header.options).timestamps
            self.tsvals.append(timestamps[0] if timestamps else 0)
        size = len(HELLO)
        self.step("first ACK", self.of_client(0, 0, 0))
        dialled = self.step("hello", self.of_client(tcp.PSH, 0, 0, HELLO))
        joined = self.step("SYN-ACK of the backend", self.of_backend(tcp.SYN, -1, 0))
        self.step("ACK of the hello", self.of_backend(0, 0, size))
        self.step("answer", self.of_backend(tcp.PSH, 0, size, b"k"))
        self.step("ACK of the answer", self.of_client(0, size, 1))
        self.step("FIN of the backend", self.of_backend(tcp.FIN, 1, size))
        self.step("FIN of the client", self.of_client(tcp.FIN, size, 2))
        last = self.step("last ACK", self.of_backend(0, 2, size + 1))
        assert all(len(sent) == 1 for sent in (*dialled, *joined, *last))
        return self.microseconds


def connections(count: int) -> dict[str, float]:
    """Return the microseconds that the engine takes for each step of a connection, and for all of them together."""
    rounds = [Connections(count).run() for _ in range(ROUNDS)]
    best = {f"connection: {step}": min(each[step] for each in rounds) for step in rounds[0]}
    return best | {"connection: all of it": sum(best.values())}


def main() -> None:
    """Run all paths and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    count = arguments.packets
    joined = Joined()
    isn, tsval = joined.open(40000)
    up, down = Endpoints(CLIENT, SERVICE, 40000, 80), Endpoints(BACKEND, MAPPED, 80, 40000)
    next_seq, next_ack = 1000 + len(HELLO), isn + 1 & 0xFFFFFFFF

    def to_backend(size: int) -> bytes:
        return build_segment(
            up, seq=next_seq, ack=next_ack, flags=tcp.ACK, window=502, options=stamped(3, tsval), payload=bytes(size)
        )

    def to_client(size: int) -> bytes:
        return build_segment(
            down, seq=7001, ack=next_seq, flags=tcp.ACK, window=502, options=stamped(501, 3), payload=bytes(size)
        )

    paths: dict[str, tuple[Callable[[int], bytes], int, int]] = {
        "acknowledgment to the backend": (to_backend, 0, 0),
        "full segment to the backend": (to_backend, 1428, 0),
        "super-packet to the backend": (to_backend, 60000, 1428),
        "acknowledgment to the client": (to_client, 0, 0),
        "full segment to the client": (to_client, 1428, 0),
        "super-packet to the client": (to_client, 60000, 1428),
    }
    floods: dict[str, tuple[list[bytes], float]] = {
        "SYN answered": (flood(tcp.SYN, SYN_OPTIONS), SETTLED),
        "stray ACK turned away": (flood(tcp.ACK), SETTLED),
        "the same, just started": (flood(tcp.ACK), YOUNG),
        "stray RST turned away": (flood(tcp.RST), SETTLED),
        "stray SYN-ACK turned away": (flood(tcp.SYN | tcp.ACK), SETTLED),
    }

    measured: dict[str, float] = {}

    def note(name: str, heads: list[bytes], now: float) -> None:
        measured[name] = measure(joined, heads, count, now) - measure(joined, heads, count, now, is_idle=True)

    for name, (build, size, gso_size) in paths.items():
        joined.load(build(size), gso_size)
        note(name, [bytes(joined.frame.buffer[VNET_START : PACKET_START + 100])], YOUNG)
    for name, (packets, now) in floods.items():
        joined.load(packets[0], 0)
        note(name, packets, now)
    measured |= connections(min(count, 4000))
    if arguments.json:
        figures = {name: {"us": round(us, 3), "per_second": round(1e6 / us)} for name, us in measured.items()}
        print(json.dumps({"paths": figures}))
        return
    for name, us in measured.items():
        print(f"{name:<36}{us:8.2f} µs{1e6 / us:12,.0f} a second")


if __name__ == "__main__":
    main()
