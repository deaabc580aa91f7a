"""A pause ends when it should, and can be waited for."""

import select
import time

from kracauer.host.pause import Pause


def is_over(pause: Pause, timeout_s: float = 0) -> bool:
    return bool(select.select([pause], [], [], timeout_s)[0])


def test_a_pause_is_over_after_its_time_and_until_it_is_cleared() -> None:
    pause = Pause()
    assert not is_over(pause)
    started = time.monotonic()

    pause.begin(0.05)

    assert not is_over(pause)
    assert is_over(pause, timeout_s=5)
    assert time.monotonic() - started >= 0.05
    pause.clear()
    pause.clear()
    assert not is_over(pause)
    pause.close()
    pause.close()


def test_the_last_pause_begun_counts() -> None:
    pause = Pause()
    pause.begin(60)
    pause.begin(0.001)

    assert is_over(pause, timeout_s=5)
    pause.close()


def test_no_time_at_all_is_over_at_once() -> None:
    pause = Pause()
    pause.begin(0)

    assert is_over(pause, timeout_s=5)
    pause.close()
