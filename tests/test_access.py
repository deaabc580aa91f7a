"""Lists of networks: held to what `ipaddress` makes of them, network by network."""

import random
import time
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kracauer.access import AccessList, combined

MANY = 50_000


def client(address: str) -> bytes:
    return IPv4Address(address).packed


def networks(*written: str) -> tuple[IPv4Network, ...]:
    return tuple(IPv4Network(network) for network in written)


# Few different high bits, so that networks overlap, touch and lie inside each other.
addresses = st.one_of(
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.tuples(st.integers(0, 7), st.integers(0, 3)).map(lambda parts: parts[0] << 29 | parts[1]),
    st.sampled_from((2**32 - 1, 2**32 - 256, 2**31, 2**31 - 1)),
)
nets = st.tuples(addresses, st.integers(0, 32) | st.integers(22, 32)).map(lambda parts: IPv4Network(parts, strict=False))
lists = st.builds(
    AccessList, allow=st.none() | st.lists(nets, max_size=6).map(tuple), deny=st.lists(nets, max_size=6).map(tuple)
)


def is_permitted(access: AccessList, address: IPv4Address) -> bool:
    """The obvious twin of `permits`."""
    if any(address in network for network in access.deny):
        return False
    return access.allow is None or any(address in network for network in access.allow)


def edges(access: AccessList) -> list[IPv4Address]:
    """Every address where a network begins or ends, and its neighbours."""
    found = [0, 2**32 - 1]
    for network in (access.allow or ()) + access.deny:
        first, last = int(network.network_address), int(network.broadcast_address)
        found += [first - 1, first, last, last + 1]
    return [IPv4Address(number) for number in found if 0 <= number < 2**32]


@given(lists, st.lists(addresses, max_size=5))
def test_a_look_up_says_what_a_look_at_each_network_says(access: AccessList, numbers: list[int]) -> None:
    for address in [*edges(access), *map(IPv4Address, numbers)]:
        assert access.permits(address.packed) == is_permitted(access, address)


@given(st.lists(lists, max_size=3), st.lists(addresses, max_size=5))
def test_several_lists_permit_whom_all_permit(several: list[AccessList], numbers: list[int]) -> None:
    together = combined(*several)
    assert (together is None) is all(access.is_open for access in several)
    for address in [*(edge for access in several for edge in edges(access)), *map(IPv4Address, numbers)]:
        expected = all(is_permitted(access, address) for access in several)
        assert (together is None or together.permits(address.packed)) is expected


def test_a_list_that_says_nothing_permits_everybody() -> None:
    access = AccessList()
    assert access.is_open
    assert access.permits(client("192.0.2.7"))


def test_deny_wins_over_an_allowed_network_inside_it() -> None:
    access = AccessList(networks("192.0.2.0/28"), networks("192.0.2.0/24"))
    assert not access.permits(client("192.0.2.7"))


def test_an_allow_list_keeps_everybody_else_out() -> None:
    access = AccessList(networks("192.0.2.0/24"))
    assert access.permits(client("192.0.2.7"))
    assert not access.permits(client("198.51.100.7"))
    assert not access.is_open


def test_the_same_networks_make_equal_lists() -> None:
    assert AccessList(None, networks("192.0.2.0/24")) == AccessList(None, networks("192.0.2.0/24"))
    assert hash(AccessList(networks("192.0.2.0/24"))) == hash(AccessList(networks("192.0.2.0/24")))
    assert AccessList(networks("192.0.2.0/24")) != AccessList(None, networks("192.0.2.0/24"))


@pytest.fixture(scope="module")
def many() -> AccessList:
    """A list as large as those that are traded."""
    chance = random.Random(7)
    return AccessList(
        None, tuple(IPv4Network((chance.getrandbits(32), chance.randint(16, 32)), strict=False) for _ in range(MANY))
    )


def test_fifty_thousand_networks_are_looked_up_rightly(many: AccessList) -> None:
    by_length: dict[int, set[int]] = {}
    for network in many.deny:
        by_length.setdefault(32 - network.prefixlen, set()).add(int(network.network_address))
    chance = random.Random(8)
    numbers = [chance.getrandbits(32) for _ in range(5000)] + [int(network.network_address) for network in many.deny[:5000]]
    for number in numbers:
        is_denied = any(number >> shift << shift in starts for shift, starts in by_length.items())
        assert many.permits(number.to_bytes(4, "big")) is not is_denied


def test_fifty_thousand_networks_take_no_longer_than_a_few(many: AccessList) -> None:
    """But for the processor's caches; a walk along them would take thousands of times as long."""
    few = AccessList(None, many.deny[:10])
    clients = [random.Random(9).randbytes(4) for _ in range(2000)]

    def duration_s(access: AccessList) -> float:
        best = float("inf")
        for _ in range(5):
            begun = time.perf_counter()
            for address in clients:
                access.permits(address)
            best = min(best, time.perf_counter() - begun)
        return best

    assert duration_s(many) < 50 * duration_s(few)
