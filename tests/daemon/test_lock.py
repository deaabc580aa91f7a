"""One service a device, whatever becomes of it."""

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kracauer.daemon.lock import AlreadyRunningError, ServiceLock, hold_lock
from kracauer.logs import configure

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from kracauer.daemon.lock import ServiceLock
lock = ServiceLock("kracauer0")
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


def test_a_second_one_is_refused_and_told_who_has_it() -> None:
    first, second = ServiceLock("kracauer0"), ServiceLock("kracauer0")
    first.acquire()

    with pytest.raises(AlreadyRunningError, match=f"process {os.getpid()}") as refusal:
        second.acquire()

    assert "kracauer stop" in refusal.value.remedy
    first.release()
    second.acquire()
    second.release()


def test_another_device_is_another_matter() -> None:
    locks = [ServiceLock(device) for device in ("kracauer0", "kracauer1")]
    for lock in locks:
        lock.acquire()
    for lock in locks:
        lock.release()
        lock.release()


def test_the_lock_of_a_killed_process_is_free(directory: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunningError, match=f"process {holder.pid}"):
            ServiceLock("kracauer0").acquire()
        holder.kill()
    lock = ServiceLock("kracauer0")

    lock.acquire()

    assert (directory / "kracauer0.lock").read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE((directory / "kracauer0.lock").stat().st_mode) == 0o600
    lock.release()


def test_a_directory_that_cannot_be_written_costs_a_warning_and_no_more(directory: Path) -> None:
    directory.write_bytes(b"in the way")
    stream = io.StringIO()

    hold_lock("kracauer0", configure("info", "json", stream)).release()

    (line,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert line["event"] == "lock_not_held"
    assert line["remedy"]
