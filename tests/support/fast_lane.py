"""Whether it was the kernel that carried something: what it carries is not among the packets that the daemon has read."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from kracauer.lab import configuration
from kracauer.lab.topology import DAEMON_READY, Lab
from kracauer.offload import build
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath

DRIVER = Path(__file__).with_name("altered_daemon.py")
# What the daemon has to see of a connection: SYN, ACK, hello, SYN-ACK, and of all these a second one sometimes; what has come
# between the hello's answer and the kernel's first packet; and the ACK of the last FIN, where a sweep has come before it.
PER_CONNECTION = 12


def skip_without_fast_path() -> None:
    """Skip the test, with the reason, where this kernel has no place for the program or this user may not put it there."""
    try:
        KernelPath.open(1).close()
    except OffloadError as error:
        pytest.skip(str(error))


def is_attached(lab: Lab) -> bool:
    assert lab.daemon is not None
    return any(event["event"] == "offload_attached" for event in lab.daemon.events)


def counters(lab: Lab) -> dict[str, Any]:
    """What the daemon has counted so far."""
    daemon = lab.daemon
    assert daemon is not None

    def told() -> list[dict[str, Any]]:
        return [event for event in daemon.events if event["event"] == "counters"]

    before = len(told())
    daemon.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 10
    while len(found := told()) == before:
        assert daemon.is_running, daemon.log
        assert time.monotonic() < deadline, daemon.log
        time.sleep(0.01)
    return found[-1]


def packets_read(lab: Lab) -> int:
    return int(counters(lab)["packets_read"])


@contextlib.contextmanager
def in_the_kernel(lab: Lab, *, connections: int = 1, besides: int = 0) -> Iterator[None]:
    """So many connections are made in the block, and the daemon is not to see more than their beginnings and ends.

    `besides` is how many other packets it may see: of errors, repetitions, probes.
    """
    assert is_attached(lab)
    before = packets_read(lab)
    yield
    read = packets_read(lab) - before
    assert read <= connections * PER_CONNECTION + besides, f"{read} packets went through the daemon"
    assert read >= 3 * connections, "nothing was asked of the daemon at all"


@contextlib.contextmanager
def in_the_daemon(lab: Lab, *, packets: int) -> Iterator[None]:
    """At least so many packets are to pass the daemon in the block."""
    before = packets_read(lab)
    yield
    read = packets_read(lab) - before
    assert read >= packets, f"{read} packets went through the daemon"


def start_altered_daemon(lab: Lab, old: str, new: str, config: str) -> None:
    """Start a daemon whose program has `new` in its source where the one of this package has `old`."""
    if build.clang_version() is None:
        pytest.skip("needs clang: apt install clang")
    path = lab.directory / "kracauer-config.toml"
    path.write_text(config, encoding="utf-8")
    command: list[str | Path] = [sys.executable, DRIVER, old, new, "run", "-c", path]
    lab.daemon = lab.start("kracauer", lab.router, command, {"RUNTIME_DIRECTORY": str(lab.directory / "run")})
    lab.daemon.wait_for(DAEMON_READY)


def start_daemon(
    lab: Lab,
    hosts: dict[str, str],
    alteration: tuple[str, str] | None = None,
    *,
    profile: Mapping[str, object] = MappingProxyType({}),
    **network: object,
) -> None:
    """Start the daemon, which must have its fast path; with another program if an `alteration` (old, new) is given.

    `profile` is what it is told of its backends, `network` that table of the configuration.
    """
    config = configuration.render(hosts, network={"offload": "require", **network}, backend_profile=profile)
    if alteration is None:
        lab.start_daemon(config)
    else:
        start_altered_daemon(lab, *alteration, config)
