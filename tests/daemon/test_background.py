"""Work beside the loop: its result, its failure, and its being late."""

import asyncio
import threading

import pytest

from kracauer.daemon.background import in_background


def test_the_result_comes_back() -> None:
    assert asyncio.run(in_background(threading.get_ident, 10)) != threading.get_ident()


def test_a_failure_is_raised() -> None:
    def fail() -> None:
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        asyncio.run(in_background(fail, 10))


def test_what_takes_too_long_is_left_to_itself_and_ends_without_a_word() -> None:
    is_over = threading.Event()
    with pytest.raises(TimeoutError):
        asyncio.run(in_background(is_over.wait, 0.05))
    is_over.set()
