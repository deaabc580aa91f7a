"""docs/reference/logs.md names every event and every reason, with the fields that they have."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from kracauer import events
from kracauer.config import BackendProfile
from kracauer.errors import DropReason
from kracauer.events import CloseReason, Event, FailureReason, PacketDropped, ProfileLearnt, RefusalReason

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "logs.md").read_text(encoding="utf-8")
NAMES = frozenset(re.findall(r"`(\w+)`", PAGE))
KINDS = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event]


def test_every_event_of_the_service_is_listed() -> None:
    package = ROOT / "kracauer"
    paths = [*(package / "daemon").glob("*.py"), package / "logs.py", package / "cli" / "run.py"]
    sources = "".join(path.read_text(encoding="utf-8") for path in paths)
    logged = set(re.findall(r'log\.(?:debug|info|warning|error)\(\s*"(\w+)"|event="(\w+)"|ExitCode\.\w+, "(\w+)"', sources))
    found = {name for names in logged for name in names if name}

    assert {"ready", "internal_error", "device_lost"} <= found
    assert found <= NAMES


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_of_the_engine_is_listed_with_level_and_fields(kind: type[Event]) -> None:
    if kind is PacketDropped:
        assert "`packet_dropped` (info)" in PAGE
        return
    (row,) = re.findall(rf"^\| `{kind.event}` \|(.*)$", PAGE, re.MULTILINE)
    shown = {field.name for field in fields(kind)}
    if kind is ProfileLearnt:
        shown = {"backend"} | {field.name for field in fields(BackendProfile)}

    assert row.split("|")[0].strip() == kind.level
    assert set(re.findall(r"`(\w+)`", row.split("|")[1])) == shown


@pytest.mark.parametrize("reasons", [DropReason, CloseReason, FailureReason, RefusalReason])
def test_every_reason_is_listed(reasons: type[DropReason | CloseReason | FailureReason | RefusalReason]) -> None:
    assert {str(reason) for reason in reasons} <= NAMES
