"""What several workers tell, told as one service."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kracauer.cli.status import render_status
from kracauer.daemon.merging import NOTHING_HEARD, merge_numbers, merge_reports

STATUS = {
    "version": "0",
    "pid": 1,
    "uptime_s": 1.0,
    "device": "kracauer0",
    "prefix": "2001:db8:46::/96",
    "listening": [],
    "names": 1,
    "last_reload": None,
}


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)), max_size=4))
def test_numbers_are_added_up(parts: list[dict[str, int]]) -> None:
    names = {name for part in parts for name in part}
    assert merge_numbers(parts) == {name: sum(part.get(name, 0) for part in parts) for name in names}


def test_tables_within_are_added_up_as_well() -> None:
    parts: list[dict[str, Any]] = [
        {"read": 1, "dropped": {"no_flow": 2}},
        {"read": 2, "dropped": {"no_flow": 1, "denied": 5}},
        {"read": 3},
    ]
    assert merge_numbers(parts) == {"read": 6, "dropped": {"no_flow": 3, "denied": 5}}


def backend(flows: int, answered_before_s: float | None, state: str, address: str = "2001:db8:1::2") -> dict[str, object]:
    return {"address": address, "port": 443, "flows": flows, "answered_before_s": answered_before_s, "state": state}


def report(number: int, *backends: dict[str, object]) -> dict[str, object]:
    return {
        "flows": {"established": number},
        "backends": list(backends),
        "flows_kept": number,
        "holdings": {"unproven": 1},
        "offload": {"hook": "tcx", "flows": number, "survives": True},
        "counters": {"packets_read": 10 * number},
    }


def test_one_report_comes_of_all() -> None:
    merged = merge_reports([report(1), report(2)], [{"packets_read": 5}])
    assert merged["flows"] == {"established": 3}
    assert merged["flows_kept"] == 3
    assert merged["holdings"] == {"unproven": 2}
    assert merged["offload"] == {"hook": "tcx", "flows": 3, "survives": True}
    assert merged["counters"] == {"packets_read": 35}


def test_of_a_backend_what_was_heard_last_is_shown_and_connections_are_added() -> None:
    reports = [
        report(1, backend(1, 9.0, "down")),
        report(2, backend(2, 0.5, "up"), backend(4, None, "unknown", "2001:db8:1::3")),
        report(3, backend(3, None, "unknown")),
    ]
    first, second = merge_reports(reports)["backends"]
    assert (first["flows"], first["state"], first["answered_before_s"]) == (6, "up", 0.5)
    assert (second["flows"], second["state"]) == (4, "unknown")


def test_where_nothing_was_heard_yet_there_is_something_to_show() -> None:
    merged = merge_reports([NOTHING_HEARD], [{"packets_read": 5}])
    assert merged["counters"]["packets_read"] == 5
    shown = dict(render_status(merged | STATUS))
    assert shown["fast path"] == "none: no worker has told of it yet"
    assert shown["connections"] == "0"
