"""Connections that are to last: what is whole is counted, and what is not is told."""

import subprocess
from collections.abc import Callable

import pytest

from kracauer.lab import endurance
from kracauer.lab.clock import shifted
from kracauer.lab.endurance import Outcome, Pace
from kracauer.lab.namespaces import PACKAGE_ROOT
from kracauer.lab.topology import Lab

NAMES = ("www.example.com", "shop.example.net")
PACE = Pace(length=2048, rate=8192, pieces=8)


def test_a_share_of_the_pauses_is_told_by_the_longest_in_it() -> None:
    outcome = Outcome(pauses_s=[0.3, 0.1, 0.2, 0.4])
    assert (outcome.pause(0.5), outcome.pause(1)) == (0.3, 0.4)
    assert Outcome().pause(1) == float("inf")


@pytest.mark.lab
def test_what_lasts_is_whole(site: Lab) -> None:
    outcome = endurance.outcome(endurance.launch(site, NAMES, 8, pace=PACE, has_uploads=True))
    assert outcome.failures == {}
    assert outcome.transfers >= 8
    assert len(outcome.pauses_s) == 4


@pytest.mark.lab
def test_what_ends_early_is_a_failure(build_site: Callable[..., Lab]) -> None:
    lab = build_site()
    process = endurance.launch(lab, NAMES, 4, pace=PACE)
    lab.origins[0].kill()
    outcome = endurance.outcome(process)
    assert outcome.failures.total() == 2
    assert len(outcome.pauses_s) == 2


@pytest.mark.lab
@pytest.mark.parametrize("seconds", [1000, 1_000_000])
def test_a_clock_can_be_ahead_of_everybodys(seconds: int) -> None:
    script = "import time; print(time.monotonic())"
    times = [
        float(subprocess.run([*wrapper, "python3", "-c", script], capture_output=True, check=True, cwd=PACKAGE_ROOT).stdout)
        for wrapper in ([], shifted(seconds))
    ]
    assert 0 <= times[1] - times[0] - seconds < 30
