"""docs/reference/flow-states.md is drawn from the table; `UPDATE_DOCS=1 pytest` on this file draws it anew."""

import os
import re
from pathlib import Path

import pytest
from diagram import render_diagram, render_table

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "flow-states.md"


@pytest.mark.parametrize(("name", "drawn"), [("diagram", f"```mermaid\n{render_diagram()}\n```"), ("table", render_table())])
def test_the_page_shows_the_table_as_it_is(name: str, drawn: str) -> None:
    page = PAGE.read_text()
    between = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
    assert between.search(page), f"the marks around the {name} are missing"
    redrawn = between.sub(lambda marks: marks[1] + drawn + marks[2], page)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(redrawn)
        return
    assert page == redrawn
