"""The command line as a whole: which command runs, what it needs, and what the exit status says."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import kracauer
from kracauer import cli
from kracauer.cli import main
from kracauer.cli.exit_codes import ExitCode

ROOT = Path(__file__).parent.parent.parent
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that makes a command out of its name and what its `run` shall do."""

    def add(name: str, run: Callable[[object], int]) -> None:
        module = ModuleType(f"kracauer_test_{name}")
        vars(module).update(NAME=name, HELP=f"do {name}", add_arguments=lambda parser: parser.add_argument("--x"), run=run)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, name, module.__name__)

    return add


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kracauer {kracauer.__version__}\n"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize("words", [[], ["no-such-command"], ["--no-such-option"], ["check-config", "--no-such-option"]])
def test_a_wrong_command_line_is_status_2_with_the_usage_on_stderr(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: kracauer")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_explains_itself_under_its_own_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: kracauer {name}")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_is_listed_under_the_name_it_gives_itself(name: str) -> None:
    command = cli.load(name)
    assert not isinstance(command, ImportError)
    assert name == command.NAME


def test_a_command_gets_its_arguments_and_gives_the_status(install: Install) -> None:
    install("probe", lambda arguments: int(getattr(arguments, "x")))  # noqa: B009 - a namespace has no declared fields
    assert main(["probe", "--x", "5"]) == 5


def test_without_arguments_the_process_s_own_are_taken(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("probe", lambda _: 6)
    monkeypatch.setattr(sys, "argv", ["kracauer", "probe"])
    assert main() == 6


def test_a_command_that_cannot_be_imported_does_not_break_the_others(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install("probe", lambda _: 0)
    monkeypatch.setitem(cli.COMMANDS, "broken", "kracauer.cli.no_such_module")
    assert main(["probe"]) == 0
    assert main(["--help"]) == 0
    assert "not available here: No module named 'kracauer.cli.no_such_module'" in " ".join(capsys.readouterr().out.split())


def test_a_command_that_cannot_be_imported_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "broken", "kracauer_no_such_package")
    assert main(["broken", "--keep"]) == ExitCode.UNAVAILABLE
    assert capsys.readouterr().err == (
        "kracauer broken: No module named 'kracauer_no_such_package': install the missing package\n"
    )


def test_only_the_command_asked_for_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys; from kracauer.cli import main; main(['check-config', '--help']); print(*sys.modules)"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert "kracauer.cli.check_config" in loaded
    assert not {"asyncio", "pyroute2", "structlog", "trustme", "cryptography", "kracauer.daemon", "kracauer.lab"} & set(loaded)


def test_an_unexpected_error_is_status_70_with_the_traceback(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> int:
        raise RuntimeError("a mistake")

    install("probe", fail)
    assert main(["probe"]) == 70
    err = capsys.readouterr().err
    assert "RuntimeError: a mistake" in err
    assert err.endswith("internal error: please report the lines above\n")


def test_a_broken_pipe_of_the_command_s_own_is_no_closed_output(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> int:
        raise BrokenPipeError("a socket")

    install("probe", fail)
    assert main(["probe"]) == 70
    assert "BrokenPipeError: a socket" in capsys.readouterr().err


def test_an_interrupt_is_status_130_without_a_traceback(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    install("probe", interrupt)
    assert main(["probe"]) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_leaves_early_causes_no_traceback() -> None:
    command = [sys.executable, "-m", "kracauer", "check-config", "-c", "kracauer-config.toml"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")


def test_python_m_kracauer_is_the_same_command_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "kracauer", "--version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, f"kracauer {kracauer.__version__}\n")


def test_exit_codes_are_those_of_the_reference() -> None:
    reference = (ROOT / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", reference, re.MULTILINE)
    assert {name: int(number) for number, name in rows} == {code.name: code.value for code in ExitCode}
