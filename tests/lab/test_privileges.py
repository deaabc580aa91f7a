"""A lab needs no root where user namespaces are allowed, and says what stands in the way where they are not."""

import errno
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kracauer.errors import LabError
from kracauer.lab import privileges
from kracauer.lab.namespaces import child_environment, python_module

Find = Callable[[str], str]


NOBODY = 65534


def run_as_nobody(setpriv: str, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command],
        env=child_environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.lab
def test_the_demo_runs_without_privileges_in_a_user_namespace(program: Find) -> None:
    setpriv = program("setpriv")
    can_start = "import kracauer, subprocess, sys, trustme; subprocess.run([sys.executable, '-V'], check=True)"
    if run_as_nobody(setpriv, [sys.executable, "-c", can_start]).returncode:
        pytest.skip("needs root, and an interpreter and a checkout that user nobody may read")
    result = run_as_nobody(setpriv, python_module("kracauer", "demo"))
    if "may not make network namespaces" in result.stderr:
        pytest.skip(f"needs user namespaces: {result.stderr}")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count(", its own") == 6


def test_an_unreadable_tun_device_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(privileges, "TUN_DEVICE", tmp_path / "tun")
    with pytest.raises(LabError, match=r"cannot be opened \(No such file or directory\)") as caught:
        privileges.check_tun_device()
    assert "modprobe tun" in caught.value.remedy


def test_a_kernel_without_ipv6_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(privileges, "SETTINGS", tmp_path)
    with pytest.raises(LabError, match="IPv6 switched off"):
        privileges.check_ipv6()


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
    ],
)
def test_the_setting_that_forbids_user_namespaces_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str, value: str, remedy: str
) -> None:
    monkeypatch.setattr(privileges, "SETTINGS", tmp_path)
    path = tmp_path / key
    path.parent.mkdir()
    path.write_text(value, encoding="ascii")
    error = privileges.explain(PermissionError(errno.EPERM, "Operation not permitted"))
    assert key.replace("/", ".") in error.cause
    assert remedy in error.remedy


def test_a_refusal_without_a_setting_to_blame_suggests_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(privileges, "SETTINGS", tmp_path)
    assert "root" in privileges.explain(PermissionError(errno.EPERM, "Operation not permitted")).remedy


def test_threads_are_named_as_what_keeps_a_process_out() -> None:
    assert "threads" in privileges.explain(OSError(errno.EINVAL, "Invalid argument")).cause
