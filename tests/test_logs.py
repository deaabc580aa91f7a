"""What is written to the log, and how often."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from kracauer.logs import RepeatLog, configure


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
