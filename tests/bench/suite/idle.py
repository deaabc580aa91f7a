"""Connections that nobody opened: a flow file as a daemon leaves it, for the next one to adopt.

    python tests/bench/suite/idle.py FILE COUNT [--packets FILE] [--prefix 2001:db8:46::/96] [--service 198.51.100.1]

The engine itself opens them, through whole handshakes, and keeps its records in that file. So a daemon can have a hundred
thousand connections where a machine has not as many descriptors. With `--packets` an acknowledgment of each of some of them,
picked at random, is written as well, in the form that `kracauer.lab.flood` reads.
"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from kracauer.config import parse_config
from kracauer.daemon.flow_file import open_flow_file
from kracauer.daemon.runtime import boot_id
from kracauer.engine import Engine
from kracauer.lab import configuration
from kracauer.lab.topology import PREFIX, SERVICE
from kracauer.logs import configure
from kracauer.replies import Endpoints, build_segment
from kracauer.wire import tcp, vnet_hdr
from kracauer.wire.buffer import Frame
from kracauer.wire.tcp import TcpOptions

NAME: Final = "www.example.com"
PORT: Final = 443
# Of a network behind the lab's origin1 that nobody has: what is sent there is not answered.
NOWHERE: Final = "2001:db8:1:b::1"
FIRST_CLIENT: Final = 10  # of 192.0.2.0/24; the lab's own are below
CLIENTS: Final = 240
PICKED: Final = 10_000
_HELLO: Final = f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode("ascii")
_SYN_OPTIONS: Final = tcp.build_options(TcpOptions(mss=1460, window_scale=7, sack_permitted=True))


class Opener:
    """An engine that keeps its records in a file, and the connections opened in it."""

    def __init__(self, path: Path, prefix: IPv6Network, service: IPv4Address) -> None:
        path.unlink(missing_ok=True)
        self._file = open_flow_file(path, prefix=prefix, boot_id=boot_id(), log=configure("error", "json"))
        text = configuration.render({NAME: NOWHERE}, ((str(service), PORT, "http"),), limits={"flows": 1_000_000})
        config = parse_config(text.replace(PREFIX, str(prefix), 1))
        self._engine = Engine(config, secret=bytes(16), now=time.monotonic(), records=self._file.records)
        self._frame = Frame()
        self._prefix, self._service = prefix.network_address.packed[:12], service.packed
        self._acks: list[int] = []

    def _send(self, packet: bytes) -> list[bytes]:
        self._frame.load(packet[vnet_hdr.LENGTH :], packet[: vnet_hdr.LENGTH])
        return [bytes(out) for out in self._engine.receive(self._frame, time.monotonic())]

    def _endpoints(self, number: int) -> Endpoints:
        port, client = divmod(number, CLIENTS)
        return Endpoints(bytes((192, 0, 2, FIRST_CLIENT + client)), self._service, 1024 + port, PORT)

    def open(self) -> None:
        """Open one more, from client to backend."""
        number = len(self._acks)
        up = self._endpoints(number)
        down = Endpoints(IPv6Address(NOWHERE).packed, self._prefix + up.src, PORT, up.src_port)
        (answer,) = self._send(build_segment(up, seq=999, ack=0, flags=tcp.SYN, window=64240, options=_SYN_OPTIONS))
        ack = tcp.parse(answer, 30).seq + 1 & 0xFFFFFFFF
        self._send(build_segment(up, seq=1000, ack=ack, flags=tcp.ACK | tcp.PSH, window=502, payload=_HELLO))
        self._send(build_segment(down, seq=number, ack=1000, flags=tcp.SYN | tcp.ACK, window=64800, options=_SYN_OPTIONS))
        self._acks.append(ack)
        while self._engine.next_event() is not None:
            pass

    def acknowledgment(self, number: int) -> bytes:
        """Return what the client of one of them might say: nothing new, as an IPv4 packet."""
        seq, ack = 1000 + len(_HELLO), self._acks[number]
        return build_segment(self._endpoints(number), seq=seq, ack=ack, flags=tcp.ACK, window=502)[vnet_hdr.LENGTH :]

    def close(self) -> None:
        """Leave the file to the next process; RuntimeError where it does not hold all of them."""
        unkept = self._file.records.unkept
        self._file.close()
        if unkept:
            raise RuntimeError(f"{unkept} of {len(self._acks)} connections found no room in the file")


def write_packets(path: Path, packets: Sequence[bytes]) -> None:
    """Write packets as `kracauer.lab.flood` reads them: each behind its length."""
    path.write_bytes(b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets))


def read_packets(path: Path) -> list[bytes]:
    """Return what `write_packets` has written."""
    content, found, at = path.read_bytes(), [], 0
    while at < len(content):
        end = at + 2 + int.from_bytes(content[at : at + 2], "big")
        found.append(content[at + 2 : end])
        at = end
    return found


def main() -> None:
    """Open them, and leave the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--packets", type=Path)
    parser.add_argument("--prefix", type=IPv6Network, default=IPv6Network(PREFIX))
    parser.add_argument("--service", type=IPv4Address, default=IPv4Address(SERVICE))
    options = parser.parse_args()
    opener = Opener(options.file, options.prefix, options.service)
    for _ in range(options.count):
        opener.open()
    if options.packets:
        chance = random.Random(1)
        picked = [chance.randrange(options.count) for _ in range(PICKED)]
        write_packets(options.packets, [opener.acknowledgment(number) for number in picked])
    opener.close()


if __name__ == "__main__":
    main()
