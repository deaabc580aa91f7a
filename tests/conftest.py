"""The lab for tests that need real kernels: skipped, with the reason, where there can be none."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kracauer.errors import LabError
from kracauer.lab import privileges, syscalls
from kracauer.lab.topology import Lab, Topology

DEBIAN_PACKAGES = {
    "certutil": "libnss3-tools",
    "gnutls-cli": "gnutls-bin",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ping": "iputils-ping",
    "radvd": "radvd",
    "setpriv": "util-linux",
    "tstclnt": "libnss3-tools",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the lab's tests where no lab can be, after trying to get one in a user namespace."""
    in_lab = [item for item in items if item.get_closest_marker("lab")]
    if not in_lab:
        return
    try:
        privileges.prepare()
    except LabError as error:
        for item in in_lab:
            item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture
def build_lab() -> Iterator[Callable[[Topology], Lab]]:
    """Build labs of a test's own wish; they are gone when it ends."""
    with ExitStack() as stack:
        yield lambda topology: stack.enter_context(Lab(topology))


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Find a program by name, or skip the test and say which package has it."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"needs {name}: apt install {DEBIAN_PACKAGES.get(name, name)}")
        return path

    return find


@pytest.fixture
def own_netns() -> Iterator[Callable[[str], str]]:
    """Move the test into a network namespace that ends with it; the value runs `ip` in there and returns its output."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        try:
            _run_ip("link set lo up")
            yield _run_ip
        finally:
            syscalls.enter_network_namespace(Path(f"/proc/self/fd/{home}"))
    finally:
        os.close(home)


def _run_ip(words: str) -> str:
    return subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True, timeout=10).stdout
