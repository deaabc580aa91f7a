"""`kracauer demo` shows what it promises, says what is missing, and is gone without a trace."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kracauer.cli import demo
from kracauer.cli.exit_codes import ExitCode
from kracauer.errors import LabError
from kracauer.lab import certificates, privileges, runs
from kracauer.lab.demonstration import EXPECTATIONS, Expectation
from kracauer.lab.namespaces import child_environment, python_module
from kracauer.lab.visits import Visit

GOOD = Visit(
    "https",
    "www.example.com",
    ("192.0.2.7", 40000),
    status=200,
    seen={"server": "origin1", "client": "192.0.2.7", "port": 40000},
    certificate={
        "subject": ((("organizationalUnitName", "origin1"),), (("commonName", "www.example.com"),)),
        "subjectAltName": (("DNS", "www.example.com"),),
    },
)
WANTED = Expectation("https", "www.example.com", "origin1")


def changed(**changes: Any) -> Visit:
    fields = {name: getattr(GOOD, name) for name in Visit.__slots__}
    return Visit(**{**fields, **changes})


def test_a_row_as_expected_says_who_answered_whom_with_whose_certificate() -> None:
    assert demo.render_row(WANTED, GOOD) == (
        "https://www.example.com/",
        "origin1",
        "200",
        "192.0.2.7 port 40000, its own",
        "origin1's (www.example.com), verified",
    )


@pytest.mark.parametrize(
    "result",
    [
        changed(status=502),
        changed(seen={"server": "origin2", "client": "192.0.2.7", "port": 40000}),
        changed(seen={"server": "origin1", "client": "192.0.2.7", "port": 40001}),
        changed(seen={"server": "origin1", "client": "2001:db8:1::1", "port": 40000}),
        changed(certificate={}),
        Visit("https", "www.example.com", failure="no answer in time"),
    ],
)
def test_a_row_that_is_not_as_expected_says_so(result: Visit) -> None:
    assert not WANTED.is_met_by(result)
    assert demo.render_row(WANTED, result)[-1] == "◀ NOT AS EXPECTED"


def test_a_refusal_is_expected_by_its_alert_or_its_status() -> None:
    alert, misdirected = (expectation for expectation in EXPECTATIONS if expectation.origin is None)
    assert alert.is_met_by(Visit("https", alert.name, failure="TLS alert: unrecognized_name"))
    assert not alert.is_met_by(Visit("https", alert.name, failure="TLS alert: handshake_failure"))
    assert not alert.is_met_by(GOOD)
    assert misdirected.is_met_by(Visit("http", misdirected.name, status=421))
    assert demo.render_row(misdirected, Visit("http", misdirected.name, status=421))[2] == "421 Misdirected Request"


def test_the_columns_of_a_table_are_aligned() -> None:
    assert demo.render_table([("a", "bcd"), ("efg", "h"), ("i", "j", "remark")]) == (
        "a    bcd\n───  ───\nefg  h\ni    j    remark\n"
    )


def test_what_the_machine_lacks_is_said_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise LabError("/dev/net/tun is closed to this user", "run it as root")

    monkeypatch.setattr(privileges, "prepare", refuse)
    assert demo.run(Namespace(keep=False)) == ExitCode.DEVICE
    assert capsys.readouterr().err == "kracauer demo: /dev/net/tun is closed to this user\n  → run it as root\n"


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(LabError, match=r"trustme.*pip install 'kracauer\[demo\]'") as caught:
        certificates.Authority(tmp_path)
    assert isinstance(caught.value.__cause__, ImportError)


def test_keep_is_an_option() -> None:
    parser = ArgumentParser()
    demo.add_arguments(parser)
    assert parser.parse_args(["--keep"]).keep
    assert not parser.parse_args([]).keep


def traces() -> list[str]:
    """What runs that have ended left behind; labs that still run beside this test are not its business."""
    return [str(path) for path in runs.remains()]


@pytest.mark.lab
def test_the_demo_shows_every_request_as_expected_and_leaves_nothing() -> None:
    before = traces()
    command = python_module("kracauer", "demo")
    result = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    for expectation in EXPECTATIONS:
        assert f"{expectation.scheme}://{expectation.name}/" in result.stdout
    assert result.stdout.count(", its own") == 6
    assert result.stdout.count("verified\n") == 3
    assert "TLS alert: unrecognized_name" in result.stdout
    assert "421 Misdirected Request" in result.stdout
    assert "origin2: 192.0.2.7 port " in result.stdout
    assert traces() == before


@contextlib.contextmanager
def start_demo(*options: str) -> Iterator[subprocess.Popen[str]]:
    command = python_module("kracauer", "demo", *options)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=child_environment(), stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            break
    return output


@pytest.mark.lab
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_kept_demo_can_be_played_with_and_ends_cleanly(number: signal.Signals, program: Callable[[str], str]) -> None:
    before = traces()
    program("curl")
    program("nsenter")
    with start_demo("--keep") as process:
        output = read_until(process, "tail -f")
        commands = [line.strip() for line in output.splitlines() if " curl " in line]
        if privileges.is_in_user_namespace():
            commands = []  # they are for a terminal outside, and we are inside already
        for command in commands[:3]:
            played = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=20, check=False)
            assert '"client": "192.0.2.7"' in played.stdout, (command, played.stderr)
        os.killpg(process.pid, number)  # as a terminal does it
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert "Taking everything down" in rest
    assert traces() == before


@pytest.mark.lab
@pytest.mark.parametrize("delay_s", [0.2, 0.35, 0.5, 0.7])
def test_an_interrupted_demo_leaves_nothing(delay_s: float) -> None:
    before = traces()
    with start_demo("--keep") as process:
        time.sleep(delay_s)  # wherever that is: every moment must do
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode in (0, 128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT)
    assert traces() == before
