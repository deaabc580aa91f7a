"""An asyncio loop whose clock goes as fast as nothing is left to do: hours pass in a moment, and always alike."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Selector(selectors.SelectSelector):
    """Passes the time that the loop would sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen"
            self.now += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own."""

    def __init__(self) -> None:
        self._own_selector = _Selector()
        super().__init__(self._own_selector)

    def time(self) -> float:
        """What the clock shows, in seconds."""
        return self._own_selector.now


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end in such a loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)
