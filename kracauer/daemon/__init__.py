"""The service: a device, an engine between its reads and writes, and an event loop that has time for nothing else."""

from kracauer.daemon.clearing import clear_up
from kracauer.daemon.lock import AlreadyRunningError, is_running
from kracauer.daemon.member import WorkerError
from kracauer.daemon.request import ControlError, NotPermittedError, NotRunningError, ask, await_end
from kracauer.daemon.runtime import runtime_file
from kracauer.daemon.serve import RecordingError, serve
from kracauer.daemon.service import PacketEngine, Service
from kracauer.daemon.taking_up import EngineFactory

__all__ = [
    "AlreadyRunningError",
    "ControlError",
    "EngineFactory",
    "NotPermittedError",
    "NotRunningError",
    "PacketEngine",
    "RecordingError",
    "Service",
    "WorkerError",
    "ask",
    "await_end",
    "clear_up",
    "is_running",
    "runtime_file",
    "serve",
]
