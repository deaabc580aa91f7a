from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from segment_strategies import v4_address, v6_address

from kracauer.translate import addresses

PREFIX = IPv6Address("2001:db8:46::").packed[:12]


@given(v4_address)
def test_an_embedded_address_can_be_extracted(address: bytes) -> None:
    assert addresses.extract(PREFIX, addresses.embed(PREFIX, address)) == address


def test_an_address_stands_in_the_last_32_bits() -> None:
    embedded = addresses.embed(PREFIX, IPv4Address("192.0.2.7").packed)
    assert IPv6Address(embedded) == IPv6Address("2001:db8:46::192.0.2.7")


@pytest.mark.parametrize("address", ["2001:db8:46::1:0:0", "2001:db8:47::192.0.2.7", "::192.0.2.7"])
def test_nothing_is_extracted_from_outside_the_prefix(address: str) -> None:
    assert addresses.extract(PREFIX, IPv6Address(address).packed) is None


@given(v6_address)
def test_what_is_extracted_embeds_to_the_same_address(address: bytes) -> None:
    extracted = addresses.extract(PREFIX, address)
    assert extracted is None or addresses.embed(PREFIX, extracted) == address


@pytest.mark.parametrize("address", ["1.0.0.1", "126.255.255.255", "128.0.0.1", "192.0.2.7", "10.0.0.1", "223.255.255.254"])
def test_unicast_addresses_are_legal_ipv4_sources(address: str) -> None:
    assert addresses.is_legal_source_v4(IPv4Address(address).packed)


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.9.9.9", "240.0.0.1", "255.255.255.255"]
)
def test_no_packet_may_come_from_these_ipv4_addresses(address: str) -> None:
    assert not addresses.is_legal_source_v4(IPv4Address(address).packed)


@given(v4_address)
def test_the_library_agrees_on_ipv4_sources(address: bytes) -> None:
    known = IPv4Address(address)
    is_illegal = known.is_multicast or known.is_loopback or known.is_reserved or address[0] == 0
    assert addresses.is_legal_source_v4(address) is not is_illegal


@pytest.mark.parametrize("address", ["2001:db8::1", "64:ff9b::c000:207", "fd00::1", "::1:0:0:0", "fec0::1", "fe00::1", "1::"])
def test_addresses_that_routers_forward_are_legal_ipv6_sources(address: str) -> None:
    assert addresses.is_legal_source_v6(IPv6Address(address).packed)


@pytest.mark.parametrize(
    "address",
    ["::", "::1", "::ffff:192.0.2.7", "fe80::1", "febf::1", "ff00::", "ff02::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
)
def test_no_packet_may_come_from_these_ipv6_addresses(address: str) -> None:
    assert not addresses.is_legal_source_v6(IPv6Address(address).packed)


@given(v6_address)
def test_the_library_agrees_on_ipv6_sources(address: bytes) -> None:
    known = IPv6Address(address)
    is_illegal = known.is_multicast or known.is_link_local
    assert addresses.is_legal_source_v6(address) is not is_illegal or address[:12] in (bytes(12), bytes(10) + b"\xff\xff")
