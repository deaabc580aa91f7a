"""What a supervisor tells its workers."""

from dataclasses import dataclass
from typing import NamedTuple

from kracauer.config import Config
from kracauer.fast_path import Standing
from kracauer.offload.shared import SharedMaps
from kracauer.steering import Share


class Queue(NamedTuple):
    """A queue of the device, by its descriptor. `is_steered`: the kernel chooses queues by our program."""

    descriptor: int
    has_vnet_header: bool
    has_offloads: bool
    is_steered: bool


@dataclass(frozen=True, slots=True)
class Order:
    """All that a worker is to begin with; numbers of descriptors are those that it finds open.

    `incoming` brings what other workers hand over, `outgoing` leads to each of them, by number; `icmp` is a raw socket, where
    there is one for this worker. `maps` are the fast path's, if there is one, `left` those of earlier services. `is_replacing`:
    it goes on for one that has died, and finds in the maps what that one has left.
    """

    config: Config  # its share
    share: Share
    secret: bytes
    boot_id: bytes
    queue: Queue
    incoming: int
    outgoing: tuple[int | None, ...]
    icmp: int | None
    maps: SharedMaps | None
    left: tuple[dict[str, int], ...]
    standing: Standing
    is_replacing: bool


class Serve(NamedTuple):
    """Take packets from now on. `standing` is the fast path's, now that the program is on the device."""

    standing: Standing


class Reconfigure(NamedTuple):
    """Go by this configuration, the worker's share of it; answered."""

    config: Config


class Tell(NamedTuple):
    """Say how things stand; answered with a report, and with what is dialled."""


class LogCounters(NamedTuple):
    """Write one line with everything counted so far; not answered."""


class Stop(NamedTuple):
    """Stop serving, for good or for a successor; the last words tell how it was."""

    is_final: bool
