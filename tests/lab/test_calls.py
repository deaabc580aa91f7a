"""The load generators tell the truth: of what was answered, of what was not, and of what it cost."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kracauer.lab import bulk, calls, handshakes
from kracauer.lab.calls import hello, is_whole
from kracauer.lab.certificates import Authority
from kracauer.lab.namespaces import NetworkNamespace, python_module
from kracauer.lab.topology import ORIGIN_1, Lab

pytestmark = pytest.mark.lab

NAME = "www.example.com"
HANGS_UP, STAYS, SILENT, BULK, TLS = "5301", "5302", "5303", "5304", "5305"
# Accepts, and says nothing.
MUTE = """
import socket, time
with socket.create_server(("::", 5303), family=socket.AF_INET6):
    print("mute", flush=True)
    time.sleep(120)
"""
# Says that it has counted something else than what came.
DEAF = """
import socket, struct, sys
with socket.create_server(("::", 5306), family=socket.AF_INET6) as listener:
    print("deaf", flush=True)
    while True:
        with listener.accept()[0] as connection:
            connection.settimeout(0.3)
            try:
                while connection.recv(1 << 20):
                    pass
            except TimeoutError:
                connection.sendall(struct.pack("!Qd", 12345, 1.0))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as built:
        built.start("hangs-up", built.origin1, python_module("kracauer.lab.calls", "serve", HANGS_UP)).wait_for(calls.READY)
        built.start("stays", built.origin1, python_module("kracauer.lab.calls", "serve", STAYS, "--stay")).wait_for(calls.READY)
        built.start("mute", built.origin1, [sys.executable, "-c", MUTE]).wait_for("mute")
        built.start("deaf", built.origin1, [sys.executable, "-c", DEAF]).wait_for("deaf")
        built.start("bulk", built.origin1, python_module("kracauer.lab.bulk", "serve", BULK)).wait_for(bulk.READY)
        own = built.authority.issue("origin1", [NAME])
        command = python_module("kracauer.lab.handshakes", "serve", TLS, own.certificate, own.key)
        built.start("tls", built.origin1, command).wait_for(handshakes.READY)
        yield built


def run(lab: Lab, module: str, role: str, port: str, *options: str) -> dict[str, Any]:
    result = ended(lab, module, role, port, *options)
    assert result.returncode == 0, result.stderr
    outcome: dict[str, Any] = json.loads(result.stdout)
    return outcome


def ended(lab: Lab, module: str, role: str, port: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    return lab.client.run(python_module(f"kracauer.lab.{module}", role, ORIGIN_1, port, NAME, *options), timeout_s=30)


def passive_opens(lab: Lab) -> int:
    """How many connections the origin's kernel has accepted."""

    names, values = (line.split() for line in read_net(lab.origin1, "snmp") if line.startswith("Tcp:"))
    return int(values[names.index("PassiveOpens")])


def read_net(namespace: NetworkNamespace, name: str) -> list[str]:
    return namespace.call(lambda: Path("/proc/thread-self/net", name).read_text(encoding="ascii")).splitlines()


@pytest.mark.parametrize("at_once", ["1", "16"])
@pytest.mark.parametrize("form", [[], ["--tls"]])
def test_each_answered_call_was_a_connection_to_the_server(lab: Lab, at_once: str, form: list[str]) -> None:
    before = passive_opens(lab)
    outcome = run(lab, "calls", "open", HANGS_UP, "--at-once", at_once, "--seconds", "0.3", *form)
    opened = passive_opens(lab) - before
    assert outcome["failures"] == {}
    assert 50 < outcome["answered"] <= opened <= outcome["answered"] + int(at_once)
    assert outcome["per_second"] == pytest.approx(outcome["answered"] / outcome["seconds"], abs=0.1)
    assert 0.3 <= outcome["seconds"] < 1
    assert 0 < outcome["median_us"] <= outcome["p90_us"] <= outcome["p99_us"] < 1e6
    assert outcome["machine_busy_s"] > 0


@pytest.mark.parametrize(("port", "failure"), [("9", "Connection refused"), (SILENT, "no answer in time")])
def test_calls_that_fail_are_told_of(lab: Lab, port: str, failure: str) -> None:
    outcome = run(lab, "calls", "open", port, "--at-once", "4", "--seconds", "0.1")
    assert outcome["answered"] == 0
    assert set(outcome["failures"]) == {failure}
    assert outcome["failures"][failure] >= 4


def test_refused_calls_one_at_a_time_are_told_of(lab: Lab) -> None:
    outcome = run(lab, "calls", "open", "9", "--at-once", "1", "--seconds", "0.1")
    assert (outcome["answered"], set(outcome["failures"])) == (0, {"Connection refused"})


def test_a_ping_is_answered_again_and_again_on_one_connection(lab: Lab) -> None:
    before = passive_opens(lab)
    outcome = run(lab, "calls", "ping", STAYS, "--tls", "--seconds", "0.2")
    assert passive_opens(lab) - before == 1
    assert outcome["failures"] == {}
    assert outcome["answered"] > 100


def test_a_ping_tells_that_the_server_hung_up(lab: Lab) -> None:
    outcome = run(lab, "calls", "ping", HANGS_UP, "--seconds", "0.2")
    assert set(outcome["failures"]) <= {"hung up on", "Connection reset by peer", "Broken pipe"}
    assert sum(outcome["failures"].values()) == 1


def test_who_cannot_ping_says_why_in_one_line(lab: Lab) -> None:
    result = ended(lab, "calls", "ping", "9", "--seconds", "0.2")
    assert result.returncode == 1
    assert result.stderr.decode() == f"{ORIGIN_1} port 9: Connection refused\n"


def test_held_connections_are_there_until_the_end_and_are_counted(lab: Lab) -> None:
    command = python_module("kracauer.lab.calls", "hold", ORIGIN_1, STAYS, NAME, "--count", "300", "--tls")
    holder = lab.start("holder", lab.client, command)
    holder.wait_for(calls.HELD)
    assert count_established(lab, STAYS) == 300
    assert holder.stop() == 0
    outcome = holder.events[-1]
    assert (outcome["answered"], outcome["failures"]) == (300, {})


def count_established(lab: Lab, port: str) -> int:
    rows = [line.split() for line in read_net(lab.client, "tcp6")][1:]
    return sum(row[2].endswith(f":{int(port):04X}") and row[3] == "01" for row in rows)


def test_held_connections_that_are_gone_are_told_of(lab: Lab) -> None:
    server = lab.start("mortal", lab.origin1, python_module("kracauer.lab.calls", "serve", "5310", "--stay"))
    server.wait_for(calls.READY)
    holder = lab.start("widow", lab.client, python_module("kracauer.lab.calls", "hold", ORIGIN_1, "5310", NAME, "--count", "5"))
    holder.wait_for(calls.HELD)
    server.kill()
    time.sleep(0.1)
    assert holder.stop() == 0
    outcome = holder.events[-1]
    assert (outcome["answered"], sum(outcome["failures"].values())) == (0, 5)


@pytest.mark.parametrize("is_tls", [True, False])
def test_a_greeting_is_whole_with_its_last_byte(is_tls: bool) -> None:
    greeting = hello(NAME, is_tls=is_tls)
    assert is_whole(greeting)
    assert not any(is_whole(greeting[:length]) for length in range(len(greeting)))


def test_a_greeting_in_pieces_is_answered_once(lab: Lab) -> None:
    greeting = hello(NAME, is_tls=True)
    with lab.client.open_socket(socket.AF_INET6) as connection:
        connection.settimeout(5)
        connection.connect((ORIGIN_1, int(STAYS)))
        for start in range(0, len(greeting), 200):
            connection.sendall(greeting[start : start + 200])
            time.sleep(0.02)
        connection.sendall(b"x")
        time.sleep(0.1)
        assert len(connection.recv(100)) == 2


@pytest.mark.parametrize("form", [[], ["--tls"]])
@pytest.mark.parametrize("flows", ["1", "3"])
@pytest.mark.parametrize("direction", ["download", "upload"])
def test_bulk_is_counted_as_the_origins_link_has_seen_it(lab: Lab, direction: str, flows: str, form: list[str]) -> None:
    column = 8 if direction == "download" else 0
    before = link_bytes(lab, column)
    outcome = run(lab, "bulk", direction, BULK, "--seconds", "0.2", "--flows", flows, *form)
    moved = link_bytes(lab, column) - before
    assert outcome["bytes"] > 1_000_000
    assert outcome["bytes"] <= moved
    if direction == "upload":
        assert moved < outcome["bytes"] * 1.1 + 100_000
    assert outcome["machine_busy_s"] > 0


def link_bytes(lab: Lab, column: int) -> int:
    """What the origin's interface has received (column 0) or sent (8)."""

    (row,) = [line.partition(":")[2].split() for line in read_net(lab.origin1, "dev") if line.strip().startswith("eth0:")]
    return int(row[column])


def test_an_upload_of_which_bytes_are_missing_is_an_error(lab: Lab) -> None:
    result = ended(lab, "bulk", "upload", "5306", "--seconds", "0.1")
    assert result.returncode == 1
    assert b", of which 12345 were counted" in result.stderr


@pytest.mark.parametrize("at_once", ["1", "4"])
def test_handshakes_are_whole_ones(lab: Lab, at_once: str) -> None:
    before = passive_opens(lab)
    trust = ["--trust", str(lab.authority.root)]
    outcome = run(lab, "handshakes", "open", TLS, *trust, "--at-once", at_once, "--seconds", "0.5")
    assert outcome["failures"] == {}
    assert 5 < outcome["answered"] == passive_opens(lab) - before


def test_a_certificate_that_is_not_trusted_is_a_failure(lab: Lab, tmp_path: Path) -> None:
    stranger = ["--trust", str(Authority(tmp_path).root)]
    outcome = run(lab, "handshakes", "open", TLS, *stranger, "--seconds", "0.2")
    assert outcome["answered"] == 0
    assert all("certificate verify failed" in failure.lower() for failure in outcome["failures"])
    assert outcome["failures"]
