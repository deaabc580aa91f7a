"""Packets made ahead of time, sent over and over at a steady rate: `python -m kracauer.lab.flood IF GATEWAY FILE --rate 20000`.

Goes past the sender's own IP through a packet(7) socket, many frames a system call, so that any source address will do and one
core has plenty left. Prints {"sent": …, "seconds": …} when it is done.
"""

import argparse
import ctypes
import fcntl
import itertools
import json
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from kracauer.lab.links import End
from kracauer.lab.namespaces import python_module
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import Lab

SIOCGIFHWADDR: Final = 0x8927
SOL_PACKET: Final = 263
PACKET_QDISC_BYPASS: Final = 20
ETH_P_IP: Final = b"\x08\x00"
ETH_P_IPV6: Final = b"\x86\xdd"
BATCH: Final = 64  # frames a system call
NAP_S: Final = 0.0005
# What a pause of this process may make it send at once: a burst that no line of that rate carries would be another attack.
MOST_ARREARS_S: Final = 0.01
READY: Final = "flood begins"
_LENGTH: Final = struct.Struct("!H")
_serial = itertools.count(1)


class _Vector(ctypes.Structure):
    """One struct iovec (readv(2))."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """One struct mmsghdr (sendmmsg(2)), of which a connected socket needs the vector alone."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    )


@dataclass(frozen=True, slots=True)
class Sent:
    """What went out; `refused` frames the interface would not take."""

    sent: int
    refused: int
    seconds: float

    @property
    def per_second(self) -> float:
        """The rate that was kept."""
        return self.sent / self.seconds if self.seconds else 0.0


class Sender:
    """Sends frames from one interface, from the first to the last and over again."""

    def __init__(self, interface: str, frames: Sequence[bytes]) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self._socket.bind((interface, 0))
        self._count = len(frames)
        self._memory = ctypes.create_string_buffer(b"".join(frames))
        self._vectors = (_Vector * self._count)()
        self._messages = (_Message * self._count)()
        base, vectors = ctypes.addressof(self._memory), ctypes.addressof(self._vectors)
        for number, frame in enumerate(frames):
            self._vectors[number] = _Vector(base, len(frame))
            self._messages[number].vectors = vectors + number * ctypes.sizeof(_Vector)
            self._messages[number].vector_count = 1
            base += len(frame)
        self._first = ctypes.addressof(self._messages)
        self._sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
        self._sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
        self._at = 0

    def send(self, count: int) -> int:
        """Send the next frames, `count` of them at most; returns how many went out, skipping one that was refused."""
        count = min(count, self._count - self._at)
        sent: int = self._sendmmsg(self._socket.fileno(), self._first + self._at * ctypes.sizeof(_Message), count, 0)
        self._at = (self._at + max(sent, 1)) % self._count
        return max(sent, 0)

    def run(self, rate: float, seconds: float) -> Sent:
        """Send `rate` frames a second, or as many as go if that is 0."""
        started = now = time.monotonic()
        sent = refused = 0
        schedule = started  # the time by which as many should have gone out as have
        while now < started + seconds:
            schedule = max(schedule, now - MOST_ARREARS_S)
            due = min(int((now - schedule) * rate), BATCH) if rate else BATCH
            if due:
                taken = self.send(due)
                sent += taken
                refused += not taken
                schedule += max(taken, 1) / rate if rate else 0.0
            else:
                time.sleep(NAP_S)
            now = time.monotonic()
        return Sent(sent, refused, now - started)


def launch(
    lab: Lab, packets: Iterable[bytes], rate: float, seconds: float, *, start: End | None = None, gateway: End | None = None
) -> BackgroundProcess:
    """Send `packets` for so long from the lab's attacker, or from `start` to the interface `gateway` at its link's other end.

    Returns the process once it sends; `outcome` waits for its end.
    """
    start, gateway = start or (lab.attacker, "eth0"), gateway or (lab.router, "attacker0")
    name = f"flood{next(_serial)}"
    path = lab.directory / f"{name}.packets"
    with path.open("wb") as file:
        for packet in packets:
            file.write(_LENGTH.pack(len(packet)) + packet)
    address = gateway[0].call(lambda: hardware_address(gateway[1]))
    options = ("--rate", str(rate), "--seconds", str(seconds))
    process = lab.start(name, start[0], python_module("kracauer.lab.flood", start[1], address.hex(), path, *options))
    process.wait_for(READY)
    return process


def outcome(process: BackgroundProcess, timeout_s: float = 30) -> Sent:
    """Return what a process of `launch` has sent, once it has."""
    process.wait(timeout_s)
    return Sent(**process.events[-1])


def hardware_address(interface: str) -> bytes:
    """Return the MAC address of an interface of this network namespace (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16s16x", interface.encode("ascii"))
        return fcntl.ioctl(any_socket.fileno(), SIOCGIFHWADDR, request)[18:24]


def load(path: Path, interface: str, gateway: bytes) -> list[bytes]:
    """Read a file of packets, each behind its length, and return them as frames from `interface` to `gateway`."""
    head = gateway + hardware_address(interface)
    content = path.read_bytes()
    frames, at = [], 0
    while at < len(content):
        (length,) = _LENGTH.unpack_from(content, at)
        packet = content[at + _LENGTH.size : at + _LENGTH.size + length]
        frames.append(head + (ETH_P_IP if packet[0] >> 4 == 4 else ETH_P_IPV6) + packet)
        at += _LENGTH.size + length
    return frames


def main() -> None:
    """Send, and print what was sent."""
    parser = argparse.ArgumentParser(prog="kracauer.lab.flood", description=__doc__.partition("\n")[0])
    parser.add_argument("interface")
    parser.add_argument("gateway", type=bytes.fromhex, help="MAC address of the next hop")
    parser.add_argument("file", type=Path)
    parser.add_argument("--rate", type=float, default=0, help="frames a second; 0: as fast as it goes")
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    sender = Sender(options.interface, load(options.file, options.interface, options.gateway))
    print(READY, flush=True)
    print(json.dumps(asdict(sender.run(options.rate, options.seconds))), flush=True)


if __name__ == "__main__":
    main()
