"""The promise of the whole package: the outcome never depends on how the bytes were cut."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kracauer.peek import NEED_MORE, NO_HOSTNAME, Dialect, Peeked, Peeker, PeekError, Protocol, peek

Build = Callable[..., bytes]
Verdict = Callable[..., object]

VECTORS = Path(__file__).parent.parent / "vectors"
HELLO = bytes.fromhex("".join(json.loads((VECTORS / "client_hellos" / "botan.json").read_text())["hex"]))
HEAD = b"GET http://a.example:80/x HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n"


def cut_into_records(stream: bytes, sizes: list[int]) -> bytes:
    """Spread the first record's fragment over records of these sizes, the last one taking the rest."""
    fragment, out = stream[5:], b""
    for size in [*sizes, len(fragment)]:
        piece, fragment = fragment[:size], fragment[size:]
        out += b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece if piece else b""
    return out


def mutate(stream: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Replace `length` bytes at each position, taken modulo the length."""
    for position, length, replacement in edits:
        at = position % (len(stream) + 1)
        stream = stream[:at] + replacement + stream[at + length :]
    return stream


# None to three small edits; half of the streams are left whole, so that what is well-formed is seen as often as what is not.
Edits = list[tuple[int, int, bytes]]
EDITS: st.SearchStrategy[Edits] = st.just(Edits()) | st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3)), max_size=3
)
HELLOS = st.builds(cut_into_records, st.just(HELLO), st.lists(st.integers(1, 60), max_size=12))
REQUEST_LINES = st.sampled_from(
    [
        *[b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"HEAD http://b.example/ HTTP/1.1", b"CONNECT c.example:1 HTTP/1.1"],
        *[b"OPTIONS * HTTP/1.1", b"\r\nPOST / HTTP/1.1", b"PRI * HTTP/2.0\r\n\r\nSM\r\n", b"GET /", b""],
    ]
)
FIELD_LINES = st.sampled_from(
    [b"Host: a.example", b"Host: [::1]", b"Host:", b"Accept: */*", b"Cookie: a=b", b" folded", b"X : y"]
)
HEADS = st.builds(
    lambda request_line, fields: b"".join(line + b"\r\n" for line in (request_line, *fields, b"")),
    REQUEST_LINES,
    st.lists(FIELD_LINES, max_size=4),
)
FITTING = st.tuples(st.sampled_from([Protocol.TLS, Protocol.AUTO]), st.builds(mutate, HELLOS, EDITS)) | st.tuples(
    st.sampled_from([Protocol.HTTP, Protocol.AUTO]), st.builds(mutate, HEADS, EDITS)
)
STREAMS = FITTING | FITTING | FITTING | st.tuples(st.sampled_from(Protocol), HELLOS | HEADS | st.binary(max_size=80))
LIMITS = st.sampled_from([65_536] * 4 + [1, 5, 9]) | st.just(65_536) | st.integers(1, 300)


@settings(deadline=None, max_examples=300)
@given(STREAMS, LIMITS)
def test_every_longer_beginning_has_the_outcome_of_the_first_that_decides(
    verdict: Verdict, protocol_and_stream: tuple[Protocol, bytes], limit_bytes: int
) -> None:
    protocol, stream = protocol_and_stream
    verdicts = [verdict(peek, protocol, stream[:end], limit_bytes) for end in range(len(stream) + 1)]
    decided = [outcome for outcome in verdicts if outcome is not NEED_MORE]
    assert verdicts == [NEED_MORE] * (len(verdicts) - len(decided)) + decided[:1] * len(decided)


@settings(deadline=None, max_examples=300)
@given(STREAMS, LIMITS)
def test_byte_by_byte_is_at_once(verdict: Verdict, protocol_and_stream: tuple[Protocol, bytes], limit_bytes: int) -> None:
    protocol, stream = protocol_and_stream
    peeker = Peeker(protocol, limit_bytes)
    for end in range(len(stream) + 1):
        assert verdict(peeker.update, stream[:end]) == verdict(peek, protocol, stream[:end], limit_bytes)


@settings(deadline=None, max_examples=300)
@given(STREAMS, st.lists(st.integers(0, 400), max_size=6), LIMITS)
def test_any_cutting_is_at_once(
    verdict: Verdict, protocol_and_stream: tuple[Protocol, bytes], cuts: list[int], limit_bytes: int
) -> None:
    protocol, stream = protocol_and_stream
    peeker = Peeker(protocol, limit_bytes)
    for end in [*sorted(cuts), len(stream)]:
        assert verdict(peeker.update, stream[:end]) == verdict(peek, protocol, stream[:end], limit_bytes)


@settings(deadline=None, max_examples=500)
@given(STREAMS)
def test_any_bytes_have_an_outcome_or_a_refusal_with_an_answer(
    verdict: Verdict, protocol_and_stream: tuple[Protocol, bytes]
) -> None:
    outcome = verdict(peek, *protocol_and_stream)
    if isinstance(outcome, tuple):
        message, dialect, code, _ = outcome
        assert message.isprintable()
        assert code in ({10, 22, 47, 50, 70} if dialect is Dialect.TLS else {400, 431, 505})


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_buffer_is_read(kind: Callable[[bytes], bytes]) -> None:
    assert peek(Protocol.TLS, kind(HELLO)) == Peeker(Protocol.TLS).update(kind(HELLO)) == Peeked(Dialect.TLS, "www.example.com")
    assert peek(Protocol.HTTP, kind(HEAD)) == Peeker(Protocol.HTTP).update(kind(HEAD)) == Peeked(Dialect.HTTP, "a.example")


@pytest.mark.parametrize("stream", [HELLO, HEAD])
def test_auto_takes_both_dialects(stream: bytes) -> None:
    protocol = Protocol.TLS if stream is HELLO else Protocol.HTTP
    assert peek(Protocol.AUTO, stream) == Peeker(Protocol.AUTO).update(stream) == peek(protocol, stream)


def test_auto_needs_one_byte() -> None:
    assert peek(Protocol.AUTO, b"") is NEED_MORE
    assert Peeker(Protocol.AUTO).update(b"") is NEED_MORE


@pytest.mark.parametrize(
    ("first", "dialect"), [(b"\x16\x02", Dialect.TLS), (b"\x15\x03", Dialect.HTTP), (b"\x80", Dialect.HTTP)]
)
def test_auto_takes_the_first_byte_of_a_handshake_record_for_tls(first: bytes, dialect: Dialect) -> None:
    with pytest.raises(PeekError) as caught:
        peek(Protocol.AUTO, first)
    assert caught.value.dialect is dialect


@pytest.mark.parametrize(("protocol", "stream"), [(Protocol.TLS, HEAD), (Protocol.HTTP, HELLO)])
def test_a_listener_of_one_dialect_refuses_the_other_in_its_own(protocol: Protocol, stream: bytes) -> None:
    with pytest.raises(PeekError) as caught:
        peek(protocol, stream)
    assert caught.value.dialect == protocol.value


def test_an_answer_stays_when_more_bytes_come() -> None:
    peeker = Peeker(Protocol.HTTP)
    head = b"GET / HTTP/1.0\r\n\r\n"
    assert peeker.update(head) == peeker.update(head + b"\x00") == Peeked(Dialect.HTTP, NO_HOSTNAME)


def test_a_refusal_is_raised_again_when_more_bytes_come() -> None:
    peeker = Peeker(Protocol.TLS)
    for stream in (b"\x17", b"\x17\x03", b"\x17\x03\x03"):
        with pytest.raises(PeekError, match="content type 23"):
            peeker.update(stream)


def test_a_peeker_leaves_the_callers_buffer_free_to_grow() -> None:
    stream = bytearray(b"\x16\x03")
    peeker = Peeker(Protocol.TLS)
    peeker.update(stream)
    stream += b"\x01\x00\x00"
    with pytest.raises(PeekError) as caught:
        peeker.update(stream)
    stream += b"\x16"  # an exported buffer could not be resized
    assert caught.value.code == 10


def hostile_streams() -> Iterator[object]:
    message = b"\x01" + (10_900).to_bytes(3, "big") + bytes(10_900)
    yield pytest.param(Protocol.TLS, b"".join(b"\x16\x03\x01\x00\x01%c" % byte for byte in message), id="one-byte-records")
    record_header = b"\x16\x03\x01\x40\x00"
    record = record_header + bytes(16_384)
    yield pytest.param(
        Protocol.TLS, record_header + b"\x01\x00\xff\x00" + record[9:] + record * 2 + record[:-1], id="long-records"
    )
    yield pytest.param(Protocol.HTTP, b"GET /" + b"a" * 65_530, id="endless-target")
    yield pytest.param(Protocol.HTTP, b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 16_380, id="endless-fields")
    yield pytest.param(Protocol.HTTP, b"GET / HTTP/1.1\r\nHost:" + b" \t" * 32_000, id="endless-spaces")
    yield pytest.param(Protocol.HTTP, b"GET / HTTP/1.1\r\n" + b"a" * 65_000, id="endless-field-name")


@pytest.mark.parametrize(("protocol", "stream"), [*hostile_streams()])
def test_the_cost_of_a_hostile_stream_byte_by_byte_is_linear(protocol: Protocol, stream: bytes) -> None:
    def cost_of(length: int) -> float:
        view, peeker, start = memoryview(stream), Peeker(protocol), time.process_time()
        for end in range(1, length + 1):
            try:
                peeker.update(view[:end])
            except PeekError:
                break
        return time.process_time() - start

    eighth = min(cost_of(len(stream) // 8) for _ in range(3))
    assert cost_of(len(stream)) < 8 * 4 * eighth + 0.05  # a quadratic cost would be 64 times that of an eighth


@pytest.mark.parametrize("filler", [1_400, 16_000, 40_000])
def test_a_name_far_behind_other_extensions_is_found(hello: Build, server_name: Build, records: Build, filler: int) -> None:
    stream = records(hello([(21, bytes(filler)), (0, server_name(b"www.example.com"))]))
    peeker = Peeker(Protocol.TLS)
    ends = [*range(0, len(stream), 1_448), len(stream)]
    outcomes = [peeker.update(stream[:end]) for end in ends]
    assert outcomes == [NEED_MORE] * (len(ends) - 1) + [Peeked(Dialect.TLS, "www.example.com")]
