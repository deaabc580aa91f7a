"""A service as an operator has it: a process, its lines, its exit status, and the commands that ask it."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEVICE = "kracauer0"
CONFIG = """
prefix = "2001:db8:46::/96"

[[listen]]
address = "198.51.100.1"
port = 443
protocol = "tls"

[[listen]]
address = "198.51.100.1"
port = 80
protocol = "http"

[hosts]
"www.example.com" = "2001:db8:1::2"
default = "2001:db8:1::2"
"""


class Running:
    """One `kracauer run` and the JSON lines it has written so far."""

    def __init__(self, directory: Path, config: str = CONFIG, options: Sequence[str] = (), wrapper: Sequence[str] = ()) -> None:
        path = directory / "kracauer-config.toml"
        path.write_text(config, encoding="utf-8")
        self.lines: list[dict[str, Any]] = []
        self.words: list[str] = []  # of Python itself, where it is interrupted before a line of ours has run
        self.process = subprocess.Popen(
            # Whoever runs the tests in the background may have them ignore SIGINT, and so all that they start.
            ["env", "--default-signal=INT", *wrapper, sys.executable, "-m", "kracauer", "run", "-c", str(path), *options],
            env=environment(directory),
            stderr=subprocess.PIPE,
            cwd=directory,
        )
        self._rest = b""

    def wait_for(self, event: str, timeout_s: float = 20) -> dict[str, Any]:
        """Read lines until one with this `event` comes; earlier ones count as well."""
        deadline = time.monotonic() + timeout_s
        position = 0
        while True:
            for line in self.lines[position:]:
                if line["event"] == event:
                    return line
            position = len(self.lines)
            assert self._read(deadline - time.monotonic()), f"no {event}, but {self.lines}"

    def finish(self, timeout_s: float = 20) -> int:
        """Wait for the end of the process and its output; returns the exit status."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(deadline - time.monotonic(), 0.1))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.finish()

    def events(self) -> list[str]:
        """Everything it has logged; fails where it has written anything else."""
        assert not self.words
        return [line["event"] for line in self.lines]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self, timeout_s: float) -> bool:
        assert self.process.stderr is not None
        descriptor = self.process.stderr.fileno()
        assert select.select([descriptor], [], [], max(timeout_s, 0))[0], f"nothing more after {self.lines}"
        chunk = os.read(descriptor, 65536)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self.lines += [json.loads(line) for line in lines if line.startswith(b"{")]
        self.words += [line.decode(errors="replace") for line in lines if not line.startswith(b"{")]
        return bool(chunk)


def environment(directory: Path) -> dict[str, str]:
    """That of a service and of the commands that ask it."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "RUNTIME_DIRECTORY": str(directory / "run")}


def command(directory: Path, *words: str, wrapper: Sequence[str] = ()) -> tuple[int, str, str]:
    """Run `kracauer WORDS` to its end; returns the exit status and what it has printed on stdout and stderr."""
    ran = subprocess.run(
        [*wrapper, sys.executable, "-m", "kracauer", *words],
        env=environment(directory),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr
