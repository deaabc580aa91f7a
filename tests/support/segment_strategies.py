"""Hypothesis strategies for headers, options and whole packets."""

import random
import struct

from hypothesis import strategies as st

from kracauer.wire import tcp
from kracauer.wire.ipv4 import IPv4Header
from kracauer.wire.ipv6 import IPv6Header
from kracauer.wire.tcp import TcpHeader
from kracauer.wire.vnet_hdr import GSO_ECN, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, NO_OFFLOAD, VnetHeader

bits = {size: st.integers(0, 2**size - 1) for size in (1, 4, 8, 9, 12, 13, 16, 20, 32)}
byte, word, number = bits[8], bits[16], bits[32]
v4_address = st.binary(min_size=4, max_size=4)
v6_address = st.binary(min_size=16, max_size=16)


def whole_words(largest: int) -> st.SearchStrategy[bytes]:
    """Bytes in whole 32-bit words, `largest` of them at most."""
    return st.integers(0, largest).flatmap(lambda count: st.binary(min_size=4 * count, max_size=4 * count))


ipv4_headers = st.builds(
    IPv4Header,
    tos=byte,
    total_length=word,
    identification=word,
    dont_fragment=st.booleans(),
    more_fragments=st.booleans(),
    fragment_offset=bits[13],
    ttl=byte,
    protocol=byte,
    src=v4_address,
    dst=v4_address,
    options=whole_words(10),
)
ipv6_headers = st.builds(IPv6Header, byte, bits[20], word, byte, byte, v6_address, v6_address)
tcp_headers = st.builds(TcpHeader, word, word, number, number, bits[12], word, word, word, whole_words(10))


def with_length(kind: int, value: bytes) -> bytes:
    return bytes((kind, 2 + len(value))) + value


canonical_timestamps = st.builds(lambda pair: b"\x01\x01\x08\x0a" + struct.pack("!II", *pair), st.tuples(number, number))
timestamps = st.builds(lambda pair: b"\x08\x0a" + struct.pack("!II", *pair), st.tuples(number, number))
sack = st.integers(1, 4).flatmap(
    lambda count: st.binary(min_size=8 * count, max_size=8 * count).map(lambda edges: with_length(5, edges))
)
unknown = st.builds(with_length, st.sampled_from((6, 14, 30, 34, 253, 254)), st.binary(max_size=9))
misshapen = st.builds(with_length, st.sampled_from((5, 8)), st.binary(max_size=3))
illegal = st.builds(lambda kind, length: bytes((kind, length)), st.sampled_from((2, 5, 8, 254)), st.sampled_from((0, 1, 60)))
option = st.one_of(st.just(b"\x01"), timestamps, sack, unknown, misshapen, st.just(b"\x00"), illegal)


def _fill(parts: list[bytes], room: int, padding: int) -> bytes:
    """As many of `parts` as fit into `room` bytes, padded to whole 32-bit words."""
    taken = b""
    for part in parts:
        if len(taken) + len(part) <= room:
            taken += part
    return taken + bytes((padding,)) * (-len(taken) % 4)


option_lists = st.one_of(
    st.just(b""),
    canonical_timestamps,
    st.builds(_fill, st.tuples(canonical_timestamps, sack).map(list), st.just(40), st.just(1)),
    st.builds(_fill, st.lists(option, max_size=8), st.just(40), st.sampled_from((0, 1))),
)

payloads = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, 999), st.integers(0, 1480)),
)
super_payloads = st.builds(
    lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, 99), st.integers(1300, 65_535 - 20 - 20 - 40)
)


def segments(options: st.SearchStrategy[bytes] = option_lists) -> st.SearchStrategy[TcpHeader]:
    """TCP headers as spliced flows see them: ACK set, no SYN, FIN or RST; whatever else is random."""
    flags = bits[12].map(lambda flags: (flags | tcp.ACK) & ~(tcp.SYN | tcp.FIN | tcp.RST))
    return st.builds(TcpHeader, word, word, number, number, flags, word, st.just(0), word, options)


no_offload = st.sampled_from((NO_OFFLOAD, VnetHeader(flags=2)))


def partial(start: int) -> st.SearchStrategy[VnetHeader]:
    """The vnet header of one segment with a checksum to be completed; its header length is not to be trusted."""
    return st.builds(VnetHeader, st.just(NEEDS_CSUM), st.just(0), word, st.just(0), st.just(start), st.just(16))


def super_packet(start: int) -> st.SearchStrategy[VnetHeader]:
    """The vnet header of a super-packet whose TCP header begins at `start`."""
    kind = GSO_TCPV4 if start == 20 else GSO_TCPV6
    return st.builds(
        VnetHeader,
        st.just(NEEDS_CSUM),
        st.sampled_from((kind, kind | GSO_ECN)),
        word,
        st.integers(1, 1460),
        st.just(start),
        st.just(16),
    )
