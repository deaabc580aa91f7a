"""The page about what was measured: page.md with tables and pictures in their places, without the sections that have none."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from string import Template
from typing import Final

import tables
from results import Results

TEMPLATE: Final = Path(__file__).with_name("page.md")
FILE: Final = "README.md"
_ALTERNATIVES: Final = {
    "bulk": "rates of bulk by way, direction, flows and links",
    "bulk-links": "the same with larger packets, and without offloads",
    "connections": "new connections a second, their latency and their cost, by way and number at once",
    "tls": "the same with real TLS",
    "round-trips": "median time and cost of a byte there and back, by way",
    "memory": "bytes for an idle connection, by way",
    "flows": "cost of a packet, time for a byte there and back, and new connections a second, by idle connections",
    "growth": "microseconds a packet in the engine, by connections",
    "names": "time of a look-up and latency of a connection, by names",
    "engine": "microseconds a packet in the engine, by path",
}


def render(results: Results, pictures: Collection[str], template: str | None = None) -> str:
    """Return the page, with the pictures of these names."""
    values = _values(results, pictures)
    text = TEMPLATE.read_text(encoding="utf-8") if template is None else template
    sections = (_fill(section, values) for section in re.split(r"(?m)^(?=## )", text))
    return "".join(section for section in sections if section is not None).rstrip() + "\n"


def _values(results: Results, pictures: Collection[str]) -> dict[str, str]:
    values = {"bars": tables.bars(results), "machine": tables.machine(results), "runs": tables.runs(results)}
    if missing := tables.left_out(results):
        values["left_out"] = missing
    for name, render_part in tables.TABLES.items():
        if name in results.parts and results.parts[name].series:
            values[_key(name)] = render_part(results.parts[name])
            if f"{name}.svg" in pictures:
                values[f"{_key(name)}_plot"] = f"![{_ALTERNATIVES[name]}]({name}.svg)"
    return values


def _key(name: str) -> str:
    return name.replace("-", "_")


def _fill(section: str, values: Mapping[str, str]) -> str | None:
    """Put tables and pictures into a section; None where it has a place for a table, and no table."""
    wanted = set(Template(section).get_identifiers())
    needed = {name for name in wanted if not name.endswith("_plot")}
    if needed and not needed & values.keys():
        return None
    known = {**dict.fromkeys(wanted, ""), **values}
    return re.sub(r"\n{3,}", "\n\n", Template(section).substitute(known))
