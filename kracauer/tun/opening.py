"""Opening the TUN device, with a vnet header and TSO so that super-packets cross it whole, or saying why it cannot be.

A persistent device outlives the process that made it; the next one knows it by its alias and takes it over. Flags and ioctls
are those of Linux's include/uapi/linux/if_tun.h.
"""

import errno
import fcntl
import os
import re
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from pytun_pmd3 import TunTapDevice

from kracauer.errors import DeviceError
from kracauer.tun.alias import ALIAS, read_alias, set_alias
from kracauer.tun.device import TUNSETPERSIST, TunDevice
from kracauer.tun.driver import interface_driver
from kracauer.wire.buffer import PACKET_START, VNET_START

CLONE_DEVICE: Final = "/dev/net/tun"

IFF_TUN: Final = 0x0001
IFF_MULTI_QUEUE: Final = 0x0100
IFF_PERSIST: Final = 0x0800
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
IFF_TUN_EXCL: Final = 0x8000

TUNSETOWNER: Final = 0x400454CC
TUNSETOFFLOAD: Final = 0x400454D0
TUNGETIFF: Final = 0x800454D2
TUNSETVNETHDRSZ: Final = 0x400454D8
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_TSO_ECN: Final = 0x08

_INTERFACE_REQUEST: Final = struct.Struct("=16sH22x")

_OFFLOADS: Final = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
# What the configuration accepts: Linux, dev_valid_name(), without "%", which would make the kernel number the interface.
_VALID_NAME: Final = re.compile(r"(?!\.{1,2}\Z)[!-$&-.0-9;-~]{1,15}\Z")


_PATIENCE_S: Final = 0.5  # for a process that is ending: the kernel lets go of its device a moment after it is gone
_PAUSE_S: Final = 0.02


def open_device(
    name: str,
    *,
    has_offloads: bool = True,
    is_adopting: bool = False,
    is_persistent: bool = False,
    owner: int | None = None,
    has_queues: bool = False,
    may_replace: bool = False,
) -> TunDevice:
    """Create the TUN device `name`, or with `is_adopting` take one that the operator has made.

    With `is_persistent` it stays when the process ends, for user number `owner` (or else our own) alone to open, and one that
    was left so is taken over. With `has_queues` it may have others beside this one, by `open_queue`; one that was left with
    queues where none are wanted, or without, is removed and made anew if the caller, who knows that nobody has it, says that
    it may be.
    Raises DeviceError with cause and remedy when that cannot be done.
    """
    queues = IFF_MULTI_QUEUE if has_queues else 0
    if not _VALID_NAME.match(name):
        raise DeviceError(
            f"{name!r} cannot be the name of an interface",
            "set network.device to 1 to 15 printable ASCII characters, none of them '/', ':' or '%'",
        )
    if is_persistent:
        try:
            return _open_persistent(
                name, has_offloads, os.geteuid() if owner is None else owner, queues, may_replace=may_replace
            )
        except OSError as error:
            raise _explain(name, error) from error
    try:
        return _open(name, IFF_TUN | IFF_NO_PI | queues | (0 if is_adopting else IFF_TUN_EXCL), has_offloads)
    except _RefusedError as refusal:
        if is_adopting and interface_driver(name) == "tun":
            raise DeviceError(*_explain_unlike(name, has_queues=has_queues)) from refusal
        raise


def open_queue(device: TunDevice, *, has_offloads: bool = True) -> TunDevice:
    """One more queue of `device`, which was opened with `has_queues`, at the end of those there are; raises DeviceError."""
    return _open(device.name, IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE, has_offloads)


def _open(name: str, flags: int, has_offloads: bool) -> TunDevice:
    if not has_offloads:
        device = _attach(name, flags)
        _clear_offloads(device)
        return TunDevice(device, has_vnet_header=False, has_offloads=False, fallback="")
    try:
        device = _attach(name, flags | IFF_VNET_HDR)
    except _RefusedError as refusal:
        # The same without the vnet header either works, or raises what was wrong with the name after all.
        device = _attach(name, flags)
        _clear_offloads(device)
        fallback = f"IFF_VNET_HDR: {refusal.strerror}"
        return TunDevice(device, has_vnet_header=False, has_offloads=False, fallback=fallback)
    with suppress(OSError):  # who had the device before may have chosen another length
        fcntl.ioctl(device.fileno(), TUNSETVNETHDRSZ, struct.pack("=i", PACKET_START - VNET_START))
    try:
        fcntl.ioctl(device.fileno(), TUNSETOFFLOAD, _OFFLOADS)
    except OSError as error:
        _clear_offloads(device)
        fallback = f"TUNSETOFFLOAD: {error.strerror}"
        return TunDevice(device, has_vnet_header=True, has_offloads=False, fallback=fallback)
    return TunDevice(device, has_vnet_header=True, has_offloads=True, fallback="")


def _clear_offloads(device: "Attachment") -> None:
    """Have the kernel hand over plain packets: a device that was there before remembers what it was asked for."""
    with suppress(OSError):
        fcntl.ioctl(device.fileno(), TUNSETOFFLOAD, 0)


def _open_persistent(name: str, has_offloads: bool, owner: int, queues: int, *, may_replace: bool) -> TunDevice:
    is_known = _is_ours(name)
    is_replaced = is_known and may_replace and _remove_unlike(name, queues)
    flags = IFF_TUN | IFF_NO_PI | queues
    device = _open(name, flags | (0 if is_known and not is_replaced else IFF_TUN_EXCL), has_offloads)
    device.is_replaced = is_replaced
    try:
        device.is_found = _is_persistent(device)
        if device.is_found and not _is_ours(name):  # ours was replaced between the look and the attaching
            raise DeviceError(*_explain_taken(name))
        if not device.is_found:
            set_alias(name)
        # Without an owner, everybody who may open the clone device may attach. Persistence comes last: until then the
        # device goes with this process, however that ends, and nothing is left that the next one would not know.
        fcntl.ioctl(device.fileno(), TUNSETOWNER, owner)
        fcntl.ioctl(device.fileno(), TUNSETPERSIST, 1)
    except BaseException:
        device.close()
        raise
    return device


def _remove_unlike(name: str, queues: int) -> bool:
    """Remove the device if it has queues and `queues` does not want them, or the other way round; returns whether it did."""
    try:
        device = _attach(name, IFF_TUN | IFF_NO_PI | queues ^ IFF_MULTI_QUEUE)
    except DeviceError:
        return False  # it is as is wanted, or what is wrong will be said of that
    with suppress(OSError):
        fcntl.ioctl(device.fileno(), TUNSETPERSIST, 0)
    device.close()
    return True


def _is_ours(name: str) -> bool:
    return read_alias(name) == ALIAS and interface_driver(name) == "tun"


def _is_persistent(device: TunDevice) -> bool:
    request = fcntl.ioctl(device.fileno(), TUNGETIFF, bytes(_INTERFACE_REQUEST.size))
    return bool(_INTERFACE_REQUEST.unpack(request)[1] & IFF_PERSIST)


class Attachment(TunTapDevice):  # type: ignore[misc]  # it is untyped
    """A TunTapDevice that is closed by `close` alone.

    When its constructor fails it has closed its descriptor, and its finaliser closes that number once more, which by then
    belongs to somebody else: to the next attempt of ours, for one.
    """

    def __del__(self) -> None:
        """Leave all descriptors alone."""


class _RefusedError(DeviceError):
    """The kernel answered EINVAL: either it does not know a flag, or the name belongs to another kind of interface."""

    def __init__(self, cause: str, remedy: str, strerror: str) -> None:
        super().__init__(cause, remedy)
        self.strerror = strerror


def _attach(name: str, flags: int) -> Attachment:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return Attachment(name, flags)
        except OSError as error:
            is_attached = error.errno == errno.EBUSY and not flags & IFF_TUN_EXCL
            if not is_attached:
                raise _explain(name, error) from error
            if time.monotonic() >= deadline:
                raise DeviceError(
                    f"the device {name} is in use by another process",
                    "stop that one (`kracauer stop`, if it is a Kracauer), or set network.device to another name",
                ) from error
        time.sleep(_PAUSE_S)


def _explain(name: str, error: OSError) -> DeviceError:
    """The cause and the remedy behind what opening the device has said."""
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return DeviceError(
                f"{CLONE_DEVICE} is missing ({error.strerror})",
                "load the module with `modprobe tun`; in a container, start it with `--device /dev/net/tun`",
            )
        case errno.EACCES:
            return DeviceError(
                f"{CLONE_DEVICE} may not be opened by user {os.geteuid()}",
                "run Kracauer as root, or give its user access to that file as well as CAP_NET_ADMIN",
            )
        case errno.EPERM:
            return DeviceError(
                f"the kernel does not let user {os.geteuid()} create the device {name}",
                "run Kracauer as root or with CAP_NET_ADMIN; in a container, start it with `--cap-add NET_ADMIN`",
            )
        case errno.EBUSY | errno.EEXIST:
            return DeviceError(*_explain_taken(name))
        case errno.EINVAL:
            if interface_driver(name) is not None:
                cause, remedy = _explain_taken(name)
            else:
                cause, remedy = f"the kernel refuses to create the device {name}", "set network.device to another name"
            return _RefusedError(cause, remedy, error.strerror or "")
        case errno.ENOTTY:
            return DeviceError(f"{CLONE_DEVICE} is not the TUN driver", _remake_remedy())
        case _:
            return DeviceError(f"the device {name} cannot be opened ({error.strerror})", "see `dmesg` for the reason")


def _explain_taken(name: str) -> tuple[str, str]:
    driver = interface_driver(name)
    if driver in (None, "tun"):
        return (
            f"the device name {name} is taken by another TUN device",
            f"stop what uses it, remove it with `ip link del {name}`, or set network.device to another name",
        )
    return (
        f"the device name {name} is taken by an interface that is no TUN device (driver {driver})",
        "set network.device to a name that is free",
    )


def _explain_unlike(name: str, *, has_queues: bool) -> tuple[str, str]:
    if has_queues:
        return (
            f"the device {name} was made for a single queue",
            f"make it anew with `ip tuntap add name {name} mode tun multi_queue`, or set network.workers = 1",
        )
    return (
        f"the device {name} was made for several queues",
        f"make it anew with `ip tuntap add name {name} mode tun`, or set network.workers to their number",
    )


def _remake_remedy() -> str:
    return f"make it anew: `rm {CLONE_DEVICE}; mkdir -p {Path(CLONE_DEVICE).parent}; mknod {CLONE_DEVICE} c 10 200`"
