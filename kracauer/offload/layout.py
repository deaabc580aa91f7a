"""What lies in the program's maps, as splice.bpf.c has it.

Numbers are in the machine's own byte order; ports, addresses and what is added to checksums lie there as in packets.
"""

import struct
import zlib
from typing import Final, NamedTuple

from kracauer.flows import backend_key, client_key
from kracauer.replies import Endpoints
from kracauer.tcp import sequence
from kracauer.tcp.record import Constants
from kracauer.wire.checksum import MODULUS

# To be raised with every change to what lies in the maps: a process that knows another one leaves them alone.
VERSION: Final = 1

_TO_BACKEND: Final = struct.Struct("=2s2sHbxIIIIIH2x32s")
_TO_CLIENT: Final = struct.Struct("=2s2sHbxIIIIII8s")
# Of one direction, 64 bytes: packets, bytes, last_seen (ns), acked; then what was collected of packets and bytes.
CARRIED: Final = struct.Struct("=QQQI4xQQ16x")
COLLECTED: Final = struct.Struct("=QQ")
COLLECTED_AT: Final = 32
TRAFFIC_BYTES: Final = 2 * CARRIED.size
CONTROL: Final = struct.Struct("=QQ")  # until when packets are taken, and until when SYNs are answered (ns)
ANSWERS_UNTIL: Final = struct.Struct("=Q")
ANSWERS_UNTIL_AT: Final = 8
IDENTIFICATIONS: Final = 4096  # counters; a client's is found by its address

_NO_DIFFERENCE: Final = MODULUS  # a sum that adds nothing, in the form that keeps a checksum from becoming 0xFFFF


class Held(NamedTuple):
    """What an entry of `client_flows` tells of its flow."""

    at: int  # of its traffic, in bytes
    seq_delta: int
    v6_addresses: bytes


def parse_held(to_backend: bytes) -> Held:
    """Take from the value of a client's key what tells its flow from others of the same key."""
    fields = _TO_BACKEND.unpack(to_backend)
    return Held(fields[4] * TRAFFIC_BYTES, -fields[6] & sequence.MASK, fields[-1])


class Entries(NamedTuple):
    """What a flow is in the two maps of flows: a key and a value for each direction."""

    client_key: bytes
    to_backend: bytes
    backend_key: bytes
    to_client: bytes


def build_entries(constants: Constants, index: int) -> Entries:
    """The entries of the flow that has these constants, and its traffic at `index`."""
    service, client = constants.v4_addresses[:4], constants.v4_addresses[4:]
    mapped, backend = constants.v6_addresses[:16], constants.v6_addresses[16:]
    seq_delta, ts_delta = constants.seq_delta, constants.ts_delta
    from_client = Endpoints(client, service, constants.client_port, constants.service_port)
    from_backend = Endpoints(backend, mapped, constants.backend_port, constants.client_port)
    to_backend = _TO_BACKEND.pack(
        constants.backend_port.to_bytes(2, "big"),
        (constants.address_difference or _NO_DIFFERENCE).to_bytes(2, "big"),
        constants.max_to_backend,
        constants.window_shift_to_backend,
        index,
        *(0, -seq_delta & sequence.MASK),  # of seq and ack, SACK edges with it
        *(0, -ts_delta & sequence.MASK),  # of TSval and TSecr
        constants.unfragmented_to_backend,
        constants.v6_addresses,
    )
    to_client = _TO_CLIENT.pack(
        constants.service_port.to_bytes(2, "big"),
        (-constants.address_difference % MODULUS or _NO_DIFFERENCE).to_bytes(2, "big"),
        constants.max_to_client,
        constants.window_shift_to_client,
        index,
        *(seq_delta, 0),
        *(ts_delta, 0),
        zlib.crc32(constants.v4_addresses) % IDENTIFICATIONS,
        constants.v4_addresses,
    )
    return Entries(client_key(from_client), to_backend, backend_key(from_backend), to_client)
