"""What many flows cost the engine: bytes of memory for each idle one, and microseconds a packet as their number grows.

    python tests/bench/flows.py --flows 100000

Opens that many flows through whole handshakes. At each power of ten on the way, sends acknowledgments of flows picked at
random, and prints the best of several rounds, next to the memory that the process has grown by for each flow.
"""

import argparse
import gc
import json
import random
import time
from pathlib import Path
from typing import Final

from kracauer.config import parse_config
from kracauer.engine import Engine
from kracauer.replies import Endpoints, build_segment
from kracauer.wire import tcp
from kracauer.wire.buffer import VNET_START, Frame
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
[limits]
flows = 1000000
[log]
level = "error"
"""
SERVICE: Final = bytes((198, 51, 100, 1))
PREFIX: Final = bytes.fromhex("20010db80046000000000000")
BACKEND: Final = bytes.fromhex("20010db8000100000000000000000002")
HELLO: Final = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"
SYN_OPTIONS: Final = tcp.build_options(TcpOptions(mss=1460, window_scale=7, sack_permitted=True))
ROUNDS: Final = 5
SAMPLE: Final = 20_000


class Crowd:
    """An engine and the flows that were opened in it."""

    def __init__(self, flows_per_client: int) -> None:
        self.flows_per_client = flows_per_client
        self.engine = Engine(parse_config(CONFIG), secret=bytes(16), now=0.0)
        self.frame = Frame()
        self.next_acks: list[int] = []

    def send(self, packet: bytes) -> list[bytes]:
        """Have the engine take in `packet`, vnet header first."""
        self.frame.load(packet[10:], packet[:10])
        return [bytes(out) for out in self.engine.receive(self.frame, 1.0)]

    def endpoints(self, number: int) -> Endpoints:
        """Of the flow with this number."""
        client, port = divmod(number, self.flows_per_client)
        return Endpoints(bytes((203, client >> 16 & 0xFF, client >> 8 & 0xFF, client & 0xFF)), SERVICE, 1024 + port, 80)

    def open(self, number: int) -> None:
        """Open one flow."""
        up = self.endpoints(number)
        down = Endpoints(BACKEND, PREFIX + up.src, 80, up.src_port)
        (answer,) = self.send(build_segment(up, seq=999, ack=0, flags=tcp.SYN, window=64240, options=SYN_OPTIONS))
        ack = tcp.parse(answer, 30).seq + 1 & 0xFFFFFFFF
        self.send(build_segment(up, seq=1000, ack=ack, flags=tcp.ACK | tcp.PSH, window=502, payload=HELLO))
        accept = build_segment(down, seq=number, ack=1000, flags=tcp.SYN | tcp.ACK, window=64800, options=SYN_OPTIONS)
        self.send(accept)
        self.next_acks.append(ack)
        while self.engine.next_event() is not None:
            pass

    def packet_cost(self) -> tuple[float, float]:
        """Microseconds for an acknowledgment of a flow picked at random, and of always the same."""
        picked = [random.randrange(len(self.next_acks)) for _ in range(SAMPLE)]
        scattered = [self._acknowledgment(number) for number in picked]
        return self._time(scattered), self._time([scattered[0]] * SAMPLE)

    def _acknowledgment(self, number: int) -> bytes:
        seq = 1000 + len(HELLO)
        return build_segment(self.endpoints(number), seq=seq, ack=self.next_acks[number], flags=tcp.ACK, window=502)

    def _time(self, packets: list[bytes]) -> float:
        frame, receive, best = self.frame, self.engine.receive, float("inf")
        end = VNET_START + len(packets[0])
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for packet in packets:
                frame.buffer[VNET_START:end] = packet
                frame.end = end
                receive(frame, 2.0)
            best = min(best, time.perf_counter() - started)
        return best / len(packets) * 1e6


def resident_bytes() -> int:
    """What of this process is in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def main() -> None:
    """Open the flows and print what they cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=100_000)
    parser.add_argument("--flows-per-client", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    total = arguments.flows
    random.seed(1)
    crowd = Crowd(arguments.flows_per_client)
    crowd.open(0)
    crowd.packet_cost()  # the first one is of a processor that has to find its way
    gc.collect()
    before, opened, target = resident_bytes(), 1, 1
    points: list[dict[str, float]] = []
    if not arguments.json:
        print(f"{'flows':>9}{'bytes a flow':>14}{'µs, any flow':>14}{'µs, one flow':>14}")
    while True:
        while opened < target:
            crowd.open(opened)
            opened += 1
        gc.collect()
        grown = resident_bytes() - before - 36 * opened  # the list of acknowledgment numbers is the bench's own
        scattered, single = crowd.packet_cost()
        size = grown / opened if opened > 1 else 0
        points.append(
            {
                "flows": opened,
                "bytes_per_flow": round(size),
                "us_any_flow": round(scattered, 3),
                "us_one_flow": round(single, 3),
            }
        )
        if not arguments.json:
            print(f"{opened:>9}{size:>14.0f}{scattered:>14.2f}{single:>14.2f}", flush=True)
        if opened >= total:
            break
        target = min(target * 10, total)
    if arguments.json:
        print(json.dumps({"points": points}))


if __name__ == "__main__":
    main()
