"""The virtio-net header that a TUN device with IFF_VNET_HDR puts before each packet (virtio 1.2 §5.1.6).

    0        1        2        4          6           8             10
    +--------+--------+--------+----------+-----------+-------------+
    | flags  |gso_type|hdr_len | gso_size |csum_start |csum_offset  |   16-bit fields in the host's byte order
    +--------+--------+--------+----------+-----------+-------------+

Linux devices use the legacy layout: ten bytes, native byte order, unless TUNSETVNETLE or TUNSETVNETHDRSZ say otherwise.
"""

import struct
from typing import Final, NamedTuple

from kracauer.errors import ParseError
from kracauer.wire.buffer import Buffer

LENGTH: Final = 10

NEEDS_CSUM: Final = 0x01
DATA_VALID: Final = 0x02

GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_ECN: Final = 0x80

EMPTY: Final = bytes(LENGTH)  # no offload: the checksums in the packet are complete

_LAYOUT: Final = struct.Struct("=BBHHHH")


class VnetHeader(NamedTuple):
    """One virtio-net header; `gso_size` is the payload bytes of each segment, `csum_start` an offset into the packet."""

    flags: int = 0
    gso_type: int = GSO_NONE
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    @property
    def needs_csum(self) -> bool:
        """The checksum field holds only the pseudo-header's sum; the rest is left to the hardware."""
        return bool(self.flags & NEEDS_CSUM)

    @property
    def is_super_packet(self) -> bool:
        """The packet stands for several segments of `gso_size` payload bytes each."""
        return self.gso_type & ~GSO_ECN != GSO_NONE


NO_OFFLOAD: Final = VnetHeader()


def parse(data: Buffer, offset: int = 0) -> VnetHeader:
    """Read the header that begins at `offset`; raises ParseError when fewer than ten bytes are there."""
    if len(data) - offset < LENGTH:
        raise ParseError(f"vnet header: {len(data) - offset} bytes where {LENGTH} are needed")
    return VnetHeader._make(_LAYOUT.unpack_from(data, offset))


def build(header: VnetHeader) -> bytes:
    """The ten bytes of `header`."""
    return _LAYOUT.pack(*header)
