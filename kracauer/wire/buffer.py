"""The borrowed buffer in which a packet crosses the engine, and what the codec can read from.

    0                20            30                          end
    +----------------+-------------+---------------------------+---- - -
    |   headroom     | vnet header |  IPv4 or IPv6 packet      |  unused
    +----------------+-------------+---------------------------+---- - -

An IPv6 header is 20 bytes longer than an IPv4 one. With that much headroom a translated packet is made in place: the TCP header
and the payload stay where the kernel put them, and the new headers grow into the headroom or leave it wider.
"""

from typing import Final, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

HEADROOM: Final = 20
VNET_START: Final = HEADROOM
PACKET_START: Final = HEADROOM + 10
MAX_PACKET: Final = 65_575  # an IPv6 packet of the largest payload_length, 40 + 65,535 bytes
SIZE: Final = PACKET_START + MAX_PACKET


class Frame:
    """A vnet header and one IP packet in a reusable buffer; `end` is the offset just past the packet.

    Borrowed: whoever is handed a frame may rewrite it during the call and must copy what it keeps beyond the call.
    """

    __slots__ = ("buffer", "end", "view")

    def __init__(self, packet: Buffer = b"", vnet_header: bytes = bytes(10)) -> None:
        self.buffer = bytearray(SIZE)
        self.view = memoryview(self.buffer)
        self.end = PACKET_START
        self.load(packet, vnet_header)

    def load(self, packet: Buffer, vnet_header: bytes = bytes(10)) -> None:
        """Put `packet` behind `vnet_header` (ten bytes; all zero: no offload, checksums complete) at its place."""
        self.end = PACKET_START + len(packet)
        self.buffer[VNET_START:PACKET_START] = vnet_header
        self.buffer[PACKET_START : self.end] = packet
