"""An engine with backends that answer its probes, each as it is told to, and what was sent to them and when."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from hellos import client_hello
from icmp_quotes import error_v6
from packets import Packet, build, parse, parse_flags
from script import EPOCH, SECRET, config

from kracauer.config import Config
from kracauer.engine import Engine
from kracauer.engine.health import BackendStatus
from kracauer.events import Event, PacketDropped
from kracauer.steering import ALL, Share
from kracauer.wire.buffer import Frame

PROBE: Final = IPv6Address("2001:db8:46::1").packed
FULL: Final = ("mss=1440", "sackOK", "ts=7000:1", "ws=7")
ROUND_TRIP_S: Final = 0.002
ONE: Final = '"www.example.com" = "2001:db8:1::2"\n'
TWO: Final = '"www.example.com" = ["2001:db8:1::2", "2001:db8:1::3"]\n'


def probed_config(hosts: str = ONE, probes: str = "", extra: str = "") -> Config:
    """One listener on port 443; `probes` are lines of that section."""
    return config(
        base=f"""
prefix = "2001:db8:46::/96"
{extra}
[[listen]]
address = "198.51.100.1"
port = 443
protocol = "tls"
[probes]
{probes}
[hosts]
{hosts}"""
    )


def packed(address: str) -> bytes:
    return IPv6Address(address).packed


class Network:
    """The engine and its backends. `answers` says by address what becomes of a SYN: "up" (the default), "refuse", "silent",
    "unreachable" or "lost", which goes unanswered like "silent" but is a packet that never arrived.
    """

    def __init__(self, settings: Config | None = None, share: Share = ALL) -> None:
        self.now = EPOCH
        self.engine = Engine(settings or probed_config(), secret=SECRET, now=EPOCH, share=share)
        self.answers: dict[bytes, str] = {}
        self.options: dict[bytes, tuple[str, ...]] = {}
        self.probes: list[tuple[float, Packet]] = []
        self.resets: list[Packet] = []
        self.others: list[Packet] = []
        self.events: list[Event] = []
        self._frame = Frame()

    def tell(self, address: str, answer: str) -> None:
        self.answers[packed(address)] = answer

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        for _ in range(200_000):
            deadline = self.engine.next_deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self._take(self.engine.handle_timer(self.now))
        else:
            raise AssertionError("timers make no progress")
        self.now = end

    def receive(self, data: bytes) -> list[Packet]:
        """Have the engine receive a packet; returns what it answers."""
        self._frame.load(data, bytes(10))
        sent = [parse(bytes(packet)) for packet in self.engine.receive(self._frame, self.now)]
        self._take_events()
        return sent

    def status(self, address: str = "2001:db8:1::2") -> BackendStatus:
        (found,) = [status for status in self.engine.backends() if str(status.address) == address]
        return found

    def states(self) -> list[str]:
        return [str(status.state) for status in self.engine.backends()]

    def told(self, name: str) -> list[dict[str, object]]:
        """The fields of the events of that name."""
        return [event.fields() for event in self.events if event.event == name]

    @property
    def drops(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, PacketDropped)]

    def times(self, address: str = "2001:db8:1::2") -> list[float]:
        """When that backend was probed, from the start on."""
        return [round(at - EPOCH, 3) for at, probe in self.probes if probe.dst == packed(address)]

    def _take(self, sent: Iterable[object]) -> None:
        self._take_events()
        for data in sent:
            packet = parse(bytes(data))  # type: ignore[call-overload]
            if packet.src != PROBE:
                self.others.append(packet)
            elif packet.is_syn:
                self.probes.append((self.now, packet))
                self._answer(packet)
            else:
                self.resets.append(packet)

    def _answer(self, probe: Packet) -> None:
        before, self.now = self.now, self.now + ROUND_TRIP_S
        answer = self.answers.get(probe.dst, "up")
        if answer == "up":
            self.resets += self.receive(build(self.syn_ack(probe))[1])
        elif answer == "refuse":
            self.receive(build(reversed_of(probe, "RA", ack=probe.seq + 1, window=0))[1])
        elif answer == "unreachable":
            self.receive(error_v6(1, 3, build(probe)[1], dst="2001:db8:46::1"))
        self.now = before

    def syn_ack(self, probe: Packet) -> Packet:
        options = self.options.get(probe.dst, FULL)
        return reversed_of(probe, "SA", seq=0xB000_0000, ack=probe.seq + 1, window=64800, options=options)

    def _take_events(self) -> None:
        while (event := self.engine.next_event()) is not None:
            self.events.append(event)


def reversed_of(packet: Packet, flags: str, **fields: object) -> Packet:
    """A packet the other way."""
    bare = Packet(packet.dst, packet.src, packet.dst_port, packet.src_port, parse_flags(flags))
    return replace(bare, **fields)  # type: ignore[arg-type]


class Client:
    """A client of `network` that asks for a name; `dialled` are the SYNs that backends have been sent for it."""

    def __init__(self, network: Network, address: str = "192.0.2.7", port: int = 40000, name: str = "www.example.com") -> None:
        self.network = network
        self._ends = (IPv4Address(address).packed, IPv4Address("198.51.100.1").packed, port, 443)
        options = ("mss=1460", "sackOK", "ws=7")
        (syn_ack,) = network.receive(build(Packet(*self._ends, parse_flags("S"), seq=1000, options=options))[1])
        assert syn_ack.is_syn
        hello = Packet(*self._ends, parse_flags("PA"), 1001, syn_ack.seq + 1, payload=client_hello(name))
        self.dialled = network.receive(build(hello)[1])

    @property
    def backend(self) -> str:
        """Where the last SYN went."""
        return str(IPv6Address(self.dialled[-1].dst))

    def refuse(self) -> None:
        """The backend refuses the SYN."""
        syn = self.dialled[-1]
        self.dialled += self.network.receive(build(reversed_of(syn, "RA", ack=syn.seq + 1, window=0))[1])

    def wait(self, seconds: float) -> None:
        """The backend says nothing for so long."""
        before = len(self.network.others)
        self.network.run(seconds)
        self.dialled += [packet for packet in self.network.others[before:] if packet.is_syn]

    def accept(self) -> None:
        """The backend accepts the connection."""
        syn = self.dialled[-1]
        options = ("mss=1440", "sackOK", "ws=7")
        answer = reversed_of(syn, "SA", seq=0xC000_0000, ack=syn.seq + 1, window=64800, options=options)
        assert self.network.receive(build(answer)[1])
