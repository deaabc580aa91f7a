"""The machine that measures, and the versions of all that is measured."""

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Final

from peers import PEERS, version

import kracauer
from kracauer.lab import usage

ROOT: Final = Path(__file__).resolve().parents[3]
QUIET: Final = 0.1  # the share of the machine that may be in use before anything is measured
_LOOK_S: Final = 1.0


def describe() -> dict[str, str]:
    """Return what is to be known of them, by name."""
    found = {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "distribution": _distribution(),
        "processor": f"{processors()} × {_processor()}",
        "memory": f"{_memory_gib():.0f} GiB",
        "congestion control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text(encoding="ascii").strip(),
        "Python": platform.python_version(),
        "Kracauer": kracauer.__version__,
    }
    for peer in PEERS.values():
        number = version(peer.packages[0])
        if number is not None:
            found[peer.label] = number
    return found


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def commit() -> str:
    """Return the checkout's commit, with a plus sign where files differ from it; empty where this is no checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain", "--", "kracauer"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if changes.stdout else "")


def busy_share() -> float:
    """Return what share of the machine is in use, by looking on for a moment."""
    before, began = usage.machine_busy_s(), time.monotonic()
    time.sleep(_LOOK_S)
    return (usage.machine_busy_s() - before) / (time.monotonic() - began) / processors()


def await_quiet(patience_s: float) -> float:
    """Return what share of the machine is in use by others, once that is little or the patience is at its end."""
    until = time.monotonic() + patience_s
    while (busy := busy_share()) > QUIET and time.monotonic() < until:
        time.sleep(_LOOK_S)
    return busy


def processors() -> int:
    """Return how many there are."""
    return os.cpu_count() or 1
