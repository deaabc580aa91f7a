"""Signals that ask a program to end become one exception, and wait while it cleans up."""

import os
import signal

import pytest

from kracauer.lab.interrupts import SIGNALS, Interrupted, interruptible, shielded


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_becomes_an_exception_with_the_exit_code_shells_use(number: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught, interruptible():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number


def test_a_second_signal_does_not_disturb_what_the_first_one_began() -> None:
    done = []

    def be_interrupted_while_cleaning_up() -> None:
        with interruptible():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("cleaned up")

    with pytest.raises(Interrupted):
        be_interrupted_while_cleaning_up()
    assert done == ["cleaned up"]


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with interruptible():
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_during_shielded_work_comes_after_it() -> None:
    done = []

    def be_interrupted_in_shielded_work() -> None:
        with interruptible():
            with shielded():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("work")
            done.append("never")

    with pytest.raises(Interrupted):
        be_interrupted_in_shielded_work()
    assert done == ["work"]
