"""Text that is no TOML: where it stops being one, and why."""

from typing import cast

import pytest

from kracauer.config import Problem, parse_config
from kracauer.errors import ConfigError


def only_problem(text: str | bytes) -> Problem:
    with pytest.raises(ConfigError) as refusal:
        parse_config(text)
    (problem,) = refusal.value.problems
    return cast("Problem", problem)


@pytest.mark.parametrize(
    ("text", "place", "line"),
    [
        ("prefix = 2001:db8:46::/96\n", "line 1, column ", "prefix = 2001:db8:46::/96"),
        ('a = 1\nb = "x\n', "line 2, column 7", 'b = "x'),
        ("\n\n[listen\n", "line 3, column ", "[listen"),
        ("a = 1\na = 2\n", "line 2, column ", "a = 2"),
        ("a = 1\na = 2", "line 2, column 6", "a = 2"),
        ("[hosts]\nwww.example.com 2001:db8::1", "line 2, column ", "www.example.com 2001:db8::1"),
        ("[hosts]\nbücher.example = 1", "line 2, column 2", "bücher.example = 1"),
    ],
)
def test_a_syntax_error_names_line_column_and_what_stands_there(text: str, place: str, line: str) -> None:
    problem = only_problem(text)
    assert problem.path.startswith(place)
    assert problem.value == line
    assert problem.message.startswith("is not valid TOML: ")


def test_a_byte_that_is_no_utf8_is_shown_with_its_place() -> None:
    problem = only_problem("a = 1\n# bücher caf".encode() + b"\xe9\n")
    assert problem.path == "line 2, column 13"
    assert "0xe9 is not UTF-8" in problem.message


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, "a = " + "[" * 100_000, "a = " + "{a=" * 100_000])
def test_what_no_reader_would_take_is_a_problem_and_no_crash(text: str) -> None:
    assert "TOML" in only_problem(text).message


@pytest.mark.parametrize("depth", [3, 200, 5000])
def test_dotted_keys_however_deep_are_a_problem_and_no_crash(depth: int) -> None:
    with pytest.raises(ConfigError, match="TOML"):
        parse_config("hosts." + ".".join("a" * depth) + ' = "2001:db8:1::2"')


def test_a_hexadecimal_number_of_thousands_of_digits_is_a_problem_and_no_crash() -> None:
    with pytest.raises(ConfigError, match=r"limits\.flows: a number of 40000 bits: must be a whole number"):
        parse_config(f"[limits]\nflows = 0x{'f' * 10_000}\n")
