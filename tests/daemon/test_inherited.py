"""Descriptors that the service manager hands over: taken by name, or not, and told why."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from service_manager import hand_over

from kracauer.daemon.inherited import Inherited, take_inherited

VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Two descriptors that were handed to this process, as "a" and as "b"; closed afterwards."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    ends = os.pipe()
    numbers = hand_over(monkeypatch, ["a", "b"], list(ends))
    for number in numbers:
        fcntl.fcntl(number, fcntl.F_SETFD, 0)  # as they come through exec
    yield numbers
    os.closerange(numbers[0], numbers[-1] + 1)


def test_they_are_taken_by_name_and_no_child_has_them(numbers: list[int]) -> None:
    assert take_inherited() == Inherited((("a", numbers[0]), ("b", numbers[1])))
    assert [fcntl.fcntl(number, fcntl.F_GETFD) for number in numbers] == [fcntl.FD_CLOEXEC] * 2
    assert [name for name in VARIABLES if name in os.environ] == []
    assert take_inherited() == Inherited()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LISTEN_PID", "1"),
        ("LISTEN_PID", ""),
        ("LISTEN_PID", "garbage"),
        ("LISTEN_PID", None),
        ("LISTEN_FDS", None),
        ("LISTEN_FDNAMES", None),
    ],
)
def test_what_is_not_for_this_process_or_has_no_name_is_none(
    numbers: list[int], monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None
) -> None:
    monkeypatch.delenv(variable)
    if value is not None:
        monkeypatch.setenv(variable, value)
    assert take_inherited() == Inherited()
    assert [fcntl.fcntl(number, fcntl.F_GETFD) for number in numbers] == [0, 0]  # untouched
    assert [name for name in VARIABLES if name in os.environ] == []


@pytest.mark.parametrize("count", ["", "0", "-1", "1", "3", "+2", " 2", "2.0", "99999999999999999999", "zwei"])
def test_a_number_that_is_not_that_of_the_names_is_told(
    numbers: list[int], monkeypatch: pytest.MonkeyPatch, count: str
) -> None:
    monkeypatch.setenv("LISTEN_FDS", count)
    taken = take_inherited()
    assert taken.descriptors == ()
    assert repr(count) in taken.problem
    assert len(numbers) == 2


def test_what_is_not_open_is_told_and_the_rest_taken(numbers: list[int]) -> None:
    os.close(numbers[0])
    assert take_inherited() == Inherited((("b", numbers[1]),), f"there is nothing behind descriptor {numbers[0]}")


def test_the_first_of_them_is_number_three() -> None:
    code = "import os; os.environ['LISTEN_PID'] = str(os.getpid())\n"
    code += "from kracauer.daemon.inherited import take_inherited; print(take_inherited())"
    environment = {**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "it"}
    spawned = ["sh", "-c", 'exec 3< /dev/null; exec "$@"', "sh", sys.executable, "-c", code]
    ran = subprocess.run(spawned, env=environment, capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.strip() == repr(Inherited((("it", 3),)))
