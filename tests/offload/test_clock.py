"""Processes in a time namespace: the kernel's program reads another clock than they do."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from kracauer.lab.clock import shifted
from kracauer.offload import clock

SHOW = "from kracauer.offload.clock import ahead_ns; print(ahead_ns())"


def test_elsewhere_the_clocks_are_one() -> None:
    assert clock.ahead_ns() == 0


@pytest.mark.lab
@pytest.mark.parametrize("seconds", [10_000, -5])
def test_a_namespace_of_its_own_is_seen(seconds: int, program: Callable[[str], str]) -> None:
    assert program("unshare")
    shown = subprocess.run(
        [*shifted(seconds), sys.executable, "-c", SHOW], capture_output=True, text=True, check=False, timeout=20
    )
    if shown.returncode:
        pytest.skip(f"there can be no time namespace here: {shown.stderr}")
    assert int(shown.stdout) == seconds * 10**9
