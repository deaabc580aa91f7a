"""Descriptors that the service manager hands over with the start (sd_listen_fds(3))."""

import fcntl
import os
from typing import Final, NamedTuple

_FIRST: Final = 3  # SD_LISTEN_FDS_START
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class Inherited(NamedTuple):
    """The descriptors with their names, in no order that means anything; `problem` says what was not to be understood."""

    descriptors: tuple[tuple[str, int], ...] = ()
    problem: str = ""


def take_inherited() -> Inherited:
    """What this process was handed, by name, and no child of its will be. To be called once: it leaves nothing to be found."""
    process, count, names, _ = (os.environ.pop(variable, None) for variable in _VARIABLES)
    if process != str(os.getpid()) or count is None or names is None:
        return Inherited()  # somebody else's, or of a manager that gives no names, and so has nothing of ours
    listed = names.split(":")
    if count != str(len(listed)):
        return Inherited(problem=f"LISTEN_FDS is {count!r}, and LISTEN_FDNAMES has {len(listed)} names")
    taken, closed = [], []
    for fd, name in enumerate(listed, _FIRST):
        try:
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        except OSError:
            closed.append(str(fd))
        else:
            taken.append((name, fd))
    return Inherited(tuple(taken), f"there is nothing behind descriptor {', '.join(closed)}" if closed else "")
