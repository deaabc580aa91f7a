"""One suite for all fast paths: the same packets give what the splice in Python gives, or are left to it."""

import struct
import time
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import pytest
import segment_strategies as packets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from offload_trials import (
    MOST_BYTES,
    MemoryTrial,
    Trial,
    from_backend,
    from_client,
    in_python,
    make,
    same_but_identification,
    traffic,
)
from scapy_oracle import checksums_hold
from splice_setup import PLAIN, any_deltas
from splice_twin import Deltas

from kracauer.offload.options import is_walked
from kracauer.tcp.splice import BELIEVABLE_WINDOW, SizeLimits, Splice
from kracauer.wire import ipv4, tcp, vnet_hdr
from kracauer.wire.buffer import Frame
from kracauer.wire.tcp import TcpHeader, TcpOptions, build_options

HEADER = TcpHeader(49152, 443, 1000, 2000, tcp.ACK | tcp.PSH, 500)
SHIFTED = replace(PLAIN, seq_delta=0xDEADBEEF, ts_delta=0x7FFF0001, window_shift_to_backend=7, window_shift_to_client=-3)
hops = st.integers(2, 255)


def words(*numbers: int) -> bytes:
    return struct.pack(f"!{len(numbers)}I", *numbers)


def sack(*edges: int) -> bytes:
    return bytes((1, 1, 5, 2 + 4 * len(edges))) + words(*edges)


TIMESTAMPS = b"\x01\x01\x08\x0a" + words(0xFFFFFFF0, 0x10)
NOPS = b"\x01\x01\x01\x01"
walked_option = st.one_of(
    packets.canonical_timestamps,
    st.just(NOPS),
    st.integers(1, 4)
    .flatmap(lambda count: st.lists(packets.number, min_size=2 * count, max_size=2 * count))
    .map(lambda edges: sack(*edges)),
)


def fill(parts: list[bytes]) -> bytes:
    taken = b""
    for part in parts:
        if len(taken) + len(part) <= 40:
            taken += part
    return taken


any_options = st.one_of(packets.option_lists, st.lists(walked_option, max_size=6).map(fill))
any_segment = packets.segments(any_options)
quietly = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pass_through(trial: Trial, splice: Splice, packet: bytes, gso_size: int = 0) -> bytes | None:
    """What becomes of the packet of a flow that is there for it alone."""
    trial.path.sweep(time.monotonic())  # which has places taken again
    assert trial.path.install(splice)
    try:
        return trial.receive(packet, gso_size)
    finally:
        trial.path.remove(splice)


@quietly
@given(any_deltas, any_segment, packets.payloads, packets.byte, hops)
def test_what_goes_to_the_backend_is_what_python_makes_of_it(
    trial: Trial, deltas: Deltas, header: TcpHeader, payload: bytes, tos: int, ttl: int
) -> None:
    splice, twin = make(deltas), make(deltas)
    packet = from_client(deltas, header, payload, tos=tos, ttl=ttl)
    result = pass_through(trial, splice, packet)
    if not is_walked(header.options):
        assert result is None
    else:
        assert result == in_python(twin, packet)
        assert traffic(splice) == traffic(twin)


@quietly
@given(any_deltas, any_segment, packets.payloads, packets.byte, hops)
def test_what_goes_to_the_client_is_what_python_makes_of_it(
    trial: Trial, deltas: Deltas, header: TcpHeader, payload: bytes, tos: int, ttl: int
) -> None:
    splice, twin = make(deltas), make(deltas)
    packet = from_backend(deltas, header, payload, tos=tos, ttl=ttl)
    result = pass_through(trial, splice, packet)
    if not is_walked(header.options):
        assert result is None
    else:
        expected = in_python(twin, packet)
        assert result is not None
        assert expected is not None
        assert same_but_identification(result, expected)
        assert traffic(splice) == traffic(twin)


@quietly
@given(any_deltas, any_segment, packets.payloads, st.booleans(), st.integers(-2, 2) | st.integers(-(2**25), 2**25))
def test_a_fin_is_translated_as_python_does_it_where_it_is_believed(
    trial: Trial, deltas: Deltas, header: TcpHeader, payload: bytes, is_from_client: bool, distance: int
) -> None:
    splice, twin = make(deltas), make(deltas)
    acked = twin.client_acked if is_from_client else twin.backend_acked
    header = header._replace(flags=header.flags | tcp.FIN, seq=(acked + distance) % 2**32)
    packet = (from_client if is_from_client else from_backend)(deltas, header, payload)
    result = pass_through(trial, splice, packet)
    if not is_walked(header.options) or not 0 <= distance <= BELIEVABLE_WINDOW:
        assert result is None
        assert traffic(splice) == traffic(twin)
        return
    frame = Frame(packet)
    view = (twin.to_backend if is_from_client else twin.to_client)(frame, 1.0, vetted=True)
    assert view is not None
    expected = bytes(view[vnet_hdr.LENGTH :])
    assert result is not None
    assert result == expected if is_from_client else same_but_identification(result, expected)
    assert traffic(splice) == traffic(twin)


OPTION_LAYOUTS = {
    "none": b"",
    "timestamps": TIMESTAMPS,
    "one block": sack(1, 2),
    "four blocks": sack(*range(0xFFFFFFFC, 0xFFFFFFFF), 1, 2, 3, 4, 5),
    "timestamps and three blocks": TIMESTAMPS + sack(1, 2, 3, 4, 5, 6),
    "blocks before timestamps": sack(1, 2) + TIMESTAMPS,
    "padding around": NOPS + TIMESTAMPS + NOPS + sack(9, 8),
    "nothing but padding": NOPS * 10,
    "timestamps three times": TIMESTAMPS * 3,
}
ODD_LAYOUTS = {
    "timestamps without padding": TIMESTAMPS[2:] + b"\x01\x01",
    "padding behind": TIMESTAMPS[2:] + b"\x00\x00",
    "end of options": TIMESTAMPS + bytes(4),
    "timestamps that end too early": b"\x01\x01\x08\x0a" + words(1),
    "blocks that end too early": b"\x01\x01\x05\x12" + words(1, 2),
    "no block at all": b"\x01\x01\x05\x02",
    "half a block": b"\x01\x01\x05\x06" + words(1),
    "a block and a half": b"\x01\x01\x05\x0e" + words(1, 2, 3),
    "five blocks": b"\x01\x01\x05\x2a" + words(*range(9)),
    "three NOPs": b"\x01\x01\x01\x00",
    "experimental": b"\xfd\x04\x12\x34",
    "illegal length": b"\x01\x01\x08\x00" + words(1, 2),
}


@pytest.mark.parametrize("options", OPTION_LAYOUTS.values(), ids=OPTION_LAYOUTS)
def test_layouts_that_stacks_send_are_taken(trial: Trial, options: bytes) -> None:
    header = HEADER._replace(options=options)
    to_go, to_come = from_client(SHIFTED, header, b"there"), from_backend(SHIFTED, header, b"and back")
    result = pass_through(trial, make(SHIFTED), to_go)
    assert result is not None
    assert result == in_python(make(SHIFTED), to_go)
    assert checksums_hold(result)
    result = pass_through(trial, make(SHIFTED), to_come)
    expected = in_python(make(SHIFTED), to_come)
    assert result is not None
    assert expected is not None
    assert same_but_identification(result, expected)
    assert checksums_hold(result)


@pytest.mark.parametrize("options", ODD_LAYOUTS.values(), ids=ODD_LAYOUTS)
def test_other_layouts_are_left_to_the_engine(trial: Trial, options: bytes) -> None:
    header = HEADER._replace(options=options)
    assert pass_through(trial, make(SHIFTED), from_client(SHIFTED, header, b"there")) is None
    assert pass_through(trial, make(SHIFTED), from_backend(SHIFTED, header, b"and back")) is None


def altered(packet: bytes, at: int, value: bytes) -> bytes:
    """With other bytes at a place, and an IPv4 header checksum that fits."""
    packet = packet[:at] + value + packet[at + len(value) :]
    if packet[0] >> 4 == 4 and at < 20:
        blank = packet[:10] + bytes(2) + packet[12:20]
        total = sum(struct.unpack("!10H", blank)) % 0xFFFF
        packet = packet[:10] + (-total % 0xFFFF).to_bytes(2, "big") + packet[12:]
    return packet


def flags(number: int) -> bytes:
    return struct.pack("!H", 5 << 12 | number)


TO_GO, TO_COME = from_client(SHIFTED, HEADER, b"payload"), from_backend(SHIFTED, HEADER, b"payload")
NOT_PLAIN = {
    "v4: UDP": altered(TO_GO, 9, b"\x11"),
    "v4: another version": altered(TO_GO, 0, b"\x65"),
    "v4: IP options": altered(TO_GO[:20] + NOPS + TO_GO[20:], 0, b"\x46"),
    "v4: a header that says it is longer": altered(TO_GO, 0, b"\x46"),
    "v4: a header that is too short": altered(TO_GO, 0, b"\x44"),
    "v4: first fragment": altered(TO_GO, 6, b"\x20\x00"),
    "v4: another fragment": altered(TO_GO, 6, b"\x00\x01"),
    "v4: last hop": altered(TO_GO, 8, b"\x01"),
    "v4: no hop": altered(TO_GO, 8, b"\x00"),
    "v4: bad header checksum": TO_GO[:10] + b"\x12\x34" + TO_GO[12:],
    "v4: longer than it is": altered(TO_GO, 2, b"\x00\xff"),
    "v4: shorter than it is": altered(TO_GO, 2, b"\x00\x29"),
    "v4: cut": TO_GO[:-1],
    "v4: padded": TO_GO + b"\x00",
    "v4: cut in the TCP header": altered(TO_GO[:39], 2, b"\x00\x27"),
    "v4: data offset 4": altered(TO_GO, 32, b"\x40\x10"),
    "v4: data offset beyond the end": altered(TO_GO, 32, b"\xf0\x10"),
    "v4: SYN": altered(TO_GO, 32, flags(tcp.SYN | tcp.ACK)),
    "v4: bare SYN": altered(TO_GO, 32, flags(tcp.SYN)),
    "v4: FIN without ACK": altered(TO_GO, 32, flags(tcp.FIN)),
    "v4: FIN and RST": altered(TO_GO, 32, flags(tcp.FIN | tcp.RST | tcp.ACK)),
    "v4: FIN and SYN": altered(TO_GO, 32, flags(tcp.FIN | tcp.SYN | tcp.ACK)),
    "v4: FIN behind what was acknowledged": altered(altered(TO_GO, 32, flags(tcp.FIN | tcp.ACK)), 24, words(7)),
    "v4: RST": altered(TO_GO, 32, flags(tcp.RST | tcp.ACK)),
    "v4: no ACK": altered(TO_GO, 32, flags(tcp.PSH)),
    "v4: no flags": altered(TO_GO, 32, flags(0)),
    "v4: another client": altered(TO_GO, 15, b"\x08"),
    "v4: another service": altered(TO_GO, 19, b"\x02"),
    "v4: another port": altered(TO_GO, 20, b"\xff\xff"),
    "v4: another service port": altered(TO_GO, 22, b"\xff\xff"),
    "v6: UDP": altered(TO_COME, 6, b"\x11"),
    "v6: a fragment": altered(TO_COME, 6, b"\x2c"),
    "v6: another version": altered(TO_COME, 0, b"\x50"),
    "v6: last hop": altered(TO_COME, 7, b"\x01"),
    "v6: no hop": altered(TO_COME, 7, b"\x00"),
    "v6: longer than it is": altered(TO_COME, 4, b"\x00\xff"),
    "v6: shorter than it is": altered(TO_COME, 4, b"\x00\x15"),
    "v6: no length": altered(TO_COME, 4, b"\x00\x00"),
    "v6: cut": TO_COME[:-1],
    "v6: cut in the TCP header": altered(TO_COME[:59], 4, b"\x00\x13"),
    "v6: data offset 4": altered(TO_COME, 52, b"\x40\x10"),
    "v6: data offset beyond the end": altered(TO_COME, 52, b"\xf0\x10"),
    "v6: SYN": altered(TO_COME, 52, flags(tcp.SYN | tcp.ACK)),
    "v6: FIN without ACK": altered(TO_COME, 52, flags(tcp.FIN)),
    "v6: FIN and RST": altered(TO_COME, 52, flags(tcp.FIN | tcp.RST | tcp.ACK)),
    "v6: FIN and SYN": altered(TO_COME, 52, flags(tcp.FIN | tcp.SYN | tcp.ACK)),
    "v6: FIN behind what was acknowledged": altered(altered(TO_COME, 52, flags(tcp.FIN | tcp.ACK)), 44, words(6)),
    "v6: RST": altered(TO_COME, 52, flags(tcp.RST)),
    "v6: no ACK": altered(TO_COME, 52, flags(tcp.PSH)),
    "v6: another backend": altered(TO_COME, 23, b"\x07"),
    "v6: another client": altered(TO_COME, 39, b"\x08"),
    "v6: another port": altered(TO_COME, 42, b"\xff\xff"),
    "v6: only an IPv6 header": altered(TO_COME[:40], 4, b"\x00\x00"),
}


@pytest.mark.parametrize("packet", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_is_left_to_the_engine(trial: Trial, packet: bytes) -> None:
    splice = make(SHIFTED)
    before = traffic(splice)
    assert pass_through(trial, splice, packet) is None
    assert in_python(make(SHIFTED), packet) is None
    assert traffic(splice) == before


PLAIN_ENOUGH = {
    "v4: two hops": altered(TO_GO, 8, b"\x02"),
    "v4: urgent, with all of ECN": altered(TO_GO, 32, flags(tcp.ACK | tcp.URG | tcp.ECE | tcp.CWR)),
    "v4: congestion experienced": altered(TO_GO, 1, b"\xbb"),
    "v4: reserved bits": altered(TO_GO, 32, flags(0xE00 | tcp.ACK)),
    "v4: the flag that is reserved": altered(TO_GO, 6, b"\x80\x00"),
    "v4: DF set": altered(TO_GO, 6, b"\x40\x00"),
    "v4: no payload": altered(TO_GO[:40], 2, b"\x00\x28"),
    "v4: a checksum that is wrong": altered(TO_GO, 36, b"\x12\x34"),
    "v4: a checksum in its other form": altered(TO_GO, 36, b"\xff\xff"),
    "v4: a checksum of 0": altered(TO_GO, 36, b"\x00\x00"),
    "v4: a full window": altered(TO_GO, 34, b"\xff\xff"),
    "v6: two hops": altered(TO_COME, 7, b"\x02"),
    "v6: a flow label": altered(TO_COME, 0, b"\x6a\xbc\xde\xf1"),
    "v6: a full window": altered(TO_COME, 54, b"\xff\xff"),
    "v6: a checksum in its other form": altered(TO_COME, 56, b"\xff\xff"),
    "v6: no payload": altered(TO_COME[:60], 4, b"\x00\x14"),
}


@pytest.mark.parametrize("packet", PLAIN_ENOUGH.values(), ids=PLAIN_ENOUGH)
@pytest.mark.parametrize("deltas", [PLAIN, SHIFTED], ids=["nothing shifted", "shifted"])
def test_what_is_odd_but_plain_is_taken(trial: Trial, packet: bytes, deltas: Deltas) -> None:
    splice, twin = make(deltas), make(deltas)
    result, expected = pass_through(trial, splice, packet), in_python(twin, packet)
    assert result is not None
    assert expected is not None
    assert result == expected if result[0] >> 4 == 6 else same_but_identification(result, expected)
    assert traffic(splice) == traffic(twin)


@pytest.mark.parametrize("shift", range(-14, 15))
@pytest.mark.parametrize("window", [0, 1, 2, 3, 0xFF, 0x7FFF, 0x8000, 0xFFFF])
def test_windows_are_scaled_as_in_python(trial: Trial, shift: int, window: int) -> None:
    deltas = replace(PLAIN, window_shift_to_backend=max(shift, 0), window_shift_to_client=shift)
    header = HEADER._replace(window=window)
    to_go, to_come = from_client(deltas, header, b""), from_backend(deltas, header, b"")
    assert pass_through(trial, make(deltas), to_go) == in_python(make(deltas), to_go)
    result, expected = pass_through(trial, make(deltas), to_come), in_python(make(deltas), to_come)
    assert result is not None
    assert expected is not None
    assert same_but_identification(result, expected)


def sized(size: int, *, dont_fragment: bool = True) -> bytes:
    """A client's packet of so many bytes."""
    packet = from_client(PLAIN, HEADER, bytes(size - 40))
    return altered(packet, 6, b"\x40\x00" if dont_fragment else b"\x00\x00")


@pytest.mark.parametrize(
    ("size", "dont_fragment", "is_taken"),
    [(1260, False, True), (1261, False, False), (1261, True, True), (1480, True, True), (1481, True, False)],
)
def test_sizes_to_the_backend_are_limited(trial: Trial, size: int, dont_fragment: bool, is_taken: bool) -> None:
    limits = SizeLimits(max_to_backend=1480, unfragmented_to_backend=1260, max_to_client=1500)
    packet = sized(size, dont_fragment=dont_fragment)
    result = pass_through(trial, make(PLAIN, **limits), packet)
    assert (result is not None) is is_taken
    assert result == in_python(make(PLAIN, **limits), packet)


@pytest.mark.parametrize(("size", "is_taken"), [(1500, True), (1501, False)])
def test_sizes_to_the_client_are_limited_in_their_ipv4_form(trial: Trial, size: int, is_taken: bool) -> None:
    packet = from_backend(PLAIN, HEADER, bytes(size - 40))
    result = pass_through(trial, make(PLAIN, max_to_client=1500), packet)
    assert (result is not None) is is_taken
    assert result == in_python(make(PLAIN, max_to_client=1500), packet)


@pytest.mark.parametrize(("size", "dont_fragment"), [(1259, False), (1260, False), (1261, True)])
def test_only_what_no_ipv6_host_could_make_smaller_may_be_fragmented(trial: Trial, size: int, dont_fragment: bool) -> None:
    result = pass_through(trial, make(PLAIN), from_backend(PLAIN, HEADER, bytes(size - 40)))
    assert result is not None
    header = ipv4.parse(result)
    assert header.dont_fragment is dont_fragment
    assert (header.identification >= 0x8000) is not dont_fragment


@pytest.mark.parametrize("gso_size", [536, 1208, 1220, 1221, 1408, 1428, 1440, 1460])
@pytest.mark.parametrize("size", [1, 1500, 2440, 3000])
@pytest.mark.parametrize("options", [b"", TIMESTAMPS], ids=["bare", "timestamps"])
def test_a_super_packet_goes_by_the_size_of_its_segments(trial: Trial, gso_size: int, size: int, options: bytes) -> None:
    limits = SizeLimits(max_to_backend=1480, unfragmented_to_backend=1260, max_to_client=1500)
    header, payload = HEADER._replace(options=options), bytes(range(200)) * (size // 200) + b"x" * (size % 200)
    to_go, to_come = from_client(SHIFTED, header, payload), from_backend(SHIFTED, header, payload)
    for packet in (to_go, altered(to_go, 6, b"\x00\x00"), to_come):
        splice, twin = make(SHIFTED, **limits), make(SHIFTED, **limits)
        result, expected = pass_through(trial, splice, packet, gso_size), in_python(twin, packet, gso_size)
        assert (result is None) is (expected is None)
        if result is None or expected is None:
            continue
        if isinstance(trial, MemoryTrial):
            # A checksum that is to be completed: it begins as a complete one here, and says nothing by itself.
            assert result == expected or same_but_identification(result, expected)
        else:
            assert checksums_hold(result)
            at = (40 if result[0] >> 4 == 6 else 20) + 16
            both = [part[:at] + bytes(2) + part[at + 2 :] for part in (result, expected)]
            assert both[0] == both[1] or same_but_identification(both[0], both[1])
        assert traffic(splice) == traffic(twin)


def test_a_super_packet_takes_as_many_numbers_as_it_has_segments(trial: Trial) -> None:
    splice = make(PLAIN)
    trial.path.sweep(time.monotonic())
    assert trial.path.install(splice)
    numbers = []
    for payload, gso_size in ((b"", 0), (bytes(2400), 1200), (b"", 0), (b"x", 0), (bytes(1199), 400)):
        result = trial.receive(from_backend(PLAIN, HEADER, payload), gso_size)
        assert result is not None
        numbers.append(ipv4.parse(result).identification & 0x7FFF)
    trial.path.remove(splice)
    taken = [(after - before) & 0x7FFF for before, after in pairwise(numbers)]
    assert taken == [1, 3, 1, 1]


class Damage(NamedTuple):
    """What befalls a packet: bytes that change, an end that moves; and whether its header's checksum is mended."""

    changes: list[tuple[int, int]]
    growth: int
    is_mended: bool

    def applied(self, packet: bytes) -> bytes:
        broken = bytearray(packet)
        for at, value in self.changes:
            if at < len(broken):
                broken[at] ^= value
        if self.growth > 0:
            broken += bytes(self.growth)
        elif self.growth < 0:
            del broken[max(len(broken) + self.growth, 40) :]  # a test run wants whole IP headers
        return altered(bytes(broken), 0, bytes(broken[:1])) if self.is_mended else bytes(broken)


damages = st.builds(
    Damage,
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 7) | packets.byte), max_size=3),
    st.sampled_from([0, 0, 0, 0, 1, 20, -1, -20]) | st.integers(-60, 20),
    st.booleans(),
)


@settings(max_examples=1500, deadline=None)
@given(
    st.sampled_from([PLAIN, SHIFTED]),
    st.booleans(),
    packets.segments(st.one_of(st.just(b""), st.just(TIMESTAMPS), any_options)),
    st.binary(max_size=60),
    damages,
    st.sampled_from([0, 0, 536, 1400]),
)
def test_broken_packets_are_judged_by_both_fast_paths_alike_and_never_more_kindly_than_by_python(
    kernel_trial: Trial,
    deltas: Deltas,
    is_from_client: bool,
    header: TcpHeader,
    payload: bytes,
    damage: Damage,
    gso_size: int,
) -> None:
    broken = damage.applied((from_client if is_from_client else from_backend)(deltas, header, payload))
    limits = SizeLimits(max_to_backend=1480, unfragmented_to_backend=1260, max_to_client=1500)
    in_memory, expected = MemoryTrial(), in_python(make(deltas, **limits), broken, gso_size)
    result = pass_through(kernel_trial, make(deltas, **limits), broken, gso_size)
    simulated = pass_through(in_memory, make(deltas, **limits), broken, gso_size)
    assert (result is None) is (simulated is None)
    if result is not None:
        if expected is None:
            # By itself Python leaves every FIN to be judged; in memory it translates those that are believed without that flag.
            flags_at = (40 if broken[0] >> 4 == 6 else 20) + 13
            assert broken[flags_at] & tcp.FIN
            expected = simulated
        assert expected is not None
        if gso_size:
            at = (40 if result[0] >> 4 == 6 else 20) + 16
            result, expected = (part[:at] + bytes(2) + part[at + 2 :] for part in (result, expected))
        assert result == expected or same_but_identification(result, expected)


def test_the_largest_packets_that_can_be_tried_are_taken(trial: Trial) -> None:
    options = build_options(TcpOptions(timestamps=(1, 2), sack=((3, 4), (5, 6), (7, 8))))
    payload = bytes(MOST_BYTES - 100)
    packet = from_client(SHIFTED, HEADER._replace(options=options), payload)
    assert pass_through(trial, make(SHIFTED), packet) == in_python(make(SHIFTED), packet) is not None
