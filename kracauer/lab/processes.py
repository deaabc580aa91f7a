"""A program that runs in a namespace in the background, its output kept in a file to be waited for and read."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kracauer.errors import LabError
from kracauer.lab.namespaces import NetworkNamespace

POLL_S: Final = 0.01
PREFERENCE: Final = -10  # nice(2)


class BackgroundProcess:
    """A running program; `log_path` holds standard output and standard error together."""

    def __init__(
        self,
        name: str,
        namespace: NetworkNamespace,
        args: Sequence[str | Path],
        log_path: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.args = args
        self.log_path = log_path
        self._offset = log_path.stat().st_size if log_path.exists() else 0
        with log_path.open("ab") as log:
            self._process = namespace.popen(args, env=env, stdout=log.fileno(), stderr=subprocess.STDOUT)
        self.pid = self._process.pid

    @property
    def log(self) -> str:
        """What the program has printed so far, since it was started."""
        return self.log_path.read_bytes()[self._offset :].decode(errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the program has logged as JSON, a dictionary a line; other lines are left out."""
        found = []
        for line in self.log.splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [event for event in found if isinstance(event, dict)]

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit status; negative for a signal, None while it runs."""
        return self._process.poll()

    def wait_for(self, text: str, timeout_s: float = 15) -> str:
        """Return the log once `text` stands in it; LabError when the program ends or the time runs out before."""
        deadline = time.monotonic() + timeout_s
        while True:
            is_over = not self.is_running or time.monotonic() > deadline
            log = self.log
            if text in log:
                return log
            if is_over:
                state = "still runs" if self.is_running else f"ended with status {self.returncode}"
                raise LabError(f"{self.name} {state} and has not said {text!r}", f"its output was:\n{log}")
            time.sleep(POLL_S)

    def prefer(self) -> None:
        """Have it run before what else this machine does; only root may ask for that, and without it nothing changes."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self.pid, PREFERENCE)
            # Each session is weighed as one (sched(7), autogroup), and every program of the lab has one to itself.
            Path(f"/proc/{self.pid}/autogroup").write_text(str(PREFERENCE), encoding="ascii")

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 10) -> int:
        """Return its exit status once it has ended; `subprocess.TimeoutExpired` when it does not."""
        return self._process.wait(timeout_s)

    def kill(self) -> int:
        """End it without giving it a chance to clean up."""
        self.send_signal(signal.SIGKILL)
        return self.wait()

    def stop(self, timeout_s: float = 10) -> int:
        """Ask it to end, kill it when it does not within `timeout_s`, and return its exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.send_signal(signal.SIGTERM)
            return self.wait(timeout_s)
        return self.kill()
