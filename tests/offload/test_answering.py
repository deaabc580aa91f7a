"""Every fast path answers SYNs as the gate does, byte for byte, or leaves them to it; and only those that it may."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from offload_trials import Trial
from packets import Packet, parse_flags
from raw_packets import edit_v4
from script import SECRET
from syn_trials import (
    CLIENT,
    LAYOUTS,
    OTHER_SERVICE,
    PORT,
    SERVICE,
    Porter,
    data_of,
    digest,
    flip,
    promised,
    promises,
    syn,
    syns,
    to_complete,
)

from kracauer.errors import ParseError
from kracauer.fast_path import Promise, Promises
from kracauer.offload.answering import ANSWERS_S, LISTENERS, KnownFlows, counters_for
from kracauer.offload.options import is_walked_syn
from kracauer.tcp.terms import Offer
from kracauer.translate.addresses import is_legal_source_v4
from kracauer.wire.tcp import parse_options

NewTrial = Callable[..., Trial]
OFFER = Offer(1440, 7, sack=True, timestamps=True, ecn=True, window=65535)
PROMISE = Promise(OFFER, 1220)
KEY = CLIENT + SERVICE + (40000).to_bytes(2, "big") + PORT.to_bytes(2, "big")


def begin(trial: Trial, promise: Promise = PROMISE, secret: bytes = SECRET) -> Trial:
    trial.path.promise(promised(promise, secret))
    trial.path.sweep(time.monotonic())
    return trial


def expected_of(porter: Porter, data: bytes, result: bytes | None) -> bytes | None:
    """What the gate answers, now or, should a minute have begun meanwhile, a moment ago."""
    now = time.monotonic()
    answers = [porter.answer(data, now), porter.answer(data, now - 1)]
    return result if result in answers else answers[0]


@settings(max_examples=400, deadline=None)
@given(promise=promises, packet=syns, has_df=st.booleans(), seed=st.binary(min_size=1, max_size=4))
@example(promise=PROMISE, packet=syn(options=("opt=02040000",)), has_df=True, seed=b"a")
def test_a_syn_is_answered_as_the_gate_does_or_left_to_it(
    trial: Trial, promise: Promise, packet: Packet, has_df: bool, seed: bytes
) -> None:
    begin(trial, promise, digest(seed))
    data = data_of(packet, dont_fragment=has_df)
    result = trial.receive(data)
    is_taken = (
        packet.flags & 0x17 == 2
        and not packet.payload
        and packet.src_port != 0
        and is_legal_source_v4(packet.src)
        and packet.src not in (SERVICE, OTHER_SERVICE)
        and is_walked_syn(data[40:])
    )
    assert (result is not None) is is_taken
    if result is not None:
        assert result == expected_of(Porter(promise, digest(seed)), data, result)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("flags", ["S", "SEW"])
@pytest.mark.parametrize("has_df", [True, False])
def test_what_stacks_send_is_answered(trial: Trial, layout: str, flags: str, has_df: bool) -> None:
    data = data_of(syn(layout, flags=parse_flags(flags)), dont_fragment=has_df)
    result = begin(trial).receive(data)
    assert result is not None
    assert result == expected_of(Porter(PROMISE), data, result)


@given(
    st.lists(
        st.sampled_from([b"\x01", b"\x00", b"\x02\x04\x05\xb4", b"\x03\x03\x07", b"\x04\x02", b"\x08\x0a12345678", b"\x01\x01"])
    )
)
def test_what_is_walked_is_well_formed(parts: list[bytes]) -> None:
    whole = b"".join(parts)[:40]
    whole += bytes(-len(whole) % 4)
    if is_walked_syn(whole):
        try:
            parse_options(whole)
        except ParseError:
            pytest.fail("the process would have dropped it")


LEFT = {
    "an ACK": data_of(syn(flags=parse_flags("A"))),
    "another port": data_of(syn(dst_port=444)),
    "another address": data_of(syn(dst=CLIENT)),
    "a listener with lists": data_of(syn(dst=OTHER_SERVICE)),
    "from a service": data_of(syn(src=OTHER_SERVICE)),
    "from loopback": data_of(syn(src=bytes((127, 0, 0, 1)))),
    "from nowhere": data_of(syn(src=bytes(4))),
    "from multicast": data_of(syn(src=bytes((224, 0, 0, 1)))),
    "from the link": data_of(syn(src=bytes((169, 254, 1, 1)))),
    "from port 0": data_of(syn(src_port=0)),
    "to port 0": data_of(syn(dst_port=0)),
    "with data": data_of(syn(payload=b"x")),
    "Fast Open": data_of(syn("a scanner", options=("mss=1460", "opt=22020101"))),
    "MD5": data_of(syn("a flooder", options=("opt=1312" + "00" * 16 + "0101",))),
    "IP options": edit_v4(data_of(syn()), options=bytes((1, 1, 1, 0))),
    "a fragment": data_of(syn())[:6] + b"\x20\x00" + data_of(syn())[8:],
    "a broken IP header": flip(data_of(syn()), 8, 1),
    "a broken TCP header": flip(data_of(syn()), 30, 1),
    "a broken option": flip(data_of(syn()), 43, 1),
    "a sum as for the hardware to complete": to_complete(data_of(syn())),
    "bytes behind": data_of(syn()) + b"\0\0\0\0",
    "bytes missing": data_of(syn())[:-4],
}


@pytest.mark.parametrize("data", LEFT.values(), ids=list(LEFT))
def test_what_is_not_plain_is_left_to_the_engine(trial: Trial, data: bytes) -> None:
    assert begin(trial).receive(data) is None


def test_nothing_is_answered_before_the_first_sweep_nor_long_after_the_last(new_trial: NewTrial) -> None:
    trial = new_trial(is_swept=False)
    trial.path.promise(promised(PROMISE))
    data, now = data_of(syn()), time.monotonic()
    assert trial.receive(data) is None
    trial.path.sweep(now - ANSWERS_S - 0.5)
    assert trial.receive(data) is None
    trial.path.sweep(now)
    assert trial.receive(data) is not None


def test_nothing_is_answered_that_nobody_has_promised(new_trial: NewTrial) -> None:
    trial = new_trial()
    assert trial.receive(data_of(syn())) is None
    begin(trial)
    assert trial.receive(data_of(syn())) is not None
    trial.path.promise(Promises(SECRET, {}, frozenset({SERVICE})))
    assert trial.receive(data_of(syn())) is None
    trial.path.sweep(time.monotonic())
    assert trial.receive(data_of(syn())) is None


def test_the_latest_promise_counts(new_trial: NewTrial) -> None:
    trial, data = begin(new_trial()), data_of(syn())
    for mss in (1300, 1200):
        promise = Promise(OFFER._replace(mss=mss), 1100)
        trial.path.promise(promised(promise))
        result = trial.receive(data)
        assert result is not None
        assert result == expected_of(Porter(promise), data, result)
    moved = Promises(SECRET, {(SERVICE, 80): PROMISE}, frozenset({SERVICE}))
    trial.path.promise(moved)
    assert trial.receive(data) is None
    assert trial.receive(data_of(syn(dst_port=80))) is not None
    assert trial.receive(data_of(syn(dst_port=80, src=OTHER_SERVICE))) is not None  # which is none any more


def test_a_syn_of_a_flow_is_left_to_the_engine_until_the_last_is_gone(new_trial: NewTrial) -> None:
    trial, data = begin(new_trial()), data_of(syn())
    trial.path.note_flow(KEY)
    trial.path.note_flow(KEY)
    assert trial.receive(data) is None
    assert trial.receive(data_of(syn(src_port=40001))) is not None
    trial.path.forget_flow(KEY)
    assert trial.receive(data) is None
    trial.path.forget_flow(KEY)
    assert trial.receive(data) is not None


def test_what_was_answered_is_counted_once_and_to_the_end(new_trial: NewTrial) -> None:
    trial, carried = begin(new_trial()), None
    carried = trial.path.carried
    for port in (1, 2, 3):
        assert trial.receive(data_of(syn(src_port=port))) is not None
    trial.path.sweep(time.monotonic())
    assert (carried.syns, carried.packets) == (3, 0)
    trial.path.sweep(time.monotonic())
    assert carried.syns == 3
    assert trial.receive(data_of(syn())) is not None
    assert trial.receive(LEFT["an ACK"]) is None
    trial.path.close()
    assert carried.syns == 4
    trial.path.note_flow(KEY)
    trial.path.forget_flow(KEY)
    trial.path.promise(promised(PROMISE))


def test_too_many_listeners_are_all_the_engines_and_it_is_told(kernel_trial: Trial) -> None:
    begin(kernel_trial)
    kernel_trial.path.refused.clear()
    many = {(number.to_bytes(4, "big"), PORT): PROMISE for number in range(LISTENERS)}
    kernel_trial.path.promise(Promises(SECRET, {**many, (SERVICE, PORT): PROMISE}, frozenset({SERVICE})))
    kernel_trial.path.sweep(time.monotonic())
    assert kernel_trial.receive(data_of(syn())) is None
    assert kernel_trial.path.refused == {"E2BIG": 1}
    kernel_trial.path.refused.clear()
    begin(kernel_trial)
    assert kernel_trial.receive(data_of(syn())) is not None


keys = st.sampled_from([KEY, KEY[::-1], *(bytes((number, *KEY[1:])) for number in range(40))])


@settings(deadline=None)
@given(
    st.binary(min_size=32, max_size=32), st.lists(st.tuples(st.booleans(), keys), max_size=300), st.sampled_from([8, 64, 4096])
)
def test_a_flow_that_is_here_is_always_known(random: bytes, changes: list[tuple[bool, bytes]], room: int) -> None:
    """And where no counter has come to its limit, nothing is known once all flows are gone."""
    known, here = KnownFlows(bytearray(room), random), Counter[bytes]()
    for is_new, key in changes:
        if is_new:
            known.add(key)
            here[key] += 1
        elif here[key]:
            known.discard(key)
            here[key] -= 1
        assert all(each in known for each, count in here.items() if count)
    for key in here.elements():
        known.discard(key)
    assert len(changes) >= 255 or not any(key in known for key in here)


def test_a_counter_that_is_full_stays_full() -> None:
    known = KnownFlows(bytearray(8), bytes(32))
    for _ in range(300):
        known.add(KEY)
    for _ in range(300):
        known.discard(KEY)
    assert KEY in known


@pytest.mark.parametrize(("capacity", "counters"), [(1, 16), (16, 256), (1000, 16384), (65536, 1 << 20)])
def test_there_are_sixteen_counters_for_a_flow_at_least(capacity: int, counters: int) -> None:
    assert counters_for(capacity) == counters


@given(st.binary(min_size=12, max_size=12))
@settings(max_examples=200, deadline=None)
def test_the_program_and_python_count_by_the_same_hash(kernel_trial: Trial, ends: bytes) -> None:
    """A flow of any addresses and ports is found again, and no other one counts for it but once in some hundred times."""
    packet = replace(syn("a flooder"), src=bytes((9, *ends[1:4])), src_port=int.from_bytes(ends[8:10], "big") or 1)
    key = packet.src + SERVICE + packet.src_port.to_bytes(2, "big") + PORT.to_bytes(2, "big")
    begin(kernel_trial)
    data = data_of(packet)
    assert kernel_trial.receive(data) is not None
    kernel_trial.path.note_flow(key)
    assert kernel_trial.receive(data) is None
    kernel_trial.path.forget_flow(key)
