"""A site that something is done to, and connections that are not to notice: daemons one after the other on the same lab."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kracauer.lab import configuration, endurance
from kracauer.lab.endurance import Outcome
from kracauer.lab.namespaces import python_module
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import DAEMON_READY, ORIGIN_1, ORIGIN_2, SERVICE, Lab
from kracauer.lab.transfers import connect
from kracauer.lab.visits import visit

DEVICE = "kracauer0"
NAME = "www.example.com"
OTHER_NAME = "shop.example.net"
SERVERS = {NAME: "origin1", OTHER_NAME: "origin2"}
HOSTS: dict[str, str | Sequence[str]] = {NAME: ORIGIN_1, OTHER_NAME: ORIGIN_2}
ERRORS = ("error", "critical")


class Trial:
    """A lab with two origins and one daemon after the other; `wrapper` is put before the command of each."""

    def __init__(self, lab: Lab, *, wrapper: Sequence[str] = (), **tables: dict[str, object]) -> None:
        self.lab = lab
        self.wrapper = tuple(wrapper)
        self.config = configuration.render(HOSTS, configuration.LISTENERS, **tables)
        self.path = lab.directory / "kracauer-config.toml"
        self.run_directory = lab.directory / "run"
        self.daemons: list[BackgroundProcess] = []
        self.expected_errors: set[str] = set()  # events that are no mistake where a test brings them about
        self.may_have_tracebacks = False
        self._stack = ExitStack()
        self.origins = {name: lab.start_origin(name) for name in ("origin1", "origin2")}
        self.write_config(self.config)

    def __enter__(self) -> "Trial":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def daemon(self) -> BackgroundProcess:
        return self.daemons[-1]

    @property
    def flow_file(self) -> Path:
        return self.run_directory / f"{DEVICE}.flows"

    def write_config(self, config: str) -> None:
        """Put it in place in one step, as an editor does."""
        draft = self.path.with_suffix(".draft")
        draft.write_text(config, encoding="utf-8")
        draft.replace(self.path)

    def start(
        self, *, wrapper: Sequence[str] = (), env: Mapping[str, str] | None = None, waits_for: str = DAEMON_READY
    ) -> BackgroundProcess:
        """Start a daemon, and wait for `waits_for` in what it says."""
        command = [*self.wrapper, *wrapper, *python_module("kracauer", "run", "-c", self.path)]
        self.daemons.append(self.lab.start("kracauer", self.lab.router, command, self._environment(env)))
        self.daemon.wait_for(waits_for, 20)
        return self.daemon

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the daemon by this signal."""
        self.daemon.send_signal(number)
        self.daemon.wait(20)

    def command(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run `kracauer WORDS` where the daemon runs."""
        args = [*self.wrapper, *python_module("kracauer", *words, "-c", self.path)]
        return self.lab.router.run(args, env=self._environment(None))

    def status(self) -> dict[str, Any]:
        """What the daemon says of itself."""
        done = self.command("status", "--json")
        assert done.returncode == 0, done.stderr.decode()
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def said(self, event: str, daemon: BackgroundProcess | None = None) -> list[dict[str, Any]]:
        """The lines of the daemon with this event."""
        return [line for line in (daemon or self.daemon).events if line["event"] == event]

    def wait_for(self, event: str, count: int = 1, timeout_s: float = 15) -> dict[str, Any]:
        """Wait until the daemon has written so many lines with this event, and return the last."""
        until(lambda: len(self.said(event)) >= count, timeout_s, lambda: f"no {event}, but {self.daemon.log[-3000:]}")
        return self.said(event)[count - 1]

    def counters(self) -> dict[str, Any]:
        """What the daemon has counted so far."""
        count = len(self.said("counters"))
        self.daemon.send_signal(signal.SIGUSR1)
        return self.wait_for("counters", count + 1)

    @property
    def adopted(self) -> tuple[int, int]:
        """How many flows the daemon has taken over, and how many records it has thrown away."""
        lines = self.said("flows_adopted")
        return (lines[0]["flows"], lines[0]["discarded"]) if lines else (0, 0)

    def connect(self, name: str = NAME) -> socket.socket:
        """Open a connection that has had one answer; it is closed when the test ends."""
        connection = self._stack.enter_context(connect(self.lab.client, SERVICE, name))
        connection.settimeout(15)
        assert ask(connection, name) == 200
        return connection

    def check_new_connections(self) -> None:
        """Both names are served, each by its own backend."""
        for name, server in SERVERS.items():
            seen = visit(self.lab.client, "http", name, SERVICE)
            assert (seen.failure, seen.seen.get("server"), seen.is_caller_seen) == (None, server, True), seen

    @contextlib.contextmanager
    def lasting(self, count: int, names: Sequence[str] = tuple(SERVERS), **options: Any) -> Iterator[list[Outcome]]:
        """Have connections transfer while the block runs; none of them may come to harm. What became of them is added."""
        process = endurance.launch(self.lab, names, count, **options)
        outcomes: list[Outcome] = []
        yield outcomes
        outcomes.append(endurance.outcome(process))
        assert outcomes[0].failures == {}, (outcomes, self.daemon.log[-2000:])
        assert outcomes[0].transfers >= count

    def check_log(self) -> None:
        """No daemon has met a mistake of its own."""
        for daemon in self.daemons:
            assert self.may_have_tracebacks or "Traceback" not in daemon.log, daemon.log[-4000:]
            bad = [line for line in daemon.events if line["level"] in ERRORS and line["event"] not in self.expected_errors]
            assert bad == []

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return {"RUNTIME_DIRECTORY": str(self.run_directory), **(env or {})}


def ask(connection: socket.socket, name: str = NAME) -> int:
    """Ask for a page on a connection that stays open; returns the status."""
    connection.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode("ascii"))
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def until(condition: Callable[[], bool], timeout_s: float = 10, explain: Callable[[], object] = lambda: "") -> None:
    """Wait for `condition`; what `explain` returns is said when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)
