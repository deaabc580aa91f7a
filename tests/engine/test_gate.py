"""The short way of packets without a flow does what the long way does, and is the way that floods take."""

import struct
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import pytest
from engine_kinds import alone
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from packets import Packet, build, parse, parse_flags
from raw_packets import cut_v4, edit_v4
from script import EPOCH, SECRET, config

from kracauer.config import Config, parse_config
from kracauer.engine import Engine
from kracauer.engine.context import Context
from kracauer.engine.gate import Admission, Gate
from kracauer.errors import DropReason
from kracauer.events import Event, PacketDropped
from kracauer.tcp.record import Records
from kracauer.wire.buffer import PACKET_START, Buffer, Frame

SERVICE, GUARDED, ELSEWHERE = bytes((198, 51, 100, 1)), bytes((198, 51, 100, 2)), bytes((192, 0, 2, 99))
pytestmark = alone  # what passes the gate is of no flow yet
CLIENT, DENIED = bytes((192, 0, 2, 7)), bytes((203, 0, 113, 9))
HELLO = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"
LISTENERS = """
prefix = "2001:db8:46::/96"
probes.enabled = false
[[listen]]
address = "198.51.100.1"
port = 80
[[listen]]
address = "198.51.100.1"
port = 443
protocol = "tls"
[[listen]]
address = "198.51.100.2"
port = 80
deny = ["203.0.113.0/24"]
[hosts]
"www.example.com" = "2001:db8:1::2"
"""
PROFILES = {
    "as shipped": "",
    "with ECN, narrow": "[backend_profile]\necn = true\nmss = 1300\n[network]\nipv6_mtu = 1400\n",
    "bare": "[backend_profile]\nwindow_scale = false\nsack = false\ntimestamps = false\n",
}


@dataclass
class Twins:
    """Two engines that are told the same, one of them the long way alone; they have to do the same."""

    settings: Config
    now: float = EPOCH
    pair: tuple[Engine, Engine] = field(init=False)
    opened: list[Packet] = field(default_factory=list)
    dialled: list[Packet] = field(default_factory=list)

    def __post_init__(self) -> None:
        first, second = (Engine(self.settings, secret=SECRET, now=self.now) for _ in range(2))
        self.pair = first, second

    def wait(self, seconds: float) -> None:
        self.now += seconds
        short, long = self.pair
        assert short.next_deadline() == long.next_deadline()
        if (deadline := short.next_deadline()) is not None and deadline <= self.now:
            self.compare(short.handle_timer(self.now), long.handle_timer(self.now))

    def send(self, packet: bytes, vnet: bytes = bytes(10)) -> None:
        short, long = self.pair
        one, other = Frame(packet, vnet), Frame(packet, vnet)
        self.compare(short.receive(one, self.now), long.receive_at_length(other, self.now))

    def compare(self, one: Sequence[Buffer], other: Sequence[Buffer]) -> None:
        sent = [bytes(packet) for packet in one]
        assert sent == [bytes(packet) for packet in other]
        short, long = self.pair
        assert events_of(short) == events_of(long)
        assert [bytes(flow.client_key) for flow in short.flows] == [bytes(flow.client_key) for flow in long.flows]
        for packet in [parse(data) for data in sent if data[10] >> 4 == 6 or data[19] == 6]:
            if packet.version == 4 and packet.is_syn:
                self.opened.append(packet)
            elif packet.version == 6 and packet.is_syn:
                self.dialled.append(packet)


def events_of(engine: Engine) -> list[Event]:
    events = []
    while (event := engine.next_event()) is not None:
        events.append(event)
    return events


COMMON_FLAGS = ["S", "SEW", "SE", "SA", "SR", "SF", "A", "A", "A", "PA", "FA", "R", "RA", "F", ".", "SN"]
layouts = st.permutations(["mss=1460", "mss=100", "sackOK", "ts=5000:0", "ws=7", "ws=15", "opt=fe04dead", "opt=1d0401aa"])
options = st.one_of(
    st.sampled_from([(), ("mss=1460", "sackOK", "ts=77:0", "ws=7"), ("mss=1460", "ws=8", "sackOK")]),
    st.builds(lambda tokens, count: tuple(tokens[:count]), layouts, st.integers(0, 5)),
    st.binary(max_size=40).filter(len).map(lambda raw: (f"opt={(raw + bytes(-len(raw) % 4)).hex()}",)),
)
packets = st.builds(
    Packet,
    src=st.sampled_from([CLIENT, CLIENT, CLIENT, DENIED, SERVICE]) | st.binary(min_size=4, max_size=4),
    dst=st.sampled_from([SERVICE, SERVICE, SERVICE, GUARDED, ELSEWHERE]),
    src_port=st.sampled_from([40000, 40000, 40001, 0]),
    dst_port=st.sampled_from([80, 80, 443, 81]),
    flags=st.sampled_from(COMMON_FLAGS).map(parse_flags) | st.integers(0, 0xFFF),
    seq=st.sampled_from([0, 0xFFFFFFFF, 1000, 12345]),
    ack=st.sampled_from([0, 0xFFFFFFFF, 5000]),
    options=options,
    payload=st.sampled_from([b"", b"", b"", b"x", HELLO]),
    ttl=st.sampled_from([57, 1, 0]),
    gso_size=st.sampled_from([0, 0, 0, 0, 1000]),
)


@dataclass(frozen=True)
class Damage:
    """What befalls a packet before it comes in: bytes changed before and after the IP header was summed, and more."""

    changed: tuple[tuple[int, int], ...] = ()
    broken: tuple[tuple[int, int], ...] = ()
    dont_fragment: bool = True
    ip_options: bytes = b""
    is_fragmented: bool = False
    cut: int = 0
    trailing: bytes = b""
    vnet_flags: int | None = None

    def __call__(self, vnet: bytes, packet: bytes) -> tuple[bytes, bytes]:
        whole = edit_v4(flip(packet, self.changed), options=self.ip_options, dont_fragment=self.dont_fragment)
        if self.is_fragmented and not self.ip_options:
            whole = cut_v4(whole, 24)[0]
        whole = flip(whole, self.broken)
        return (
            vnet if self.vnet_flags is None else bytes((self.vnet_flags,)) + vnet[1:],
            whole[: len(whole) - self.cut] + self.trailing,
        )


def flip(packet: bytes, places: tuple[tuple[int, int], ...]) -> bytes:
    flipped = bytearray(packet)
    for place, bits in places:
        flipped[place % len(flipped)] ^= bits
    return bytes(flipped)


syns = st.builds(
    Packet,
    src=st.just(CLIENT),
    dst=st.just(SERVICE),
    src_port=st.sampled_from([40000, 40001, 40002, 0]),
    dst_port=st.sampled_from([80, 443, 81]),
    flags=st.sampled_from(["S", "SEW", "SE", "S", "SU", "SF", "SR", "F", "FA"]).map(parse_flags),
    seq=st.integers(0, 0xFFFFFFFF),
    options=options,
    payload=st.sampled_from([b"", b"", b"x", HELLO]),
)
# Version and length, what is fragmented, TTL, protocol, sums, addresses, ports; data offset and flags, options.
spots = st.sampled_from([0, 2, 3, 6, 7, 8, 9, 10, 12, 15, 16, 19, 20, 22, 32, 33, 36, *range(40, 60)])
places = st.lists(st.tuples(spots, st.integers(1, 255)), max_size=2).map(tuple)
vnet_flags = st.sampled_from([2, 2, 2, None, 0, 1, 3, 4])
light_damages = st.builds(Damage, dont_fragment=st.booleans(), vnet_flags=vnet_flags)
damages = st.builds(
    Damage,
    changed=places,
    broken=st.just(()) | places,
    dont_fragment=st.booleans(),
    ip_options=st.sampled_from([b"", b"", b"", bytes((1, 1, 1, 0)), bytes((131, 3, 4, 0))]),
    is_fragmented=st.sampled_from([False, False, False, True]),
    cut=st.sampled_from([0, 0, 0, 1, 4, 20, 39]),
    trailing=st.sampled_from([b"", b"", b"", b"\0", b"junk"]),
    vnet_flags=vnet_flags,
)
waits = st.sampled_from([0.0, 0.0, 0.1, 3.1, 61.0, 130.0, 4000.0])
steps = st.one_of(
    st.tuples(st.just("any"), packets, st.just(Damage()) | light_damages),
    st.tuples(st.just("any"), syns, light_damages),
    st.tuples(st.just("any"), syns, damages),
    st.tuples(st.just("open"), st.sampled_from([b"", HELLO]), st.integers(-1, 1)),
    st.tuples(st.just("accept"), options, st.booleans()),
)


PLAIN = Packet(CLIENT, SERVICE, 40000, 80, parse_flags("S"), seq=1000, options=("mss=1460", "sackOK", "ts=5000:0", "ws=7"))


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list(PROFILES)), st.lists(st.tuples(waits, steps), min_size=2, max_size=20))
@example("as shipped", [(wait, ("any", Packet(CLIENT, SERVICE, 40000, 80, parse_flags("A")), Damage())) for wait in (0.0, 3.1)])
def test_the_short_way_does_what_the_long_way_does(
    profile: str, script: list[tuple[float, tuple[str, object, object]]]
) -> None:
    """Any packets in any order: the same answers, events and flows, whatever has gone before."""
    twins = Twins(parse_config(LISTENERS + PROFILES[profile]))
    for seconds, step in script:
        twins.wait(seconds)
        match step:
            case "any", Packet() as packet, Damage() as damage:
                vnet, data = damage(*build(packet))
                twins.send(data, vnet)
            case "open", bytes() as payload, int() as mistake:
                twins.send(build(PLAIN)[1])
                vnet, data = build(completing(twins.opened[-1], payload, mistake))
                twins.send(data, vnet)
            case "accept", tuple() as asked, bool() as has_ecn if twins.dialled:
                vnet, data = build(accepting(twins.dialled[-1], asked, has_ecn))
                twins.send(data, vnet)


def completing(syn_ack: Packet, payload: bytes, mistake: int) -> Packet:
    """The client's ACK to `syn_ack`; with a `mistake` it belongs to no SYN that was sent."""
    return Packet(
        src=syn_ack.dst,
        dst=syn_ack.src,
        src_port=syn_ack.dst_port,
        dst_port=syn_ack.src_port,
        flags=parse_flags("PA"),
        seq=syn_ack.ack + mistake,
        ack=syn_ack.seq + 1,
        options=("ts=5001:1",) if any(option.startswith("ts") for option in syn_ack.options) else (),
        payload=payload,
    )


def accepting(syn: Packet, options: tuple[str, ...], has_ecn: bool) -> Packet:
    """A backend's answer to our SYN, which may show another TCP than was assumed of it."""
    return Packet(
        src=syn.dst,
        dst=syn.src,
        src_port=syn.dst_port,
        dst_port=syn.src_port,
        flags=parse_flags("SAE" if has_ecn else "SA"),
        seq=9000,
        ack=syn.seq + 1,
        options=options,
    )


@pytest.mark.parametrize("profile", ["as shipped", "with ECN, narrow"])
def test_syns_of_every_kind_are_answered_alike_while_the_offer_changes(profile: str) -> None:
    """No answer that was made for one kind of SYN, or for a former offer, is given to another."""
    twins = Twins(parse_config(LISTENERS + PROFILES[profile]))
    kinds = list(product(["S", "SEW"], [(), ("ws=3",)], [(), ("sackOK",)], [(), ("ts=77:0",)], [True, False]))

    def ask_all() -> set[bytes]:
        for flags, *tokens, dont_fragment in kinds:
            syn = replace(PLAIN, flags=parse_flags(flags), options=sum(tokens, ()), src_port=40001)
            twins.send(*reversed(Damage(dont_fragment=dont_fragment)(*build(syn))))
        return {repr((one.flags, one.window, one.options)).encode() for one in twins.opened[-len(kinds) :]}

    first = ask_all()
    twins.send(build(PLAIN)[1])
    twins.send(build(completing(twins.opened[-1], HELLO, 0))[1])
    twins.send(build(accepting(twins.dialled[-1], ("mss=1440", "ws=9"), has_ecn=False))[1])
    second = ask_all()
    assert second != first
    twins.wait(4000.0)
    assert ask_all() != second  # what was learnt has aged


TURNED_AWAY = {
    "an ACK": (replace(PLAIN, flags=parse_flags("A"), options=()), DropReason.BAD_COOKIE),
    "data": (replace(PLAIN, flags=parse_flags("PA"), options=(), payload=HELLO), DropReason.BAD_COOKIE),
    "a RST": (replace(PLAIN, flags=parse_flags("R")), DropReason.NO_FLOW),
    "a FIN alone": (replace(PLAIN, flags=parse_flags("F")), DropReason.NO_FLOW),
    "a SYN-ACK": (replace(PLAIN, flags=parse_flags("SA")), DropReason.ILLEGAL_FLAGS),
    "a SYN-ACK of port 0": (replace(PLAIN, flags=parse_flags("SA"), src_port=0), DropReason.ILLEGAL_FLAGS),
    "a SYN with illegal options": (replace(PLAIN, options=("opt=02030101",)), DropReason.MALFORMED_TCP),
    "a denied client": (replace(PLAIN, src=DENIED, dst=GUARDED), DropReason.DENIED),
    "a RST to a closed port": (replace(PLAIN, dst_port=81, flags=parse_flags("R")), DropReason.NO_LISTENER),
}


@dataclass
class Porter:
    """A gate by itself, with nothing behind it."""

    context: Context = field(default_factory=lambda: Context(parse_config(LISTENERS), SECRET, EPOCH, Records()))
    admissions: list[Admission] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate = Gate(self.context)
        self.frame = Frame()

    def receive(self, packet: Packet, damage: Damage = Damage()) -> list[Packet] | None:
        vnet, data = damage(*build(packet))
        self.frame.load(data, vnet)
        before = bytes(self.frame.buffer[: self.frame.end])
        answer = self.gate.receive(self.frame, bytes(self.frame.buffer[PACKET_START + 12 : PACKET_START + 24]), EPOCH)
        assert bytes(self.frame.buffer[: self.frame.end]) == before
        if isinstance(answer, Admission):
            self.admissions.append(answer)
            return []
        return None if answer is None else [parse(bytes(one)) for one in answer]

    def drops(self) -> list[DropReason]:
        return [event.reason for event in self.context.events if isinstance(event, PacketDropped)]


@pytest.mark.parametrize("flags", ["S", "SEW", "SP"])
@pytest.mark.parametrize("tokens", [(), ("mss=1460",), ("mss=1460", "ws=8", "sackOK"), PLAIN.options], ids=len)
@pytest.mark.parametrize(
    "damage", [Damage(), Damage(dont_fragment=False), Damage(vnet_flags=2)], ids=["plain", "no DF", "valid"]
)
def test_a_syn_is_answered_the_short_way(flags: str, tokens: tuple[str, ...], damage: Damage) -> None:
    answer = Porter().receive(replace(PLAIN, flags=parse_flags(flags), options=tokens), damage)
    assert answer is not None
    assert [(one.flags & 0x3F, one.ack) for one in answer] == [(parse_flags("SA"), 1001)]


@pytest.mark.parametrize(("packet", "reason"), TURNED_AWAY.values(), ids=list(TURNED_AWAY))
def test_what_belongs_to_nothing_is_turned_away_the_short_way(packet: Packet, reason: DropReason) -> None:
    porter = Porter()
    assert porter.receive(packet) == []
    assert porter.drops() == [reason]


def test_a_broken_checksum_is_found_the_short_way() -> None:
    porter = Porter()
    assert porter.receive(PLAIN, Damage(broken=((36, 1),))) == []
    assert porter.drops() == [DropReason.BAD_CHECKSUM]


@pytest.mark.parametrize("vnet_flags", [1, 2, 3])
def test_a_checksum_that_the_kernel_answers_for_is_not_looked_at(vnet_flags: int) -> None:
    assert Porter().receive(PLAIN, Damage(broken=((36, 1),), vnet_flags=vnet_flags))


def test_a_closed_port_says_so_the_short_way() -> None:
    answer = Porter().receive(replace(PLAIN, dst_port=81))
    assert answer is not None
    assert [(one.flags, one.ack) for one in answer] == [(parse_flags("RA"), 1001)]


LONGER = {
    "options in the IP header": (PLAIN, Damage(ip_options=bytes((1, 1, 1, 0)))),
    "a fragment": (PLAIN, Damage(is_fragmented=True, vnet_flags=2)),
    "another protocol": (PLAIN, Damage(changed=((9, 6 ^ 132),), vnet_flags=2)),
    "a header that ends outside": (PLAIN, Damage(changed=((32, 0x40),), vnet_flags=2)),
    "a header that ends in itself": (PLAIN, Damage(changed=((32, 0xF0),), vnet_flags=2)),
    "a broken sum of the IP header": (PLAIN, Damage(broken=((8, 1),))),
    "trailing bytes": (PLAIN, Damage(trailing=b"\0\0")),
    "an illegal source": (replace(PLAIN, src=bytes((127, 0, 0, 1))), Damage()),
    "an address that is no service": (replace(PLAIN, dst=ELSEWHERE), Damage()),
    "a key that only an endpoint has": (replace(PLAIN, options=("opt=1d0401aa",)), Damage()),
}


@pytest.mark.parametrize(("packet", "damage"), LONGER.values(), ids=list(LONGER))
def test_what_is_not_plain_goes_the_long_way_untouched(packet: Packet, damage: Damage) -> None:
    porter = Porter()
    assert porter.receive(packet, damage) is None
    assert porter.drops() == []


def test_who_brings_a_right_cookie_is_admitted() -> None:
    porter = Porter()
    answer = porter.receive(PLAIN)
    assert answer
    assert porter.receive(completing(answer[0], HELLO, 0)) == []
    (admission,) = porter.admissions
    assert (admission.segment.endpoints, bytes(admission.segment.payload)) == ((CLIENT, SERVICE, PLAIN.src_port, 80), HELLO)
    assert admission.listener is porter.context.listeners[SERVICE, 80]
    assert porter.drops() == []


def test_resets_at_the_gate_have_one_limit_with_all_others() -> None:
    porter = Porter()
    answered = [porter.receive(replace(PLAIN, dst_port=81, src_port=1024 + number)) for number in range(1500)]
    assert sum(map(len, filter(None, answered))) == 1000
    assert porter.drops().count(DropReason.RATE_LIMITED) == 500
    assert not porter.context.resets.take(EPOCH)


def test_offers_that_keep_changing_leave_a_bounded_number_of_answers_behind() -> None:
    porter = Porter()
    offers = porter.context.listeners[SERVICE, 80].offers
    frame, sizes = Frame(build(PLAIN)[1]), []
    key = bytes(frame.buffer[PACKET_START + 12 : PACKET_START + 24])
    tracemalloc.start()
    try:
        for number in range(6000):
            offers.replace(offers.current._replace(window=number), EPOCH)
            assert porter.gate.receive(frame, key, EPOCH)
            if number % 3000 == 1020:
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < 256 * 1024


def test_the_shared_configuration_of_scripts_has_the_gate_too() -> None:
    """A conversation's packets take the short way where they can: every scenario of the engine tests it as well."""
    engine, frame = Engine(config(), secret=SECRET, now=EPOCH), Frame(build(replace(PLAIN, dst_port=443))[1])
    (answer,) = engine.receive(frame, EPOCH)
    assert isinstance(answer, bytearray)
    assert struct.unpack_from("!H", answer, 30) == (443,)
