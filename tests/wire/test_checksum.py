import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy_oracle import checksum as scapy_checksum
from splice_twin import loop_sum, pseudo_header

from kracauer.wire.checksum import checksum, pseudo_header_sum, update, word_sum

words = st.integers(0, 0xFFFF)


@given(st.binary(max_size=200))
def test_the_sum_is_what_adding_word_by_word_gives(data: bytes) -> None:
    assert word_sum(data) == loop_sum(data) % 0xFFFF


@given(st.binary(min_size=1, max_size=200).filter(any))
def test_scapy_computes_the_same_checksum(data: bytes) -> None:
    assert checksum(data) == scapy_checksum(data)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_has_a_sum(kind: type) -> None:
    assert word_sum(kind(b"\x01\x02\x03")) == 0x0102 + 0x0300


def test_nothing_sums_to_nothing() -> None:
    assert word_sum(b"") == 0


def test_the_example_of_rfc_1071_comes_out() -> None:
    # RFC 1071 §3.
    assert word_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


@given(st.binary(max_size=80), words)
def test_a_sum_of_other_words_can_be_carried_in(data: bytes, other: int) -> None:
    even = data + bytes(len(data) % 2)
    assert checksum(data, other) == checksum(even + other.to_bytes(2, "big"))


@given(st.binary(min_size=2, max_size=100), st.data())
def test_a_checksum_in_its_place_makes_the_sum_zero(data: bytes, at: st.DataObject) -> None:
    packet = bytearray(data)
    place = at.draw(st.integers(0, (len(data) - 2) // 2)) * 2
    packet[place : place + 2] = bytes(2)
    packet[place : place + 2] = checksum(packet).to_bytes(2, "big")
    assert word_sum(packet) == 0


@given(st.binary(min_size=4, max_size=100), st.data())
def test_an_incremental_update_equals_a_new_computation(data: bytes, draw: st.DataObject) -> None:
    first = draw.draw(st.integers(0, len(data) // 2 - 1)) * 2
    size = draw.draw(st.integers(1, (len(data) - first) // 2)) * 2
    new = draw.draw(st.binary(min_size=size, max_size=size))
    changed = data[:first] + new + data[first + size :]
    assert update(checksum(data), word_sum(data[first : first + size]), word_sum(new)) == checksum(changed)


@given(st.binary(min_size=6, max_size=60), st.integers(0, 2**32 - 1))
def test_a_32_bit_field_may_be_updated_as_one_number(data: bytes, new: int) -> None:
    old = int.from_bytes(data[2:6], "big")
    changed = data[:2] + new.to_bytes(4, "big") + data[6:]
    assert update(checksum(data), old, new) == checksum(changed)


def test_an_update_gives_zero_in_its_non_negative_form() -> None:
    # RFC 1624 §4: the case that RFC 1141's equation gets wrong.
    assert update(0xDD2F, 0x5555, 0x3285) == 0x0000


@given(st.integers(0, 0xFFFF), words, words)
def test_an_update_taken_back_leaves_the_same_checksum(old: int, removed: int, added: int) -> None:
    assert update(update(old, removed, added), added, removed) == old % 0xFFFF


@given(st.sampled_from((4, 16)).flatmap(lambda size: st.tuples(*[st.binary(min_size=size, max_size=size)] * 2)), words)
def test_the_pseudo_header_sums_as_its_bytes_do(addresses: tuple[bytes, bytes], length: int) -> None:
    src, dst = addresses
    assert pseudo_header_sum(src, dst, 6, length) == loop_sum(pseudo_header(src, dst, length)) % 0xFFFF


def test_the_pseudo_header_of_a_long_ipv6_payload_counts_its_32_bits() -> None:
    layout = bytes(32) + struct.pack("!I3xB", 70_000, 58)
    assert pseudo_header_sum(bytes(16), bytes(16), 58, 70_000) == loop_sum(layout)
