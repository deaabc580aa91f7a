"""Spliced flows outlive the process: whatever dies, another engine goes on where the records say that it stood.

What does not survive, and need not: what was learnt of backends and paths (it is learnt anew), rate limits and guesses already
spent, fragments on their way to be put together, which of the finished flows ended first, how long the segments of a connection
that is no more have been coming, and connections that are not spliced yet: their clients repeat themselves.
"""

import itertools
import random
import struct
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from endpoints import LINK_S, USUAL, Close, End, Fate, Network, Stack
from hellos import bulk, client_hello
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from lives import KINDS, STATES, Step, life_of, steps
from openings import PLAIN_BACKEND, PLAIN_HANDSHAKE, PLAIN_HELLO, PLAIN_SPLICED, RELIEVED, SPLICED
from packets import Packet, parse
from raw_packets import cut_v4
from script import EPOCH, Conversation, backend_side, client_side
from successors import Life, comparable, fire, first_life, next_life, take_events, take_over

import kracauer
from kracauer.config import parse_config
from kracauer.tcp.record import PAGE_BYTES, PAGE_RECORDS, RECORD_BYTES, Constants, Fields, get_constants, write_constants

SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck))
PACKAGE = kracauer.__path__[0]
FINAL_S = 30_000.0  # after which no flow is left, whatever it was


def go_on(talk: Conversation, step: Step) -> tuple[list[Any], list[Any]]:
    """What the engine sends and tells."""
    if isinstance(step, float):
        return fire(talk, talk.now + step), take_events(talk)
    return [comparable(data) for vnet, packet in step for data in talk.exchange(packet, vnet)], take_events(talk)


def shown(life: Life, sent: list[bytes]) -> list[str]:
    return [" ".join(life.talk.render(parse(data)).split()) for data in sent]


def exchange(life: Life, line: str) -> list[str]:
    """What comes of a script's line that goes in, as lines that come out."""
    return shown(life, life.talk.exchange(life.talk.bytes_of(line)))


def events_named(life: Life, name: str) -> list[dict[str, object]]:
    return [fields for event, fields in take_events(life.talk) if event == name]


@settings(SLOW, max_examples=150)
@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)), state=st.sampled_from(sorted(STATES)))
def test_who_comes_after_does_what_would_have_been_done(data: st.DataObject, kind: str, state: str) -> None:
    """Packet for packet and event for event, whatever comes, and however often the one that does it dies.

    But for one thing: a flow that was being asked whether it is still there is asked again, and has its time again to answer.
    """
    life = life_of(kind, state)
    heir, has_asked = succeed(life)
    for step in data.draw(steps(life.talk)):
        if has_asked and isinstance(step, float):
            continue
        assert go_on(life.talk, step) == go_on(heir.talk, step)
        if len(heir.talk.engine.flows) and data.draw(st.booleans()):
            heir, asks = succeed(heir)
            has_asked |= asks
    assert life.state() == heir.state()
    assert has_asked or go_on(life.talk, FINAL_S) == go_on(heir.talk, FINAL_S)
    fire(heir.talk, heir.talk.now + FINAL_S)
    assert heir.places == 0


def succeed(life: Life) -> tuple[Life, bool]:
    """Who comes after `life`, and whether the first thing that it does is to ask both sides of its flow."""
    heir = next_life(life)
    assert (heir.adopted, heir.discarded) == (1, 0)
    asked = turns_to(heir, 0.0)
    is_probing = heir.state() == "probing"
    assert [version for version, _ in itertools.groupby(asked, key=lambda packet: packet.version)] == [6, 4] * is_probing
    assert all(packet.is_ack for packet in asked)
    return heir, is_probing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", STATES)
def test_what_a_flow_was_is_told_when_it_ends(state: str, kind: str) -> None:
    """Its name, its backend, its age, and all that it has carried, however often it has changed hands."""
    life = life_of(kind, state)
    heir = next_life(next_life(life))
    fire(life.talk, life.talk.now + FINAL_S)
    fire(heir.talk, heir.talk.now + FINAL_S)
    (told,) = events_named(heir, "flow_closed")
    assert told["hostname"] == "www.example.com"
    (expected,) = events_named(life, "flow_closed")
    if state.startswith("probing"):
        # It has been asked once more, and waited for.
        expected["duration_s"] = told["duration_s"]
    assert told == expected


def test_nothing_is_told_of_a_flow_that_goes_on() -> None:
    heir = next_life(life_of("plain", "established"))
    assert take_events(heir.talk) == []


def test_a_first_engine_adopts_nothing() -> None:
    heir = next_life(first_life())
    assert (heir.adopted, heir.discarded, heir.talk.engine.next_deadline()) == (0, 0, None)


def test_a_flow_that_has_ended_leaves_nothing_to_adopt() -> None:
    life = life_of("plain", "both_fin")
    fire(life.talk, life.talk.now + 241)
    heir = next_life(life)
    assert (heir.adopted, heir.discarded, life.places) == (0, 0, 0)


def test_an_adopted_flow_gives_its_record_back() -> None:
    """A thousand flows one after the other take one place, each of them ended by another engine than it was begun by."""
    life = first_life()
    for _ in range(20):
        life.play(PLAIN_SPLICED)
        life.talk.exchange(life.talk.bytes_of("C> R c+1"))
        life = next_life(life)
        fire(life.talk, life.talk.now + 241)
        assert len(life.talk.engine.flows) == 0
        life.talk = Conversation(engine=life.talk.engine, now=life.talk.now)
    assert (len(life.pages), life.places) == (1, 0)
    assert not any(life.pages[0][RECORD_BYTES:])


def test_a_backends_segment_may_be_the_first() -> None:
    heir = next_life(life_of("plain", "established"))
    heir.play("1.0 B> PA b+301 ack=c+1+H data=bulk(100) \n C< PA s+301 ack=c+1+H data=bulk(100)")


# Flows that the process dies on while they are being written.


def history(life: Life, act: Callable[[], object]) -> list[bytes]:
    """What the first few records were at every line of the package that ran during `act`, each content once in a row."""
    size = 4 * RECORD_BYTES
    seen: list[bytes] = []

    def note() -> None:
        content = bytes(life.pages[0][:size]) if life.pages else bytes(size)
        if not seen or seen[-1] != content:
            seen.append(content)

    def trace(frame: FrameType, _event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        note()
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(former)
    note()
    return seen


def torn(contents: list[bytes]) -> Iterator[bytearray]:
    """A page as it stood at any moment of that history, the single writes begun and not ended among them."""
    for before, after in itertools.pairwise(contents):
        page = bytearray(before) + bytes(PAGE_BYTES - len(before))
        for at in range(len(before)):
            if before[at] != after[at]:
                yield page
                page[at] = after[at]
    yield bytearray(contents[-1]) + bytes(PAGE_BYTES - len(contents[-1]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_used", [False, True], ids=["unused", "used before"])
def test_a_flow_that_is_half_written_is_none(kind: str, is_used: bool) -> None:
    """At any moment of its first three hundredths of a second there is either no flow or the whole of it."""
    life = first_life()
    if is_used:
        other = Conversation(engine=life.talk.engine, sides={"C": client_side(port=9), "B": backend_side(client_port=9)})
        other.play(SPLICED).play("0.03 C> R c+1 \n B< R c+1")
        fire(other, EPOCH + 250)
        assert life.places == 0
        life.talk.now = life.talk.start = other.now
    contents = history(life, lambda: life.play(KINDS[kind]))
    life.talk.now += 0.01
    is_there = []
    following = [life.talk.bytes_of("C> PA c+1+H ack=s+1 data=hello"), life.talk.bytes_of("B> PA b+1 ack=c+1+H data=hello")]
    expected = [go_on(next_life(life).talk, [(bytes(10), packet)]) for packet in following]
    for page in torn(contents):
        heir = next_life(life, pages=[page])
        assert (heir.adopted, heir.discarded) in ((0, 0), (1, 0), (0, 1))
        assert heir.places == heir.adopted
        is_there.append(heir.adopted)
        if heir.adopted:
            assert fire(heir.talk, heir.talk.now + 0.01) == []
            assert [go_on(next_life(life, pages=[page]).talk, [(bytes(10), packet)]) for packet in following] == expected
    assert len(is_there) > 20
    assert is_there == sorted(is_there), "there, then not"
    assert is_there[-1] == 1


def age(life: Life, seconds: float) -> None:
    """Have a flow be silent for so long that a moment ago is long ago."""
    life.talk.fire(life.talk.now + seconds - life.talk.start)
    life.talk.take_sent()


TURNS = {
    "client's FIN": ("established", "C> FA c+1+H ack=s+301"),
    "backend's FIN": ("established", "B> FA b+301 ack=c+1+H"),
    "client's FIN after the backend's": ("backend_fin", "C> FA c+1+H ack=s+302"),
    "backend's FIN after the client's": ("client_fin", "B> FA b+301 ack=c+2+H"),
    "client's RST": ("established", "C> R c+1+H"),
    "backend's RST": ("established", "B> R b+301"),
    "proof that a RST was forged": ("transitory", "C> A c+1+H ack=s+301"),
    "first answer to a probe": ("probing", "B> A b+301 ack=c+1+H"),
    "second answer to a probe": ("probing, half answered", "B> A b+301 ack=c+1+H"),
}


@pytest.mark.parametrize("turn", TURNS)
def test_a_flow_that_is_killed_while_it_changes_state_is_in_one_or_the_other(turn: str) -> None:
    """And has that state's time before it, though the flow is old."""
    state, line = TURNS[turn]
    life = life_of("plain", state)
    before = life.state()
    age(life, 200 if state.startswith(("probing", "transitory")) else 7000)
    contents = history(life, lambda: life.talk.exchange(life.talk.bytes_of(line)))
    for page in torn(contents):
        heir = next_life(life, pages=[page])
        assert (heir.adopted, heir.discarded) == (1, 0)
        assert heir.state() in (before, life.state())
        assert not any(packet.is_rst for packet in turns_to(heir, 10))
        assert len(heir.talk.engine.flows) == 1


def turns_to(life: Life, seconds: float) -> list[Packet]:
    """What the timers send in the next `seconds`."""
    return [packet for _, packet in timed_turns_to(life, seconds)]


def timed_turns_to(life: Life, seconds: float) -> list[tuple[float, Packet]]:
    talk, until = life.talk, life.talk.now + seconds
    sent = []
    while (deadline := talk.engine.next_deadline()) is not None and deadline <= until:
        talk.now = max(talk.now, deadline)
        sent += [(talk.now, parse(bytes(data))) for data in talk.engine.handle_timer(talk.now)]
    talk.now = until
    return sent


def asks_before_it_gives_up(life: Life) -> bool:
    """Whether both sides hear an ACK of each other some time before they hear a RST."""
    sent = timed_turns_to(life, 7440 + 500)
    ends_at = min((at for at, packet in sent if packet.is_rst), default=0.0)
    return {packet.version for at, packet in sent if packet.is_ack and at <= ends_at - 30} == {4, 6}


@pytest.mark.parametrize("after_s", [2, 230, 239.9, 241, 600, 100_000])
@pytest.mark.parametrize("state", ["probing", "probing, half answered"])
def test_an_idle_flow_is_asked_by_whoever_gives_it_up(state: str, after_s: float) -> None:
    """The answers to a dead engine's probe have been lost with it, and nobody repeats them."""
    assert asks_before_it_gives_up(next_life(life_of("plain", state), after_s=after_s))


def test_an_idle_flow_whose_probe_was_never_sent_is_asked() -> None:
    """Its engine died while it wrote down that it was going to."""
    life = life_of("plain", "established")
    life.talk.fire(7439)
    contents = history(life, lambda: life.talk.fire(7440.2))
    assert life.state() == "probing"
    assert all(asks_before_it_gives_up(next_life(life, pages=[page])) for page in torn(contents))


NEW_SIZES = "[network]\nipv6_mtu = 1400"


@pytest.mark.parametrize("settings", ["", NEW_SIZES], ids=["same sizes", "other sizes"])
@pytest.mark.parametrize("kind", ["plain", "made-up timestamps"])
def test_a_flow_survives_an_engine_that_is_killed_while_it_adopts_it(kind: str, settings: str) -> None:
    life = life_of(kind, "established")
    life.talk.now += 1
    for page in torn(history(life, lambda: take_over(life, settings))):
        assert next_life(life, settings, pages=[page]).adopted == 1


# Records that no flow of ours has left.


class Place(Fields):
    """The first record of a page."""

    at = 0

    def __init__(self, page: bytearray) -> None:
        self.memory = page


def altered(life: Life, **fields: Any) -> bytearray:
    """The page of `life` with other values in its first record, its checksum made to fit."""
    page = bytearray(life.pages[0])
    constants = {name: value for name, value in fields.items() if name in Constants._fields}
    write_constants(page, 0, get_constants(page, 0)._replace(**constants))
    for name in fields.keys() - constants.keys():
        setattr(Place(page), name, fields[name])
    return page


def is_discarded(life: Life, page: bytearray) -> bool:
    """Whether nothing at all comes of the one record in `page`."""
    heir = next_life(life, pages=[page])
    assert heir.adopted + heir.discarded == 1
    assert heir.places == heir.adopted
    assert heir.discarded == (not len(heir.talk.engine.flows)) == (heir.talk.engine.next_deadline() is None)
    assert go_on(heir.talk, FINAL_S)[0] == [] or heir.adopted
    return bool(heir.discarded)


@given(st.integers(0, 2**32), st.sampled_from((0, 1, 3, 255)))
@settings(SLOW, max_examples=20)
def test_a_page_of_garbage_is_erased(seed: int, mask: int) -> None:
    """And counted: 4,096 records at most, less those that happen to be free."""
    page = bytearray(random.Random(seed).randbytes(PAGE_BYTES))
    page[::RECORD_BYTES] = bytes(state & mask for state in page[::RECORD_BYTES])
    expected = sum(map(bool, page[::RECORD_BYTES]))
    heir = next_life(first_life(), pages=[page])
    assert (heir.adopted, heir.discarded, heir.places) == (0, expected, 0)
    assert take_events(heir.talk) == []
    assert heir.play(PLAIN_SPLICED).places == 1


@pytest.mark.parametrize("at", [*range(64, 82, 3), *range(88, 250, 3)])
def test_a_record_with_one_bit_wrong_is_none(at: int) -> None:
    life = life_of("plain", "established")
    page = bytearray(life.pages[0])
    page[at] ^= 0x10
    assert is_discarded(life, page)


@pytest.mark.parametrize("state", [7, 8, 0x7F, 0xFF])
def test_a_record_in_a_state_that_there_is_not_is_none(state: int) -> None:
    life = life_of("plain", "established")
    assert is_discarded(life, altered(life, state=state))


CLIENT, MAPPED = client_side().src, backend_side().dst
PREFIX, BACKEND = MAPPED[:12], backend_side().src
IMPLAUSIBLE: dict[str, dict[str, Any]] = {
    "another prefix": {"v6_addresses": bytes.fromhex("20010db80047000000000000") + CLIENT + BACKEND},
    "another client in the prefix": {"v6_addresses": PREFIX + bytes((192, 0, 2, 8)) + BACKEND},
    "a backend in the prefix": {"v6_addresses": MAPPED + PREFIX + bytes((192, 0, 2, 9))},
    "a multicast backend": {"v6_addresses": MAPPED + bytes.fromhex("ff02") + bytes(13) + b"\x01"},
    "a link-local backend": {"v6_addresses": MAPPED + bytes.fromhex("fe80") + bytes(13) + b"\x01"},
    "the loopback backend": {"v6_addresses": MAPPED + bytes(15) + b"\x01"},
    "no backend": {"v6_addresses": MAPPED + bytes(16)},
    "no client's port": {"client_port": 0},
    "no service port": {"service_port": 0},
    "no backend's port": {"backend_port": 0},
    "made in the future": {"created": EPOCH + 9000},
    "seen in the future": {"last_seen": EPOCH + 9000},
    "changed in the future": {"state_since": EPOCH + 9000},
    "seen at no time": {"last_seen": float("nan")},
    "changed at no time": {"state_since": float("nan")},
    "made at no time": {"created": float("nan")},
    "seen never": {"last_seen": float("inf")},
    "seen before all time": {"last_seen": float("-inf")},
}
for illegal in ((0, 0, 0, 0), (127, 0, 0, 1), (169, 254, 1, 1), (224, 0, 0, 1), (255, 255, 255, 255)):
    four = bytes(illegal)
    IMPLAUSIBLE[f"the client {'.'.join(map(str, illegal))}"] = {
        "v4_addresses": client_side().dst + four,
        "v6_addresses": PREFIX + four + BACKEND,
    }


@pytest.mark.parametrize("fields", IMPLAUSIBLE.values(), ids=IMPLAUSIBLE)
def test_what_cannot_be_a_flow_is_none(fields: dict[str, Any]) -> None:
    life = life_of("plain", "established")
    assert not is_discarded(life, altered(life))
    assert is_discarded(life, altered(life, **fields))


@pytest.mark.parametrize(
    ("state", "field"), [("established", "last_seen"), ("transitory", "state_since"), ("probing", "state_since")]
)
@pytest.mark.parametrize("moment", [-1e9, -1e300, -1.7e308])
def test_a_time_before_all_times_raises_nothing(moment: float, state: str, field: str) -> None:
    life = life_of("plain", state)
    heir = next_life(life, pages=[altered(life, **{field: moment})])
    fire(heir.talk, heir.talk.now + FINAL_S)
    assert heir.places == 0


@given(st.data())
@settings(SLOW, max_examples=150)
def test_whatever_the_bytes_that_no_checksum_covers_nothing_raises(data: st.DataObject) -> None:
    life = life_of(data.draw(st.sampled_from(sorted(KINDS))), "established")
    page = bytearray(life.pages[0])
    for at in (*range(4), *range(16, 36), *range(44, 64), *range(250, 256)):
        page[at] = data.draw(st.integers(0, 255))
    for at in (8, 36):
        struct.pack_into("=d", page, at, data.draw(st.floats(-1e300, 1e300) | st.floats(EPOCH - 9000, EPOCH + 1)))
    heir = next_life(life, pages=[page])
    assert heir.adopted + heir.discarded == bool(page[0])
    for step in data.draw(steps(heir.talk)):
        go_on(heir.talk, step)
    fire(heir.talk, heir.talk.now + FINAL_S)
    assert heir.places == len(heir.talk.engine.flows) == 0


def test_a_record_that_is_there_twice_is_one_flow() -> None:
    life = life_of("plain", "established")
    page = bytearray(life.pages[0])
    page[7 * RECORD_BYTES : 8 * RECORD_BYTES] = page[:RECORD_BYTES]
    heir = next_life(life, pages=[page, page])
    assert (heir.adopted, heir.discarded, heir.places) == (1, 3, 1)
    heir.play("1.0 C> PA c+1+H ack=s+301 data=hello \n B< PA c+1+H ack=b+301 data=hello")


@pytest.mark.parametrize(
    "fields",
    [{"v6_addresses": MAPPED + BACKEND[:15] + b"\x03"}, {"service_port": 80}],
    ids=["two backends of one client's port", "two clients of one backend's port"],
)
def test_of_two_flows_that_packets_cannot_tell_apart_there_is_one(fields: dict[str, Any]) -> None:
    life = life_of("plain", "established")
    heir = next_life(life, pages=[bytearray(life.pages[0]), altered(life, **fields)])
    assert (heir.adopted, heir.discarded, heir.places) == (1, 1, 1)
    assert len(heir.talk.engine.flows.by_backend) == len(heir.talk.engine.flows.by_client) == 1


def test_places_of_what_was_discarded_are_used_again() -> None:
    life = life_of("plain", "established")
    heir = next_life(life, pages=[altered(life, state=99)])
    heir.talk.now = heir.talk.start
    heir.play(PLAIN_SPLICED)
    assert (heir.pages[0][0], len(heir.pages)) == (1, 1)


# Handshakes that one engine begins and another one ends.

SYN = "0.00 C> S c win=64240 mss=1460 sackOK ts=500:0 ws=7 \n C< SA s ack=c+1 win=65535 mss=1440 sackOK ts=t:500 ws=7"
REST = """
    1.01  C> A  c+1  ack=s+1 ts=501:t
    1.02  C> PA c+1  ack=s+1 ts=502:t data=hello
          B< S  c    win=65535 mss=1440 sackOK ts=502:0 ws=7
    1.03  B> SA b    ack=c+1 win=64800 mss=1440 sackOK ts=9000:502 ws=7
          B< PA c+1  ack=b+1 ts=502:9000 data=hello
          !! flow_spliced hostname=www.example.com
    1.04  B> PA b+1  ack=c+1+H ts=9001:502 data=bulk(100)
          C< PA s+1  ack=c+1+H ts=t+1:502 data=bulk(100)
"""


def test_a_syn_that_the_dead_one_has_answered_leads_to_the_next_one() -> None:
    next_life(first_life().play(SYN)).play(REST)


@pytest.mark.parametrize("kind", ["larger scale", "no scale"])
def test_a_syn_is_good_though_what_its_answer_went_by_is_forgotten(kind: str) -> None:
    """The dead one had learnt how its backend scales, and the next one has yet to."""
    other = {"C": client_side(port=9), "B": backend_side(client_port=9)}
    life = first_life()
    Conversation(engine=life.talk.engine, sides=other).play(KINDS[kind])
    scale = "ws=9" if kind == "larger scale" else ""
    life.play(f"0.10 C> S c win=64240 mss=1460 sackOK ws=7 \n C< SA s ack=c+1 win=65535 mss=1440 sackOK {scale}")
    heir = next_life(life)
    heir.play(f"""
    0.20  C> PA c+1   ack=s+1 data=hello
          B< S  c     win=* mss=1440 sackOK {"ws=7" if scale else ""}
    0.21  B> SA b     ack=c+1 win=65535 mss=1440 sackOK {scale}
          B< PA c+1   ack=b+1 win=* data=hello
          !! flow_spliced
    0.30  B> A  b+1   ack=c+1+H win=700
          C< A  s+1   ack=c+1+H win=700
    """)


def test_a_cookie_is_no_better_for_having_outlived_its_baker() -> None:
    heir = next_life(first_life().play(SYN), after_s=181)
    assert exchange(heir, "C> PA c+1 ack=s+1 ts=502:t data=hello") == []
    assert [fields["reason"] for fields in events_named(heir, "packet_dropped")] == ["bad_cookie"]


def test_a_hello_that_was_held_is_said_again() -> None:
    """Its client was told of none of it."""
    life = first_life().play(PLAIN_HANDSHAKE).play("0.02 C> A c+1 ack=s+1 data=hello[:50]")
    assert next_life(life, after_s=1).adopted == 0
    heir = next_life(life, after_s=1).play("""
    1.10  C> A  c+1  ack=s+1 data=hello[:50]
          C> PA c+51 ack=s+1 data=hello[50:]
          B< S  c    win=65535 mss=1440 sackOK ws=7
    """)
    heir.play(PLAIN_BACKEND.replace("0.03", "1.11"))


def test_a_dial_that_was_under_way_is_done_again() -> None:
    """With the client's own number, so that to its backend it is a repeated SYN, and the answer the same one again."""
    life = first_life().play(PLAIN_HANDSHAKE + PLAIN_HELLO)
    next_life(life).play(PLAIN_HELLO.replace("0.02", "1.02") + PLAIN_BACKEND.replace("0.03", "1.03"))


def test_a_backend_that_answers_nobody_may_be_dialled_again() -> None:
    """Its answer to the dead one comes before the client repeats itself: it is left alone, and asked anew."""
    life = first_life().play(PLAIN_HANDSHAKE + PLAIN_HELLO)
    heir = next_life(life)
    heir.play("1.00 B> SA b ack=c+1 win=65535 mss=1440 sackOK ws=7 \n !! drop no_flow")
    heir.play("1.02 --" + PLAIN_HELLO.replace("0.02", "1.02") + PLAIN_BACKEND.replace("0.03", "1.03"))


def test_a_backend_whose_client_never_comes_back_is_told_in_the_end() -> None:
    life = first_life().play(PLAIN_HANDSHAKE + PLAIN_HELLO)
    next_life(life).play("70.00 B> SA b ack=c+1 win=65535 mss=1440 sackOK ws=7 \n B< R c+1 \n !! drop no_flow")


def test_a_hello_that_was_lost_with_the_one_who_had_just_spliced_is_sent_again() -> None:
    """The backend has not heard the end of its handshake, nor anything else: it repeats itself, and so does the client."""
    heir = next_life(first_life().play(PLAIN_SPLICED))
    assert heir.adopted == 1
    heir.play("""
    1.03  B> SA b    ack=c+1 win=65535 mss=1440 sackOK ws=7
          B< A  c+1  ack=b+1
    1.20  C> PA c+1  ack=s+1 data=hello
          B< PA c+1  ack=b+1 data=hello
    1.21  B> PA b+1  ack=c+1+H data=bulk(50)
          C< PA s+1  ack=c+1+H data=bulk(50)
    """)


# A client that begins anew from the same port while engines come and go.

NEW_SYN = "{} C> S n win=64240 mss=1460 sackOK ws=7 \n C< SA m ack=n+1 win=65535 mss=1440 sackOK ws=7"


@pytest.mark.parametrize("kind", ["plain", "timestamps"])
@pytest.mark.parametrize("state", ["established", "both_fin", "transitory"])
def test_a_new_connection_replaces_the_flow_that_was_adopted(state: str, kind: str) -> None:
    life = life_of(kind, state)
    life.talk.symbols["n"] = 0x7000_0000
    heir = next_life(life.play(NEW_SYN.format("1.00")))
    assert heir.adopted == 1
    heir.talk.exchange(heir.talk.bytes_of("C> A n+1 ack=m+1"))
    assert [fields["reason"] for fields in events_named(heir, "flow_closed")] == ["replaced"]
    assert exchange(heir, "C> PA n+1 ack=m+1 data=hello") == ["B< S n win=65535 mss=1440 ws=7 sackOK"]
    assert heir.state() == "dialing"


def test_a_syn_to_the_next_one_works_as_ever() -> None:
    life = life_of("plain", "established")
    life.talk.symbols["n"] = 0x7000_0000
    heir = next_life(life).play(NEW_SYN.format("1.00"))
    heir.talk.exchange(heir.talk.bytes_of("C> A n+1 ack=m+1"))
    assert [fields["reason"] for fields in events_named(heir, "flow_closed")] == ["replaced"]


numbers = st.integers(0, 2**32 - 1)
any_segments = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30)


@given(any_segments, st.booleans())
@settings(SLOW, max_examples=60)
def test_no_segment_but_the_new_connections_own_is_taken_for_it(segments: list[tuple[int, int]], has_syn: bool) -> None:
    life = life_of("plain", "established")
    if has_syn:
        life.talk.symbols["n"] = 0x7000_0000
        life.play(NEW_SYN.format("1.00"))
    heir = next_life(life)
    for seq, ack in segments:
        assert len(exchange(heir, f"C> PA {seq} ack={ack} data=hello")) == 1
    assert take_events(heir.talk) == []
    heir.play("2.0 C> PA c+1+H ack=s+301 data=hello \n B< PA c+1+H ack=b+301 data=hello")


def test_a_hello_that_is_repeated_is_no_new_connection() -> None:
    """It bears the very cookie that its flow began with."""
    heir = next_life(first_life().play(PLAIN_SPLICED))
    heir.play("0.50 C> PA c+1 ack=s+1 data=hello \n B< PA c+1 ack=b+1 data=hello \n ?? flows=1 state=established")


def test_a_hello_that_was_long_on_its_way_is_no_new_connection() -> None:
    """Its flow has carried more than any window since."""
    life = (
        first_life()
        .play(PLAIN_SPLICED)
        .play("""
    0.10  B> A  b+1        ack=c+1+(1<<24)
          C< A  s+1        ack=c+1+(1<<24)
    0.20  B> A  b+1        ack=c+99+(1<<24)
          C< A  s+1        ack=c+99+(1<<24)
    """)
    )
    heir = next_life(life)
    heir.talk.exchange(heir.talk.bytes_of("C> PA c+1 ack=s+1 data=hello"))
    assert events_named(heir, "flow_closed") == []


# What is known to be lost.


def test_bytes_that_a_client_was_relieved_of_are_lost_and_both_sides_told() -> None:
    heir = next_life(first_life().play(RELIEVED))
    resets = [heir.talk.render(packet).split()[:2] for packet in turns_to(heir, 1)]
    assert resets == [["B<", "R"], ["C<", "R"]]
    assert [fields["reason"] for fields in events_named(heir, "flow_closed")] == ["undelivered"]
    assert heir.places == 0


@pytest.mark.parametrize("line", ["C> A c+1+H ack=s+1", "C> FA c+1+H ack=s+1", "B> FA b+1 ack=c+1", "C> R c+1"])
def test_nothing_that_comes_first_puts_that_off(line: str) -> None:
    heir = next_life(first_life().play(RELIEVED))
    sent = exchange(heir, line) + [heir.talk.render(packet) for packet in turns_to(heir, 1)]
    assert {line.split()[0] for line in sent if line.split()[1] == "R"} == {"B<", "C<"}
    assert [fields["reason"] for fields in events_named(heir, "flow_closed")] == ["undelivered"]
    assert heir.places == 0


def test_bytes_that_were_delivered_in_time_cost_nothing() -> None:
    life = first_life().play(RELIEVED).play("0.10 B> A b+1 ack=c+1+H \n C< A s+1 ack=c+1+H")
    heir = next_life(life).play("9.0 C> PA c+1+H ack=s+1 data=hello \n B< PA c+1+H ack=b+1 data=hello")
    assert heir.state() == "established"


def test_a_name_of_more_than_93_bytes_is_not_told_afterwards() -> None:
    """Else its flow is one like any."""
    name = f"{'x' * 63}.{'y' * 30}.example.com"
    life = first_life(f'"{name}" = "2001:db8:1::2"', hello=client_hello(name), H=len(client_hello(name)))
    life.play(PLAIN_SPLICED.replace("www.example.com", name))
    heir = next_life(life)
    heir.play("1.0 C> PA c+1+H ack=s+1 data=hello \n B< PA c+1+H ack=b+1 data=hello")
    fire(heir.talk, heir.talk.now + FINAL_S)
    (told,) = events_named(heir, "flow_closed")
    assert "hostname" not in told
    assert told["backend"] == "[2001:db8:1::2]:443"


# What the next engine goes by.


@pytest.mark.parametrize("kind", ["plain", "timestamps", "made-up timestamps"])
def test_the_next_ones_sizes_count(kind: str) -> None:
    heir = next_life(life_of(kind, "established"), NEW_SIZES)
    (sent,) = heir.talk.exchange_plain(heir.talk.bytes_of("C> A c+1+H ack=s+301 data=bulk(1341)"))
    assert (sent[20:22], sent[26:28]) == (b"\x03\x04", (1380).to_bytes(2, "big"))
    assert len(heir.talk.exchange(heir.talk.bytes_of("C> A c+1+H ack=s+301 data=bulk(1340)"))) == 1
    back = next_life(heir)
    assert exchange(back, "C> A c+1+H ack=s+301 data=bulk(1440)")[0].startswith("B< A c+77 ack=b+301 win=")


@pytest.mark.parametrize("kind", ["plain", "made-up timestamps"])
def test_the_next_ones_sizes_count_towards_the_client(kind: str) -> None:
    heir = next_life(life_of(kind, "established"), "[network]\nipv4_mtu = 1400")
    fits = 1400 - 40 - 12 * (kind != "plain")
    (sent,) = heir.talk.exchange_plain(heir.talk.bytes_of(f"B> A b+301 ack=c+1+H data=bulk({fits + 1})"))
    assert (sent[40], int.from_bytes(sent[44:48], "big")) == (2, 1420 - 12 * (kind != "plain"))
    assert len(heir.talk.exchange(heir.talk.bytes_of(f"B> A b+301 ack=c+1+H data=bulk({fits})"))) == 1


@pytest.mark.parametrize("after_s", [0.0, 3600.0, 7400.0, 7439.0, 7441.0, 100_000.0])
def test_time_that_nobody_was_there_counts_as_idle(after_s: float) -> None:
    heir = next_life(life_of("plain", "established"), after_s=after_s)
    due = max(EPOCH + 0.06 + 7440, heir.talk.now)
    if due > heir.talk.now:
        assert turns_to(heir, due - heir.talk.now - 0.001) == []
    assert [packet.version for packet in turns_to(heir, 0.06)] == [6, 4]
    assert heir.state() == "probing"


@pytest.mark.parametrize("state", ["both_fin", "transitory"])
def test_a_flow_that_has_ended_is_kept_no_longer_for_a_change_of_hands(state: str) -> None:
    life = life_of("plain", state)
    heir = next_life(life, after_s=100)
    turns_to(heir, 139.5)
    assert len(heir.talk.engine.flows) == 1
    turns_to(heir, 1)
    assert len(heir.talk.engine.flows) == 0
    gone = next_life(life, after_s=10_000)
    turns_to(gone, 0.1)
    assert (gone.adopted, len(gone.talk.engine.flows)) == (1, 0)


ELSEWHERE = parse_config("""
prefix = "2001:db8:46::/96"
probes.enabled = false
[[listen]]
address = "198.51.100.2"
port = 443
protocol = "tls"
[hosts]
"www.example.net" = "2001:db8:1::9"
""")


def test_a_flow_outlives_its_listener_its_name_and_its_backend() -> None:
    """The configuration that the next engine is given knows none of them."""
    heir = next_life(life_of("plain", "established"), ELSEWHERE)
    heir.play("1.0 C> PA c+1+H ack=s+301 data=hello \n B< PA c+1+H ack=b+301 data=hello")
    heir.play("1.1 B> PA b+301 ack=c+1+2*H data=hello \n C< PA s+301 ack=c+1+2*H data=hello")


def test_fragments_of_a_flow_that_has_outlived_its_listener_pass() -> None:
    heir = next_life(life_of("plain", "established"), ELSEWHERE)
    first, second = cut_v4(heir.talk.bytes_of("C> PA c+1+H ack=s+301 data=hello"), 32)
    assert heir.talk.exchange(first) == []
    assert len(heir.talk.exchange(second)) == 1


def crowd(count: int, settings: str = "") -> Life:
    """An engine with so many flows."""
    life = first_life(settings)
    for port in range(40_000, 40_000 + count):
        sides = {"C": client_side(port=port), "B": backend_side(client_port=port)}
        Conversation(engine=life.talk.engine, sides=sides).play(PLAIN_SPLICED)
    return life


def test_more_flows_than_there_may_be_are_adopted() -> None:
    """A smaller limit keeps new ones out until there is room again; it costs nobody what they have."""
    heir = next_life(crowd(20), "[limits]\nflows = 4")
    assert (heir.adopted, heir.places) == (20, 20)
    assert len(heir.talk.engine.flows) == 20
    newcomer = {"C": client_side(port=9, address="192.0.2.99"), "B": backend_side(client_port=9, client="192.0.2.99")}
    talk = Conversation(engine=heir.talk.engine, sides=newcomer)
    talk.play(PLAIN_HANDSHAKE + "!! drop table_full")
    fire(talk, EPOCH + FINAL_S)
    assert heir.places == 0
    Conversation(engine=heir.talk.engine, sides=newcomer, now=EPOCH + FINAL_S).play(PLAIN_SPLICED)


def test_thousands_of_flows_are_adopted() -> None:
    """More than one page of them; each still carries its own numbers."""
    life = life_of("plain", "established")
    count, pages = 5000, [bytearray(PAGE_BYTES), bytearray(PAGE_BYTES)]
    for number in range(count):
        page, at = pages[number // PAGE_RECORDS], number % PAGE_RECORDS * RECORD_BYTES
        page[at : at + RECORD_BYTES] = life.pages[0][:RECORD_BYTES]
        write_constants(page, at, get_constants(page, at)._replace(client_port=1024 + number, seq_delta=number))
    heir = next_life(life, pages=pages)
    assert (heir.adopted, heir.discarded, heir.places) == (count, 0, count)
    for number in range(0, count, 97):
        heir.talk.sides |= {"C": client_side(port=1024 + number), "B": backend_side(client_port=1024 + number)}
        assert exchange(heir, f"C> A c+1+H ack=b+{number}") == ["B< A c+77 ack=b win=1000"]
        assert exchange(heir, "B> A b ack=c+1+H") == [f"C< A b+{number} ack=c+77 win=1000".replace("b+0 ", "b ")]


# Whole connections on a faulty network, whose translator dies at any moments.


class Interrupted(Network):
    """A network in which nothing reaches an engine for a while."""

    is_down = False

    def _arrive(self, packet: Packet, *, to_engine: bool) -> None:
        if not (to_engine and self.is_down):
            super()._arrive(packet, to_engine=to_engine)


REQUEST = client_hello("www.example.com", 500) + bulk(4000)
RESPONSE = bulk(30_000)
faults = st.lists(st.sampled_from((USUAL, USUAL, USUAL, (), (LINK_S, LINK_S), (LINK_S, 0.7), (0.35,))), max_size=30)
deaths = st.lists(st.tuples(st.integers(0, 60).map(lambda step: step * 0.005) | st.floats(0, 3), st.floats(0, 3)), max_size=4)


# A backend's answer to a SYN of the first life comes in the second, and what is said to that arrives late.
DOUBLED, LOST = (LINK_S, LINK_S), ()
LATE_ANSWER = [DOUBLED, DOUBLED, USUAL, USUAL, LOST, LOST, *6 * (USUAL,), LOST, (LINK_S, 0.7), USUAL, (0.35,), (0.35,)]


@given(fates=faults, deaths=deaths, stack=st.sampled_from((Stack(), Stack(timestamps=False), Stack(window_scale=2))))
@example(fates=LATE_ANSWER, deaths=[(1.5, 0.0)], stack=Stack())
@settings(SLOW, max_examples=150)
def test_no_connection_is_lost_however_often_the_engine_is_killed(
    fates: list[Fate], deaths: list[tuple[float, float]], stack: Stack
) -> None:
    """Both ends finally hold the same bytes, of one connection, and both are forgotten."""
    client = End(client_side(), 0xFFFF_FA00, REQUEST, Stack(burst=3), Close.AFTER_PEER, is_client=True)
    backend = End(backend_side(), 0x7000_0000, RESPONSE, stack, Close.AT_ONCE, is_client=False, awaits=500)
    life = first_life()
    network = Interrupted(life.talk.engine, [client, backend], fates, EPOCH)
    for lifetime_s, downtime_s in deaths:
        network.run(lifetime_s)
        life.talk.now = max(network.now, life.talk.now)
        # What a client has been relieved of before there was a backend dies with the engine, and its connection with it.
        assume(not any(flow.handshake and flow.handshake.is_relieved for flow in life.talk.engine.flows))
        network.is_down, network.engine = True, next_life(first_life()).talk.engine
        network.run(downtime_s)
        life = next_life(life, after_s=downtime_s)
        network.is_down, network.engine, network.now = False, life.talk.engine, max(network.now, life.talk.now)
        assert life.discarded == 0
    network.run(200)
    said = "\n".join(network.log)
    assert not any((client.complaints, backend.complaints, client.is_reset, backend.is_reset, network.strangers)), said
    assert (bytes(backend.received), bytes(client.received)) == (REQUEST, RESPONSE), said
    assert (client.is_done, backend.is_done, backend.connections) == (True, True, 1), said
    network.drain_timers()
    assert life.places == len(network.engine.flows) == 0, said
