"""The service at its limits: no more file descriptors, no more memory; spliced connections go on, and the rest comes back."""

import re
import resource
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from faults import DEVICE, Trial, until

from kracauer.lab.topology import SERVICE

pytestmark = pytest.mark.lab

COUNT = 50
MIB = 1 << 20
SLOW_HELLOS = 200
ROOM = 2 * MIB


def limit(trial: Trial, kind: int, soft: int) -> tuple[int, int]:
    """Set a limit of the running daemon; returns what it was."""
    before = resource.prlimit(trial.daemon.pid, kind)
    resource.prlimit(trial.daemon.pid, kind, (soft, before[1]))
    return before


def virtual_bytes(trial: Trial) -> int:
    status = Path(f"/proc/{trial.daemon.pid}/status").read_text(encoding="ascii")
    match = re.search(r"^VmSize:\s*(\d+) kB", status, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def ip(trial: Trial, words: str) -> str:
    return trial.lab.router.run(["ip", *words.split()]).stdout.decode()


def test_without_file_descriptors_traffic_goes_on_and_all_else_comes_back(trial: Trial) -> None:
    trial.expected_errors.add("routes_not_restored")
    trial.may_have_tracebacks = True  # asyncio's, about an event loop of pyroute2's that could not be made
    with trial.lasting(COUNT, has_uploads=True):
        before = limit(trial, resource.RLIMIT_NOFILE, 4)
        with ExitStack() as stack:
            asking = stack.enter_context(socket.socket(socket.AF_UNIX))
            asking.connect(str(trial.run_directory / f"{DEVICE}.sock"))
            asking.sendall(b'{"command": "status"}\n')
            line = trial.wait_for("control_unavailable")
            assert "LimitNOFILE" in line["remedy"]
            trial.check_new_connections()

            # What serves is still there, though the routes that it needs cannot be set: established traffic has them in IPv4
            ip(trial, f"-4 route del {SERVICE}/32 dev {DEVICE}")
            line = trial.wait_for("routes_not_restored")
            assert "LimitNOFILE" in line["remedy"]
            trial.write_config(trial.config + "# changed\n")
            trial.daemon.send_signal(1)
            line = trial.wait_for("reload_refused")
            assert line["problems"]

            resource.prlimit(trial.daemon.pid, resource.RLIMIT_NOFILE, before)
            trial.wait_for("routes_restored")
            assert DEVICE in ip(trial, f"-4 route show {SERVICE}/32")
            asking.settimeout(5)
            assert asking.recv(1 << 16).startswith(b"{")
    assert trial.command("reload").returncode == 0
    trial.check_new_connections()
    assert trial.status()["counters"]["internal_errors"] == 0


def test_without_memory_spliced_connections_go_on_and_new_ones_come_back(trial: Trial) -> None:
    trial.expected_errors |= {"internal_error", "routes_not_restored"}
    trial.may_have_tracebacks = True
    with trial.lasting(COUNT, has_uploads=True):
        before = limit(trial, resource.RLIMIT_AS, virtual_bytes(trial) + ROOM)
        with ExitStack() as stack:
            for connection in slow_hellos(trial, stack):
                for _ in range(40):
                    try:
                        connection.send(b"X-Filler: " + b"x" * 1400 + b"\r\n")
                    except OSError:
                        break
            time.sleep(1)
            assert trial.daemon.is_running, trial.daemon.log[-3000:]
            assert "MemoryError" in trial.daemon.log, "there was enough for this to prove nothing"
        resource.prlimit(trial.daemon.pid, resource.RLIMIT_AS, before)
    assert trial.daemon.is_running
    trial.check_new_connections()
    until(lambda: set(trial.status()["flows"]) <= {"established", "both_fin", "transitory"}, 10)


def test_without_memory_a_reload_and_the_mending_of_routes_are_done_later(trial: Trial) -> None:
    trial.expected_errors |= {"internal_error", "routes_not_restored"}
    trial.may_have_tracebacks = True
    with trial.lasting(COUNT, has_uploads=True):
        before = limit(trial, resource.RLIMIT_AS, virtual_bytes(trial))
        trial.daemon.send_signal(1)
        trial.wait_for("reload_refused")
        ip(trial, f"-6 route flush dev {DEVICE} proto 198")
        trial.wait_for("routes_not_restored")
        resource.prlimit(trial.daemon.pid, resource.RLIMIT_AS, before)
        trial.wait_for("routes_restored")
    trial.check_new_connections()
    assert trial.command("reload").returncode == 0


def slow_hellos(trial: Trial, stack: ExitStack) -> list[socket.socket]:
    """Connections that have begun to say something, and are not done."""

    def begin() -> list[socket.socket]:
        opened = []
        for _ in range(SLOW_HELLOS):
            connection = stack.enter_context(socket.socket())
            connection.settimeout(2)
            try:
                connection.connect((SERVICE, 80))
                connection.send(b"GET / HTTP/1.1\r\n")
            except OSError:
                continue
            connection.settimeout(0)
            opened.append(connection)
        return opened

    return trial.lab.client.call(begin)
