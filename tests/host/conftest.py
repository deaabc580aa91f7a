"""A network namespace of the test's own, so that nothing it does can touch the machine."""

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def own_netns() -> Iterator[Callable[[str], str]]:
    """Move the test into a fresh namespace, which ends with it; the value runs an `ip` command line and returns its output."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a network namespace")
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs /dev/net/tun")
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        if _LIBC.unshare(_CLONE_NEWNET) != 0:
            pytest.skip(f"needs a network namespace, and gets: {os.strerror(ctypes.get_errno())}")
        try:
            run_ip("link set lo up")
            yield run_ip
        finally:
            assert _LIBC.setns(home, _CLONE_NEWNET) == 0
    finally:
        os.close(home)


def run_ip(words: str) -> str:
    """Run `ip` with `words` in this thread's namespace; anything but success is an error of the test."""
    return subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True, timeout=10).stdout
