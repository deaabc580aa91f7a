"""How problems are put into words: one line each, paths as TOML writes them, nothing a terminal would obey."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kracauer.config import ABSENT, Problem
from kracauer.config.problems import child, nearest, render


def test_a_problem_reads_path_value_remedy() -> None:
    problem = Problem("listen[1].port", 70000, "must be a whole number from 1 to 65535")
    assert str(problem) == "listen[1].port: 70000: must be a whole number from 1 to 65535"


def test_a_problem_about_a_missing_key_shows_no_value() -> None:
    assert str(Problem("prefix", ABSENT, "is missing")) == "prefix: is missing"


@pytest.mark.parametrize(
    ("path", "key", "expected"),
    [
        ("", "prefix", "prefix"),
        ("listen", 1, "listen[1]"),
        ("listen[1]", "port", "listen[1].port"),
        ("hosts", "www.example.com", 'hosts."www.example.com"'),
        ("hosts", "", 'hosts.""'),
        ("hosts", 'a"b', "hosts.'a\"b'"),
    ],
)
def test_paths_are_written_as_toml_writes_keys(path: str, key: str | int, expected: str) -> None:
    assert child(path, key) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "true"),
        (7, "7"),
        (0.5, "0.5"),
        (float("nan"), "nan"),
        ("tls", '"tls"'),
        ('say "x"', "'say \"x\"'"),
        ("back\\slash", '"back\\\\slash"'),
        ("\x1b[31m", '"\\u001B[31m"'),
        ("\u202e", '"\\u202E"'),
        ("\U000e0001", '"\\U000E0001"'),
        ("bücher", '"bücher"'),
        ("x" * 100, '"' + "x" * 79 + '…"'),
        ({"a": 1}, "a table"),
        ([1], "a list"),
        ([], "an empty list"),
        (1 << 300, "a number of 301 bits"),
    ],
)
def test_values_are_rendered_as_toml_writes_them(value: object, expected: str) -> None:
    assert render(value) == expected


@given(st.text())
def test_a_rendered_value_is_one_printable_line(value: str) -> None:
    assert render(value).isprintable()
    assert child("hosts", value).isprintable()


@pytest.mark.parametrize(
    ("word", "expected"), [("protocl", "protocol"), ("Port", "port"), ("adress", "address"), ("zzz", None), ("", None)]
)
def test_the_nearest_word_is_found(word: str, expected: str | None) -> None:
    assert nearest(word, ["address", "port", "protocol"]) == expected
