"""The TUN device: its contract, the kernel's own, one in memory, and one that records what passes."""

from kracauer.tun.contract import Device, DeviceLostError
from kracauer.tun.device import InheritedQueue, TunDevice
from kracauer.tun.memory import MemoryDevice
from kracauer.tun.opening import open_device, open_queue
from kracauer.tun.recording import RecordingDevice

__all__ = [
    "Device",
    "DeviceLostError",
    "InheritedQueue",
    "MemoryDevice",
    "RecordingDevice",
    "TunDevice",
    "open_device",
    "open_queue",
]
