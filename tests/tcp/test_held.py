from itertools import pairwise, permutations
from typing import NamedTuple

import pytest
from held_twin import HeldTwin
from hypothesis import given, settings
from hypothesis import strategies as st

from kracauer.tcp import sequence
from kracauer.tcp.held import MAX_GAPS, MAX_SACK_BLOCKS, Arrival, HeldStream

WRAP = 2**32
START = WRAP - 7  # every stream here crosses the wrap

starts = st.one_of(st.integers(0, WRAP - 1), st.integers(WRAP - 40, WRAP - 1))


class Piece(NamedTuple):
    offset: int
    payload: bytes
    has_fin: bool = False


pieces = st.builds(Piece, st.integers(-12, 60), st.binary(max_size=25), st.sampled_from((False, False, False, True)))


def take_alike(stream: HeldStream, twin: HeldTwin, piece: Piece) -> None:
    """Add `piece` to both, and hold all that the stream shows to the twin."""
    arrival = stream.add(sequence.add(stream.start, piece.offset), piece.payload, piece.has_fin)
    assert arrival is twin.add(piece.offset, piece.payload, has_fin=piece.has_fin)
    assert bytes(stream.contiguous) == twin.contiguous
    assert stream.blocks() == twin.blocks()
    assert stream.held_bytes == len(twin.bytes) <= twin.limit_bytes
    assert stream.has_ended == twin.has_ended
    assert stream.next_seq == (stream.start + len(twin.contiguous) + twin.has_ended) % WRAP
    blocks = [((stream.start + first) % WRAP, (stream.start + past) % WRAP) for first, past in twin.gapped()]
    assert list(stream.sack_blocks()) == blocks[:MAX_SACK_BLOCKS]
    assert len(blocks) <= MAX_GAPS
    if blocks:
        assert stream.end_seq == (stream.start + max(twin.bytes) + 1) % WRAP


@settings(max_examples=600)
@given(starts, st.integers(1, 50), st.lists(pieces, max_size=14))
def test_segments_of_any_kind_are_held_as_in_a_dictionary_of_bytes(start: int, limit: int, arriving: list[Piece]) -> None:
    stream, twin = HeldStream(start, limit), HeldTwin(limit)
    for piece in arriving:
        take_alike(stream, twin, piece)


@settings(max_examples=200)
@given(starts, st.integers(MAX_GAPS - 3, MAX_GAPS), st.lists(pieces, max_size=14))
def test_so_they_are_where_there_are_as_many_gaps_as_may_be(start: int, gaps: int, arriving: list[Piece]) -> None:
    stream, twin = HeldStream(start, 300), HeldTwin(300)
    for number in range(gaps):
        take_alike(stream, twin, Piece(30 + 2 * number, b"x"))
    for piece in arriving:
        take_alike(stream, twin, piece)


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bytes, list[Piece]]:
    """A stream and segments that hold all of it: in any order, overlapping, repeated, the FIN behind the last byte."""
    stream = draw(st.binary(min_size=1, max_size=80))
    length = len(stream)
    cuts = sorted(draw(st.sets(st.integers(1, max(length - 1, 1)), max_size=6)) | {0, length})
    spans = [*pairwise(cuts)]
    extra = st.tuples(st.integers(0, length), st.integers(0, length)).map(lambda ends: (min(ends), max(ends)))
    spans += draw(st.lists(extra, max_size=6))
    arriving = [Piece(first, stream[first:past], past == length) for first, past in spans if first < length or past == length]
    return stream, draw(st.permutations(arriving))


@settings(max_examples=300)
@given(starts, cut_streams())
def test_a_stream_is_whole_again_however_it_was_cut_and_shuffled(start: int, cut: tuple[bytes, list[Piece]]) -> None:
    stream, arriving = cut
    held = HeldStream(start, len(stream))
    for piece in arriving:
        held.add((start + piece.offset) % WRAP, piece.payload, piece.has_fin)
    assert bytes(held.contiguous) == stream
    assert held.has_ended
    assert held.blocks() == [(0, stream)]
    assert held.sack_blocks() == ()
    assert held.next_seq == held.end_seq == (start + len(stream) + 1) % WRAP


def held_after(*arriving: Piece, limit: int = 100) -> HeldStream:
    stream = HeldStream(START, limit)
    for piece in arriving:
        stream.add(sequence.add(START, piece.offset), piece.payload, piece.has_fin)
    return stream


def test_a_borrowed_payload_is_copied() -> None:
    stream, borrowed = HeldStream(START, 100), bytearray(b"abcdef")
    stream.add(START, memoryview(borrowed)[:3], has_fin=False)
    stream.add(sequence.add(START, 5), memoryview(borrowed)[5:], has_fin=False)
    borrowed[:] = b"xxxxxx"
    assert stream.blocks() == [(0, b"abc"), (5, b"f")]


def test_the_bytes_that_came_first_stay() -> None:
    stream = held_after(Piece(2, b"CD"), Piece(0, b"abcdef"))
    assert stream.contiguous == b"abCDef"


def test_the_block_that_grew_last_is_reported_first() -> None:
    stream = held_after(Piece(10, b"a"), Piece(20, b"b"), Piece(30, b"c"), Piece(21, b"d"))
    edges = [(sequence.distance(START, left), sequence.distance(START, right)) for left, right in stream.sack_blocks()]
    assert edges == [(20, 22), (10, 11), (30, 31)]


def test_of_many_blocks_three_are_reported_the_latest_among_them() -> None:
    stream = held_after(*(Piece(offset, b"x") for offset in (10, 20, 30, 40)))
    edges = [sequence.distance(START, left) for left, _ in stream.sack_blocks()]
    assert edges == [40, 10, 20]


def test_blocks_that_touch_become_one() -> None:
    for order in permutations((Piece(10, b"ab"), Piece(12, b"cd"), Piece(14, b"ef"))):
        assert held_after(*order).blocks() == [(10, b"abcdef")]


@pytest.mark.parametrize(
    ("piece", "arrival"),
    [
        (Piece(0, b""), Arrival.NOTHING),
        (Piece(3, b"def"), Arrival.IN_ORDER),
        (Piece(1, b"bcdef"), Arrival.IN_ORDER),
        (Piece(3, b"", has_fin=True), Arrival.IN_ORDER),
        (Piece(5, b"f"), Arrival.OUT_OF_ORDER),
        (Piece(5, b"", has_fin=True), Arrival.OUT_OF_ORDER),
        (Piece(0, b"abc"), Arrival.REPEATED),
        (Piece(-2, b"xy"), Arrival.REPEATED),
        (Piece(8, b"ij"), Arrival.REPEATED),
        (Piece(20, b"x"), Arrival.BEYOND),
        (Piece(19, b"xyz"), Arrival.OUT_OF_ORDER),
        (Piece(21, b"", has_fin=True), Arrival.BEYOND),
        (Piece(20, b"", has_fin=True), Arrival.OUT_OF_ORDER),
    ],
)
def test_what_a_segment_brought_is_told(piece: Piece, arrival: Arrival) -> None:
    stream = held_after(Piece(0, b"abc"), Piece(8, b"ij"), limit=20)
    assert stream.add(sequence.add(START, piece.offset), piece.payload, piece.has_fin) is arrival


def test_a_fin_behind_bytes_that_do_not_fit_has_not_arrived() -> None:
    stream = held_after(Piece(0, b"abcdef", has_fin=True), limit=4)
    assert (bytes(stream.contiguous), stream.has_ended) == (b"abcd", False)


def test_a_fin_that_overtook_the_bytes_before_it_counts_when_they_are_here() -> None:
    stream = held_after(Piece(3, b"", has_fin=True))
    assert not stream.has_ended
    stream.add(START, b"abc", has_fin=False)
    assert stream.has_ended
    assert stream.next_seq == sequence.add(START, 4)


def test_an_old_segment_with_a_fin_ends_nothing() -> None:
    assert not held_after(Piece(0, b"abc"), Piece(0, b"ab", has_fin=True)).has_ended


def test_a_probe_of_the_byte_before_the_first_is_not_held() -> None:
    stream = held_after(Piece(-1, b"x"))
    assert (stream.held_bytes, stream.next_seq) == (0, START)


def test_thousands_of_gaps_are_not_held() -> None:
    stream = HeldStream(START, 80_000)
    arrivals = [stream.add(sequence.add(START, 2 * number), b"x", has_fin=False) for number in range(1, 20_000)]
    assert arrivals[: MAX_GAPS + 1] == [Arrival.OUT_OF_ORDER] * MAX_GAPS + [Arrival.BEYOND]
    assert set(arrivals[MAX_GAPS:]) == {Arrival.BEYOND}
    assert len(stream.blocks()) == stream.held_bytes == MAX_GAPS


def test_what_comes_in_order_is_taken_however_many_gaps_there_are() -> None:
    """And makes room for what lies behind them."""
    stream = held_after(*(Piece(2 * number, b"x") for number in range(1, MAX_GAPS + 1)), limit=1000)
    late = Piece(900, b"y")
    assert stream.add(sequence.add(START, late.offset), late.payload, late.has_fin) is Arrival.BEYOND
    assert stream.add(START, b"ab", has_fin=False) is Arrival.IN_ORDER
    assert bytes(stream.contiguous) == b"abx"
    assert stream.add(sequence.add(START, late.offset), late.payload, late.has_fin) is Arrival.OUT_OF_ORDER
