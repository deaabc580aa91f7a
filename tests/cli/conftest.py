"""Services in a network namespace of the test's own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Running

Ip = Callable[[str], str]


@pytest.fixture
def ip(own_netns: Ip) -> Ip:
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", key).write_text("1", encoding="ascii")
    return own_netns


@pytest.fixture
def start(ip: Ip, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start the service in the test's own namespace; what is left of it ends with the test."""
    assert ip("-json link show")
    started: list[Running] = []

    def start(**arguments: Any) -> Running:
        started.append(Running(tmp_path, **arguments))
        return started[-1]

    yield start
    for running in started:
        running.end()
