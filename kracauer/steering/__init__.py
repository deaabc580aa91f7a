"""Which of several workers has which packets: both directions of a flow, its ICMP errors and its fragments meet in one."""

from kracauer.steering.flows import ALL, Share, find_worker, is_fragment, is_plain, worker_of
from kracauer.steering.fragments import FragmentSteering

__all__ = ["ALL", "FragmentSteering", "Share", "find_worker", "is_fragment", "is_plain", "worker_of"]
