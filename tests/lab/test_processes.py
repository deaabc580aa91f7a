"""A program in the background is waited for, read, and ended."""

import signal
import sys
from collections.abc import Callable

import pytest

from kracauer.lab.topology import Lab, Topology

pytestmark = pytest.mark.lab

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def test_what_it_logs_as_json_is_read_and_the_rest_left_out(build_lab: Callable[[Topology], Lab]) -> None:
    lab = build_lab(Topology())
    script = """print('{"event": "ready"}'); print('words'); print('[1]')"""
    process = lab.start("talker", lab.client, [sys.executable, "-c", script])
    process.wait()
    assert process.events == [{"event": "ready"}]


def test_what_an_earlier_one_of_its_name_said_is_not_taken_for_its_own(build_lab: Callable[[Topology], Lab]) -> None:
    lab = build_lab(Topology())
    for word in ("first", "second"):
        process = lab.start("talker", lab.client, [sys.executable, "-c", f"print('{word}')"])
        process.wait()
    assert process.log == "second\n"
    assert process.log_path.read_text(encoding="ascii") == "first\nsecond\n"


def test_one_that_will_not_stop_is_killed(build_lab: Callable[[Topology], Lab]) -> None:
    lab = build_lab(Topology())
    process = lab.start("stubborn", lab.client, [sys.executable, "-c", STUBBORN])
    process.wait_for("up")
    assert process.stop(timeout_s=0.2) == -signal.SIGKILL
    assert not process.is_running
