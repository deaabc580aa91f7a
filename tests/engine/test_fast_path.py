"""Nobody can tell whether there is a fast path: two engines get the same, one of them behind one, and do the same.

The identification of IPv4 packets is another by design: the fast path has one half of the numbers, the engine the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest
from engine_kinds import alone
from engines import EngineBehind, behind_fast_path, collect
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lives import KINDS, STATES, Step, life_of, packets
from openings import PLAIN_SPLICED, RELIEVED
from packets import Packet, build, parse, parse_flags, sum_words
from raw_packets import cut_v4, cut_v6, datagram, edit_v4, extend_v6, icmp, icmp_v6
from script import CONFIG, EPOCH, SECRET, Conversation, config
from successors import Life, first_life, next_life, take_events, take_over

from kracauer.config import parse_config
from kracauer.engine import Engine
from kracauer.fast_path import FastPath, NoFastPath
from kracauer.offload.memory import MemoryPath
from kracauer.tcp.cookie import LIFETIME_S
from kracauer.tcp.record import RECORD_BYTES
from kracauer.tcp.splice import Splice
from kracauer.wire.buffer import Frame

pytestmark = alone  # both are in each test
SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck))
FINAL_S: Final = 30_000.0
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
    lives: int = 0  # since the SYN of these was answered

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
        return self._shown(self.say_raw(line))

    def say_raw(self, line: str) -> list[bytes]:
        """The same; returns what comes as it is."""
        return self.exchange(self.plain.talk.bytes_of(line))

    def wait(self, seconds: float, *, is_swept: bool = True) -> list[str]:
        """Let time pass, in which the daemon sweeps unless told otherwise; returns what both send meanwhile."""
        if is_swept and self.engine.lags:
            self.settle()
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

    def turn_to_port(self, port: int) -> None:
        """Have what comes from now on be of another port of the client's."""
        for talk in self.talks:
            talk.sides["C"] = replace(talk.sides["C"], src_port=port)
            talk.sides["B"] = replace(talk.sides["B"], dst_port=port)

    def settle(self) -> None:
        """Have the fast one know of the FINs that have passed it, and compare all again."""
        self.engine.sweep(self.fast.talk.now)
        self.hold(is_swept=True)

    def hold(self, *, is_swept: bool = False) -> None:
        """Both tell the same, and want to be called at the same time, as far as the fast one can know."""
        one, other = self.talks
        assert [(event.event, event.fields()) for event in one.events] == [
            (event.event, event.fields()) for event in other.events
        ]
        if self.engine.lags and not is_swept:
            return
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

    def restart(self, *, is_kept: bool) -> None:
        """Have both die, and others come after them; the fast path, too, or it `is_kept`: taken over by the next one."""
        lags = self.engine.lags
        self._outlive(is_kept=is_kept)
        self.plain = next_life(self.plain)
        with behind_fast_path(self.engine if is_kept else None):
            self.fast = next_life(self.fast)
        self.engine.lags = lags
        assert (self.plain.adopted, self.plain.discarded) == (self.fast.adopted, self.fast.discarded)
        self.wait(0.0)

    def hand_over(self, pieces: list[tuple[bytes, bytes]]) -> None:
        """As `restart` with a fast path that is kept, and packets that come while the flows are being taken up."""
        former = self.engine
        self._outlive(is_kept=True)
        collect(former)
        take_over(self.plain)
        with behind_fast_path(former):
            take_over(self.fast)
        self.engine.lags = former.lags
        assert (self.plain.adopted, self.plain.discarded) == (self.fast.adopted, self.fast.discarded)
        taken, left = [], []
        for vnet, packet in pieces:
            translated = former.path.receive(Frame(packet, vnet), self.fast.talk.now)
            if translated is None:
                left.append((vnet, packet))
            else:
                taken.append((vnet, packet, bytes(translated)))
        # From here on the next one's is before the device, and what the former one has carried meanwhile is asked for again.
        former.path.close()
        self.engine.follow(former.path.sweep(self.fast.talk.now))
        assert self.fast.talk.engine.next_deadline() == self.plain.talk.engine.next_deadline()
        for vnet, packet, said in taken:
            (answer,) = self.plain.talk.exchange(packet, vnet)
            assert comparable(answer) == comparable(said)
        self.wait(0.0)
        for vnet, packet in left:
            self.exchange(packet, vnet)

    def _outlive(self, *, is_kept: bool) -> None:
        """Let a handshake go that is older than the life before: whoever takes a fast path over knows of the last one alone."""
        if is_kept and self.lives:
            self.handshakes = {}
        self.lives += 1

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
                self.handshakes, self.lives = {"c": isn, "s": answer.seq}, 0

    def come_in(self, *, is_right: bool) -> None:
        """The ACK and the hello that complete this handshake, and the backend's answer; or something like that ACK."""
        if not self.handshakes:
            return
        symbols = {name: value % 2**32 for name, value in self.handshakes.items()}
        talk = self.plain.talk
        if not is_right:
            # Not in the lowest bits, where a cookie says what it offers: that would be a right one now and then.
            self.exchange(segment(talk, "A", symbols["c"] + 1, symbols["s"] + 0x77000000))
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
        st.sampled_from(("sweep", "look", "restart", "restart", "hand over", "reload", "knock", "knock", "guess", "come in")),
        st.integers(0, 3),
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
    lags=st.booleans(),
)
def test_an_engine_behind_a_fast_path_does_what_it_does_alone(
    data: st.DataObject, kind: str, state: str, extra: str, is_stopped: bool, lags: bool
) -> None:
    """Packet for packet, event for event, to the second; and what is left in the records is the same.

    An engine that lags hears of FINs with the next sweep alone; what it says is the same in any case.
    """
    twins = Twins.begin(kind, state, extra)
    twins.engine.lags = lags
    for _ in range(data.draw(st.integers(1, 14))):
        match data.draw(moves(twins.plain.talk)):
            case float(seconds):
                twins.wait(seconds)
            case list(pieces):
                for vnet, packet in pieces:
                    twins.exchange(packet, vnet)
            case ("sweep", _):
                twins.settle()
            case ("look", _):
                twins.look()
            case ("restart", number):
                twins.restart(is_kept=bool(number))
            case ("hand over", _):
                twins.hand_over(data.draw(plain_packets(twins.plain.talk) | packets(twins.plain.talk)))
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


# What the other tests would not notice: that nothing comes to the engine in vain, and that nobody makes it come.

TALK: Final = (
    "C> PA c+1+H ack=s+301 data=bulk(50)",
    "B> PA b+301 ack=c+51+H data=bulk(100)",
    "C> A c+51+H ack=s+401",
)
# What both ends expect next then, as it is shown: H is 76.
TO_BACKEND, TO_CLIENT = "c+127", "s+401"


class CountingPath(MemoryPath):
    """Counts what a kernel would be asked for."""

    def __init__(self, capacity: int = 64) -> None:
        super().__init__(capacity)
        self.installed = self.removed = self.swept = 0

    def install(self, splice: Splice) -> bool:
        before = len(self)
        has_room = super().install(splice)
        self.installed += len(self) - before
        return has_room

    def remove(self, splice: Splice) -> None:
        before = len(self)
        super().remove(splice)
        self.removed += before - len(self)

    def sweep(self, now: float) -> Sequence[Splice]:
        self.swept += 1
        return super().sweep(now)


def behind(path: FastPath, extra: str = "") -> Conversation:
    """A spliced flow of an engine that has this fast path, which nothing is given to."""
    path.sweep(EPOCH)
    return Conversation(engine=Engine(config(extra), secret=SECRET, now=EPOCH, fast_path=path)).play(PLAIN_SPLICED)


def test_a_flow_is_the_fast_paths_from_its_splice_to_its_first_reset() -> None:
    twins = Twins.begin("plain")
    before = twins.engine.taken
    for line in TALK:
        assert len(twins.say(line)) == 1
    assert twins.engine.taken == before + len(TALK)
    twins.say("C> FA c+51+H ack=s+401")
    assert len(twins.engine.path) == 1
    twins.say("B> R b+401")
    assert len(twins.engine.path) == 0
    twins.say("B> A b+401 ack=c+52+H")  # so it was forged
    assert len(twins.engine.path) == 1


@pytest.mark.parametrize(("state", "held"), [("established", 1), ("client_fin", 1), ("backend_fin", 1), ("both_fin", 0)])
def test_a_flow_that_has_ended_gives_its_place_in_the_fast_path_to_others(state: str, held: int) -> None:
    assert len(Twins.begin("plain", state).engine.path) == held


@pytest.mark.parametrize("state", ["established", "client_fin", "backend_fin"])
def test_a_flow_leaves_the_fast_path_before_a_syn_on_its_ports_is_answered(state: str) -> None:
    """What it took after that would be the new connection's, in the old one's numbers."""
    twins = Twins.begin("plain", state)
    assert len(twins.engine.path) == 1
    path = twins.engine.path
    twins.knock(0x7700_0000)
    assert len(path) == 0
    before = twins.engine.taken
    twins.say("C> A c+1+H ack=s+301")
    assert twins.engine.taken == before
    twins.come_in(is_right=True)
    assert len(path) == 1
    before = twins.engine.taken
    twins.say("C> PA c+1+H ack=s+1 data=bulk(10)")
    assert twins.engine.taken == before + 1


def test_a_syn_of_the_flows_own_number_is_an_old_one() -> None:
    twins = Twins.begin("plain")
    twins.knock(twins.plain.talk.symbols["c"])
    assert len(twins.engine.path) == 1


@pytest.mark.parametrize("forged", [1, 50])
def test_a_flow_comes_back_to_the_fast_path_once_a_syn_is_too_old(forged: int) -> None:
    twins = Twins.begin("plain")
    for number in range(forged):
        twins.knock(0x7700_0000 + number)
    twins.wait(LIFETIME_S - 1)
    twins.say(TALK[0])
    assert len(twins.engine.path) == 0
    twins.wait(1.1)
    twins.say(TALK[0])
    assert len(twins.engine.path) == 1
    before = twins.engine.taken
    for line in TALK:
        twins.say(line)
    assert twins.engine.taken == before + len(TALK)


def test_a_thousand_forged_syns_cost_the_fast_path_no_more_than_one() -> None:
    path = CountingPath()
    talk = behind(path)
    for number in range(1000):
        talk.exchange(segment(talk, "S", 0x7700_0000 + number, 0))
    assert (path.installed, path.removed) == (1, 1)
    talk.exchange(talk.bytes_of("C> A c+1+H ack=s+1"))
    assert (path.installed, path.removed) == (1, 1)


def test_who_guesses_as_well_has_the_fast_path_told_a_few_times_and_no_more() -> None:
    """Sixteen wrong ACKs end what is believed of a SYN, and sixty-four of all that come within a cookie's life."""
    path = CountingPath()
    talk = behind(path)
    for number in range(1000):
        talk.exchange(segment(talk, "S", number * 999, 0))
        for guess in range(17):
            talk.exchange(segment(talk, "A", number * 999 + 1, guess))
    assert (path.installed, path.removed) == (5, 4)
    assert len(path) == 1


def test_a_flow_that_the_fast_path_has_no_room_for_is_the_engines_as_ever() -> None:
    path = CountingPath(0)
    talk = behind(path)
    (flow,) = talk.engine.flows
    assert flow.fast is flow.splice is not None
    assert path.refused == {"ENOSPC": 1}


def test_a_flow_without_a_fast_path_before_the_engine_costs_no_look_more() -> None:
    (flow,) = behind(NoFastPath()).engine.flows
    assert flow.fast is flow.splice is not None


@pytest.mark.parametrize(("path", "highest"), [(None, 0xFFFF), (NoFastPath(), 0xFFFF), (MemoryPath(), 0x7FFF)])
def test_half_of_the_identifications_are_left_to_a_fast_path_where_there_is_one(path: FastPath | None, highest: int) -> None:
    engine = Engine(config(), secret=SECRET, now=EPOCH, fast_path=path)
    numbers = {engine._context.identifications.take() for _ in range(0x10000)}
    assert max(numbers) == highest


def test_a_fast_path_that_is_given_up_leaves_the_flows_to_the_engine() -> None:
    """As where it turns out that it cannot be told anything any more."""
    twins = Twins.begin("plain")
    for line in TALK:
        twins.say(line)
    twins.engine.path.close()
    twins.look()
    before = twins.engine.taken
    for line in TALK:
        twins.say(line)
    assert twins.engine.taken == before


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_both_ends_are_reset_in_the_numbers_that_the_fast_path_has_seen_last(kind: str) -> None:
    twins = talked(kind)
    assert [line.split()[:3] for line in twins.abort()] == [["B<", "R", TO_BACKEND], ["C<", "R", TO_CLIENT]]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_both_ends_are_asked_in_the_numbers_that_the_fast_path_has_seen_last(kind: str) -> None:
    """And only when they have been silent for long enough since then."""
    twins = talked(kind, after_s=3000.0)
    assert twins.wait(7440.0 - 0.1) == []
    told = [line.split()[:3] for line in twins.wait(0.3)]
    assert [line for number, line in enumerate(told) if line not in told[:number]] == [
        ["B<", "A", "c+126"],
        ["C<", "A", "s+400"],
    ]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_backend_is_told_that_its_client_begins_anew_in_the_number_that_the_fast_path_has_seen_last(kind: str) -> None:
    twins = talked(kind)
    twins.knock(0x7700_0000)
    talk, symbols = twins.plain.talk, twins.handshakes
    told = twins.exchange(segment(talk, "A", symbols["c"] + 1, symbols["s"] + 1))
    assert [talk.render(parse(data)).split()[:3] for data in told] == [["B<", "R", TO_BACKEND]]


@pytest.mark.parametrize("seq", [0, 1, 1 << 20])
def test_a_fin_is_believed_by_what_the_fast_path_has_seen_last(seq: int) -> None:
    twins = talked("plain")
    twins.say(f"C> FA c+51+H+{seq} ack=s+401")
    assert [str(state) for _, state in twins.states(twins.fast.talk)] == ["client_fin"]


@pytest.mark.parametrize("side", ["C", "B"])
@pytest.mark.parametrize("shape", ["whole", "with options of IP's", "in pieces"])
def test_a_reset_is_certain_by_what_the_fast_path_has_seen_last(shape: str, side: str) -> None:
    """Whatever it comes in: not all that comes to the engine is held against the fast path first."""
    twins = talked("plain")
    line = {"C": "C> RA c+51+H ack=s+401 data=bulk(40)", "B": "B> RA b+401 ack=c+51+H data=bulk(40)"}[side]
    whole, is_v4 = twins.plain.talk.bytes_of(line), side == "C"
    match shape:
        case "whole":
            pieces = [whole]
        case "in pieces":
            pieces = cut_v4(whole, 24) if is_v4 else cut_v6(whole, 24)
        case _:
            pieces = [edit_v4(whole, options=b"\x94\x04\0\0") if is_v4 else extend_v6(whole, 60, b"\x06\0\x01\x04\0\0\0\0")]
    for piece in pieces:
        twins.exchange(piece)
    (flow,) = twins.engine.flows
    assert flow.splice is not None
    assert (str(flow.state), flow.splice.is_reset_certain) == ("transitory", True)


@pytest.mark.parametrize("side", ["C", "B"])
def test_an_mtu_is_believed_by_what_the_fast_path_has_seen_last(side: str) -> None:
    """The quoted segment lies in the window as it is now, and not in that of the splice."""
    twins = Twins.begin("plain")
    acknowledged, quoted = {
        "B": ("B> A b+301 ack=c+1+H+0x200000", "C> PA c+1+H+0x200000 ack=s+301 data=bulk(1400)"),
        "C": ("C> A c+1+H ack=s+301+0x200000", "B> PA b+301+0x200000 ack=c+1+H data=bulk(1400)"),
    }[side]
    twins.say(acknowledged)
    (sent,) = twins.exchange(twins.plain.talk.bytes_of(quoted))
    router = twins.plain.talk.sides[side]
    is_v4 = side == "C"
    error = datagram(router, 1, icmp(3, 4, 1300, sent[10:])) if is_v4 else icmp_v6(router, 2, 0, 1300, sent[10:])
    assert len(twins.exchange(error)) == 1
    assert twins.engine._context.path_mtus.get(router.src, twins.fast.talk.now) == 1300


def test_a_flow_that_is_taken_over_is_the_next_fast_paths_at_once() -> None:
    twins = talked("plain")
    twins.hand_over([])
    assert len(twins.engine.path) == 1
    before = twins.engine.taken
    for line in TALK:
        twins.say(line)
    assert twins.engine.taken == before + len(TALK)


def test_a_flow_whose_fast_path_is_gone_comes_back_to_the_next_one_with_its_clients_first_segment() -> None:
    twins = talked("plain")
    twins.restart(is_kept=False)
    twins.say("B> A b+401 ack=c+51+H")
    assert len(twins.engine.path) == 0
    twins.say("C> A c+51+H ack=s+401")
    assert len(twins.engine.path) == 1


def test_a_syn_that_was_answered_before_flows_were_taken_over_leads_to_a_new_one() -> None:
    """Its flow was no longer the fast path's, so it is not taken for one that nobody can have wanted to replace."""
    twins = talked("plain")
    twins.knock(0x7700_0000)
    twins.hand_over([])
    assert len(twins.engine.path) == 0
    twins.come_in(is_right=True)
    assert [str(state) for _, state in twins.states(twins.fast.talk)] == ["established"]
    assert twins.plain.talk.symbols["c"] == 0x7700_0000
    assert len(twins.engine.path) == 1


def talked(kind: str, after_s: float = 0.0) -> Twins:
    """Twins whose ends have said something to each other after that time."""
    twins = Twins.begin(kind)
    twins.wait(after_s)
    for line in TALK:
        assert len(twins.say(line)) == 1
    return twins


# FINs that the fast path has carried, and what comes before the engine has heard of them.

FINS: Final = ("C> FA c+51+H ack=s+401", "B> FA b+401 ack=c+52+H")
OTHER_FINS: Final = ("B> FA b+401 ack=c+51+H", "C> FA c+51+H ack=s+402")
LAST: Final = "C> A c+52+H ack=s+402"


def finished(*fins: str, kind: str = "plain") -> Twins:
    """Twins whose ends have sent these FINs, of which the engine behind the fast path knows nothing yet."""
    twins = talked(kind)
    twins.engine.lags = True
    for line in fins:
        before = twins.engine.taken
        assert len(twins.say(line)) == 1
        assert twins.engine.taken == before + 1
    assert [str(state) for _, state in twins.states(twins.fast.talk)] == ["established"]
    return twins


def end_of(twins: Twins) -> str:
    """What state the flow is in once all is known, in both."""
    twins.settle()
    return ",".join(str(state) for _, state in twins.states(twins.fast.talk))


@pytest.mark.parametrize(("fins", "state"), [(FINS[:1], "client_fin"), (FINS[1:], "backend_fin"), (FINS, "both_fin")])
def test_a_sweep_tells_of_the_fins_that_the_fast_path_has_carried(fins: tuple[str, ...], state: str) -> None:
    twins = finished(*fins)
    assert end_of(twins) == state
    assert len(twins.engine.path) == (state != "both_fin")
    (flow,) = twins.engine.flows
    assert twins.engine.flows.is_retired(flow) is (state == "both_fin")


@pytest.mark.parametrize("fins", [FINS[:1], FINS[1:], FINS, OTHER_FINS])
@pytest.mark.parametrize("side", ["C", "B"])
@pytest.mark.parametrize("is_exact", [True, False])
def test_a_reset_finds_the_state_that_the_fins_before_it_have_led_to(fins: tuple[str, ...], side: str, is_exact: bool) -> None:
    twins = finished(*fins)
    number = {"C": "c+52+H", "B": "b+402"}[side]
    twins.say(f"{side}> R {number}{'' if is_exact else '+700'}")
    assert end_of(twins) == ("both_fin" if len(fins) == 2 else "transitory")
    twins.wait(FINAL_S)


@pytest.mark.parametrize("fins", [FINS[:1], FINS])
def test_what_comes_to_the_engine_behind_a_fin_finds_the_state_that_it_has_led_to(fins: tuple[str, ...]) -> None:
    """In a layout that the fast path does not take."""
    twins = finished(*fins)
    before = twins.engine.taken
    twins.say("B> A b+402 ack=c+52+H opt=1e04dead")
    assert twins.engine.taken == before
    twins.say("C> FA c+51+H ack=s+401")  # once more
    assert end_of(twins) == ("both_fin" if len(fins) == 2 else "client_fin")


def test_the_last_acknowledgment_is_carried_before_a_sweep_and_the_engines_after_it() -> None:
    twins = finished(*FINS)
    before = twins.engine.taken
    assert len(twins.say(LAST)) == 1
    assert twins.engine.taken == before + 1
    twins.settle()
    assert len(twins.say(LAST)) == 1
    assert twins.engine.taken == before + 1
    twins.look()


@pytest.mark.parametrize("fins", [FINS[:1], FINS[1:], FINS])
def test_a_port_that_is_used_again_at_once_has_a_flow_of_its_own(fins: tuple[str, ...]) -> None:
    """The old one leaves the fast path before the SYN is answered, and is replaced in the state that it was in."""
    twins = finished(*fins)
    path = twins.engine.path
    twins.knock(0x7700_0000)
    assert len(path) == 0
    assert [str(state) for _, state in twins.states(twins.fast.talk)] == [
        {FINS[:1]: "client_fin", FINS[1:]: "backend_fin", FINS: "both_fin"}[fins]
    ]
    twins.come_in(is_right=True)
    assert [event.fields()["state"] for event in twins.fast.talk.events if event.event == "flow_closed"] == [
        str(state) for _, state in finished_states(fins)
    ]
    assert end_of(twins) == "established"
    assert len(path) == 1
    before = twins.engine.taken
    twins.say("C> PA c+1+H ack=s+1 data=bulk(10)")
    assert twins.engine.taken == before + 1


def finished_states(fins: tuple[str, ...]) -> list[tuple[bytes, Any]]:
    """What these FINs lead to in an engine that is alone."""
    twins = talked("plain")
    for line in fins:
        twins.say(line)
    return twins.states(twins.plain.talk)


def test_an_old_syn_between_the_fins_and_the_sweep_changes_nothing() -> None:
    twins = finished(*FINS)
    twins.knock(twins.plain.talk.symbols["c"])
    assert end_of(twins) == "both_fin"


@pytest.mark.parametrize("fins", [FINS[:1], FINS])
def test_a_timer_between_the_fins_and_the_sweep_finds_the_time_that_they_have_set(fins: tuple[str, ...]) -> None:
    """An idle flow's own, which would have both ends asked: it has ended, or begun to, just before."""
    twins = talked("plain", after_s=10.0)
    twins.wait(7440.0 - 1.0)
    twins.engine.lags = True
    for line in fins:
        twins.say(line)
    assert twins.wait(2.0, is_swept=False) == []
    assert end_of(twins) == ("both_fin" if len(fins) == 2 else "client_fin")
    assert twins.wait(237.5) == []
    assert len(twins.engine.flows) == 1
    assert twins.wait(1.0) == []
    assert len(twins.engine.flows) == (len(fins) == 1)


@pytest.mark.parametrize("fins", [FINS[:1], FINS])
def test_a_stop_between_the_fins_and_the_sweep_says_what_the_flow_was(fins: tuple[str, ...]) -> None:
    twins = finished(*fins)
    assert len(twins.abort()) == 2
    told, told_alone = (take_events(talk) for talk in twins.talks)
    assert told == told_alone
    (closed,) = (fields for event, fields in told if event == "flow_closed")
    assert closed["state"] == ("both_fin" if len(fins) == 2 else "client_fin")


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("fins", [FINS[:1], FINS])
def test_an_engine_that_dies_between_the_fins_and_the_sweep_leaves_them_to_the_next(
    fins: tuple[str, ...], is_kept: bool
) -> None:
    twins = finished(*fins)
    twins.restart(is_kept=is_kept)
    assert end_of(twins) == ("both_fin" if len(fins) == 2 else "client_fin")
    twins.wait(FINAL_S)


def test_the_error_of_a_router_about_a_flow_that_has_ended_finds_it_ended() -> None:
    twins = finished(*FINS)
    (sent,) = twins.say_raw("B> PA b+401 ack=c+51+H data=bulk(40)")
    router = twins.plain.talk.sides["C"]
    twins.exchange(datagram(router, 1, icmp(3, 4, 1300, sent[10:])))
    assert end_of(twins) == "both_fin"


FULL: Final = "[limits]\nflows = 1\n"


def test_a_flow_that_has_ended_makes_room_before_a_sweep_has_told_of_it() -> None:
    twins = Twins.begin("plain", extra=FULL)
    twins.engine.lags = True
    for line in (*TALK, *FINS):
        twins.say(line)
    twins.turn_to_port(50_001)
    twins.knock(0x7700_0000)
    twins.come_in(is_right=True)
    assert end_of(twins) == "established"
    assert [event.fields()["reason"] for event in twins.fast.talk.events if event.event == "flow_closed"] == ["superseded"]


@pytest.mark.parametrize("order", [(50_001, 50_002), (50_002, 50_001)])
def test_of_flows_that_have_ended_the_one_that_did_so_first_is_the_first_to_make_room(order: tuple[int, int]) -> None:
    """Whatever place they have in the fast path."""
    twins = Twins.begin("plain")
    twins.engine.lags = True
    symbols = {}
    for port in (50_001, 50_002):
        twins.turn_to_port(port)
        twins.knock(port)
        twins.come_in(is_right=True)
        symbols[port] = dict(twins.plain.talk.symbols)
    for port in order:
        twins.turn_to_port(port)
        for talk in twins.talks:
            talk.symbols |= symbols[port]
        for line in ("C> FA c+1+H ack=s+1", "B> FA b+1 ack=c+2+H"):
            twins.say(line)
        twins.wait(0.01, is_swept=False)
    twins.settle()
    for talk in twins.talks:
        oldest = talk.engine.flows.oldest_retired
        assert oldest is not None
        assert oldest.client_port == order[0]


def test_a_full_table_has_the_fast_path_asked_twice_a_second_at_most() -> None:
    path = CountingPath()
    talk = behind(path, FULL)
    before = path.swept
    for port in range(100):
        talk.sides["C"] = replace(talk.sides["C"], src_port=50_000 + port)
        knocked = [parse(data) for data in talk.exchange(segment(talk, "S", 0x7700_0000, 0, options=("mss=1460",)))]
        talk.exchange(segment(talk, "A", 0x7700_0001, knocked[0].seq + 1))
        talk.now += 0.04
    assert len(talk.engine.flows) == 1
    assert 7 <= path.swept - before <= 8
