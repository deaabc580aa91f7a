"""`kracauer stop`: what is kept, what is given up, and what a killed service has left."""

import fcntl
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from running import CONFIG, DEVICE, Running, command

from kracauer.cli.exit_codes import ExitCode

pytestmark = pytest.mark.lab

Ip = Callable[[str], str]
Start = Callable[..., Running]


def state(ip: Ip) -> str:
    return ip("-brief link show") + ip("-4 route show table all") + ip("-6 route show table all")


def test_it_waits_for_the_end_and_says_what_is_kept(ip: Ip, start: Start, tmp_path: Path) -> None:
    running = start()
    running.wait_for("ready")

    status, said, _ = command(tmp_path, "stop")

    assert status == ExitCode.OK
    assert said == "stopped: 0 connections are kept for the next start (undo: kracauer stop --forget)\n"
    assert running.finish() == ExitCode.OK
    assert running.lines[-1]["kept"] is True
    assert DEVICE in ip("link show")


def test_with_forget_the_host_is_as_it_was_found(ip: Ip, start: Start, tmp_path: Path) -> None:
    before = state(ip)
    running = start()
    running.wait_for("ready")

    status, said, _ = command(tmp_path, "stop", "--forget")

    assert (status, said) == (ExitCode.OK, f"stopped: nothing is kept, {DEVICE} and its routes are gone\n")
    assert running.finish() == ExitCode.OK
    assert state(ip) == before
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [f"{DEVICE}.lock", f"{DEVICE}.secret"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_forget_clears_what_a_service_has_left_that_is_no_more(
    ip: Ip, start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    before = state(ip)
    running = start()
    running.wait_for("ready")
    running.stop(number)
    assert state(ip) != before

    assert command(tmp_path, "stop", "--forget")[0] == ExitCode.OK

    assert state(ip) == before
    assert not (tmp_path / "run" / f"{DEVICE}.flows").exists()
    assert command(tmp_path, "stop", "--forget")[0] == ExitCode.OK


def test_forget_clears_the_dead_ends_of_a_lost_device(ip: Ip, start: Start, tmp_path: Path) -> None:
    before = state(ip)
    running = start()
    running.wait_for("ready")
    ip(f"link del {DEVICE}")
    assert running.finish() == ExitCode.DEVICE_LOST

    assert command(tmp_path, "stop", "--forget")[0] == ExitCode.OK

    assert state(ip) == before


@pytest.mark.parametrize("config", ["[", "", None])
def test_a_configuration_with_problems_is_no_obstacle(ip: Ip, start: Start, tmp_path: Path, config: str | None) -> None:
    before = state(ip)
    running = start()
    running.wait_for("ready")
    path = tmp_path / "kracauer-config.toml"
    path.unlink() if config is None else path.write_text(config, encoding="utf-8")

    assert command(tmp_path, "stop")[0] == ExitCode.OK
    running.finish()
    assert command(tmp_path, "stop", "--forget")[0] == ExitCode.OK

    assert state(ip) == before


def test_the_device_of_an_operator_is_left_alone(ip: Ip, start: Start, tmp_path: Path) -> None:
    ip(f"tuntap add dev {DEVICE} mode tun")
    ip(f"link set {DEVICE} up")
    running = start(config=f"{CONFIG}\n[network]\nmanage = false\n")
    running.wait_for("ready")

    assert command(tmp_path, "stop", "--forget")[0] == ExitCode.OK
    assert DEVICE in ip("link show")
    assert command(tmp_path, "stop", "--forget")[0] == ExitCode.OK
    assert DEVICE in ip("link show")


def test_where_no_service_runs_it_says_so(tmp_path: Path) -> None:
    status, _, said = command(tmp_path, "stop", "--device", "other0")

    assert status == ExitCode.NOT_RUNNING
    assert "no service runs with the device other0" in said


def test_a_service_that_holds_the_lock_and_does_not_answer_is_not_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "other0.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        status, _, said = command(tmp_path, "stop", "--forget", "--device", "other0")

    assert status == ExitCode.NO_ANSWER
    assert "does not answer" in said
