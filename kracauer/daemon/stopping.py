"""How a service ends: by a stop signal, which is honoured during set-up, too, and during the clean-up does not cut it short."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from kracauer.errors import RemediableError

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# Those that a running service answers. Before it runs and after, they must not do what they do by default: kill.
SERVICE_SIGNALS: Final = (signal.SIGHUP, signal.SIGUSR1)


class Stoppable:
    """Serves in an event loop until it is told to stop. `is_final` then says whether nothing is to be kept for a successor."""

    def __init__(self) -> None:
        self.is_final = False
        self._stopped: asyncio.Future[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it serves: until a stop was asked for, or what it serves was lost."""
        return self._stopped is not None and not self._stopped.done()

    def stop(self, error: RemediableError | None = None) -> None:
        """End `run`, with `error` if there is one."""
        if self._stopped is None or self._stopped.done():
            return
        if error is None:
            self._stopped.set_result(None)
        else:
            self._stopped.set_exception(error)

    def stop_for_good(self) -> None:
        """End `run`, and have `is_final` say that there is to be no successor."""
        self.is_final = True
        self.stop()


class StopRequest(KeyboardInterrupt):
    """A stop signal during set-up; `is_final` tells that nothing is to be kept for a successor."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.is_final = number == signal.SIGINT


class StopSignals:
    """The stop signals that came before the service had handlers of its own.

    Each is raised as a StopRequest, and kept as well: an exception in a finaliser or in a callback of C code gets lost.
    """

    def __init__(self) -> None:
        self.request: StopRequest | None = None

    def interrupt(self, number: int, _frame: FrameType | None) -> None:
        """Be the handler."""
        if self.request is None or not self.request.is_final:
            self.request = StopRequest(number)
        raise StopRequest(number)


@contextmanager
def stop_signals_as_interrupts() -> Iterator[StopSignals]:
    """Raise StopRequest for every stop signal; afterwards drop those that came too late. Main thread only."""
    signals = StopSignals()
    before = [(number, signal.signal(number, signals.interrupt)) for number in STOP_SIGNALS]
    before += [(number, signal.signal(number, signal.SIG_IGN)) for number in SERVICE_SIGNALS]
    try:
        yield signals
    finally:
        for number in STOP_SIGNALS + SERVICE_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # discards what `hold_stop_signals` has kept waiting
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS + SERVICE_SIGNALS)
        for number, handler in before:
            signal.signal(number, handler)


def hold_stop_signals() -> None:
    """From here on nothing interrupts: the clean-up has begun."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS + SERVICE_SIGNALS)
