"""What a lab asks of the machine and the user, and how an unprivileged user gets it: a user namespace (user_namespaces(7))."""

import contextlib
import errno
import os
import re
from pathlib import Path
from typing import Final

from kracauer.errors import LabError
from kracauer.lab import links, syscalls

TUN_DEVICE: Final = Path("/dev/net/tun")
SETTINGS: Final = Path("/proc/sys")
CAP_NET_ADMIN: Final = 12
CAP_SYS_ADMIN: Final = 21

# What can forbid user namespaces, the value that does, and how to allow them
_SWITCHES: Final = (
    ("kernel/unprivileged_userns_clone", "0"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ("user/max_user_namespaces", "0"),
)


def has_privileges() -> bool:
    """Tell whether this process may make network namespaces and set them up."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    effective = int(match[1], 16) if match else 0
    return all(effective >> capability & 1 for capability in (CAP_NET_ADMIN, CAP_SYS_ADMIN))


def is_in_user_namespace() -> bool:
    """Tell whether root in here is somebody else outside."""
    return Path("/proc/self/uid_map").read_text(encoding="ascii").split() != ["0", "0", "4294967295"]


def prepare() -> None:
    """Make this process fit to build labs, if need be by moving it into a user namespace for good.

    There it is root, but over new namespaces only; /run is a private one. It must not have started threads yet.
    LabError says what stands in the way and how to clear it.
    """
    check_tun_device()
    check_ipv6()
    if not has_privileges():
        _enter_user_namespace()


def check_tun_device() -> None:
    """LabError when /dev/net/tun cannot be opened."""
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError as error:
        raise LabError(f"{TUN_DEVICE} is closed to this user", "run it as root, or: sudo chmod 0666 /dev/net/tun") from error
    except OSError as error:
        remedy = "load the driver: sudo modprobe tun (in a container: start it with --device /dev/net/tun)"
        raise LabError(f"{TUN_DEVICE} cannot be opened ({os.strerror(error.errno or 0)})", remedy) from error


def check_ipv6() -> None:
    """LabError when this kernel has no IPv6, not even in a new network namespace."""
    if not (SETTINGS / "net/ipv6").exists():
        raise LabError("this kernel has IPv6 switched off", "start it without ipv6.disable=1, or: sudo modprobe ipv6")


def _enter_user_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
        syscalls.make_mounts_private()
        syscalls.mount_empty(Path("/run"))
    except OSError as error:
        raise explain(error) from error
    links.bring_up_loopback()


def explain(error: OSError) -> LabError:
    """Return the most likely reason for which the kernel has refused a user namespace."""
    if error.errno == errno.EINVAL:
        return LabError("a process with threads cannot move into a user namespace", "run it as root")
    for key, forbidding in _SWITCHES:
        with contextlib.suppress(OSError):
            if (SETTINGS / key).read_text(encoding="ascii").strip() == forbidding:
                cause = f"this user may not make network namespaces: {key.replace('/', '.')} is {forbidding}"
                allowing = {"0": "1", "1": "0"}[forbidding] if key.startswith("kernel/") else "10000"
                return LabError(cause, f"run it as root, or: sudo sysctl -w {key.replace('/', '.')}={allowing}")
    remedy = "run it as root (in a container: start it with --privileged)"
    return LabError(f"this user may not make network namespaces ({error.strerror})", remedy)
