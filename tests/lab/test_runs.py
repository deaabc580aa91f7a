"""What a run leaves behind when it is killed is told from what is in use, and is removed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kracauer.lab import runs
from kracauer.lab.namespaces import child_environment
from kracauer.lab.topology import Lab

DEAD = f"{2**22 + 1}.1.1"  # no process has a number above pid_max


def until(condition: Callable[[], bool], timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_the_tokens_of_this_process_differ_and_are_alive() -> None:
    first, second = runs.new_token(), runs.new_token()
    assert first != second
    assert runs.is_alive(first)
    assert not runs.is_alive(DEAD)


def test_a_process_that_only_has_the_number_of_a_dead_run_does_not_keep_it_alive() -> None:
    assert not runs.is_alive(f"{os.getpid()}.1.1")


def test_only_what_bears_the_name_of_a_dead_run_remains(tmp_path: Path) -> None:
    names = [f"kracauer-{DEAD}-client", f"kracauer-{runs.new_token()}-client", "kracauer-net", "other"]
    for name in names:
        (tmp_path / name).touch()
    assert [path for path in runs.remains(directory=tmp_path) if path.parent == tmp_path] == [tmp_path / names[0]]


def test_remains_are_removed_and_removing_them_again_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / f"kracauer-{DEAD}-client"
    path.touch()
    assert path in runs.remove(directory=tmp_path)
    assert not path.exists()
    assert path not in runs.remove(directory=tmp_path)


@pytest.mark.lab
def test_a_run_killed_without_mercy_leaves_nothing() -> None:
    script = (
        "import time; from kracauer.lab.topology import Lab\n"
        "with Lab() as lab:\n"
        "    lab.start_origin('origin1'); print(lab.token, lab.origins[0].pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], env=child_environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        token, origin = process.stdout.readline().decode().split()
        assert len(runs.remains(token)) == 5
        process.send_signal(signal.SIGKILL)
    assert until(lambda: not runs.remains(token))
    assert until(lambda: not Path(f"/proc/{origin}").exists())


@pytest.mark.lab
def test_a_lab_in_use_is_not_taken_for_remains() -> None:
    with Lab() as lab:
        assert runs.remains(lab.token)
        assert not any(lab.token in path.name for path in runs.remains())
