"""Sites that something is to be done to."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from faults import Trial

from kracauer.lab.topology import Lab, Topology


@pytest.fixture
def build_trial(build_lab: Callable[[Topology], Lab]) -> Iterator[Callable[..., Trial]]:
    """Build sites with their daemons; afterwards those that still run must stop, and none may have met an error of its own."""
    with ExitStack() as stack:
        trials: list[Trial] = []

        def build(**options: Any) -> Trial:
            trials.append(stack.enter_context(Trial(build_lab(Topology()), **options)))
            return trials[-1]

        yield build
        for trial in trials:
            if trial.daemons and trial.daemon.is_running:
                assert trial.daemon.stop() == 0, trial.daemon.log[-3000:]
            trial.check_log()


@pytest.fixture
def trial(build_trial: Callable[..., Trial]) -> Trial:
    trial = build_trial()
    trial.start()
    return trial
