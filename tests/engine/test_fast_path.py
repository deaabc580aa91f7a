"""Nobody can tell whether there is a fast path: two engines get the same, one of them behind one, and do the same.

The identification of IPv4 packets is another by design: the fast path has one half of the numbers, the engine the other.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from engine_kinds import alone
from engines import EngineBehind, behind_fast_path, collect
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lives import KINDS, STATES, Step, life_of, packets
from openings import RELIEVED
from packets import Packet, build, parse, parse_flags, sum_words
from script import CONFIG, Conversation, client_side, config
from successors import Life, first_life, next_life

from kracauer.config import parse_config
from kracauer.tcp.record import RECORD_BYTES

pytestmark = alone  # each test has both by itself
SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck))
FINAL_S: Final = 30_000.0
SECOND: Final = client_side("198.51.100.1", 443)
RELOADS: Final = (
    config("[timeouts]\nbelow_rfc_floors = true\nestablished_idle_s = 600\ntransitory_s = 30\n"),
    config("[limits]\nflows = 1\n"),
    parse_config(CONFIG.replace("port = 443", "port = 8443", 1)),  # the flow's listener is gone
    config(),
)
WIDE: Final = "[network]\nlowest_ipv6_mtu = 1400\n"


def comparable(data: bytes) -> bytes:
    """A packet less its IPv4 identification, and the header checksum that follows from it."""
    packet = bytearray(data)
    if packet[10] >> 4 == 4:
        assert sum_words(bytes(packet[10 : 10 + 4 * (packet[10] & 15)])) == 0xFFFF
        packet[14:16] = packet[20:22] = bytes(2)
    return bytes(packet)


def begin(kind: str, state: str, extra: str = "") -> Life:
    """One flow of this kind in this state."""
    return first_life(extra).play(RELIEVED) if kind == "relieved" else life_of(kind, state, extra)


@dataclass
class Twins:
    """The same life twice, the second one behind a fast path; each step is held to the other's."""

    plain: Life
    fast: Life
    handshakes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def begin(cls, kind: str, state: str = "established", extra: str = "") -> "Twins":
        """One flow of this kind in this state, spliced twice."""
        plain = begin(kind, state, extra)
        with behind_fast_path():
            fast = begin(kind, state, extra)
        return cls(plain, fast)

    @property
    def talks(self) -> tuple[Conversation, Conversation]:
        """Both conversations, the fast one last."""
        return self.plain.talk, self.fast.talk

    @property
    def engine(self) -> EngineBehind:
        """The engine that is behind the fast path."""
        engine = self.fast.talk.engine
        assert isinstance(engine, EngineBehind)
        return engine

    def exchange(self, packet: bytes, vnet: bytes = bytes(10)) -> list[bytes]:
        """Have both receive this; returns what both answer."""
        return self._agreed([talk.exchange(packet, vnet) for talk in self.talks])

    def say(self, line: str) -> list[str]:
        """Likewise with a script's line; returns what comes as lines."""
        return self._shown(self.exchange(self.plain.talk.bytes_of(line)))

    def wait(self, seconds: float) -> list[str]:
        """Let time pass; returns what both send meanwhile."""
        sent = [[bytes(10) + data for data in talk.fire(talk.now + seconds - talk.start)] for talk in self.talks]
        return self._shown(self._agreed(sent))

    def abort(self) -> list[str]:
        """Have both stop for good; returns what both send."""
        sent = [[bytes(data) for data in talk.engine.abort(talk.now)] for talk in self.talks]
        for talk in self.talks:
            talk.fire(talk.now - talk.start)
        return self._shown(self._agreed(sent))

    def _agreed(self, sent: list[list[bytes]]) -> list[bytes]:
        one, other = sent
        assert list(map(comparable, one)) == list(map(comparable, other))
        self.hold()
        return one

    def _shown(self, sent: list[bytes]) -> list[str]:
        return [" ".join(self.plain.talk.render(parse(data)).split()) for data in sent]

    def hold(self) -> None:
        """Both tell the same, and want to be called at the same time."""
        one, other = self.talks
        assert [(event.event, event.fields()) for event in one.events] == [
            (event.event, event.fields()) for event in other.events
        ]
        assert one.engine.next_deadline() == other.engine.next_deadline()
        assert self.states(one) == self.states(other)

    @staticmethod
    def states(talk: Conversation) -> list[tuple[bytes, Any]]:
        """All flows, and what state they are in."""
        return sorted((flow.client_key, flow.state) for flow in talk.engine.flows)

    def look(self) -> None:
        """Hold the records to each other, once they have been brought up to date."""
        collect(self.engine)
        for one, other in zip(self.plain.pages, self.fast.pages, strict=True):
            assert images(one) == images(other)

    def restart(self) -> None:
        """Have both die, and others come after them."""
        self.plain = next_life(self.plain)
        with behind_fast_path():
            self.fast = next_life(self.fast)
        assert (self.plain.adopted, self.plain.discarded) == (self.fast.adopted, self.fast.discarded)
        self.wait(0.0)

    def reload(self, number: int) -> None:
        """Have both go by other settings."""
        for talk in self.talks:
            talk.engine.reconfigure(RELOADS[number], talk.now)
        self.hold()

    def knock(self, isn: int) -> None:
        """A SYN on the flow's own addresses and ports."""
        for data in self.exchange(segment(self.plain.talk, "S", isn, 0, options=("mss=1460", "sackOK", "ws=7"))):
            answer = parse(data)
            if answer.version == 4 and answer.is_syn:
                self.handshakes = {"c": isn, "s": answer.seq}

    def come_in(self, *, is_right: bool) -> None:
        """The ACK and the hello that complete this handshake, and the backend's answer; or something like that ACK."""
        if not self.handshakes:
            return
        symbols = {name: value % 2**32 for name, value in self.handshakes.items()}
        talk = self.plain.talk
        if not is_right:
            self.exchange(segment(talk, "A", symbols["c"] + 1, symbols["s"] + 77))
            return
        for one in self.talks:
            one.symbols |= symbols
        self.say("C> PA c+1 ack=s+1 data=hello")
        self.say("B> SA b ack=c+1 win=65535 mss=1440 sackOK ws=7")
        self.handshakes = {}


def segment(talk: Conversation, flags: str, seq: int, ack: int, options: tuple[str, ...] = ()) -> bytes:
    """A client's packet with these numbers."""
    side = talk.sides["C"]
    ends = (side.src, side.dst, side.src_port, side.dst_port)
    return build(Packet(*ends, parse_flags(flags), seq % 2**32, ack % 2**32, options=options))[1]


def images(page: bytearray) -> list[bytes]:
    """The records of a page that are in use."""
    return [bytes(page[at : at + RECORD_BYTES]) for at in range(0, len(page), RECORD_BYTES) if page[at]]


OPTIONS: Final = (
    *((), (), ("ts=600:9500",), ("sack=2952790317-2952790417",), ("ts=700:1", "sack=5-9,20-30")),
    *(("opt=1e04dead",), ("opt=08030101",), ("opt=1e06deaddead", "ts=800:2")),  # the engine's own
)


@st.composite
def plain_packets(draw: st.DrawFn, talk: Conversation) -> list[tuple[bytes, bytes]]:
    """What one end has to say nearly always, a few times over."""
    name = draw(st.sampled_from("CB"))
    side, symbols = talk.sides[name], talk.symbols
    seq, ack = (symbols["c"], symbols["s"]) if name == "C" else (symbols["b"], symbols["c"])
    found = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.sampled_from((0, 0, 1, 100, 1200, 1440)))
        packet = Packet(
            side.src,
            side.dst,
            side.src_port,
            side.dst_port,
            parse_flags(draw(st.sampled_from(("A", "PA")))),
            (seq + draw(st.integers(0, 2000))) % 2**32,
            (ack + draw(st.integers(0, 2000))) % 2**32,
            window=draw(st.integers(0, 65535)),
            options=draw(st.sampled_from(OPTIONS)),
            payload=bytes(size),
            gso_size=draw(st.sampled_from((0, 50))) if size > 50 else 0,
        )
        vnet, data = build(packet)
        found.append((vnet, data))
    return found


@st.composite
def moves(draw: st.DrawFn, talk: Conversation) -> Step | tuple[str, int]:
    """What may happen next."""
    delays = st.sampled_from((0.05, 1.0, 31.0, 119.0, 121.0, 240.2, 601.0, 1860.1, 4000.0, 7440.1))
    rest = st.tuples(
        st.sampled_from(("sweep", "look", "restart", "reload", "knock", "knock", "guess", "come in")), st.integers(0, 3)
    )
    plain = plain_packets(talk)
    found: Step | tuple[str, int] = draw(st.one_of(plain, plain, plain, packets(talk), packets(talk), delays, rest))
    return found


@settings(SLOW, max_examples=400)
@given(
    data=st.data(),
    kind=st.sampled_from((*sorted(KINDS), "plain", "relieved")),
    state=st.sampled_from(sorted(STATES)),
    extra=st.sampled_from(("", "", WIDE)),
    is_stopped=st.booleans(),
)
def test_an_engine_behind_a_fast_path_does_what_it_does_alone(
    data: st.DataObject, kind: str, state: str, extra: str, is_stopped: bool
) -> None:
    """Packet for packet, event for event, to the second; and what is left in the records is the same."""
    twins = Twins.begin(kind, state, extra)
    for _ in range(data.draw(st.integers(1, 14))):
        match data.draw(moves(twins.plain.talk)):
            case float(seconds):
                twins.wait(seconds)
            case list(pieces):
                for vnet, packet in pieces:
                    twins.exchange(packet, vnet)
            case ("sweep", _):
                twins.engine.sweep(twins.fast.talk.now)
            case ("look", _):
                twins.look()
            case ("restart", _):
                twins.restart()
            case ("reload", int(number)) if not extra:
                twins.reload(number)
            case ("knock", int(number)):
                twins.knock(0x7700_0000 + number)
            case ("guess", _):
                twins.come_in(is_right=False)
            case ("come in", _):
                twins.come_in(is_right=True)
    twins.look()
    if is_stopped:
        twins.abort()
    twins.wait(FINAL_S)
    assert len(twins.engine.flows) == len(twins.engine.path) == 0
