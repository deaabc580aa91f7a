"""The program that says which queue of a device a packet goes to, so that each worker finds there what is its own."""

import errno
import fcntl
import os
import struct
import sys
from typing import Final

from kracauer.offload import bpf, steering_bytecode

TUNSETSTEERINGEBPF: Final = 0x800454E0  # Linux's include/uapi/linux/if_tun.h

_LICENCE: Final = "MIT"
_SOCKET_FILTER: Final = 1


def load(workers: int) -> int:
    """Have the kernel verify the program for so many `workers`; returns its descriptor. Raises OffloadError."""
    instructions = bpf.link(
        steering_bytecode.INSTRUCTIONS[sys.byteorder],
        steering_bytecode.RELOCATIONS[sys.byteorder],
        {},
        {"workers": workers},
    )
    return bpf.load_program(_SOCKET_FILTER, instructions, licence=_LICENCE, name="kracauer_steer")


def steer(queue: int, workers: int) -> None:
    """Have packets go to the queues of the device behind the descriptor `queue` as `kracauer.steering` says.

    Raises OffloadError where the kernel does not let us; packets then go where its own choice leads.
    """
    program = load(workers)
    try:
        fcntl.ioctl(queue, TUNSETSTEERINGEBPF, struct.pack("=i", program))
    except OSError as error:
        if error.errno == errno.ENOTTY:
            error = OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        raise bpf.explain(error, "steer packets to queues") from error
    finally:
        os.close(program)
