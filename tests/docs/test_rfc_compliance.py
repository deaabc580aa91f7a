"""docs/reference/rfc-compliance.md names what exists, and every departure from an RFC that the code admits to."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "rfc-compliance.md").read_text(encoding="utf-8")
CITATION = re.compile(r"RFC \d{3,5} §\d+(?:\.\d+)*")
VERDICTS = re.compile(r"(?:Deviation|Not kept yet): [A-Z0-9/`a-z].*\.")
TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


class Row(NamedTuple):
    """One row of a table: the rule's citation, the rule, what keeps it, and what shows that, or why it is not kept."""

    citation: str
    rule: str
    place: str
    verdict: str


def read_rows() -> Iterator[Row]:
    for line in PAGE.splitlines():
        if line.startswith("|") and not line.startswith(("| requirement |", "|---")):
            rule, place, verdict = (cell.strip() for cell in line.strip("|").split("|"))
            yield Row(rule.split("`")[1] if rule.startswith("`") else "", rule, place, verdict)


ROWS = tuple(read_rows())


def admitted() -> Iterator[tuple[str, str]]:
    """Each departure in the code: its module below `kracauer`, and the first citation behind the word."""
    for path in sorted((ROOT / "kracauer").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        module = ".".join(path.relative_to(ROOT / "kracauer").with_suffix("").parts).removesuffix(".__init__")
        for match in re.finditer("Deviation:", text):
            after = re.sub(r"\s+#?\s*", " ", text[match.end() : match.end() + 200])
            citation = CITATION.match(after.strip())
            assert citation, f"{module}: a deviation begins with what it departs from: {after[:60]}"
            yield module, citation[0]


def listed() -> Iterator[tuple[str, str]]:
    for row in ROWS:
        if row.verdict.startswith("Deviation:"):
            yield row.place.strip("`"), row.citation


def names_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)}


def find(place: str) -> object:
    """What `place`, a dotted name below `kracauer`, names: a module, or something in one."""
    parts = ["kracauer", *place.split(".")]
    for end in range(len(parts), 1, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name)
        return found
    raise AttributeError(place)


def test_the_page_has_tables() -> None:
    assert len(ROWS) > 100


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.rule[:60])
def test_every_row_cites_its_rule_and_names_what_exists(row: Row) -> None:
    assert CITATION.fullmatch(row.citation), "begins with a citation of the one form"
    assert re.fullmatch(r"`[\w.]+`", row.place), "one place in the code"
    find(row.place.strip("`"))
    found = TEST.fullmatch(row.verdict)
    assert found or VERDICTS.fullmatch(row.verdict), "one test, or a reason that ends in a full stop"
    if found:
        assert found[2] in names_in(ROOT / "tests" / found[1])


def test_every_citation_on_the_page_has_its_section() -> None:
    assert [match[0] for match in re.finditer(r"RFC.{0,16}", PAGE) if not CITATION.match(match[0])] == []


def test_every_departure_in_the_code_is_on_the_page() -> None:
    pairs = list(listed())
    missing = [
        (module, citation)
        for module, citation in admitted()
        if not any((place == module or place.startswith(f"{module}.")) and on_page == citation for place, on_page in pairs)
    ]
    assert missing == []


def test_every_departure_on_the_page_is_admitted_in_the_code() -> None:
    pairs = list(admitted())
    missing = [
        (place, citation)
        for place, citation in listed()
        if not any((place == module or place.startswith(f"{module}.")) and in_code == citation for module, in_code in pairs)
    ]
    assert missing == []
