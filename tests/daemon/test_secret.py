"""The secret is kept, and only where nobody else can read it."""

import io
import os
import stat
from pathlib import Path

import pytest

from kracauer.daemon.secret import LENGTH, load_secret, runtime_directory
from kracauer.logs import configure


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "kracauer"))
    return tmp_path / "kracauer"


def load(device: str = "kracauer0") -> tuple[bytes, str]:
    stream = io.StringIO()
    return load_secret(device, configure("info", "json", stream)), stream.getvalue()


def test_a_secret_is_made_once_and_found_again(directory: Path) -> None:
    first, said = load()

    assert len(first) == LENGTH
    assert load() == (first, "")
    assert said == ""
    assert [path.name for path in directory.iterdir()] == ["kracauer0.secret"]


def test_each_device_has_its_own(directory: Path) -> None:
    assert load("kracauer0")[0] != load("kracauer1")[0]
    assert len(list(directory.iterdir())) == 2


def test_nobody_else_can_read_it(directory: Path) -> None:
    load()

    assert stat.S_IMODE((directory / "kracauer0.secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", [b"", b"short", bytes(LENGTH + 1)])
def test_a_file_of_the_wrong_length_is_replaced(directory: Path, content: bytes) -> None:
    directory.mkdir()
    path = directory / "kracauer0.secret"
    path.write_bytes(content)
    path.chmod(0o600)

    secret, _ = load()

    assert secret != content
    assert load()[0] == secret


def test_a_file_that_others_could_read_is_replaced(directory: Path) -> None:
    directory.mkdir()
    path = directory / "kracauer0.secret"
    path.write_bytes(bytes(LENGTH))
    path.chmod(0o644)

    assert load()[0] != bytes(LENGTH)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    directory.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(bytes(LENGTH))
    elsewhere.chmod(0o600)
    (directory / "kracauer0.secret").symlink_to(elsewhere)

    secret, said = load()

    assert secret != bytes(LENGTH)
    assert "secret_not_kept" in said


def test_a_directory_that_cannot_be_written_costs_a_warning_and_no_more(directory: Path) -> None:
    directory.write_bytes(b"in the way")

    secret, said = load()

    assert len(secret) == LENGTH
    assert load()[0] != secret
    assert said.count("\n") == 1
    assert "secret_not_kept" in said
    assert "remedy" in said


def test_a_draft_left_by_a_crash_is_no_obstacle(directory: Path) -> None:
    directory.mkdir()
    (directory / f"kracauer0.secret.{os.getpid()}").write_bytes(b"half")

    secret, said = load()

    assert load() == (secret, "")
    assert said == ""


@pytest.mark.parametrize(
    ("given", "expected"), [("", "/run/kracauer"), ("/run/one", "/run/one"), ("/run/one:/run/two", "/run/one")]
)
def test_the_runtime_directory_is_the_service_managers(monkeypatch: pytest.MonkeyPatch, given: str, expected: str) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", given)

    assert runtime_directory() == Path(expected)
