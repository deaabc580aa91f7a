"""What lies in the program's maps, as splice.bpf.c has it.

Numbers are in the machine's own byte order; ports, addresses and what is added to checksums lie there as in packets.
"""

import struct
import zlib
from typing import Final, NamedTuple

from kracauer.tcp import sequence
from kracauer.tcp.record import Constants
from kracauer.wire.checksum import MODULUS

# To be raised with every change to what lies in the maps: a process that knows another one leaves them alone.
VERSION: Final = 1

_TO_BACKEND: Final = struct.Struct("=2s2sHbxIIIIIH2x32s")
_TO_CLIENT: Final = struct.Struct("=2s2sHbxIIIIII8s")
# Of one direction, 64 bytes: packets, bytes, last_seen (ns), acked, leaves_fins; what was collected of packets and bytes;
# fin_seen (ns). Processes that knew no FINs here have left zeros in their place.
CARRIED: Final = struct.Struct("=QQQIIQQQ8x")
LEAVES_FINS: Final = struct.Struct("=I")
LEAVES_FINS_AT: Final = 28  # of the direction to the backend, for both
COLLECTED: Final = struct.Struct("=QQ")
COLLECTED_AT: Final = 32
TRAFFIC_BYTES: Final = 2 * CARRIED.size
CONTROL: Final = struct.Struct("=Q")  # until when packets are taken (ns)
IDENTIFICATIONS: Final = 4096  # counters; a client's is found by its address

_NO_DIFFERENCE: Final = MODULUS  # a sum that adds nothing, in the form that keeps a checksum from becoming 0xFFFF


class Held(NamedTuple):
    """What an entry of `client_flows` tells of its flow."""

    at: int  # of its traffic, in bytes
    seq_delta: int
    v6_addresses: bytes
    backend_port: bytes


def parse_held(to_backend: bytes) -> Held:
    """Take from the value of a client's key what tells its flow from others of the same key."""
    fields = _TO_BACKEND.unpack(to_backend)
    return Held(fields[4] * TRAFFIC_BYTES, -fields[6] & sequence.MASK, fields[-1], fields[0])


def other_key(client_key_held: bytes, held: Held) -> bytes:
    """The key in `backend_flows` of the flow that is `held` in `client_flows` by that key."""
    mapped, backend = held.v6_addresses[:16], held.v6_addresses[16:]
    return backend + mapped + held.backend_port + client_key_held[8:10]


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
    client_port, service_port = constants.client_port.to_bytes(2, "big"), constants.service_port.to_bytes(2, "big")
    backend_port = constants.backend_port.to_bytes(2, "big")
    to_backend = _TO_BACKEND.pack(
        backend_port,
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
        service_port,
        (-constants.address_difference % MODULUS or _NO_DIFFERENCE).to_bytes(2, "big"),
        constants.max_to_client,
        constants.window_shift_to_client,
        index,
        *(seq_delta, 0),
        *(ts_delta, 0),
        zlib.crc32(constants.v4_addresses) % IDENTIFICATIONS,
        constants.v4_addresses,
    )
    # As `kracauer.flows` has its keys, put together here without a look at what they are made of: each install takes two.
    client_key = client + service + client_port + service_port
    return Entries(client_key, to_backend, backend + mapped + backend_port + client_port, to_client)
