import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segment_strategies import byte, word

from kracauer.errors import ParseError
from kracauer.wire import vnet_hdr
from kracauer.wire.vnet_hdr import DATA_VALID, GSO_ECN, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, NO_OFFLOAD, VnetHeader

headers = st.builds(VnetHeader, byte, byte, word, word, word, word)


@given(headers, st.integers(0, 20), st.binary(max_size=9))
def test_what_was_built_is_parsed_again(header: VnetHeader, offset: int, rest: bytes) -> None:
    assert vnet_hdr.parse(bytes(offset) + vnet_hdr.build(header) + rest, offset) == header


@given(st.binary(max_size=30), st.integers(0, 40))
def test_bytes_of_any_kind_are_parsed_or_refused(data: bytes, offset: int) -> None:
    try:
        header = vnet_hdr.parse(data, offset)
    except ParseError:
        assert len(data) - offset < 10
        return
    assert vnet_hdr.build(header) == data[offset : offset + 10]


def test_no_offload_is_all_zero() -> None:
    assert vnet_hdr.build(NO_OFFLOAD) == bytes(10)


def test_fields_stand_in_the_hosts_byte_order() -> None:
    built = vnet_hdr.build(VnetHeader(1, 2, 0x0304, 0x0506, 0x0708, 0x090A))
    assert built[:2] == b"\x01\x02"
    assert built[2:] == b"".join(number.to_bytes(2, sys.byteorder) for number in (0x0304, 0x0506, 0x0708, 0x090A))


@pytest.mark.parametrize(
    ("flags", "needs_csum"), [(0, False), (NEEDS_CSUM, True), (DATA_VALID, False), (DATA_VALID | NEEDS_CSUM, True)]
)
def test_a_checksum_is_left_to_the_hardware_where_the_flag_says_so(flags: int, needs_csum: bool) -> None:
    assert VnetHeader(flags=flags).needs_csum is needs_csum


@pytest.mark.parametrize(
    ("gso_type", "is_super_packet"),
    [(0, False), (GSO_ECN, False), (GSO_TCPV4, True), (GSO_TCPV6, True), (GSO_TCPV4 | GSO_ECN, True)],
)
def test_a_super_packet_is_told_whether_or_not_ecn_is_in_use(gso_type: int, is_super_packet: bool) -> None:
    assert VnetHeader(gso_type=gso_type).is_super_packet is is_super_packet
