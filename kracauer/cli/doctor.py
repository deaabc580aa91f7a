"""`kracauer doctor`: what stands between this machine and a working service, and the commands that mend it."""

import json
import shutil
import sys
import textwrap
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kracauer.cli.config_file import ConfigFileError, add_config_argument, find_config, read_config
from kracauer.cli.exit_codes import ExitCode
from kracauer.cli.running_service import find_device
from kracauer.errors import ConfigError

if TYPE_CHECKING:
    from kracauer.doctor import Finding, Remedy, Source

NAME: Final = "doctor"
HELP: Final = "check everything that the service needs, and say what mends it"

FAILURES: Final = 1
SCHEMA: Final = 1
MOST_ALIKE: Final = 20  # findings of one name and severity; a thousand backends may be down for one reason
_INDENT: Final = " " * 9
_PLACES: Final = {"this machine": "", "the configuration": "in the configuration"}
_NARROWEST: Final = 40
_WIDEST: Final = 120


def add_arguments(parser: ArgumentParser) -> None:
    """Add `-c FILE` and `--json`."""
    add_config_argument(parser)
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(arguments: Namespace) -> int:
    """Print what was found; returns 1 if there is a failure."""
    from kracauer.doctor import Severity, examine  # noqa: PLC0415 - heavy

    arguments.device = None
    source = read_source(arguments.config)
    findings = examine(source, find_device(arguments))
    if arguments.json:
        print(json.dumps(render_object(source, findings), indent=2))
    else:
        width = min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST) if sys.stdout.isatty() else 0
        for line in render_lines(findings, width):
            print(line)
    has_failed = any(finding.severity is Severity.FAILURE for finding in findings)
    return FAILURES if has_failed else ExitCode.OK


def read_source(given: Path | None) -> "Source":
    """The configuration with all its problems; none of them is a reason not to look at the rest."""
    from kracauer.doctor import Source  # noqa: PLC0415 - heavy

    path = None
    try:
        path = find_config(given)
        return Source(path, read_config(path).config)
    except ConfigFileError as error:
        is_there = path is not None and path.exists()
        return Source(path, None, tuple(map(str, error.problems)), is_there=is_there)
    except ConfigError as error:
        return Source(path, None, tuple(map(str, error.problems)))


def render_lines(findings: Sequence["Finding"], width: int = 0) -> Iterator[str]:
    """A line for each finding, and below it, where all is not well, why it matters and what mends it; `width` 0: unbroken."""
    shown: Counter[tuple[str, str]] = Counter()
    for finding in _merged(findings):
        shown[finding.name, finding.severity] += 1
        if shown[finding.name, finding.severity] > MOST_ALIKE:
            continue
        subject = f" {finding.subject}" if finding.subject else ""
        head = f"{finding.severity.upper():<8} {finding.name}{subject}: {finding.found}"
        yield from _broken(head, width)
        if finding.severity in ("warning", "failure"):
            yield from _broken(f"{_INDENT}{finding.why}", width)
            for remedy in finding.remedies:
                yield from _remedy(remedy)
    if any(number > MOST_ALIKE for number in shown.values()):
        left = sum(max(number - MOST_ALIKE, 0) for number in shown.values())
        yield f"and {left} more of the same kinds, which --json has"
    counts = Counter(finding.severity for finding in findings)
    yield ", ".join(f"{counts[severity]} {severity}" for severity in type(findings[0].severity) if counts[severity])


def _merged(findings: Sequence["Finding"]) -> Iterator["Finding"]:
    """The same, but that checks which were skipped for one reason are one."""
    names: dict[str, list[str]] = {}
    for finding in findings:
        if finding.severity == "skipped":
            names.setdefault(finding.found, []).append(finding.name)
    for finding in findings:
        if finding.severity != "skipped":
            yield finding
        elif skipped := names.pop(finding.found, None):
            yield replace(finding, name=", ".join(dict.fromkeys(skipped)), subject="" if len(skipped) > 1 else finding.subject)


def _remedy(remedy: "Remedy") -> Iterator[str]:
    """Commands stand on a line of their own, however long, so that they can be copied."""
    place = _PLACES.get(remedy.place, f"on {remedy.place}")
    words = ", ".join(filter(None, (place, remedy.advice)))
    if remedy.command and words:
        yield f"{_INDENT}→ {words}:"
        yield f"{_INDENT}  {remedy.command}"
    else:
        yield f"{_INDENT}→ {remedy.command or words}"


def _broken(text: str, width: int) -> Iterator[str]:
    if not width:
        yield text
        return
    yield from textwrap.wrap(text, width, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False)


def render_object(source: "Source", findings: Sequence["Finding"]) -> dict[str, Any]:
    """The same for programs; docs/reference/doctor.md says what each key is."""
    severities = [str(finding.severity) for finding in findings]
    verdict = next((severity for severity in ("failure", "warning") if severity in severities), "ok")
    return {
        "schema": SCHEMA,
        "configuration": str(source.path) if source.path else None,
        "verdict": verdict,
        "findings": [
            {
                "name": finding.name,
                "subject": finding.subject or None,
                "severity": str(finding.severity),
                "found": finding.found,
                "why": finding.why,
                "remedies": [
                    {"place": remedy.place, "command": remedy.command or None, "advice": remedy.advice or None}
                    for remedy in finding.remedies
                ],
            }
            for finding in findings
        ],
    }
