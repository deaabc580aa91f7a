"""A plain packet is taken apart in one go as it is step by step, and what is not plain is left to the steps."""

from collections.abc import Callable

import pytest
from engine_kinds import alone
from hypothesis import assume, example, given
from hypothesis import strategies as st
from packets import Packet, build, parse_flags
from raw_packets import cut_v4, edit_v4, extend_v6

from kracauer.engine import ingress
from kracauer.engine.ingress import Segment
from kracauer.errors import Dropped
from kracauer.translate.fragments import Reassembler
from kracauer.wire.buffer import Frame

pytestmark = alone  # there is none
CLIENT, SERVICE = bytes((192, 0, 2, 7)), bytes((198, 51, 100, 1))
PREFIX = bytes.fromhex("20010db80046000000000000")
BACKEND = bytes.fromhex("20010db8000100000000000000000002")
OPTIONS = ("ts=3:4",)
SUPER_V4, SUPER_V6 = bytes((1, 1, 0, 0, 100, 0, 20, 0, 16, 0)), bytes((1, 4, 0, 0, 100, 0, 40, 0, 16, 0))
VNETS = (bytes(10), bytes((2, *bytes(9))), SUPER_V4, SUPER_V6)


def packet(*, is_v6: bool, size: int = 5, flags: str = "PA", options: tuple[str, ...] = OPTIONS) -> bytes:
    src, dst = (BACKEND, PREFIX + CLIENT) if is_v6 else (CLIENT, SERVICE)
    payload = bytes(number & 0xFF for number in range(size))
    return build(Packet(src, dst, 40000, 443, parse_flags(flags), 1000, 2000, options=options, payload=payload))[1]


def step_by_step(frame: Frame, *, is_v6: bool) -> Segment | None:
    try:
        if is_v6:
            taken = ingress.take_v6(frame, Reassembler(), PREFIX, 0.0)
        else:
            taken = ingress.take_v4(frame, Reassembler(), frozenset({SERVICE}), 0.0)
        return None if taken is None else ingress.parse_tcp(frame, taken)
    except Dropped:
        return None


def in_one_go(frame: Frame, *, is_v6: bool) -> Segment | None:
    return (ingress.plain_v6 if is_v6 else ingress.plain_v4)(frame)


@pytest.mark.parametrize("is_v6", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("vnet", VNETS, ids=["plain", "valid", "super v4", "super v6"])
@pytest.mark.parametrize("size", [0, 1, 2, 555])
def test_a_plain_segment_is_the_same_either_way(size: int, vnet: bytes, is_v6: bool) -> None:
    data = packet(is_v6=is_v6, size=size)
    taken = in_one_go(Frame(data, vnet), is_v6=is_v6)
    assert taken is not None
    assert taken == step_by_step(Frame(data, vnet), is_v6=is_v6)
    assert bytes(taken.payload) == bytes(value & 0xFF for value in range(size))


bytes_to_set = st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), max_size=3)


@given(is_v6=st.booleans(), vnet=st.sampled_from(VNETS), damage=bytes_to_set)
@example(is_v6=True, vnet=VNETS[1], damage=[(7, 0)])
def test_whatever_is_wrong_nothing_is_taken_that_the_steps_would_not_take(
    is_v6: bool, vnet: bytes, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(packet(is_v6=is_v6, size=12))
    for at, value in damage:
        data[at % len(data)] = value
    taken = in_one_go(Frame(data, vnet), is_v6=is_v6)
    assume(taken is not None)
    assert taken == step_by_step(Frame(data, vnet), is_v6=is_v6)


@given(is_v6=st.booleans(), length=st.integers(0, 70), more=st.binary(max_size=3))
def test_what_does_not_fill_its_frame_is_left_to_the_steps(is_v6: bool, length: int, more: bytes) -> None:
    whole = packet(is_v6=is_v6, size=12)
    data = whole[:length] + more if length < len(whole) else whole + b"\0" + more
    assume(len(data) != len(whole))
    assert in_one_go(Frame(data, VNETS[1]), is_v6=is_v6) is None


NOT_PLAIN: dict[str, Callable[[], tuple[bytes, bool]]] = {
    "IP options": lambda: (edit_v4(packet(is_v6=False), options=b"\x01\x01\x01\x00"), False),
    "a fragment": lambda: (cut_v4(packet(is_v6=False, size=40), 24)[0], False),
    "a last fragment": lambda: (cut_v4(packet(is_v6=False, size=80), 24)[1], False),
    "an extension header": lambda: (extend_v6(packet(is_v6=True), 60, bytes((6, 0, 1, 4, 0, 0, 0, 0))), True),
    "a source nobody has": lambda: (build(Packet(bytes((127, 0, 0, 1)), SERVICE, 1, 443, parse_flags("A")))[1], False),
    "a group as source": lambda: (build(Packet(b"\xff" * 16, PREFIX + CLIENT, 1, 443, parse_flags("A")))[1], True),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plain_is_left_to_the_steps(name: str) -> None:
    data, is_v6 = NOT_PLAIN[name]()
    assert in_one_go(Frame(data), is_v6=is_v6) is None


@pytest.mark.parametrize("is_v6", [False, True], ids=["IPv4", "IPv6"])
def test_a_wrong_checksum_is_left_to_the_steps(is_v6: bool) -> None:
    data = bytearray(packet(is_v6=is_v6))
    data[-1] ^= 1
    assert in_one_go(Frame(data), is_v6=is_v6) is None
