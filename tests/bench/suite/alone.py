"""The engine without any I/O: what the two programs beside this directory print with `--json`."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from machine import ROOT
from results import Part, Series
from rounds import Pace, describe
from stage import MeasureError

from kracauer.lab.namespaces import child_environment

ENGINE: Final = "engine"
_DIRECTORY: Final = Path(__file__).resolve().parent.parent
_PATIENCE_S: Final = 600.0


def _run(script: str, options: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, str(_DIRECTORY / script), "--json", *options]
    result = subprocess.run(
        command, cwd=ROOT, env=child_environment(), capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    if result.returncode:
        raise MeasureError(f"{script}: {(result.stderr.strip().splitlines() or ['ended without a word'])[-1]}")
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def measure_engine(part: Part, pace: Pace, options: Sequence[str] = ()) -> None:
    """Microseconds a packet, by the path that it takes."""
    for path, figures in _run("engine.py", options)["paths"].items():
        part.series.append(Series({"path": path}, ENGINE, [{key: float(value) for key, value in figures.items()}]))
        pace.tell(describe(part.series[-1]))


def measure_growth(part: Part, pace: Pace, options: Sequence[str] = ()) -> None:
    """Memory for a connection and microseconds a packet, by the number of connections."""
    found: dict[int, Series] = {}
    for _ in range(pace.rounds):
        for point in _run("flows.py", options)["points"]:
            flows = int(point.pop("flows"))
            series = found.setdefault(flows, Series({"flows": flows}, ENGINE))
            series.rounds.append({key: float(value) for key, value in point.items()})
    part.series += found.values()
    for series in found.values():
        pace.tell(describe(series))
