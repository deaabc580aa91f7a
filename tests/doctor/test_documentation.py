"""docs/reference/doctor.md has every check, in its order, and why it matters in the check's own words."""

import re
from pathlib import Path

from kracauer.doctor import TOPICS, Severity
from kracauer.doctor.finding import CONFIGURATION, HERE

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "doctor.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    table = re.search(rf"^\| {heading} \|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)*)", PAGE, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def test_every_check_is_listed_with_its_reason() -> None:
    assert [(name.strip("`"), why) for name, _, why, _ in rows("check")] == [(topic.name, topic.why) for topic in TOPICS]


def test_every_check_says_what_is_looked_at_and_what_mends_it() -> None:
    assert all(what and remedy for _, what, _, remedy in rows("check"))


def test_the_severities_are_those_of_the_code() -> None:
    assert [name.strip("`") for name, _ in rows("severity")] == [str(severity) for severity in Severity]


def test_the_places_of_remedies_are_those_of_the_code() -> None:
    assert f"`{HERE}`, `{CONFIGURATION}`" in PAGE
