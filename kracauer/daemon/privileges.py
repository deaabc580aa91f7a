"""Give up, once everything is set up, the privileges that serving does not take (capabilities(7), prctl(2)).

What stays is CAP_NET_ADMIN, in the permitted and effective sets alone: routes are mended and added while the service runs, and
its own sysctls and device are taken back at its end. From then on the owner and mode of a file count for root too, whom no
CAP_DAC_OVERRIDE lets past them: a configuration that a reload is to read must be root's own, or readable to all.

The process also stops being dumpable: it holds the secret behind the SYN cookies, which no other process of its user may read
from its memory, and no core file is to contain. Its /proc/PID then belongs to root, which takes nothing from the process: it
may always look at itself, and what /proc/sys/net asks for is CAP_NET_ADMIN, whoever owns what.
"""

import contextlib
import ctypes
import re
from pathlib import Path
from typing import Final

CAP_NET_ADMIN: Final = 12
# Linux's include/uapi/linux/capability.h, from 0 on.
_NAMES: Final = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "linux_immutable"),
    *("net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner", "sys_module", "sys_rawio"),
    *("sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time"),
    *("sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog"),
    *("wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore"),
)

# Linux's include/uapi/linux/prctl.h
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_CAPABILITY_VERSION_3: Final = 0x2008_0522
_SET_BITS: Final = 64  # of a capability set, whatever number the running kernel's last capability has
_HELD: Final = re.compile(r"^Cap(?:Inh|Prm|Eff|Amb):\s*([0-9a-f]+)$", re.MULTILINE)

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """One half of the sets: the lower 32 capabilities, or the others."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_privileges(*, keep_net_admin: bool) -> tuple[str, ...]:
    """Drop every capability but CAP_NET_ADMIN, or that one too, for good; returns the names of those that remain.

    Never raises: what the kernel does not let go is in what is returned, and a process that had nothing drops nothing.
    Capabilities belong to threads, and threads inherit them: call it before any other is started. Where one was there already,
    what it holds is in the result as well.
    """
    for number in range(_SET_BITS):
        _prctl(_PR_CAPBSET_DROP, number)  # refused without CAP_SETPCAP; no_new_privs, below, is enough against exec
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _limit_to(1 << CAP_NET_ADMIN if keep_net_admin else 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    held = _held()
    return tuple(_name(number) for number in range(held.bit_length()) if held >> number & 1)


def _prctl(option: int, argument: int) -> None:
    _libc.prctl(ctypes.c_int(option), *(ctypes.c_ulong(value) for value in (argument, 0, 0, 0)))


def _limit_to(mask: int) -> None:
    """Keep of the permitted set what is in `mask`, and have all of it in effect; nothing is passed on through exec."""
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    if _libc.capget(ctypes.byref(header), sets) != 0:
        return
    for half, kept in zip(sets, (mask & 0xFFFF_FFFF, mask >> 32), strict=True):
        half.permitted &= kept
        half.effective, half.inheritable = half.permitted, 0
    _libc.capset(ctypes.byref(header), sets)


def _held() -> int:
    """Every capability in any set, but the bounding one, of any thread of this process; 0 where there is no /proc to tell."""
    held = 0
    for status in Path("/proc/self/task").glob("*/status"):
        with contextlib.suppress(OSError):  # a thread that has ended holds nothing
            for found in _HELD.findall(status.read_text(encoding="ascii", errors="replace")):
                held |= int(found, 16)
    return held


def _name(number: int) -> str:
    return f"cap_{_NAMES[number]}" if number < len(_NAMES) else f"cap_{number}"
