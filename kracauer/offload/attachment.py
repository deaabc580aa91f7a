"""Putting the program on a device's egress: as a tcx link (Linux 6.6), or else as a filter of a clsact queue discipline."""

import errno
import os
import socket
from contextlib import suppress
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kracauer.offload import bpf
from kracauer.offload.bpf import OffloadError

_CLSACT_EGRESS: Final = 0xFFFFFFF3  # TC_H_CLSACT, TC_H_MIN_EGRESS
_PRIORITY: Final = 4660  # so that our filter is known among others, and can be removed alone
_NAME: Final = "kracauer"
_ALL_PROTOCOLS: Final = 3  # ETH_P_ALL
# What a kernel that has no tcx says to one, by way of attach types and attributes that it does not know.
_NO_TCX: Final = frozenset({errno.EINVAL, errno.E2BIG, errno.EOPNOTSUPP, errno.ENOSYS})


class Attachment:
    """A program that stands on the egress of `interface`; `kind` says how, `fd` is the link's, where it is one."""

    def __init__(self, interface: str, index: int, kind: str, fd: int = -1) -> None:
        self.interface = interface
        self.kind = kind
        self.fd = fd
        self._index = index

    def close(self) -> None:
        """Take it away; no error if the device has gone, or it was done before."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        elif self.kind == "clsact":
            self.kind = ""
            with suppress(NetlinkError, OSError), IPRoute() as netlink:
                _delete_filter(netlink, self._index)


def attach(program: int, interface: str) -> Attachment:
    """Attach `program`; raises OffloadError."""
    try:
        index = socket.if_nametoindex(interface)
    except OSError as error:
        raise OffloadError(f"there is no interface {interface} to attach to", "create the device first") from error
    try:
        return Attachment(interface, index, "tcx", bpf.attach_link(program, index))
    except OSError as error:
        if error.errno not in _NO_TCX:
            raise bpf.explain(error, f"attach the program to {interface}") from error
    return attach_filter(program, interface, index)


def attach_filter(program: int, interface: str, index: int) -> Attachment:
    """Attach `program` without a link, as kernels before 6.6 can; raises OffloadError."""
    try:
        with IPRoute() as netlink:
            try:
                netlink.tc("add", "clsact", index)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
            _delete_filter(netlink, index)
            netlink.tc(
                "add-filter",
                "bpf",
                index,
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
    return Attachment(interface, index, "clsact")


def _delete_filter(netlink: Any, index: int) -> None:
    """Take our filter away, whoever has put it there; others', and the queue discipline, stay."""
    with suppress(NetlinkError):
        netlink.tc("del-filter", "bpf", index, parent=_CLSACT_EGRESS, prio=_PRIORITY, protocol=_ALL_PROTOCOLS)
