"""The place of a soak: a lab with its attacker, the daemon in it, what it is configured to do, and how to ask it."""

import contextlib
import json
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from timeline import Timeline, Troubles

from kracauer.daemon.flow_file import HEADER_BYTES
from kracauer.lab import configuration
from kracauer.lab.links import configure
from kracauer.lab.namespaces import python_module
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import ORIGIN_1, ORIGIN_2, SERVICE, SERVICE_2, Lab
from kracauer.tcp.record import RECORD_BYTES

DEVICE: Final = "kracauer0"
BLACK_HOLE: Final = "2001:db8:bad::1"
BOTH: Final = "either.example.org"
CERTIFICATES: Final = {
    "origin1": ("www.example.com", "api.example.com", BOTH, "moving.example.net"),
    "origin2": ("shop.example.net", "*.example.org", BOTH, "moving.example.net"),
}
# By name: the backends as configured, and the origins that may answer
HOSTS: Final[dict[str, str | Sequence[str]]] = {
    "www.example.com": ORIGIN_1,
    "api.example.com": f"[{ORIGIN_1}]:8443",
    "shop.example.net": ORIGIN_2,
    "moving.example.net": ORIGIN_1,
    "*.example.org": ORIGIN_2,
    BOTH: [ORIGIN_2, ORIGIN_1],
    "refused-first.example.org": [f"[{ORIGIN_1}]:9", ORIGIN_2],
    "silent-first.example.org": ["2001:db8:1::dead", ORIGIN_2],
    "hole.example.org": BLACK_HOLE,
    "dead.example.org": f"[{ORIGIN_1}]:9",
}
ANSWERING: Final = {
    "www.example.com": ("origin1",),
    "api.example.com": ("origin1",),
    "shop.example.net": ("origin2",),
    "moving.example.net": ("origin1", "origin2"),
    "blog.example.org": ("origin2",),
    BOTH: ("origin1", "origin2"),
    "refused-first.example.org": ("origin2",),
    "silent-first.example.org": ("origin2",),
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast all goes: the daemon's timeouts, and the pauses of who disturbs (least and most)."""

    established_idle_s: float = 20.0
    transitory_s: float = 12.0
    peek_s: float = 8.0
    pause_s: tuple[float, float] = (2.0, 10.0)
    transfer_s: tuple[float, float] = (5.0, 40.0)

    @property
    def drain_s(self) -> float:
        """The longest that a flow stays whose ends have gone, without a word: idle, then asked; and a reset that is doubted."""
        return self.established_idle_s + 3 * self.transitory_s + 5.0


SHORT: Final = Pace(6.0, 3.0, 3.0, (0.5, 2.5), (2.0, 6.0))


@dataclass(slots=True)
class Variant:
    """What a reload may change."""

    has_second: bool = True
    moving_to: str = ORIGIN_1
    unproven: int = 16384


class Scene:
    """Everything that the actors share."""

    def __init__(self, lab: Lab, directory: Path, seed: int, pace: Pace) -> None:
        self.lab = lab
        self.pace = pace
        self.seed = seed
        self.stop = threading.Event()
        self.troubles = Troubles()
        self.timeline = Timeline(directory, self.explain)
        self.variant = Variant()
        self.operating = threading.Lock()  # held while there is no daemon to be asked, or another one begins
        self.open_ports: set[int] = set()  # of idle connections, for whoever forges segments of theirs

    def choices(self, actor: str) -> random.Random:
        """Choices that are the same for the same seed, whatever the others do."""
        return random.Random(f"{self.seed}/{actor}")

    def start(self) -> None:
        """Start origins and daemon."""
        lab = self.lab
        self.start_origin("origin1")
        self.start_origin("origin2")
        configure(lab.router, lambda netlink: netlink.route("add", dst=f"{BLACK_HOLE}/128", type="blackhole"))
        for name in ("origin1", "origin2"):
            lab.router.sysctl(f"net.ipv6.conf.{name}.keep_addr_on_down", 1)
        self.found = self.host_state()
        self.start_daemon()

    def start_origin(self, name: str) -> None:
        """Start a server, the first time or again."""
        self.lab.origins[:] = [origin for origin in self.lab.origins if origin.is_running]
        self.lab.start_origin(name, CERTIFICATES[name], https=(443, 8443)).prefer()

    def origin(self, name: str) -> BackgroundProcess:
        """The process of a server."""
        return next(origin for origin in reversed(self.lab.origins) if origin.name == name)

    def config(self) -> str:
        """The configuration of the variant in force."""
        variant, pace = self.variant, self.pace
        listeners = [*configuration.LISTENERS]
        if variant.has_second:
            listeners += [(SERVICE_2, 443, "auto"), (SERVICE_2, 80, "auto")]
        timeouts = {
            "below_rfc_floors": True,
            "established_idle_s": pace.established_idle_s,
            "transitory_s": pace.transitory_s,
            "peek_s": pace.peek_s,
        }
        hosts = {**HOSTS, "moving.example.net": variant.moving_to}
        limits = {"unproven": variant.unproven, "held_bytes": 8 << 20}
        return configuration.render(hosts, listeners, timeouts=timeouts, limits=limits)

    @property
    def config_path(self) -> Path:
        """Where the daemon reads it."""
        return self.lab.directory / "kracauer-config.toml"

    def start_daemon(self) -> None:
        """Start the daemon, as first or as successor."""
        self.lab.start_daemon(self.config(), timeout_s=40).prefer()
        self.timeline.note("scene", "daemon ready", pid=self.daemon.pid)

    @property
    def daemon(self) -> BackgroundProcess:
        """The one that runs, or ran last."""
        assert self.lab.daemon is not None
        return self.lab.daemon

    @property
    def run_directory(self) -> Path:
        """The daemon's runtime directory."""
        return self.lab.directory / "run"

    def command(self, *words: str) -> "subprocess.CompletedProcess[bytes]":
        """Run `kracauer WORDS` as an operator on the router would."""
        args = python_module("kracauer", *words, "-c", self.config_path)
        return self.lab.router.run(args, env={"RUNTIME_DIRECTORY": str(self.run_directory)})

    def status(self) -> dict[str, Any] | None:
        """What the daemon tells of itself; None where it does not answer."""
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.run_directory / f"{DEVICE}.sock"))
            connection.sendall(b'{"command": "status"}\n')
            content = b""
            while piece := connection.recv(65_536):
                content += piece
            found = json.loads(content)
            return found if isinstance(found, dict) else None
        return None

    def used_records(self) -> int:
        """How many records of the flow file hold a flow."""
        path = self.run_directory / f"{DEVICE}.flows"
        return sum(state != 0 for state in path.read_bytes()[HEADER_BYTES::RECORD_BYTES]) if path.exists() else 0

    def ip(self, *words: str) -> str:
        """Run ip(8) in the router."""
        return self.lab.router.run(["ip", *words]).stdout.decode()

    def host_state(self) -> dict[str, str]:
        """Links, routes and rules of the router; a link that was down puts its routes into another order."""
        shown = {
            "links": ("-brief", "link", "show"),
            "addresses": ("-brief", "address", "show"),
            "routes_v4": ("-4", "route", "show", "table", "all"),
            "routes_v6": ("-6", "route", "show", "table", "all"),
            "rules_v4": ("-4", "rule", "show"),
            "rules_v6": ("-6", "rule", "show"),
        }
        found = {key: self.ip(*words).splitlines() for key, words in shown.items()}
        # The kernel does not always bring its own anycast routes back with a link that was down.
        return {
            key: "\n".join(sorted(line for line in lines if not line.startswith("anycast"))) for key, lines in found.items()
        }

    def explain(self) -> dict[str, Any]:
        """What goes with a violation."""
        log = self.daemon.log_path.read_text(encoding="utf-8", errors="replace") if self.lab.daemon else ""
        return {"status": self.status(), "log": log.splitlines()[-60:]}

    def pause(self, random_source: random.Random, span: tuple[float, float] | None = None) -> bool:
        """Wait for a while; returns whether to go on."""
        return not self.stop.wait(random_source.uniform(*(span or self.pace.pause_s)))

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for something to become true."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True


SERVICES: Final = (SERVICE, SERVICE, SERVICE, SERVICE_2)
