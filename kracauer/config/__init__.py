"""TOML text to a frozen `Config`, every problem told at once with its key path."""

from kracauer.config.changes import restart_problems
from kracauer.config.document import parse_config, parse_document
from kracauer.config.problems import ABSENT, Problem
from kracauer.config.values import Config, Limits, Listener, Log, Network, Timeouts
from kracauer.profile import BackendProfile

__all__ = [
    "ABSENT",
    "BackendProfile",
    "Config",
    "Limits",
    "Listener",
    "Log",
    "Network",
    "Problem",
    "Timeouts",
    "parse_config",
    "parse_document",
    "restart_problems",
]
