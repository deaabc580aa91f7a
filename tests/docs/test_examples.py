"""Every example in the documentation is run, parsed or checked, and every table of names is that of the code."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields
from enum import StrEnum
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli

from kracauer import events
from kracauer.cli import main
from kracauer.config import Config, parse_config, parse_document
from kracauer.daemon.counters import Counters
from kracauer.daemon.flow_file import HEADER_BYTES
from kracauer.daemon.offloading import MAX_FLOWS
from kracauer.errors import DropReason
from kracauer.events import CloseReason, Event, FailureReason, ProfileLearnt, RefusalReason
from kracauer.offload import layout
from kracauer.offload.collecting import LEASE_S
from kracauer.profile import BackendProfile
from kracauer.tcp import record
from kracauer.tcp.state import State

ROOT = Path(__file__).parent.parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
LOGS = PAGES["docs/reference/logs.md"]
TUTORIAL = "docs/tutorial/first-steps.md"
# What a block may be. A toml block is a whole configuration, under a name where the page says so, or a fragment of one;
# `sh lab` is run in the demo's laboratory, `sh vps` and `radvd` by tests/lab/test_recipes.py; `text` is shown and cannot be
# run, unless it is a file that a configuration names.
KINDS = re.compile(
    r"toml|toml fragment|toml [\w-]+\.toml|console|sh|sh lab|sh vps|ini [\w-]+\.(?:service|network|netdev)|nft|radvd|json"
    r"|mermaid|text"
    r"|text [\w-]+\.txt"
)
# With slots each dataclass leaves the class behind that it was made of.
EVENTS = [event for event in Event.__subclasses__() if getattr(events, event.__name__) is event]
BASE = {
    "prefix": "2001:db8:46::/96",
    "listen": [{"address": "198.51.100.1", "port": 443}],
    "hosts": {"default": "2001:db8:1::2"},
}


class Block(NamedTuple):
    """A fenced block: the page, the line it begins on, what its fence says, and its text without the page's indent."""

    page: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def find_blocks(page: str, text: str) -> Iterator[Block]:
    for match in re.finditer(r"^( *)```([^\n`]*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, match.start()) + 1, match[2], textwrap.dedent(match[3]))


BLOCKS = [block for page, text in PAGES.items() for block in find_blocks(page, text)]


def lists_of(page: str) -> dict[str, str]:
    """The files that the configurations of a page name, by their names."""
    return {
        block.kind.removeprefix("text "): block.text for block in BLOCKS if block.page == page and block.kind[:5] == "text "
    }


def each(*kinds: str) -> pytest.MarkDecorator:
    """Run a test for each block whose fence begins with one of `kinds`."""
    chosen = [block for block in BLOCKS if block.kind.startswith(kinds)]
    assert chosen, kinds
    return pytest.mark.parametrize("block", chosen, ids=str)


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^( *)```[^\n]*\n.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_is_closed_and_says_what_it_holds(page: str) -> None:
    found = list(find_blocks(page, PAGES[page]))
    assert len(re.findall(r"^ *```", PAGES[page], re.MULTILINE)) == 2 * len(found)
    assert [str(block) for block in found if not KINDS.fullmatch(block.kind)] == []


@each("toml")
def test_every_configuration_is_valid(block: Block) -> None:
    if block.kind == "toml fragment":
        assert isinstance(parse_document(BASE | tomli.loads(block.text)), Config)
    else:
        assert isinstance(parse_config(block.text, lists_of(block.page).__getitem__), Config)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Go to a directory with the files that a page talks about: its configurations or the shipped one, a wrong one, lists."""

    def enter(page: str) -> Path:
        own = [block for block in BLOCKS if block.page == page and re.fullmatch(r"toml(?! fragment).*", block.kind)]
        plain = [block.text for block in own if block.kind == "toml"]
        text = plain[0] if plain else (ROOT / "kracauer-config.toml").read_text(encoding="utf-8")
        files = {block.kind.removeprefix("toml "): block.text for block in own if block.kind != "toml"}
        files |= lists_of(page)
        files |= {"kracauer-config.toml": text, "wrong.toml": text.replace("443", "70000").replace("protocol", "protocl")}
        for name, content in files.items():
            (tmp_path / name).write_text(content, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "80")
        return tmp_path

    return enter


def comparable(command: str, output: str) -> str:
    """`output` as it is, but a help text without what differs between versions of Python."""
    if not command.endswith("--help"):
        return output
    return " ".join(output.replace("-c FILE, --config FILE", "-c, --config FILE").split())


@each("console")
def test_every_session_shows_what_is_really_printed(
    block: Block, folder: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder(block.page)
    sessions = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE)
    assert "".join(f"$ {command}\n{output}" for command, output in sessions) == block.text
    for command, output in sessions:
        assert command.startswith("kracauer ")
        main(command.split()[1:])
        printed = capsys.readouterr()
        assert comparable(command, printed.out + printed.err) == comparable(command, output)


@each("sh")
def test_every_shell_block_is_well_formed(block: Block) -> None:
    result = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False, timeout=10)
    assert (result.returncode, result.stderr) == (0, "")


@each("sh")
def test_every_check_of_a_configuration_in_a_shell_block_succeeds(block: Block, folder: Callable[[str], Path]) -> None:
    folder(block.page)
    for name in re.findall(r"kracauer check-config -c (\S+)", block.text):
        assert main(["check-config", "-c", Path(name).name]) == 0


@each("sh")
def test_every_use_of_the_command_line_in_a_shell_block_is_one_it_knows(
    block: Block, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, rest in re.findall(
        r"(?:^|/)kracauer (run|reload|status|stop|check-config|doctor|network (?:plan|apply|undo)|install-service|demo)\b"
        r"([^\n&|>2]*)",
        block.text,
        re.MULTILINE,
    ):
        main([*command.split(), "--help"])
        known = set(re.findall(r"(?<!\w)--?[a-z][a-z-]*", capsys.readouterr().out))
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) <= known


def units(suffix: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "block", [b for b in BLOCKS if b.kind.startswith("ini ") and b.kind.endswith(suffix)], ids=str
    )


@units(".service")
def test_every_unit_passes_systemd_s_own_check(block: Block, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze: apt install systemd")
    unit = tmp_path / block.kind.removeprefix("ini ")
    assert re.search("^ExecStart=/opt/kracauer/bin/kracauer (run|network) ", block.text, re.MULTILINE)
    unit.write_text(block.text.replace("/opt/kracauer/bin/kracauer", "/bin/true"), encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stderr.splitlines() if unit.name in line] == []


@units(".network")
def test_every_network_file_routes_the_prefix_somewhere(block: Block) -> None:
    if block.kind == "ini kracauer0.network":  # the device's own; tests/lab/test_recipes.py has it taken by systemd-networkd
        assert set(re.findall(r"^Destination=(\S+)$", block.text, re.MULTILINE)) == {"198.51.100.1/32", BASE["prefix"]}
        return
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep the case of keys
    parser.read_string(block.text)
    assert parser.sections() == ["Route"]
    assert set(parser["Route"]) == {"Destination", "Gateway"}
    assert IPv6Network(parser["Route"]["Destination"]) == IPv6Network(BASE["prefix"])
    assert IPv6Address(parser["Route"]["Gateway"]) not in IPv6Network(BASE["prefix"])


@each("nft")
def test_every_ruleset_passes_nft_s_own_check(block: Block) -> None:
    if shutil.which("nft") is None or os.geteuid() != 0:
        pytest.skip("needs root and nft: apt install nftables")
    command = ["nft", "--check", "--file", "-"]
    result = subprocess.run(command, input=block.text, capture_output=True, text=True, check=False, timeout=30)
    if "Operation not permitted" in result.stderr or "cache initialization failed" in result.stderr:
        pytest.skip(f"needs nftables in the kernel: {result.stderr.splitlines()[0]}")
    assert (result.returncode, result.stderr) == (0, "")


@each("json")
def test_every_log_line_has_just_the_fields_of_its_event(block: Block) -> None:
    for line in block.text.splitlines():
        shown: dict[str, Any] = json.loads(line)
        named = {"timestamp", "level", "event"}
        assert named <= set(shown)
        assert set(shown) - named <= documented_fields(shown["event"])


def section(event: str) -> str:
    match = re.search(rf"^### `{event}`$(.*?)(?=^##|\Z)", LOGS, re.MULTILINE | re.DOTALL)
    assert match is not None, f"no section of {event}"
    return match[1]


def rows(text: str, heading: str) -> dict[str, str]:
    """The table whose first heading is `heading`: its first column, without backquotes, to its second."""
    table = re.search(rf"^\| {heading} \|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)*)", text, re.MULTILINE)
    assert table is not None, heading
    pairs = [re.findall(r"(?<=\| )(.*?)(?= \|)", row)[:2] for row in table[1].splitlines()]
    assert len({name for name, _ in pairs}) == len(pairs)
    return {name.strip("`"): meaning for name, meaning in pairs}


def documented_fields(event: str) -> set[str]:
    return set(rows(section(event), "field"))


@pytest.mark.parametrize(
    ("event", "reasons"),
    [
        ("packet_dropped", DropReason),
        ("flow_closed", CloseReason),
        ("backend_failed", FailureReason),
        ("flow_refused", RefusalReason),
    ],
)
def test_the_reasons_of_an_event_are_those_of_the_code(event: str, reasons: type[StrEnum]) -> None:
    documented = rows(section(event), "`reason`")
    assert set(documented) == {reason.value for reason in reasons}
    assert all(documented.values())


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: str(event.event))
def test_each_event_has_its_level_and_fields(event: type[Event]) -> None:
    own = {field.name for field in fields(event)}
    if event is ProfileLearnt:
        own = own - {"profile"} | {field.name for field in fields(BackendProfile)}
    assert documented_fields(event.event) - {"repeated"} == own
    assert section(event.event).lstrip().startswith(f"Level `{event.level}`.")


def test_the_states_that_a_flow_can_end_in_are_those_of_the_code() -> None:
    described = rows(section("flow_closed"), "field")["state"]
    assert set(re.findall(r"`(\w+)`", described)) == {state.value for state in State} - {State.CLOSED.value}


def test_the_counters_are_those_of_the_code() -> None:
    assert documented_fields("counters") == {field.name for field in fields(Counters)}


def test_every_event_of_the_service_is_documented_with_its_level() -> None:
    package = ROOT / "kracauer"
    sources = [*sorted((package / "daemon").glob("*.py")), package / "logs.py", package / "cli" / "run.py"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    logged = {event: level for level, event in re.findall(r"log\.(debug|info|warning|error)\(\s*\"(\w+)\"", code)}
    logged |= {event: level for level, event in re.findall(r"level=\"(\w+)\", event=\"(\w+)\"", code)}
    logged |= dict.fromkeys(re.findall(r"\(ExitCode\.\w+, \"(\w+)\"\)", code), "error")
    table = re.search(r"^## The service$(.*)", LOGS, re.MULTILINE | re.DOTALL)
    assert table is not None
    documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", table[1], re.MULTILINE))
    assert documented == logged


def anchors(text: str) -> set[str]:
    """The anchors that the headings of a page get where Markdown is shown: lower case, hyphens for spaces, no punctuation."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = sum(anchor == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", anchor) is not None for anchor in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", prose(PAGES[page])):
        assert "://" not in target, f"{target}: pages link to each other alone"
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        is_there = path.exists() and (path.is_relative_to(ROOT))
        if not is_there or (anchor and anchor not in anchors(PAGES[str(path.relative_to(ROOT))])):
            broken.append(target)
    assert broken == []


def test_every_page_can_be_found_from_the_index() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)\)", PAGES["docs/README.md"]))
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")} - {"README.md"}
    assert linked == pages


@pytest.mark.parametrize("page", PAGES)
def test_every_citation_has_the_one_form(page: str) -> None:
    text = prose(PAGES[page])
    for match in re.finditer(r"RFC|\brfc(?![\w-]+\.\w)", text):
        rest = text[match.start() :]
        assert re.match(r"RFC \d{3,5}(?: §\d+(?:\.\d+)*)?(?! ?§|\w|,? [Ss]ection)", rest), rest[:40]
    for match in re.finditer("§", text):
        assert re.search(r"RFC \d{3,5} $", text[: match.start()]), text[max(0, match.start() - 20) :][:40]


@pytest.mark.parametrize("page", PAGES)
def test_only_documentation_addresses_are_shown(page: str) -> None:
    text = re.sub(r"\d\d:\d\d:\d\d(?:\.\d+)?|§[\d.]+", "", PAGES[page])  # neither times nor sections
    v4 = set(re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text)) - {"0.0.0.0"}
    assert [address for address in v4 if not address.startswith(("192.0.2.", "198.51.100.", "203.0.113."))] == []
    v6 = set(re.findall(r"\b[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){2,}", text))
    assert [address for address in v6 if not address.startswith(("2001:db8:", "64:ff9b:"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", prose(PAGES[page]))
    missing = [
        (path, name) for path, name in named if f"def {name}(" not in (ROOT / "tests" / path).read_text(encoding="utf-8")
    ]
    assert missing == []


@each("sh")
def test_every_file_of_the_repository_in_a_shell_block_is_there(block: Block) -> None:
    named = re.findall(r"(?:^|(?<=\s))(?:\.ci|tests|kracauer)/[\w./-]+", block.text, re.MULTILINE)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_table_of_a_records_bytes_is_complete_and_its_numbers_are_those_of_the_code() -> None:
    page = PAGES["docs/explanation/what-outlives-the-process.md"]
    ranges = [
        range(int(first), int(last or first) + 1)
        for row in rows(page, "bytes")
        for first, last in re.findall(r"(\d+)(?:–(\d+))?", row)
    ]
    listed = [at for found in ranges for at in found]
    idle = re.search(r"^Bytes ([\d, and]+) mean nothing\.$", page, re.MULTILINE)
    assert idle is not None
    listed += [int(at) for at in re.findall(r"\d+", idle[1])]
    assert sorted(listed) == list(range(record.RECORD_BYTES))
    for shown in (
        f"header of {HEADER_BYTES:,} bytes",
        f"pages of {record.PAGE_RECORDS:,} records, {record.RECORD_BYTES} bytes each",
        f"The records have a version, now {record.VERSION},",
    ):
        assert shown in " ".join(page.split())


def test_the_numbers_of_the_fast_path_are_those_of_the_code() -> None:
    how_to, explanation, departures = (
        " ".join(PAGES[f"docs/{page}.md"].split())
        for page in ("how-to/kernel-fast-path", "explanation/the-fast-path", "explanation/design-departures")
    )
    assert LEASE_S == 600
    assert "for ten minutes at most" in how_to
    assert "moves ten minutes ahead" in explanation
    assert "ten minutes into the future" in departures
    assert f"beyond {MAX_FLOWS:,} at once" in how_to
    assert f"{layout.TRAFFIC_BYTES} bytes for its counters" in how_to
    assert f"{layout.TRAFFIC_BYTES} bytes in an array" in explanation
    assert f"one of {layout.IDENTIFICATIONS:,} counters" in explanation
    assert f"in {layout.IDENTIFICATIONS:,} counters" in departures


@pytest.fixture
def kept_demo(program: Callable[[str], str]) -> Iterator[str]:
    """The name of a laboratory that `kracauer demo --keep` has built; it is taken down afterwards."""
    for name in ("nsenter", "curl", "ip"):
        program(name)
    command = [sys.executable, "-m", "kracauer", "demo", "--keep"]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None
        found = (re.search(r"/run/netns/(kracauer-[\d.]+)-client", line) for line in demo.stdout)
        name = next((match[1] for match in found if match), "")
        assert name, "the demo ended before it was ready"
        yield name
    finally:
        demo.terminate()
        demo.communicate(timeout=30)


@pytest.mark.lab
def test_the_first_steps_can_be_taken_as_they_are_written(kept_demo: str, folder: Callable[[str], Path]) -> None:
    directory = folder(TUTORIAL)
    shim = directory / ".venv" / "bin" / "kracauer"
    shim.parent.mkdir(parents=True)
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m kracauer "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    steps = "\n".join(block.text for block in BLOCKS if block.page == TUTORIAL and block.kind == "sh lab")
    script, replaced = re.subn(r"^lab=\S+$", f"lab={kept_demo}", steps, flags=re.MULTILINE)
    assert replaced == 1
    # A reader is slower than a script: by the time of the next command, what the last one caused has been logged.
    script = re.sub(r"^(grep|tail) ", r"sleep 0.5; \1 ", script, flags=re.MULTILINE)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RUNTIME_DIRECTORY": str(directory)}
    result = subprocess.run(
        ["bash", "-eu"], input=script, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=90
    )
    assert result.returncode == 0, result.stdout + result.stderr
    shown = result.stdout
    for expected in (
        "198.51.100.1 proto 198",
        '"server": "origin1", "client": "192.0.2.7"',
        '"event": "flow_spliced"',
        "421 Misdirected Request",
        '"reason": "no_route"',
        '"reason": "silent"',
        '"server": "origin2", "client": "2001:db8:47::c000:207"',
        "reloaded: 1 name, listening on 198.51.100.2:80 (http)",
        "NO-CARRIER",
        "8000000 bytes in ",
        '"discarded": 0',
        "stopped: nothing is kept, kracauer1 and its routes are gone",
        '"event": "stopped"',
    ):
        assert expected in shown, shown + result.stderr
    assert "unrecognized name" in result.stderr
