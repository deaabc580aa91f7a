"""What is written to the log, and how often."""

import contextlib
import io
import json
import os
import select
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import FilteringBoundLogger

from kracauer.logs import Output, RepeatLog, SurgeLog, configure, output, set_level


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class BrokenStream(io.StringIO):
    def write(self, _text: str, /) -> int:
        raise OSError("No space left on device")


@pytest.fixture(autouse=True)
def restored_structlog() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_where_no_terminal_reads_it() -> None:
    stream = io.StringIO()

    configure("info", "auto", stream).info("ready", names=2)

    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "ready", "level": "info", "names": 2}


def test_a_line_is_for_people_on_a_terminal() -> None:
    stream = Terminal()

    configure("info", "auto", stream).info("ready", names=2)

    assert "ready" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize(("form", "stream"), [("json", Terminal()), ("console", io.StringIO())])
def test_the_format_can_be_chosen(form: str, stream: io.StringIO) -> None:
    configure("info", form, stream).info("ready")

    assert stream.getvalue().startswith("{") == (form == "json")


def test_less_than_the_level_is_not_written() -> None:
    stream = io.StringIO()
    log = configure("warning", "json", stream)

    log.info("quiet")
    log.warning("loud")

    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_a_hostname_cannot_write_to_the_terminal() -> None:
    stream = io.StringIO()

    configure("info", "console", stream).info("flow_refused", hostname="a\x1b[2Jb\nc")

    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_an_exception_is_logged_with_its_traceback() -> None:
    stream = io.StringIO()
    log = configure("info", "json", stream)

    try:
        raise ValueError("odd")
    except ValueError:
        log.exception("internal_error")

    assert "ValueError: odd" in lines(stream)[0]["exception"]


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    configure("info", "json", BrokenStream()).info("ready")


class Repeats:
    """A RepeatLog of ten seconds and what it has written."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.log = RepeatLog(configure("debug", "json", self.stream), interval_s=10)

    def note(self, now: float, kind: str = "bad_checksum") -> None:
        self.log.note(now, kind, level="debug", event="packet_dropped", fields=lambda: {"reason": kind})

    def written(self) -> list[tuple[str, int | None]]:
        return [(line["reason"], line.get("repeated")) for line in lines(self.stream)]


def test_the_first_of_a_kind_is_logged_at_once_and_the_others_are_counted() -> None:
    repeats = Repeats()

    for now in (0, 1, 2, 9.9):
        repeats.note(now)
    assert repeats.written() == [("bad_checksum", None)]

    repeats.log.flush(10)
    assert repeats.written() == [("bad_checksum", None), ("bad_checksum", 3)]


def test_each_kind_has_its_own_interval() -> None:
    repeats = Repeats()

    repeats.note(0)
    repeats.note(1, "no_flow")
    repeats.note(2)

    assert repeats.written() == [("bad_checksum", None), ("no_flow", None)]


def test_a_flood_is_one_line_per_interval() -> None:
    repeats = Repeats()

    for now in range(100):
        repeats.log.flush(now)
        repeats.note(now)

    assert len(repeats.written()) == 10


def test_a_kind_not_heard_of_for_an_interval_is_new_again() -> None:
    repeats = Repeats()

    repeats.note(0)
    repeats.log.flush(10)
    assert repeats.log.next_deadline is None
    repeats.note(11)

    assert repeats.written() == [("bad_checksum", None), ("bad_checksum", None)]


def test_no_event_is_lost_when_the_interval_passes_between_two() -> None:
    repeats = Repeats()

    for now in (0, 1, 30):
        repeats.note(now)
    repeats.log.close()

    written = repeats.written()
    assert sum(repeated or 1 for _, repeated in written) == 3


def test_closing_says_what_was_still_only_counted() -> None:
    repeats = Repeats()

    repeats.note(0)
    repeats.note(1)
    repeats.log.close()

    assert repeats.written() == [("bad_checksum", None), ("bad_checksum", 1)]


def test_the_deadline_is_the_end_of_the_first_interval() -> None:
    repeats = Repeats()

    repeats.note(3)
    repeats.note(4, "no_flow")

    assert repeats.log.next_deadline == 13


class Surges:
    """A SurgeLog of two lines at once and one a second, and what it has written."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.log = SurgeLog(configure("debug", "json", self.stream), rate=1, burst=2, interval_s=10)

    def note(self, now: float, kind: str = "", reason: str = "no_route") -> None:
        self.log.note(now, kind, level="warning", event="flow_refused", reason=reason, fields=lambda: {"reason": reason})

    def written(self) -> list[tuple[str | None, int | None]]:
        return [(line.get("reason"), line.get("repeated")) for line in lines(self.stream)]


def test_events_that_are_not_too_many_all_have_a_line() -> None:
    surges = Surges()

    for now in range(20):
        surges.note(now)

    assert surges.written() == [("no_route", None)] * 20
    assert surges.log.next_deadline is None


def test_what_goes_beyond_is_counted_by_reason_and_told_after_a_while() -> None:
    surges = Surges()

    for reason in ("no_route", "no_route", "no_route", "empty", "empty"):
        surges.note(5, reason=reason)
    assert surges.log.next_deadline == 15
    surges.log.flush(14.9)
    assert len(surges.written()) == 2
    surges.log.flush(15)

    assert lines(surges.stream)[-1]["repeated"] == 3
    assert lines(surges.stream)[-1]["reasons"] == {"no_route": 1, "empty": 2}
    assert surges.log.next_deadline is None


def test_one_kind_does_not_use_up_the_lines_of_another() -> None:
    surges = Surges()

    for _ in range(10):
        surges.note(0, "cheap")
    surges.note(0, "served", "finished")

    assert surges.written()[-1] == ("finished", None)


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from(["", "served"])), max_size=60))
def test_no_event_is_lost_from_the_lines_and_their_sums(steps: list[tuple[float, str]]) -> None:
    before = structlog.get_config()
    surges, now = Surges(), 0.0
    for pause, kind in steps:
        now += pause
        surges.log.flush(now)
        surges.note(now, kind)
    surges.log.close()
    structlog.configure(**before)

    assert sum(repeated or 1 for _, repeated in surges.written()) == len(steps)


class Pipe:
    """A pipe as a stream, of which the reader takes its time, and a log that writes to it from a thread."""

    def __init__(self, queue_bytes: int = 1 << 20) -> None:
        self.reader, writer = os.pipe()
        self.writer = os.fdopen(writer, "w")
        configure("info", "json", self.writer)
        self.output = Output(self.writer, queue_bytes)
        structlog.configure(logger_factory=self.output)
        self.log: FilteringBoundLogger = structlog.get_logger()
        self.received = b""

    def read_until(self, text: str) -> list[dict[str, Any]]:
        """Read until a line has `text`."""
        while text.encode() not in self.received or not self.received.endswith(b"\n"):
            assert select.select([self.reader], [], [], 10)[0], self.received[-1000:]
            self.received += os.read(self.reader, 65536)
        return [json.loads(line) for line in self.received.splitlines()]

    def close(self) -> None:
        os.close(self.reader)
        self.output.close(5)
        with contextlib.suppress(OSError):
            self.writer.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    opened = Pipe()
    yield opened
    opened.close()


def test_a_thread_writes_the_lines_in_their_order(pipe: Pipe) -> None:
    pipe.output.start()

    for number in range(100):
        pipe.log.info("line", number=number)
    pipe.log.info("last")

    assert [line.get("number") for line in pipe.read_until("last")] == [*range(100), None]


def test_a_reader_that_has_stalled_holds_up_nobody_and_is_told_later_what_it_has_missed() -> None:
    pipe = Pipe(queue_bytes=100_000)
    try:
        pipe.output.start()

        began = time.monotonic()
        for number in range(5000):
            pipe.log.info("line", number=number, filler="x" * 100)
        assert time.monotonic() - began < 10

        lost = written = 0
        while lost + written < 5000:
            pipe.received = pipe.received.rpartition(b"\n")[2]
            for line in pipe.read_until("line"):
                lost += line.get("lines", 0)
                written += line["event"] == "line"
        assert lost + written == 5000
        assert lost > 1000
    finally:
        pipe.close()


def test_what_is_queued_is_written_before_the_end(pipe: Pipe) -> None:
    pipe.output.start()
    for _ in range(50):
        pipe.log.info("line")

    pipe.output.close()
    pipe.log.info("after")

    assert len(pipe.read_until("after")) == 51


def test_the_end_does_not_wait_for_a_reader_that_never_comes(pipe: Pipe) -> None:
    pipe.output.start()
    for _ in range(2000):
        pipe.log.info("line", filler="x" * 100)

    began = time.monotonic()
    pipe.output.close(0.2)
    pipe.log.info("after")

    assert time.monotonic() - began < 5


def test_a_pipe_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer.fileno(), False)
    pipe.output.start()
    for _ in range(2000):
        pipe.log.info("line", filler="x" * 100)
    pipe.log.info("last")

    assert len(pipe.read_until("last")) == 2001


def test_a_reader_that_is_gone_stops_nobody() -> None:
    pipe = Pipe()
    pipe.output.start()
    pipe.close()

    pipe.log.info("line")


def test_a_level_can_be_changed_for_a_log_that_is_in_use() -> None:
    stream = io.StringIO()
    log = configure("warning", "json", stream)

    log.info("quiet")
    set_level("info")
    log.info("loud")

    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_the_output_is_that_of_the_last_configuration() -> None:
    structlog.reset_defaults()
    assert output() is None

    configure("info", "json", io.StringIO())

    assert isinstance(output(), Output)
