"""Fast paths for the tests: the one in memory always, the kernel's where it can be had."""

import time
from collections.abc import Callable, Iterator

import pytest
from offload_trials import TRIALS, KernelTrial, Trial

from kracauer.offload.bpf import OffloadError


def make_trial(kind: str, capacity: int = 16) -> Trial:
    try:
        return TRIALS[kind](capacity)
    except OffloadError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=TRIALS)
def trial(request: pytest.FixtureRequest) -> Iterator[Trial]:
    """Either of them, for tests that leave it empty."""
    trial = make_trial(request.param)
    yield trial
    trial.path.close()


@pytest.fixture(params=TRIALS)
def new_trial(request: pytest.FixtureRequest) -> Iterator[Callable[..., Trial]]:
    """Either of them, made anew, with a capacity."""
    made = []

    def make(capacity: int = 16, *, is_swept: bool = True) -> Trial:
        trial = make_trial(request.param, capacity)
        if is_swept:
            trial.path.sweep(time.monotonic())
        made.append(trial)
        return trial

    yield make
    for trial in made:
        trial.path.close()


@pytest.fixture(scope="session")
def kernel_trial() -> Iterator[Trial]:
    trial = make_trial("kernel")
    assert isinstance(trial, KernelTrial)
    yield trial
    trial.path.close()
