"""The service: a device, an engine between its reads and writes, and an event loop that has time for nothing else."""

from kracauer.daemon.serve import RecordingError, serve
from kracauer.daemon.service import PacketEngine, Service

__all__ = ["PacketEngine", "RecordingError", "Service", "serve"]
