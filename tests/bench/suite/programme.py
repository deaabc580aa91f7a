"""All parts one after the other: each is kept as soon as it is there, and in the end everything is written down."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import alone
import crowding
import machine
import naming
import page
import plots
import results
import tables
import traffic
from results import Part, Results
from rounds import Pace
from stage import MeasureError

from kracauer.errors import LabError
from kracauer.lab import usage

Measure = Callable[[Part, Pace, Sequence[str]], None]
PARTS: Final[dict[str, Measure]] = {
    "bulk": traffic.measure_bulk,
    "bulk-links": traffic.measure_bulk_links,
    "connections": traffic.measure_connections,
    "tls": traffic.measure_tls,
    "round-trips": traffic.measure_round_trips,
    "memory": crowding.measure_memory,
    "flows": lambda part, pace, _: crowding.measure_flows(part, pace),
    "growth": lambda part, pace, _: alone.measure_growth(part, pace),
    "names": naming.measure_names,
    "engine": lambda part, pace, _: alone.measure_engine(part, pace),
}


def measure(name: str, pace: Pace, peers: Sequence[str]) -> Part:
    """Measure one part, and note under which circumstances."""
    pace.tell(f"--- {name}")
    part = Part(name, seconds=pace.seconds, rounds=pace.rounds)
    part.busy = machine.await_quiet(pace.patience_s)
    part.measured, part.commit = f"{datetime.now(UTC):%Y-%m-%d}", machine.commit()
    if part.busy > machine.QUIET:
        pace.tell(f"{part.busy:.0%} of this machine are in use by others: figures will be noisy")
    began, stolen = time.monotonic(), usage.machine_stolen_s()
    PARTS[name](part, pace, peers)
    part.took_s = round(time.monotonic() - began, 1)
    part.stolen = (usage.machine_stolen_s() - stolen) / part.took_s / machine.processors() if part.took_s else 0.0
    return part


def run(names: Sequence[str], pace: Pace, peers: Sequence[str], directory: Path) -> int:
    """Measure parts one after the other, keep each as soon as it is there, and write the page; returns how many failed."""
    here = machine.describe()
    found = results.load(directory)
    if found is None or found.machine != here:
        if found is not None:
            pace.tell(f"what is in {directory} was measured elsewhere, or with other versions, and goes")
        found = Results(here)
    failed = 0
    for name in names:
        try:
            found.parts[name] = measure(name, pace, peers)
        except (LabError, MeasureError) as error:
            pace.tell(f"{name} could not be measured: {error}")
            failed += 1
            continue
        found.parts = {each: found.parts[each] for each in PARTS if each in found.parts}
        found.save(directory)
    write(found, directory, pace.tell)
    return failed


def write(found: Results, directory: Path, tell: Callable[[str], None]) -> None:
    """Write pictures and page, and show the bars."""
    directory.mkdir(parents=True, exist_ok=True)
    if not plots.is_possible():
        tell(plots.REMEDY)
    pictures = plots.draw(found, directory)
    (directory / page.FILE).write_text(page.render(found, pictures), encoding="utf-8")
    tell("")
    tell(tables.bars(found))
    if missing := tables.left_out(found):
        tell(f"\nleft out:\n{missing}")
    tell(f"\nwritten to {directory}")
