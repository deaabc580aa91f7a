"""What is said of figures is what they say: medians, ratios within a round, bars, tables, files."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import bars
import canned_results as canned
import page
import plots
import pytest
import results
import tables
from results import Results, Series, Spread


def table_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_a_ratio_is_taken_within_each_round() -> None:
    own = Series({}, "kracauer", [{"x": 10.0}, {"x": 100.0}, {"x": 9.0}])
    other = Series({}, "kernel", [{"x": 5.0}, {"x": 100.0}, {"x": 3.0}])
    assert own.ratios(other, "x") == Spread(2.0, 1.0, 3.0)
    assert own.differences(other, "x") == Spread(5.0, 0.0, 6.0)
    assert own.spread("x") == Spread(10.0, 9.0, 100.0)


def test_a_round_without_figures_is_in_no_ratio() -> None:
    own = Series({}, "kracauer", [None, {"x": 4.0}, {"x": 9.0}])
    other = Series({}, "kernel", [{"x": 5.0}, {"x": 2.0}, None])
    assert own.ratios(other, "x") == Spread(2.0, 2.0, 2.0)
    assert Series({}, "kernel", [None]).ratios(other, "x") is None
    assert Series({}, "kernel").spread("x") is None


def test_results_are_the_same_after_being_kept(tmp_path: Path) -> None:
    found = canned.all_parts()
    found.parts["tls"].series[1].rounds[0] = None
    found.parts["tls"].series[1].failures["Connection refused"] = 7
    found.save(tmp_path)
    assert results.load(tmp_path) == found
    assert list(tmp_path.iterdir()) == [tmp_path / "results.json"]
    json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 0, "machine": {}, "parts": {}}', '{"version": 1}'])
def test_what_is_no_file_of_results_is_not_taken_for_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    assert results.load(tmp_path) is None


def test_every_bar_has_its_figure_and_is_met_or_not() -> None:
    rows = table_rows(tables.bars(canned.all_parts()))[2:]
    measured = {row[0]: (row[2], row[3]) for row in rows}
    assert len(rows) == len(bars.BARS)
    assert measured["bulk, one flow, download: share of the kernel's rate"] == ("0.50", "**no**")
    assert measured["set-up of a connection, one at a time: times the kernel's latency"] == ("2.00 (1.50 to 2.50)", "yes")
    assert measured["new connections a second, 32 at once: share of HAProxy's"] == ("0.50", "**no**")
    assert measured["a byte there and back: added to the kernel's median"] == ("30 µs", "yes")
    assert measured["fast path: bulk, eight flows, upload: share of the kernel's rate"] == ("1.00", "yes")
    small = "bulk in packets of 1500 bytes, one flow, upload: share of the kernel's rate"
    assert measured[f"fast path: {small}"] == ("1.00", "yes")
    assert measured["fast path: set-up of a connection, one at a time: times the kernel's latency"][0].startswith("1.10")
    assert measured["fast path: new connections a second, 32 at once: share of HAProxy's"][1] == "yes"
    assert measured["fast path: a byte there and back: added to the kernel's median"] == ("90 µs", "**no**")
    crowd = "100,000 connections against 1"
    assert measured[f"a packet of always the same connection, {crowd}: more time in the engine"] == ("5.00 %", "yes")
    # With one connection any is always the same: the lesser of the two figures counts.
    assert measured[f"a packet of any connection, {crowd}: more time in the engine"] == ("60 %", "**no**")
    assert measured[f"a packet of any connection, {crowd}: more time of the whole process"] == ("20 %", "**no**")
    assert measured["look-up of an exact name, 10,000 names against 1: times as long"] == ("1.01", "yes")
    assert {met for _, met in measured.values()} == {"yes", "**no**"}


def test_a_bar_that_was_not_measured_says_so() -> None:
    for row in table_rows(tables.bars(Results({})))[2:]:
        assert row[2:] == ["–", "–"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.0512, "0.0512"), (0.25, "0.250"), (2.345, "2.35"), (23.45, "23.4"), (1234.5, "1,234"), (-1234.5, "−1,234")],
)
def test_numbers_have_three_digits_or_all_of_a_greater_one(value: float, shown: str) -> None:
    assert tables.number(value) == shown


def test_every_table_has_the_same_number_of_cells_in_all_its_rows() -> None:
    text = page.render(canned.all_parts(), [])
    found = re.findall(r"(?m)(?:^\|.*\n)+", text)
    assert len(found) > 12
    for each in found:
        assert len({len(row) for row in table_rows(each)}) == 1, each


def test_failures_are_said_in_their_row() -> None:
    found = canned.openings("connections", 1)
    found.series[1].failures["Connection refused"] = 3
    (row,) = [row for row in table_rows(tables.openings(found)) if row[0].startswith("Kracauer, userspace")]
    assert row[0] == "Kracauer, userspace (failed: 3 × Connection refused)"


def test_the_page_has_no_place_left_and_every_part() -> None:
    found = canned.all_parts()
    text = page.render(found, [f"{name}.svg" for name in found.parts])
    assert "$" not in text
    for name in found.parts:
        assert f"({name}.svg)" in text
    assert "TAYGA is not installed: apt install tayga" in text
    assert "\n\n\n" not in text


def test_sections_without_figures_are_left_out() -> None:
    found = canned.all_parts()
    found.parts = {"round-trips": found.parts["round-trips"]}
    text = page.render(found, [])
    headings = re.findall("(?m)^## (.*)$", text)
    assert headings == ["Bars", "The machine", "A byte there and back", "How it is measured"]
    assert "![" not in text


def test_pictures_are_well_formed_and_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install '.[bench]'")
    found = canned.all_parts()
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
        assert set(plots.draw(found, directory)) == {f"{name}.svg" for name in found.parts}
    for name in found.parts:
        content = (first / f"{name}.svg").read_bytes()
        assert ET.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
        assert content == (second / f"{name}.svg").read_bytes()
        assert len(content) < 60_000
        assert b"<text" in content  # letters, and not their outlines


def test_pictures_of_parts_that_are_gone_go_too(tmp_path: Path) -> None:
    (tmp_path / "bulk.svg").write_text("<svg/>", encoding="utf-8")
    assert plots.draw(Results({}), tmp_path) == []
    assert list(tmp_path.iterdir()) == []
