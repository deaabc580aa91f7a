"""`kracauer status`: what the service does, for people and for programs."""

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from running import CONFIG, DEVICE, Running, command

import kracauer
from kracauer.cli.exit_codes import ExitCode
from kracauer.cli.status import render_backends, render_duration, render_workers

WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
Ip = Callable[[str], str]
Start = Callable[..., Running]


@pytest.mark.lab
def test_everything_is_in_the_object(start: Start, tmp_path: Path) -> None:
    running = start()
    running.wait_for("ready")
    (tmp_path / "kracauer-config.toml").write_text("[", encoding="utf-8")
    command(tmp_path, "reload")

    status, said, _ = command(tmp_path, "status", "--json")

    shown = json.loads(said)
    assert status == ExitCode.OK
    assert (shown["version"], shown["pid"], shown["device"]) == (kracauer.__version__, running.process.pid, DEVICE)
    assert (shown["prefix"], shown["names"], shown["flows"], shown["flows_kept"]) == ("2001:db8:46::/96", 2, {}, 0)
    assert shown["listening"] == ["198.51.100.1:443 (tls)", "198.51.100.1:80 (http)"]
    assert len(shown["last_reload"]["problems"]) == 1
    assert shown["counters"]["internal_errors"] == 0
    assert shown["uptime_s"] > 0


@pytest.mark.lab
def test_connections_are_counted_by_state(ip: Ip, start: Start, tmp_path: Path) -> None:
    ip("address add 192.0.2.7/32 dev lo")
    start().wait_for("ready")
    with socket.socket() as client:
        client.bind(("192.0.2.7", 0))
        client.settimeout(10)
        client.connect(("198.51.100.1", 80))
        client.sendall(b"GET /")

        status, said, _ = command(tmp_path, "status")

    assert status == ExitCode.OK
    assert "connections  1: 1 peeking\n" in said
    assert "device       kracauer0, prefix 2001:db8:46::/96\n" in said


@pytest.mark.lab
def test_what_is_held_of_a_client_is_told_until_it_has_gone(ip: Ip, start: Start, tmp_path: Path) -> None:
    ip("address add 192.0.2.7/32 dev lo")
    start().wait_for("ready")
    with socket.socket() as client:
        client.bind(("192.0.2.7", 0))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.settimeout(10)
        client.connect(("198.51.100.1", 80))
        client.sendall(b"GET /")
        _, said, _ = command(tmp_path, "status", "--json")
    held = json.loads(said)["holdings"]

    _, said, _ = command(tmp_path, "status", "--json")

    assert held == {"unproven": 1, "held_bytes": 5, "fragment_bytes": 0, "clients": 1}
    assert json.loads(said)["holdings"] == dict.fromkeys(held, 0)


@pytest.mark.lab
def test_the_service_is_found_by_the_device_of_the_configuration(start: Start, tmp_path: Path) -> None:
    start(config=f'{CONFIG}\n[network]\ndevice = "other0"\n').wait_for("ready")

    assert command(tmp_path, "status")[0] == ExitCode.OK
    assert command(tmp_path, "status", "--device", DEVICE)[0] == ExitCode.NOT_RUNNING
    (tmp_path / "kracauer-config.toml").unlink()
    assert command(tmp_path, "status")[0] == ExitCode.NOT_RUNNING
    assert command(tmp_path, "status", "--device", "other0")[0] == ExitCode.OK


@pytest.mark.lab
def test_who_may_not_ask_is_told_so(start: Start, tmp_path: Path) -> None:
    start().wait_for("ready")
    os.chown(tmp_path / "run" / f"{DEVICE}.sock", 65534, 65534)

    status, _, said = command(tmp_path, "status", wrapper=WITHOUT_CAPABILITIES)

    assert status == ExitCode.NOT_PERMITTED
    assert "run this as root" in said


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90_061, "1 d 1 h"), (59, "59 s")]
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert render_duration(seconds) == shown


def backend(number: int = 2, state: str = "up", **fields: object) -> dict[str, object]:
    known: dict[str, object] = {"state_for_s": 75.0, "answered_before_s": 1.0, "round_trip_s": 0.0004, "last_failure": None}
    counts: dict[str, object] = {"draining": False, "flows": 12, "names": 1}
    return {"address": f"2001:db8:1::{number}", "port": 443, "state": state} | known | counts | fields


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        (backend(), "up for 1 min 15 s, 0.4 ms, 12 connections, 1 name"),
        (backend(draining=True, names=2, flows=1), "up for 1 min 15 s, 0.4 ms, to be emptied, 1 connection, 2 names"),
        (backend(state="down", last_failure="refused"), "down for 1 min 15 s: refused, 12 connections, 1 name"),
        (
            backend(state="down", last_failure="silent", answered_before_s=None, flows=0),
            "down for 1 min 15 s: silent (never answered: its answers may not find the way back), 0 connections, 1 name",
        ),
    ],
)
def test_a_backend_is_shown_with_what_an_operator_needs(shown: dict[str, object], line: str) -> None:
    assert list(render_backends([shown]))[1:] == [("backend", f"[2001:db8:1::2]:443  {line}")]


def test_of_many_backends_only_those_that_are_not_up_are_shown() -> None:
    lines = list(render_backends([backend(number) for number in range(30)] + [backend(99, "down", last_failure="silent")]))
    assert lines[0] == ("backends", "30 up, 1 down")
    assert [line.split()[0] for _, line in lines[1:]] == ["[2001:db8:1::99]:443"]


def test_each_worker_has_a_line() -> None:
    busy = {"number": 0, "pid": 11, "uptime_s": 3700.0, "starts": 1, "flows": 1, "packets_read": 9}
    lines = list(render_workers([busy, busy | {"number": 1, "starts": 3, "uptime_s": 2.0, "flows": None}]))
    assert lines == [
        ("workers", "2"),
        ("worker", "0  process 11, for 1 h 1 min: 1 connection"),
        ("worker", "1  process 11, for 2 s: nothing heard yet, started 3 times"),
    ]
    assert list(render_workers(())) == []
