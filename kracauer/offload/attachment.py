"""Putting the program on a device's egress: as a tcx link (Linux 6.6), or else as a filter of a clsact queue discipline."""

import errno
import os
import socket
from contextlib import suppress
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kracauer.offload import bpf
from kracauer.offload.bpf import OffloadError

_CLSACT_EGRESS: Final = 0xFFFFFFF3  # TC_H_CLSACT, TC_H_MIN_EGRESS
_PRIORITY: Final = 4660  # so that our filter is known among others, and can be removed alone
_HANDLE: Final = 1
_NAME: Final = "kracauer"
_ALL_PROTOCOLS: Final = 3  # ETH_P_ALL
# What a kernel that has no tcx says to one, by way of attach types and attributes that it does not know.
_NO_TCX: Final = frozenset({errno.EINVAL, errno.E2BIG, errno.EOPNOTSUPP, errno.ENOSYS})


class Attachment:
    """A program that stands on the egress of `interface`; `kind` says how, `fd` is the link's, where it is one."""

    def __init__(self, interface: str, kind: str, fd: int = -1) -> None:
        self.interface = interface
        self.kind = kind
        self.fd = fd

    def close(self) -> None:
        """Take it away; no error if the device has gone, or it was done before."""
        if self.fd >= 0:
            with suppress(OSError):
                bpf.detach_link(self.fd)  # at once, and though it be pinned
            self.release()
        elif self.kind == "clsact":
            self.kind = ""
            remove_filter(self.interface)

    def release(self) -> None:
        """Let go of it, and leave it there as far as others hold it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def attach(program: int, interface: str, former_link: int = -1) -> Attachment:
    """Attach `program`, in the place of what stands there by `former_link` or by our filter; raises OffloadError.

    The link is the attachment's from then on, whatever comes of it.
    """
    try:
        index = socket.if_nametoindex(interface)
    except OSError as error:
        raise OffloadError(f"there is no interface {interface} to attach to", "create the device first") from error
    if former_link >= 0:
        former = Attachment(interface, "tcx", former_link)
        try:
            bpf.replace_link(former_link, program)
        except OSError:
            former.close()
        else:
            return former
    try:
        attachment = Attachment(interface, "tcx", bpf.attach_link(program, index))
    except OSError as error:
        if error.errno not in _NO_TCX:
            raise bpf.explain(error, f"attach the program to {interface}") from error
        return attach_filter(program, interface, index)
    remove_filter(interface)
    return attachment


def attach_filter(program: int, interface: str, index: int) -> Attachment:
    """Attach `program` without a link, as kernels before 6.6 can, in the place of what our filter was; raises OffloadError."""
    try:
        with IPRoute() as netlink:
            try:
                netlink.tc("add", "clsact", index)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
            netlink.tc(
                "replace-filter",
                "bpf",
                index,
                handle=_HANDLE,
                fd=program,
                name=_NAME,
                parent=_CLSACT_EGRESS,
                prio=_PRIORITY,
                protocol=_ALL_PROTOCOLS,
                direct_action=True,
            )
    except (NetlinkError, OSError) as error:
        number = error.code if isinstance(error, NetlinkError) else error.errno
        reason = OSError(number, os.strerror(number or 0))
        raise bpf.explain(reason, f"attach the program to {interface}") from error
    return Attachment(interface, "clsact")


def remove_filter(interface: str) -> bool:
    """Take our filter away, whoever has put it there; others', and the queue discipline, stay.

    Returns whether there was one.
    """
    try:
        with IPRoute() as netlink:
            index = socket.if_nametoindex(interface)
            where = {"parent": _CLSACT_EGRESS, "prio": _PRIORITY, "protocol": _ALL_PROTOCOLS, "handle": _HANDLE}
            netlink.tc("del-filter", "bpf", index, **where)
    except (NetlinkError, OSError):
        return False
    return True
