"""What the engine tells a fast path of SYNs: what may be offered, and of which connections there is a flow."""

from collections import Counter

import pytest
from engine_kinds import alone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lives import KINDS, STATES, life_of
from openings import PLAIN_HANDSHAKE, PLAIN_HELLO, PLAIN_SPLICED
from script import CONFIG, EPOCH, SECRET, Conversation, config
from successors import Life

from kracauer.config import Config, parse_config
from kracauer.engine import Engine
from kracauer.engine.context import PROFILE_LIFETIME_S
from kracauer.fast_path import NoFastPath, Promises
from kracauer.offload.memory import MemoryPath
from kracauer.tcp.record import Records

pytestmark = alone
SERVICE = bytes((198, 51, 100, 1))
OTHER = bytes((198, 51, 100, 2))
KEY = bytes((192, 0, 2, 7, *SERVICE)) + (40000).to_bytes(2, "big") + (443).to_bytes(2, "big")
LESSER = (
    PLAIN_HANDSHAKE
    + PLAIN_HELLO
    + """
    0.03  B> SA b    ack=c+1 win=65535 mss=1300 sackOK ws=5
          B< PA c+1  ack=b+1 win=* data=hello
"""
)


class ListeningPath(MemoryPath):
    """Keeps what it is told of SYNs, and answers none."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Promises] = []
        self.flows: Counter[bytes] = Counter()

    def promise(self, promises: Promises) -> None:
        self.told.append(promises)

    def note_flow(self, key: bytes) -> None:
        self.flows[key] += 1

    def forget_flow(self, key: bytes) -> None:
        self.flows[key] -= 1
        assert self.flows[key] >= 0
        if not self.flows[key]:
            del self.flows[key]

    @property
    def latest(self) -> Promises:
        return self.told[-1]


def talk_to(path: ListeningPath, settings: Config | None = None, records: Records | None = None) -> Conversation:
    """A conversation with an engine that has this fast path."""
    settings = config() if settings is None else settings
    return Conversation(engine=Engine(settings, secret=SECRET, now=EPOCH, fast_path=path, records=records))


def test_at_first_everybody_is_offered_what_the_configuration_says() -> None:
    path = ListeningPath()
    talk_to(path)
    told = path.latest
    assert (told.secret, set(told.service_addresses)) == (SECRET, {SERVICE})
    assert set(told.listeners) == {(SERVICE, 443), (SERVICE, 80)}
    offer, cut_mss = told.listeners[SERVICE, 443]
    assert (offer.mss, offer.window_scale, offer.sack, offer.timestamps, cut_mss) == (1440, 7, True, True, 1220)


def test_what_a_backend_shows_is_told_and_so_is_that_it_has_aged_though_no_syn_comes() -> None:
    path = ListeningPath()
    talk = talk_to(path).play(LESSER)
    first, learnt = path.told[0].listeners[SERVICE, 443], path.latest.listeners[SERVICE, 443]
    assert (learnt.offer.mss, learnt.offer.window_scale) == (1300, 7)
    talk.engine.age(talk.now + PROFILE_LIFETIME_S - 1)
    assert path.latest.listeners[SERVICE, 443] == learnt
    talk.engine.age(talk.now + PROFILE_LIFETIME_S + 1)
    assert path.latest.listeners[SERVICE, 443] == first


def test_what_does_not_change_is_not_told_again() -> None:
    path = ListeningPath()
    talk = talk_to(path).play(PLAIN_SPLICED)
    count = len(path.told)
    for second in range(10):
        talk.engine.age(talk.now + second)
    assert len(path.told) == count


def test_who_is_not_open_to_everybody_is_not_among_them() -> None:
    guarded = CONFIG.replace("port = 80\n", 'port = 80\ndeny = ["203.0.113.0/24"]\n')
    path = ListeningPath()
    talk = talk_to(path, parse_config(guarded))
    assert set(path.latest.listeners) == {(SERVICE, 443)}
    talk.engine.reconfigure(config(), talk.now)
    assert set(path.latest.listeners) == {(SERVICE, 443), (SERVICE, 80)}
    talk.engine.reconfigure(parse_config('access.allow = ["192.0.2.0/24"]\n' + CONFIG), talk.now)
    assert path.latest.listeners == {}


def test_an_address_that_still_has_flows_stays_one_that_no_packet_may_come_from() -> None:
    path = ListeningPath()
    talk = talk_to(path).play(PLAIN_SPLICED)
    talk.engine.reconfigure(parse_config(CONFIG.replace("198.51.100.1", "198.51.100.2")), talk.now)
    assert set(path.latest.service_addresses) == {SERVICE, OTHER}
    assert {address for address, _ in path.latest.listeners} == {OTHER}


def test_a_flow_is_known_from_its_first_ack_to_its_end() -> None:
    path = ListeningPath()
    talk = talk_to(path).play(PLAIN_HANDSHAKE)
    assert path.flows == {KEY: 1}
    talk.play(PLAIN_HELLO)
    assert path.flows == {KEY: 1}
    talk.engine.abort(talk.now)
    assert path.flows == {}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_that_is_taken_up_is_known_in_whatever_state(kind: str, state: str) -> None:
    life: Life = life_of(kind, state)
    path = ListeningPath()
    talk = talk_to(path, records=Records([bytearray(page) for page in life.pages]))
    talk.now = life.talk.now
    talk.engine.adopt(talk.now)
    assert path.flows == {KEY: 1} == Counter(flow.client_key for flow in talk.engine.flows)
    talk.fire(talk.now - talk.start + 30_000)
    assert path.flows == {}


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(["SYN", "ACK", "hello", "SYN-ACK", "RST", "wait", "reset"]), max_size=25))
def test_the_flows_that_are_known_are_those_of_the_table(steps: list[str]) -> None:
    path = ListeningPath()
    talk = talk_to(path)
    symbols = {"c": 1000, "s": 1, "b": 5}
    talk.symbols |= symbols
    for step in steps:
        match step:
            case "SYN":
                answers = talk.exchange(talk.bytes_of("C> S c win=64240 mss=1460"))
                if answers and answers[0][10] >> 4 == 4:
                    talk.symbols["s"] = int.from_bytes(answers[0][34:38], "big")
            case "ACK":
                talk.exchange(talk.bytes_of("C> A c+1 ack=s+1"))
            case "hello":
                talk.exchange(talk.bytes_of("C> PA c+1 ack=s+1 data=hello"))
            case "SYN-ACK":
                talk.exchange(talk.bytes_of("B> SA b ack=c+1 mss=1440"))
            case "RST":
                talk.exchange(talk.bytes_of("C> R c+1"))
            case "reset":
                talk.exchange(talk.bytes_of("B> RA 0 ack=c+1"))
            case "wait":
                talk.fire(talk.now - talk.start + 300)
        assert path.flows == Counter(flow.client_key for flow in talk.engine.flows)


def test_without_a_fast_path_what_was_learnt_ages_with_syns_alone() -> None:
    """Nothing is done each second for what is not there."""
    engine = Engine(config(), secret=SECRET, now=EPOCH, fast_path=NoFastPath())
    talk = Conversation(engine=engine).play(LESSER)
    learnt = [backend.profile for backend in engine.backends()]
    engine.age(talk.now + PROFILE_LIFETIME_S + 1)
    assert [backend.profile for backend in engine.backends()] == learnt
    talk.now += PROFILE_LIFETIME_S + 1
    talk.exchange(talk.bytes_of("C> S c+77777 win=64240 mss=1460"))
    assert [backend.profile for backend in engine.backends()] != learnt
