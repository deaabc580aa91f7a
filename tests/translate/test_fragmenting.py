import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from icmp_quotes import BACKEND6, CLIENT4, MAPPED6, SERVICE4, packed, segment_from_backend, segment_from_client
from scapy_oracle import IP, IPOption_NOP, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, Raw

from kracauer.translate.fragmenting import fragment_v4, fragment_v6
from kracauer.translate.fragments import Reassembler


def packet_v4(length: int, flags: object = 0, options: object = ()) -> bytes:
    payload = random.Random(length).randbytes(length - 40)
    return segment_from_client(seq=1, ack=2, payload=payload, id=0x1234, tos=0x2E, ttl=7, flags=flags, options=options)


def packet_v6(length: int) -> bytes:
    payload = random.Random(length).randbytes(length - 60)
    return segment_from_backend(seq=1, ack=2, payload=payload, tc=0x2E, hlim=7, fl=0x12345)


def test_what_fits_is_not_cut_whatever_it_is() -> None:
    last = packet_v4(1300, flags="DF", options=[IPOption_NOP()] * 4)
    assert fragment_v4(last, len(last)) == [last]
    atomic = bytes(IPv6() / IPv6ExtHdrFragment() / Raw(bytes(100)))
    assert fragment_v6(atomic, 1280, 5) == [atomic]


def test_what_is_as_long_as_the_mtu_is_not_cut() -> None:
    assert fragment_v4(packet_v4(1300), 1300) == [packet_v4(1300)]
    assert fragment_v6(packet_v6(1300), 1300, 5) == [packet_v6(1300)]


def test_an_ipv4_packet_is_cut_into_pieces_of_whole_eight_bytes() -> None:
    packet = packet_v4(1301)
    first, second = (IP(fragment) for fragment in fragment_v4(packet, 1300))
    assert (first.len, first.flags, first.frag) == (1300, "MF", 0)
    assert (second.len, second.flags, second.frag) == (21, 0, 160)
    assert bytes(first.payload) + bytes(second.payload) == packet[20:]


def test_an_ipv6_packet_is_cut_into_pieces_of_whole_eight_bytes() -> None:
    packet = packet_v6(1281)
    first, second = (IPv6(fragment) for fragment in fragment_v6(packet, 1280, 0x89ABCDEF))
    assert (first.plen, first.nh, second.plen, second.nh) == (1240, 44, 17, 44)
    for fragment, offset, more in ((first, 0, 1), (second, 154, 0)):
        header = fragment[IPv6ExtHdrFragment]
        assert (header.nh, header.offset, header.m, header.id) == (6, offset, more, 0x89ABCDEF)
        assert (header.res1, header.res2) == (0, 0)
    assert bytes(first)[48:] + bytes(second)[48:] == packet[40:]


def test_fragments_of_an_ipv4_packet_keep_its_other_fields() -> None:
    for fragment in fragment_v4(packet_v4(3000), 576):
        header = IP(fragment)
        assert (header.id, header.tos, header.ttl, header.proto) == (0x1234, 0x2E, 7, 6)
        assert (header.src, header.dst) == (CLIENT4, SERVICE4)
        del header.chksum
        assert bytes(header) == fragment


def test_fragments_of_an_ipv6_packet_keep_its_other_fields() -> None:
    for fragment in fragment_v6(packet_v6(3000), 1280, 5):
        header = IPv6(fragment)
        assert (header.tc, header.fl, header.hlim, header.src, packed(header.dst)) == (
            0x2E,
            0x12345,
            7,
            BACKEND6,
            packed(MAPPED6),
        )


@pytest.mark.parametrize(("mtu", "longest"), [(1280, 1276), (576, 572), (68, 68), (1284, 1284), (1283, 1276)])
def test_an_ipv4_fragment_is_as_long_as_the_mtu_and_eight_bytes_allow(mtu: int, longest: int) -> None:
    assert max(map(len, fragment_v4(packet_v4(1500), mtu))) == longest


def test_a_packet_with_df_is_not_cut() -> None:
    with pytest.raises(ValueError, match="without options or DF"):
        fragment_v4(packet_v4(1300, flags="DF"), 1280)


def test_a_fragment_is_not_cut_again() -> None:
    with pytest.raises(ValueError, match="only whole packets"):
        fragment_v4(packet_v4(1300, flags="MF"), 1280)
    with pytest.raises(ValueError, match="without extension headers"):
        fragment_v6(bytes(IPv6() / IPv6ExtHdrFragment(m=1) / Raw(bytes(1300))), 1280, 5)


def test_a_packet_with_options_is_not_cut() -> None:
    with pytest.raises(ValueError, match="without options"):
        fragment_v4(packet_v4(1300, options=[IPOption_NOP()] * 4), 1280)


def test_a_packet_with_headers_for_every_hop_is_not_cut() -> None:
    with pytest.raises(ValueError, match="without extension headers"):
        fragment_v6(bytes(IPv6() / IPv6ExtHdrHopByHop() / Raw(bytes(1300))), 1280, 5)


def test_destination_options_are_cut_with_the_payload() -> None:
    packet = bytes(IPv6() / IPv6ExtHdrDestOpt(nh=6) / Raw(bytes(1300)))
    assert IPv6(fragment_v6(packet, 1280, 5)[0])[IPv6ExtHdrFragment].nh == 60


@pytest.mark.parametrize("mtu", [0, 67])
def test_no_ipv4_link_is_so_narrow(mtu: int) -> None:
    with pytest.raises(ValueError, match="68 bytes or more"):
        fragment_v4(packet_v4(100), mtu)


def test_no_ipv6_link_is_so_narrow() -> None:
    with pytest.raises(ValueError, match="1280 bytes or more"):
        fragment_v6(packet_v6(1400), 1279, 5)


@given(st.integers(60, 9000), st.integers(576, 1500), st.integers(0, 2**32 - 1))
def test_ipv4_fragments_in_any_order_make_the_packet_again(length: int, mtu: int, seed: int) -> None:
    packet = packet_v4(length)
    fragments = fragment_v4(packet, mtu)
    assert max(map(len, fragments)) <= mtu
    random.Random(seed).shuffle(fragments)
    reassembler = Reassembler()
    *earlier, last = [reassembler.add_v4(fragment, 0.0) for fragment in fragments]
    assert not any(earlier)
    assert last is not None
    assert (last.packet, last.identification, last.dont_fragment) == (packet, 0x1234, False)
    assert last.largest_fragment == max(map(len, fragments))


@given(st.integers(60, 9000), st.integers(1280, 1500), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_ipv6_fragments_in_any_order_make_the_packet_again(length: int, mtu: int, identification: int, seed: int) -> None:
    packet = packet_v6(length)
    fragments = fragment_v6(packet, mtu, identification)
    assert max(map(len, fragments)) <= mtu
    random.Random(seed).shuffle(fragments)
    reassembler = Reassembler()
    *earlier, last = [reassembler.add_v6(fragment, 0.0) for fragment in fragments]
    assert not any(earlier)
    assert last is not None
    assert (last.packet, last.largest_fragment) == (packet, max(map(len, fragments)))
    assert last.identification == (identification if len(fragments) > 1 else 0)
