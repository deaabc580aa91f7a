"""The Linux calls that Python 3.11 does not offer: unshare, setns, mount, umount2 (namespaces(7))."""

import ctypes
import fcntl
import os
from pathlib import Path
from typing import Final

CLONE_NEWTIME: Final = 0x0000_0080
CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWNET: Final = 0x4000_0000

MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x4_0000
MS_SHARED: Final = 0x10_0000
MNT_DETACH: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own; CLONE_NEWUSER needs a process with one thread only."""
    _check(_libc.unshare(flags), "unshare")


def enter_network_namespace(path: Path) -> None:
    """Move the calling thread, and no other, into the network namespace bound to `path`."""
    enter_namespace(path, CLONE_NEWNET)


def enter_namespace(path: Path, kind: int) -> None:
    """Move the calling thread into the namespace at `path`, which is of this kind; CLONE_NEWTIME needs to have just one."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, kind), f"setns {path}")
    finally:
        os.close(descriptor)


def bind_mount(source: Path, target: Path) -> None:
    """Make `source` appear at `target` too."""
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), b"none", MS_BIND, None), f"mount {source} on {target}")


def share_mounts(directory: Path) -> None:
    """Make `directory` a mount point whose mounts spread, as ip-netns(8) does.

    Where it is none yet, `ip netns add` would put one over it, and what was mounted below could not be removed any more. The
    lock is ip-netns's own.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        path = os.fsencode(directory)
        if _libc.mount(b"none", path, b"none", MS_SHARED | MS_REC, None) != 0:
            bind_mount(directory, directory)
            _check(_libc.mount(b"none", path, b"none", MS_SHARED | MS_REC, None), f"mount --make-rshared {directory}")
    finally:
        os.close(descriptor)


def make_mounts_private() -> None:
    """Keep this mount namespace's future mounts from spreading to any other."""
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount --make-rprivate /")


def mount_empty(target: Path) -> None:
    """Put an empty file system in memory over `target`."""
    _check(_libc.mount(b"none", os.fsencode(target), b"tmpfs", 0, b"mode=755"), f"mount tmpfs on {target}")


def mount_bpffs(target: Path) -> None:
    """Put an empty bpffs over `target`, for programs and maps to be pinned in."""
    _check(_libc.mount(b"none", os.fsencode(target), b"bpf", 0, b"mode=0700"), f"mount bpf on {target}")


def detach_mount(target: Path) -> None:
    """Take away what is mounted on `target`, in use or not."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")
