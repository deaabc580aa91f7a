from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segment_strategies import byte, number, word

from kracauer.errors import DropReason, Untranslatable
from kracauer.translate import icmp_tables
from kracauer.translate.icmp_tables import LinkMtus, Verdict

MTUS = LinkMtus(1500, 1500)
WIDE = LinkMtus(65535, 65575)

UNREACHABLE_TO_V6 = {
    **dict.fromkeys((0, 1, 5, 6, 7, 8, 11, 12), Verdict(1, 0, 0)),
    2: Verdict(4, 1, 6),
    3: Verdict(1, 4, 0),
    **dict.fromkeys((9, 10, 13, 15), Verdict(1, 1, 0)),
}
UNREACHABLE_TO_V4 = {0: Verdict(3, 1, 0), 1: Verdict(3, 10, 0), 2: Verdict(3, 1, 0), 3: Verdict(3, 1, 0), 4: Verdict(3, 3, 0)}
# RFC 7915 Figure 3 and Figure 6, a pointer a line.
POINTER_TO_V6 = [0, 1, 4, 4, None, None, None, None, 7, 6, None, None, 8, 8, 8, 8, 24, 24, 24, 24]
POINTER_TO_V4 = [0, 1, None, None, 2, 2, 9, 8, *[12] * 16, *[16] * 16]


def to_v6(kind: int, code: int, rest: int = 0, total_length: int = 1500, mtus: LinkMtus = MTUS) -> Verdict | None:
    with suppress(Untranslatable):
        return icmp_tables.v4_to_v6(kind, code, rest, total_length, mtus)
    return None


def to_v4(kind: int, code: int, rest: int = 0, mtus: LinkMtus = MTUS) -> Verdict | None:
    with suppress(Untranslatable):
        return icmp_tables.v6_to_v4(kind, code, rest, mtus)
    return None


def test_what_is_dropped_has_its_reason() -> None:
    with pytest.raises(Untranslatable, match="ICMP type 3 code 14") as dropped:
        icmp_tables.v4_to_v6(3, 14, 0, 1500, MTUS)
    assert dropped.value.reason is DropReason.UNTRANSLATABLE_ICMP


def test_each_code_of_destination_unreachable_is_translated_to_v6_or_dropped() -> None:
    found = {code: to_v6(3, code) for code in range(256) if code != 4}
    assert found == {code: UNREACHABLE_TO_V6.get(code) for code in found}


def test_each_code_of_destination_unreachable_is_translated_to_v4_or_dropped() -> None:
    found = {code: to_v4(1, code) for code in range(256)}
    assert found == {code: UNREACHABLE_TO_V4.get(code) for code in found}


@pytest.mark.parametrize("code", [0, 1])
def test_time_exceeded_keeps_its_code(code: int) -> None:
    assert to_v6(11, code) == Verdict(3, code, 0)
    assert to_v4(3, code) == Verdict(11, code, 0)


@pytest.mark.parametrize("code", [0, 2])
def test_each_pointer_into_an_ipv4_header_becomes_one_into_an_ipv6_header_or_is_dropped(code: int) -> None:
    expected = [None if pointer is None else Verdict(4, 0, pointer) for pointer in POINTER_TO_V6] + [None] * 236
    assert [to_v6(12, code, pointer << 24) for pointer in range(256)] == expected


def test_each_pointer_into_an_ipv6_header_becomes_one_into_an_ipv4_header_or_is_dropped() -> None:
    expected = [None if pointer is None else Verdict(12, 0, pointer << 24) for pointer in POINTER_TO_V4] + [None] * 216
    assert [to_v4(4, 0, pointer) for pointer in range(256)] == expected


@pytest.mark.parametrize("pointer", [2**24, 2**32 - 1])
def test_a_pointer_far_outside_the_packet_is_dropped(pointer: int) -> None:
    assert to_v4(4, 0, pointer) is None


def test_parameter_problems_about_options_or_of_unknown_code_are_dropped() -> None:
    assert [code for code in range(256) if to_v6(12, code)] == [0, 2]
    assert [code for code in range(256) if to_v4(4, code, 6)] == [0, 1]


def test_an_unknown_next_header_is_an_unreachable_protocol() -> None:
    assert to_v4(4, 1, 40) == Verdict(3, 2, 0)


def test_every_other_type_is_dropped() -> None:
    assert [kind for kind in range(256) if to_v6(kind, 0)] == [3, 11, 12]
    assert [kind for kind in range(256) if to_v4(kind, 0)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("advertised", "mtus", "expected"),
    [
        (1400, MTUS, 1420),
        (1492, MTUS, 1500),  # no more than the IPv6 link takes
        (9000, LinkMtus(4000, 9000), 4020),  # nor than the IPv4 link does, translated
        (1260, MTUS, 1280),
        (1259, MTUS, 1280),  # RFC 7915 §4.2: never below the minimum IPv6 MTU
        (68, MTUS, 1280),
        (1, LinkMtus(576, 1500), 1280),
    ],
)
def test_fragmentation_needed_becomes_packet_too_big_with_twenty_more(advertised: int, mtus: LinkMtus, expected: int) -> None:
    assert to_v6(3, 4, advertised, mtus=mtus) == Verdict(2, 0, expected)


def test_what_stands_beside_the_mtu_of_fragmentation_needed_does_not_count() -> None:
    assert to_v6(3, 4, 0xFF200000 | 1400) == Verdict(2, 0, 1420)


@pytest.mark.parametrize(
    ("total_length", "plateau"),
    [(65535, 32000), (32001, 32000), (32000, 17914), (9000, 8166), (8166, 4352), (2003, 2002), (1500, 1492)],
)
def test_a_router_that_tells_no_mtu_is_taken_to_mean_the_plateau_below(total_length: int, plateau: int) -> None:
    assert to_v6(3, 4, 0, total_length, WIDE) == Verdict(2, 0, plateau + 20)


@pytest.mark.parametrize("total_length", [1492, 1280, 68, 20, 0])
def test_a_plateau_that_ipv6_cannot_have_means_1280(total_length: int) -> None:
    assert to_v6(3, 4, 0, total_length, WIDE) == Verdict(2, 0, 1280)


@pytest.mark.parametrize(("total_length", "mtu"), [(1492, 1006), (1006, 508), (508, 296), (296, 68), (68, 68), (0, 68)])
def test_the_plateaus_below_1280_are_known_for_the_ipv4_path(total_length: int, mtu: int) -> None:
    assert icmp_tables.path_mtu_v4(0, total_length) == mtu


@pytest.mark.parametrize(
    ("advertised", "mtus", "expected"),
    [
        (1400, MTUS, 1380),
        (1500, LinkMtus(1400, 1500), 1400),  # no more than the IPv4 link takes
        (9000, LinkMtus(9000, 1500), 1480),  # nor than the IPv6 link does, translated
        (1280, MTUS, 1260),
        (1279, MTUS, 1260),  # RFC 8201 §4: no path of IPv6 is narrower, whoever says so
        (0, MTUS, 1260),
        (2**32 - 1, LinkMtus(2**17, 2**17), 0xFFFF),
    ],
)
@pytest.mark.parametrize("code", [0, 1])
def test_packet_too_big_becomes_fragmentation_needed_with_twenty_less(
    advertised: int, mtus: LinkMtus, expected: int, code: int
) -> None:
    assert to_v4(2, code, advertised, mtus) == Verdict(3, 4, expected)


@given(byte, byte, number, word)
def test_what_became_icmpv6_means_the_same_when_it_comes_back(kind: int, code: int, rest: int, total_length: int) -> None:
    there = to_v6(kind, code, rest, total_length, WIDE)
    if there is None:
        return
    back = to_v4(*there, mtus=WIDE)
    assert back is not None
    again = to_v6(*back, total_length=total_length, mtus=WIDE)
    assert again == there


@given(st.sampled_from((1, 2, 3, 4)), st.integers(0, 6), st.one_of(st.integers(0, 70), number))
def test_what_became_icmpv4_means_the_same_when_it_comes_back(kind: int, code: int, rest: int) -> None:
    there = to_v4(kind, code, rest, WIDE)
    if there is None:
        return
    back = to_v6(*there, mtus=WIDE)
    assert back is not None
    assert to_v4(*back, mtus=WIDE) == there
