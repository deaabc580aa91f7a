"""The sans-I/O heart: packets and the time in, packets and events out."""

from kracauer.engine.core import Engine

__all__ = ["Engine"]
