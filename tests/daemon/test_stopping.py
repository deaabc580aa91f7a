"""Stop signals before and after the event loop."""

import os
import signal
from contextlib import suppress
from types import FrameType

import pytest

from kracauer.daemon.stopping import SERVICE_SIGNALS, STOP_SIGNALS, StopRequest, hold_stop_signals, stop_signals_as_interrupts


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_during_set_up_is_an_interrupt(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt) as interrupt, stop_signals_as_interrupts():
        os.kill(os.getpid(), number)

    assert isinstance(interrupt.value, StopRequest)
    assert interrupt.value.is_final == (number is signal.SIGINT)


@pytest.mark.parametrize("numbers", [STOP_SIGNALS, STOP_SIGNALS[::-1]])
def test_a_stop_that_got_lost_on_its_way_up_is_not_forgotten_and_the_final_one_counts(numbers: tuple[signal.Signals]) -> None:
    with stop_signals_as_interrupts() as signals:
        assert signals.request is None
        for number in numbers:
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), number)

    assert signals.request is not None
    assert signals.request.is_final


@pytest.mark.parametrize("number", SERVICE_SIGNALS)
def test_a_signal_for_a_running_service_does_nothing_before_it_runs(number: signal.Signals) -> None:
    heard: list[int] = []

    def hear(received: int, _frame: FrameType | None) -> None:
        heard.append(received)

    before = signal.signal(number, hear)
    try:
        with stop_signals_as_interrupts():
            os.kill(os.getpid(), number)
        assert heard == []
        os.kill(os.getpid(), number)
        assert heard == [number]
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", STOP_SIGNALS + SERVICE_SIGNALS)
def test_the_clean_up_is_not_interrupted_and_what_came_meanwhile_is_dropped(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    is_done = False

    with stop_signals_as_interrupts():
        hold_stop_signals()
        os.kill(os.getpid(), number)
        is_done = True

    assert is_done
    assert signal.getsignal(number) == before
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert number not in signal.sigpending()
