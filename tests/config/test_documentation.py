"""The shipped example and the reference say what the code does."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import tomli

from kracauer.config import (
    BackendProfile,
    Config,
    Dns,
    Limits,
    Listener,
    Log,
    Network,
    Probes,
    Timeouts,
    parse_config,
    parse_document,
)
from kracauer.config.clients import ACCESS_KEYS

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = (ROOT / "kracauer-config.toml").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml( fragment)?\n(.*?)^```$", REFERENCE, re.MULTILINE | re.DOTALL)
WHOLE = [block for mark, block in BLOCKS if not mark]
FRAGMENTS = [block for mark, block in BLOCKS if mark]
BASE = {
    "prefix": "2001:db8:46::/96",
    "listen": [{"address": "198.51.100.1", "port": 443}],
    "hosts": {"default": "2001:db8:1::2"},
}


def test_the_shipped_example_is_valid_as_it_stands() -> None:
    config = parse_config(EXAMPLE)
    assert {listener.port for listener in config.listeners} == {80, 443}
    assert config.routes.lookup("a.b.example.org") is not None


def test_what_the_shipped_example_shows_in_comments_are_the_defaults() -> None:
    config = parse_config(re.sub(r"^#(?=[a-z\[])", "", EXAMPLE, flags=re.MULTILINE), read_file=lambda _: "")
    shown = (config.profile, config.timeouts, config.limits, config.network, config.log, config.dns, config.probes)
    assert shown == (BackendProfile(), Timeouts(), Limits(), Network(), Log(), Dns(), Probes())


@pytest.mark.parametrize("section", ["backend_profile", "timeouts", "limits", "network", "log", "dns", "probes"])
def test_the_shipped_example_shows_every_setting(section: str) -> None:
    shown = tomli.loads(re.sub(r"^#(?=[a-z\[])", "", EXAMPLE, flags=re.MULTILINE))[section]
    settings = {
        "backend_profile": BackendProfile,
        "timeouts": Timeouts,
        "limits": Limits,
        "network": Network,
        "log": Log,
        "dns": Dns,
        "probes": Probes,
    }
    assert {field.name for field in fields(settings[section])} <= set(shown)


def test_the_reference_has_whole_files_and_fragments() -> None:
    assert WHOLE
    assert len(FRAGMENTS) >= 8


@pytest.mark.parametrize("text", WHOLE)
def test_every_whole_file_in_the_reference_is_valid(text: str) -> None:
    assert isinstance(parse_config(text), Config)


@pytest.mark.parametrize("text", FRAGMENTS)
def test_every_fragment_in_the_reference_is_valid_in_its_place(text: str) -> None:
    assert isinstance(parse_document(BASE | tomli.loads(text)), Config)


def documented_rows(section: str) -> dict[str, str]:
    """The default of each key in the table under the heading of `section`, as written."""
    heading = re.search(rf"^## `\[+{section}\]+`$(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert heading is not None, section
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|", heading[1], re.MULTILINE)
    return {key: default.strip("`") for key, default in rows}


@pytest.mark.parametrize(
    ("section", "defaults"),
    [
        ("backend_profile", BackendProfile()),
        ("timeouts", Timeouts()),
        ("limits", Limits()),
        ("network", Network()),
        ("log", Log()),
        ("dns", Dns()),
        ("probes", Probes()),
    ],
)
def test_the_reference_has_each_key_with_its_default(
    section: str, defaults: BackendProfile | Timeouts | Limits | Network | Log | Dns | Probes
) -> None:
    rows = documented_rows(section)
    rows.pop("below_rfc_floors", None)  # a key of the file that leaves no trace in the settings
    written = {key: tomli.loads(f"value = {default}")["value"] for key, default in rows.items()}
    shown = {field.name: getattr(defaults, field.name) for field in fields(defaults)}
    assert written == {key: list(value) if isinstance(value, tuple) else value for key, value in shown.items()}


def test_the_reference_has_each_key_of_a_listener() -> None:
    assert set(documented_rows("listen")) == {field.name for field in fields(Listener)} - {"access"} | set(ACCESS_KEYS)


@pytest.mark.parametrize(
    ("section", "others"),
    [
        ("access", set()),
        ("hosts", {"backends", "default", "balance", "redirect", "max_flows", "address", "weight", "drain"}),
    ],
)
def test_the_reference_has_each_key_of_a_list_of_clients(section: str, others: set[str]) -> None:
    assert set(documented_rows(section)) == set(ACCESS_KEYS) | others


@pytest.mark.parametrize("text", [EXAMPLE, REFERENCE])
def test_only_documentation_addresses_are_shown(text: str) -> None:
    v4 = set(re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text)) - {"0.0.0.0"}
    assert all(address.startswith(("192.0.2.", "198.51.100.", "203.0.113.")) for address in v4)
    v6 = set(re.findall(r"\b[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){2,}", text))
    assert all(address.startswith(("2001:db8:", "64:ff9b:")) for address in v6)
