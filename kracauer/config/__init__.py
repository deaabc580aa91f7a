"""TOML text to a frozen `Config`, every problem told at once with its key path."""

from kracauer.config.changes import restart_problems
from kracauer.config.document import parse_config, parse_document
from kracauer.config.problems import ABSENT, Problem
from kracauer.config.shares import share_of
from kracauer.config.values import Config, Dns, Limits, Listener, Log, NameServer, Network, Probes, Timeouts
from kracauer.profile import BackendProfile

__all__ = [
    "ABSENT",
    "BackendProfile",
    "Config",
    "Dns",
    "Limits",
    "Listener",
    "Log",
    "NameServer",
    "Network",
    "Probes",
    "Problem",
    "Timeouts",
    "parse_config",
    "parse_document",
    "restart_problems",
    "share_of",
]
