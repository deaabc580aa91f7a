"""Segments that bring no cookie: the process sees a thousand a second of them, and every one that brings one."""

import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import program_runs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import parse_flags
from script import SECRET
from syn_trials import CLIENT, PORT, SERVICE, data_of, promised, syn

from kracauer.fast_path import Promise
from kracauer.offload.answering import GUESSES_PER_SWEEP
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath
from kracauer.tcp.cookie import CookieJar
from kracauer.tcp.terms import Offer, encode_scale

pytestmark = pytest.mark.lab

OFFER = Offer(1440, 7, sack=True, timestamps=True, ecn=False, window=65535)
SCALE_CODE = encode_scale(OFFER.window_scale)
PASS, DROP = -1, 2
KEY = CLIENT + SERVICE + struct.pack("!HH", 40000, PORT)


class Trial:
    """The program on packets, and the count of what it keeps from the process."""

    def __init__(self) -> None:
        self.path = KernelPath.open(16, link_header_length=14)
        self.path.promise(promised(Promise(OFFER, 1220), SECRET))
        self.sweep()

    def sweep(self) -> None:
        self.path.sweep(time.monotonic())

    def verdict(self, data: bytes) -> int:
        result = program_runs.run(self.path.program, bytes(12) + b"\x08\x00" + data)
        assert result.packet[14:] == data
        return result.verdict

    def exhaust(self) -> None:
        """Have the process shown as many guesses as it is to be shown."""
        verdicts = [self.verdict(segment(seq=number)) for number in range(GUESSES_PER_SWEEP)]
        assert set(verdicts) == {PASS}

    @property
    def guesses(self) -> int:
        self.sweep()
        return self.path.carried.guesses


@pytest.fixture
def trial() -> Iterator[Trial]:
    try:
        made = Trial()
    except OffloadError as error:
        pytest.skip(str(error))
    yield made
    made.path.close()


def segment(flags: str = "A", **changes: object) -> bytes:
    """A segment of the client's that completes no handshake, unless it is made to."""
    fields: dict[str, object] = {"ack": 0x12345678, "payload": b"guess", "options": (), **changes}
    return data_of(replace(syn(), flags=parse_flags(flags), **fields))  # type: ignore[arg-type]


def test_what_comes_beyond_a_thousand_is_dropped_and_counted_until_the_next_sweep(trial: Trial) -> None:
    trial.exhaust()
    assert [trial.verdict(segment(seq=number)) for number in range(500)] == [DROP] * 500
    assert trial.guesses == 500
    trial.exhaust()  # after a sweep
    assert trial.guesses == 500


@settings(max_examples=300, deadline=None)
@given(
    seq=st.integers(0, 2**32 - 1),
    terms=st.integers(0, 511),
    age_s=st.sampled_from([0.0, 0.0, 59.0]),
    wrong=st.sampled_from([0, 0, 1 << 9, 1 << 31]),
    port=st.sampled_from([40000, 40001]),
)
def test_whoever_brings_a_cookie_is_let_through_and_whoever_guesses_is_not(
    seq: int, terms: int, age_s: float, wrong: int, port: int
) -> None:
    trial = Trial()
    try:
        trial.exhaust()
        jar, now = CookieJar(SECRET), time.monotonic()
        isn = jar.bake(KEY, seq, terms, SCALE_CODE, now - age_s).isn ^ wrong
        data = segment("PA", seq=(seq + 1) % 2**32, ack=(isn + 1) % 2**32, src_port=port)
        key = KEY[:8] + struct.pack("!HH", port, PORT)
        is_right = jar.check(key, seq, isn, (SCALE_CODE,), now) is not None
        assert is_right is (not wrong and port == 40000)
        assert trial.verdict(data) == (PASS if is_right else DROP)
    finally:
        trial.path.close()


@pytest.mark.parametrize(
    "data",
    [
        segment("R"),
        segment("RA"),
        segment("."),
        segment("SA"),
        segment("F"),
        segment(dst_port=PORT + 1),
        segment(dst=bytes((198, 51, 100, 9))),
    ],
    ids=["RST", "RST and ACK", "no flags", "SYN and ACK", "FIN", "another port", "another address"],
)
def test_everything_else_is_left_to_the_process(trial: Trial, data: bytes) -> None:
    trial.exhaust()
    assert trial.verdict(data) == PASS


def test_what_belongs_to_a_connection_is_no_guess(trial: Trial) -> None:
    trial.exhaust()
    assert trial.verdict(segment()) == DROP
    trial.path.note_flow(KEY)
    assert trial.verdict(segment()) == PASS
    trial.path.forget_flow(KEY)
    assert trial.verdict(segment()) == DROP


def test_where_no_syn_is_answered_nothing_is_kept_away(trial: Trial) -> None:
    trial.exhaust()
    trial.path.promise(promised(Promise(OFFER, 1220), SECRET)._replace(listeners={}))
    assert trial.verdict(segment()) == PASS
