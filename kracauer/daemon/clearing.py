"""Clear away what a service has left that is no more: `kracauer stop --forget` where nobody runs."""

from contextlib import ExitStack, suppress

from kracauer.config import Config
from kracauer.daemon.flow_files import remove_flow_files
from kracauer.daemon.lock import ServiceLock
from kracauer.daemon.offloading import remove_offload
from kracauer.daemon.runtime import runtime_file
from kracauer.host import destinations, forget


def clear_up(device: str, config: Config | None) -> tuple[str, ...]:
    """Remove device, routes, fast path and flows that were kept; returns failures as lines. Raises AlreadyRunningError.

    `config` tells which routes there may be, and whether the network is the operator's own; None: there is none to tell.
    """
    lock = ServiceLock(device)
    with ExitStack() as stack:
        if lock.path.parent.is_dir():
            with suppress(OSError):  # a directory that is not ours to write to has no lock of anybody
                lock.acquire()
            stack.callback(lock.release)
        failures: tuple[str, ...] = ()
        remove_offload(device)
        if config is None or config.network.manage:
            failures = forget(device, () if config is None else destinations(config))
        remove_flow_files(device)
        with suppress(OSError):
            runtime_file(device, "sock").unlink()
    return failures
