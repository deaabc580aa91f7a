"""A loaded program run on a packet and nowhere else (BPF_PROG_TEST_RUN of bpf(2))."""

import ctypes
import struct
from typing import Final, NamedTuple

from kracauer.offload import bpf

_PROG_TEST_RUN: Final = 10


class Run(NamedTuple):
    """What a program returned for a packet, and what it made of it."""

    verdict: int
    packet: bytes


def run(fd: int, packet: bytes, context: bytes = b"") -> Run:
    """Run the program behind `fd`. `context` is a struct __sk_buff, or nothing; raises OSError."""
    incoming = ctypes.create_string_buffer(packet, len(packet))
    outgoing = ctypes.create_string_buffer(len(packet) + 256)
    around = ctypes.create_string_buffer(context, max(len(context), 1))
    places = [ctypes.addressof(buffer) for buffer in (incoming, outgoing, around)]
    attribute = ctypes.create_string_buffer(
        struct.pack(
            "=IIIIQQIIIIQQIIII",
            *(fd, 0, len(packet), len(outgoing), *places[:2], 1, 0),
            *(len(context), 0, places[2] if context else 0, 0, 0, 0, 0, 0),
        ),
        80,
    )
    bpf.call_into(_PROG_TEST_RUN, attribute)
    verdict, _, length = struct.unpack_from("=iII", attribute.raw, 4)
    return Run(verdict, outgoing.raw[:length])
