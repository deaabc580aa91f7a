"""The ClientHellos and request heads of real clients, as recorded in `tests/vectors`, read whole and in pieces."""

import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kracauer.peek import NEED_MORE, Dialect, Outcome, Peeked, Peeker, PeekError, Protocol, peek
from kracauer.peek.hostname import parse_hostname

VECTORS = Path(__file__).parent.parent / "vectors"
FIRST_SEGMENT = 1_400  # about what a client's first TCP segment carries over an ordinary path


@dataclass(frozen=True)
class Recording:
    name: str
    hostname: str | None
    stream: bytes


def load(kind: str) -> list[Recording]:
    recordings = []
    for path in sorted((VECTORS / kind).glob("*.json")):
        vector = json.loads(path.read_text())
        recordings.append(Recording(path.stem, vector["hostname"], bytes.fromhex("".join(vector["hex"]))))
    return recordings


HELLOS = load("client_hellos")
HEADS = load("request_heads")


def by_name(recordings: list[Recording]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("recording", recordings, ids=lambda recording: recording.name)


def openssl_reads(stream: bytes) -> list[str | None]:
    """The server names OpenSSL reports for a hello: one (None: there is none), or nothing where it refuses before."""
    names: list[str | None] = []

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> int:
        names.append(name)
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = note
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(stream)
    with pytest.raises(ssl.SSLError):
        context.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    return names


def test_there_are_recordings_of_many_clients() -> None:
    assert len(HELLOS) >= 20
    assert len(HEADS) >= 10


@by_name(HELLOS)
def test_the_name_a_tls_client_asked_for_is_found(recording: Recording) -> None:
    for protocol in (Protocol.TLS, Protocol.AUTO):
        assert peek(protocol, recording.stream) == Peeked(Dialect.TLS, recording.hostname)


@by_name(HEADS)
def test_the_name_an_http_client_asked_for_is_found(recording: Recording) -> None:
    is_head_request = recording.stream.startswith(b"HEAD ")
    for protocol in (Protocol.HTTP, Protocol.AUTO):
        assert peek(protocol, recording.stream) == Peeked(Dialect.HTTP, recording.hostname, is_head_request)


@by_name(HELLOS + HEADS)
@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(1, 2_000), max_size=8))
def test_a_recording_cut_anywhere_is_read_the_same(recording: Recording, cuts: list[int]) -> None:
    peeker = Peeker(Protocol.AUTO)
    for end in sorted(cuts):
        assert peeker.update(recording.stream[:end]) == peek(Protocol.AUTO, recording.stream[:end])
    assert peeker.update(recording.stream) == peek(Protocol.AUTO, recording.stream)


@by_name(HELLOS)
@pytest.mark.parametrize("size", [1, 17, 512])
def test_a_recorded_hello_spread_over_small_records_is_read_the_same(
    recording: Recording, size: int, records: Callable[..., bytes]
) -> None:
    stream = records(recording.stream[5:], size)
    assert peek(Protocol.TLS, stream) == Peeker(Protocol.TLS).update(stream) == Peeked(Dialect.TLS, recording.hostname)


@by_name(HELLOS)
def test_a_recorded_hello_one_byte_short_needs_more(recording: Recording) -> None:
    assert peek(Protocol.TLS, recording.stream[:-1]) is NEED_MORE


@pytest.mark.parametrize("client", ["chromium", "s2n"])
def test_in_some_real_hellos_the_name_lies_beyond_the_first_segment(client: str) -> None:
    offsets = [hello.stream.find(b"www.example.com") for hello in HELLOS if hello.name.startswith(client)]
    assert max(offsets) > FIRST_SEGMENT


@by_name(HELLOS)
def test_openssl_reads_the_same_name(recording: Recording) -> None:
    (name,) = openssl_reads(recording.stream)
    assert recording.hostname == (name and parse_hostname(name.encode()))


@settings(deadline=None, max_examples=300)
@given(
    recording=st.sampled_from(HELLOS),
    edits=st.lists(st.tuples(st.integers(5, 400), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_a_corrupted_hello_never_gives_another_name_than_openssl_reads(
    recording: Recording, edits: list[tuple[int, int]]
) -> None:
    corrupted = bytearray(recording.stream)
    for position, value in edits:
        corrupted[position % len(corrupted)] = value
    outcome: Peeked | Outcome
    try:
        outcome = peek(Protocol.TLS, corrupted)
    except PeekError:
        return
    if isinstance(outcome, Peeked):
        for name in openssl_reads(bytes(corrupted)):
            assert outcome.hostname == (name and parse_hostname(name.encode()))
