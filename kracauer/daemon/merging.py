"""What several workers have to tell, as one service tells it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

# A report where there is none: all workers have just died, and are being started anew.
NOTHING_HEARD: Final[Mapping[str, Any]] = {
    "flows": {},
    "backends": [],
    "flows_kept": 0,
    "holdings": {},
    "offload": {
        "hook": None,
        "flows": 0,
        "survives": False,
        "kept_by": None,
        "cause": "no worker has told of it yet",
        "remedy": None,
    },
    "counters": {"packets_read": 0, "packets_written": 0, "internal_errors": 0},
}


def merge_numbers(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables of numbers, and of such tables, added up key by key."""
    total: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, Mapping):
                total[name] = merge_numbers((total.get(name, {}), value))
            else:
                total[name] = total.get(name, 0) + value
    return total


def merge_reports(reports: Sequence[Mapping[str, Any]], former_counters: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """One report of all; `former_counters` are those of workers that are no more. `reports` has one at least.

    Each worker asks every backend for itself: of what they have found, what the one says that was heard last is shown.
    """
    return {
        "flows": merge_numbers(report["flows"] for report in reports),
        "backends": _merge_backends(reports),
        "flows_kept": sum(report["flows_kept"] for report in reports),
        "holdings": merge_numbers(report["holdings"] for report in reports),
        "offload": dict(reports[0]["offload"]) | {"flows": sum(report["offload"]["flows"] for report in reports)},
        "counters": merge_numbers((*former_counters, *(report["counters"] for report in reports))),
    }


def _merge_backends(reports: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    merged: dict[tuple[str, int], dict[str, Any]] = {}
    for report in reports:
        for backend in report["backends"]:
            key = backend["address"], backend["port"]
            known = merged.get(key)
            if known is None:
                merged[key] = dict(backend)
                continue
            flows = known["flows"] + backend["flows"]
            if _age(backend) < _age(known):
                known.update(backend)
            known["flows"] = flows
    return list(merged.values())


def _age(backend: Mapping[str, Any]) -> float:
    age: float | None = backend["answered_before_s"]
    return float("inf") if age is None else age
