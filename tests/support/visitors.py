"""Many clients of one engine, each of which does a step at a time, whether the engine lets it or not."""

from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Final

from engines import make_engine
from hellos import client_hello
from packets import Packet, build, parse, parse_flags
from script import EPOCH, SECRET, backend_side, client_side

from kracauer.config import Config
from kracauer.events import Event, PacketDropped
from kracauer.wire.buffer import Frame

CLIENT_ISN: Final = 0x1000_0000
BACKEND_ISN: Final = 0xB000_0000
HELLO: Final = client_hello("www.example.com")
UNKNOWN: Final = client_hello("nobody.example.net")


class House:
    """An engine with its clock, and what it has dropped."""

    def __init__(self, config: Config) -> None:
        self.engine = make_engine(config, secret=SECRET, now=EPOCH)
        self.now = EPOCH
        self.drops: Counter[str] = Counter()
        self.details: list[str | None] = []
        self.events: list[Event] = []
        self._frame = Frame()

    def send(self, packet: Packet) -> list[Packet]:
        vnet, data = build(packet)
        self._frame.load(data, vnet)
        answers = [parse(bytes(answer)) for answer in self.engine.receive(self._frame, self.now)]
        self._collect()
        return answers

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.engine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.engine.handle_timer(self.now)
            self._collect()
        self.now = end

    def _collect(self) -> None:
        while (event := self.engine.next_event()) is not None:
            if isinstance(event, PacketDropped):
                self.drops[str(event.reason)] += 1
                self.details.append(event.detail)
            else:
                self.events.append(event)


class Visitor:
    """One client on one port. Its steps return whether the engine did what they are for."""

    def __init__(self, house: House, address: str = "192.0.2.7", port: int = 40000) -> None:
        self.house = house
        self.side = client_side(address=address, port=port)
        self.backend = backend_side(client=address, client_port=port)
        self.address = IPv4Address(address).packed
        self.port = port
        self.isn = 0

    @property
    def is_in(self) -> bool:
        """Whether the engine has a flow of this visitor."""
        return any(
            (flow.from_client.src, flow.from_client.src_port) == (self.address, self.port) for flow in self.house.engine.flows
        )

    def open(self) -> bool:
        """Shake hands, and again if there is a connection already."""
        answers = self._say("S", CLIENT_ISN, options=("mss=1460",))
        if not answers:
            return False
        self.isn = answers[0].seq
        self._say("A", CLIENT_ISN + 1)
        return self.is_in

    def say(self, data: bytes, offset: int = 0) -> list[Packet]:
        """Send `data` as what stands `offset` bytes into the stream."""
        return self._say("PA", CLIENT_ISN + 1 + offset, payload=data)

    def splice(self) -> None:
        """Say a hello and have the backend answer."""
        self.say(HELLO)
        self.accept()

    def accept(self) -> None:
        """Have the backend answer its SYN."""
        self._answer("SA", BACKEND_ISN, ("mss=1440",))

    def refuse(self) -> None:
        """Have the backend refuse."""
        self._answer("RA", 0)

    def finish(self) -> None:
        """Have both sides close."""
        self._say("FA", CLIENT_ISN + 1 + len(HELLO))
        self._answer("FA", BACKEND_ISN + 1)

    def reset(self) -> None:
        """Have the client reset."""
        self._say("R", CLIENT_ISN + 1 + len(HELLO))

    def abort(self) -> None:
        """Have a client reset that has said nothing."""
        self._say("R", CLIENT_ISN + 1)

    def go_on(self) -> None:
        """Have the client speak again, also after a reset."""
        self._say("A", CLIENT_ISN + 1 + len(HELLO))

    def _say(self, flags: str, seq: int, *, payload: bytes = b"", options: tuple[str, ...] = ()) -> list[Packet]:
        side = self.side
        ack = 0 if "A" not in flags else self.isn + 1
        packet = Packet(
            side.src,
            side.dst,
            side.src_port,
            side.dst_port,
            parse_flags(flags),
            seq % 2**32,
            ack % 2**32,
            options=options,
            payload=payload,
        )
        return self.house.send(packet)

    def _answer(self, flags: str, seq: int, options: tuple[str, ...] = ()) -> list[Packet]:
        side = self.backend
        packet = Packet(
            side.src, side.dst, side.src_port, side.dst_port, parse_flags(flags), seq, CLIENT_ISN + 1, options=options
        )
        return self.house.send(packet)


def visitors(house: House, address: str, count: int, first_port: int = 20000) -> Iterator[Visitor]:
    """So many clients at one address."""
    for port in range(first_port, first_port + count):
        yield Visitor(house, address, port)
