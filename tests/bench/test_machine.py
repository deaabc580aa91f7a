"""What is said of the machine is so, and who waits for it to be quiet waits no longer than that."""

import platform
from pathlib import Path

import machine
import pytest

import kracauer


def test_the_machine_and_the_versions_are_named() -> None:
    found = machine.describe()
    assert found["Python"] == platform.python_version()
    assert found["Kracauer"] == kracauer.__version__
    assert all(found.values())
    assert all("\n" not in value and "|" not in value for value in found.values())


def test_the_share_in_use_is_a_share() -> None:
    assert 0 <= machine.busy_share() <= 1.1


def test_one_waits_until_the_machine_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.9, 0.5, 0.05, 0.0])
    monkeypatch.setattr(machine, "busy_share", lambda: next(shares))
    monkeypatch.setattr(machine, "_LOOK_S", 0.0)
    assert machine.await_quiet(10) == 0.05


def test_one_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "busy_share", lambda: 0.9)
    monkeypatch.setattr(machine, "_LOOK_S", 0.01)
    assert machine.await_quiet(0.05) == 0.9
    assert machine.await_quiet(0) == 0.9


def test_where_there_is_no_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.commit() == ""
