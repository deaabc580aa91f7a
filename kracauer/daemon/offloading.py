"""The fast path in the kernel, where it is wanted and to be had."""

from typing import Final

from structlog.typing import FilteringBoundLogger

from kracauer.config import Config
from kracauer.fast_path import FastPath, NoFastPath, Standing
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath

AUTO, OFF, REQUIRE = "auto", "off", "require"
# What is counted of them takes 128 bytes each, at once. Those beyond are carried as ever.
MAX_FLOWS: Final = 1 << 20


def open_fast_path(config: Config, device: str, log: FilteringBoundLogger, *, is_recording: bool = False) -> FastPath:
    """Put the program on `device`; where the kernel does not take it, one that takes nothing.

    Raises OffloadError where the configuration requires it. What is recorded has to pass here, so then there is none.
    """
    wanted = config.network.offload
    if wanted == OFF:
        return NoFastPath()
    if is_recording:
        if wanted == REQUIRE:
            cause = "packets that the kernel carries cannot be recorded"
            raise OffloadError(cause, 'set network.offload = "auto", or do not record')
        cause = "packets are recorded, so all of them have to pass the process"
        log.info("offload_unavailable", device=device, cause=cause)
        return NoFastPath(Standing(cause=cause))
    try:
        capacity = min(config.limits.flows, MAX_FLOWS)
        path = KernelPath.open(capacity)
        try:
            kind = path.attach(device)
        except BaseException:
            path.close()
            raise
    except OffloadError as error:
        if wanted == REQUIRE:
            raise
        log.info("offload_unavailable", device=device, cause=error.cause, remedy=error.remedy)
        return NoFastPath(Standing(cause=error.cause, remedy=error.remedy))
    log.info("offload_attached", device=device, kind=kind, flows=capacity)
    return path
