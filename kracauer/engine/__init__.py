"""The sans-I/O heart: packets and the time in, packets and events out."""

from kracauer.engine.core import Engine
from kracauer.engine.health import BackendStatus

__all__ = ["BackendStatus", "Engine"]
