"""A worker that does not come to serve: each reason is told, and no process is left."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kracauer
from kracauer.daemon.member import Member, WorkerError, describe_end, parse_services


@pytest.fixture
def member() -> Iterator[Member]:
    made = Member(3)
    yield made
    made.kill()
    assert made.pid is None or not Path(f"/proc/{made.pid}").exists()


def interpreter(directory: Path, script: str) -> str:
    """What is started in the place of Python, with the words that Python would get."""
    path = directory / "python"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    path.chmod(0o755)
    return str(path)


def test_one_that_cannot_be_started_is_told(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(WorkerError, match="worker 3 cannot be started") as caught:
        member.spawn(())
    assert "network.workers" in caught.value.remedy


def test_one_that_ends_at_once_is_told_with_its_status(member: Member, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, "exit 7"))
    member.spawn(())
    with pytest.raises(WorkerError, match="worker 3 ended with status 7 before it served"):
        member.brief(None)  # type: ignore[arg-type]


def test_one_that_is_killed_is_told_with_the_signal(member: Member, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, "kill -9 $$"))
    member.spawn(())
    with pytest.raises(WorkerError, match="worker 3 was ended by signal 9 before it served"):
        member.brief(None)  # type: ignore[arg-type]


def test_one_of_another_version_is_not_begun_with(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who installs another version under a running service must not have half of it be another one."""
    member.spawn(())
    monkeypatch.setattr(kracauer, "__version__", "0.0.0-before")
    with pytest.raises(WorkerError, match="another one has been installed meanwhile") as caught:
        member.brief(None)  # type: ignore[arg-type]
    assert "restart the service" in caught.value.remedy


def test_one_whose_supervisor_goes_ends_by_itself(member: Member) -> None:
    member.spawn(())
    pid = member.pid
    assert pid is not None
    member.dismiss()
    assert member.kill() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_service_manager_is_nothing_of_a_workers(member: Member, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, f"env > {tmp_path}/environment"))
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "RUNTIME_DIRECTORY"):
        monkeypatch.setenv(name, "x")
    member.spawn(())
    member.kill()
    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text(encoding="utf-8").splitlines()}
    assert "RUNTIME_DIRECTORY" in names
    assert not names & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([["198.51.100.1", 443]], {("198.51.100.1", 443)}),
        ([["198.51.100.1", 443], ["nowhere", 1], ["198.51.100.1"], 7, None, ["198.51.100.2", "x"]], {("198.51.100.1", 443)}),
        (None, set()),
        ("198.51.100.1", set()),
        ({}, set()),
    ],
)
def test_what_a_worker_says_of_services_is_taken_as_far_as_it_makes_sense(said: object, found: set[tuple[str, int]]) -> None:
    assert {(str(address), port) for address, port in parse_services(said)} == found


@pytest.mark.parametrize(
    ("status", "words"), [(None, "has not answered"), (0, "ended with status 0"), (-11, "was ended by signal 11")]
)
def test_an_end_is_put_into_words(status: int | None, words: str) -> None:
    assert describe_end(status) == words
