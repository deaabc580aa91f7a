"""The program as machines of either byte order run it; and with it, what is left of a checksum that is to be completed."""

import struct
from collections.abc import Sequence
from dataclasses import replace

import packets as whole
import pytest
import segment_strategies as packets
from bpf_machine import Answering, Machine, Order, Packet
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_trials import CLIENT_PORT, from_backend, from_client, make
from splice_setup import PLAIN, any_deltas
from splice_twin import Deltas, build_v4, build_v6
from syn_trials import SERVICE, Porter, data_of, digest, promised, promises, syn, syns, to_complete

from kracauer.fast_path import Promise
from kracauer.offload.answering import KnownFlows, build_answering, build_listeners
from kracauer.offload.layout import build_entries
from kracauer.offload.options import is_walked, is_walked_syn
from kracauer.steering import ALL, Share
from kracauer.tcp.cookie import COUNTER_S, CookieJar
from kracauer.tcp.splice import BELIEVABLE_WINDOW
from kracauer.tcp.terms import Offer, encode_scale
from kracauer.translate.addresses import is_legal_source_v4
from kracauer.wire import ipv4, tcp, vnet_hdr
from kracauer.wire.buffer import Frame
from kracauer.wire.tcp import TcpHeader
from kracauer.wire.vnet_hdr import GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, NO_OFFLOAD, VnetHeader

ORDERS: tuple[Order, ...] = ("little", "big")
MINUTE_NS = 60_000_000_000
options = st.one_of(
    st.just(b""), packets.canonical_timestamps, packets.option_lists, st.just(bytes.fromhex("0101050afffffff000000010") * 3)
)


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=120, deadline=None)
@given(any_deltas, packets.segments(options), st.integers(0, 3000), st.sampled_from([None, 0, 500, 1208, 1448]), st.booleans())
def test_every_machine_makes_of_a_packet_what_python_makes(
    order: Order, deltas: Deltas, header: TcpHeader, size: int, gso_size: int | None, is_from_client: bool
) -> None:
    start, kind = (20, GSO_TCPV4) if is_from_client else (40, GSO_TCPV6)
    vnet = NO_OFFLOAD
    if gso_size is not None:  # a checksum to be completed, of one segment or of several
        vnet = VnetHeader(NEEDS_CSUM, kind if gso_size else 0, start + header.length, gso_size, start, 16)
    if is_from_client:
        header = header._replace(src_port=CLIENT_PORT, dst_port=deltas.service_port)
        packet = build_v4(deltas.client, deltas.service, 3, 64, vnet, header, bytes(size))[1]
    else:
        header = header._replace(src_port=deltas.backend_port, dst_port=CLIENT_PORT)
        packet = build_v6(deltas.backend, deltas.mapped, 3, 64, vnet, header, bytes(size))[1]
    splice = make(deltas, max_to_client=1500, max_to_backend=1480, unfragmented_to_backend=1480)
    view = (splice.to_backend if is_from_client else splice.to_client)(Frame(packet, vnet_hdr.build(vnet)), 1.0)
    entries = build_entries(splice.constants, 0)
    machine = Machine(order, entries, identification=0xABCD, lease_until=2 * MINUTE_NS, now=MINUTE_NS)
    met = Packet(bytearray(packet), gso_size or 0, is_partial=gso_size is not None)
    is_taken = machine.run(met)
    assert is_taken is (view is not None and is_walked(header.options))
    if not is_taken or view is None:
        assert bytes(met.data) == packet
        return
    expected = bytes(view[vnet_hdr.LENGTH :])
    if not is_from_client and not (parsed := ipv4.parse(expected)).dont_fragment:
        expected = ipv4.build(parsed._replace(identification=0xABCD)) + expected[20:]
    at = (40 if is_from_client else 20) + 16
    if gso_size is not None and met.data[at : at + 2] == b"\xff\xff":  # the other form of zero, which Python has
        met.data[at : at + 2] = bytes(2)
    assert bytes(met.data) == expected
    acked = splice.backend_acked if is_from_client else splice.client_acked
    assert machine.carried(0 if is_from_client else 1) == (1, size, MINUTE_NS, acked)
    assert machine.carried(1 if is_from_client else 0) == (0, 0, 0, 0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("is_from_client", [True, False])
@pytest.mark.parametrize("acked", [0x01020304, 0xFFFFFFF0])
@pytest.mark.parametrize(
    ("distance", "is_believed"), [(-1, False), (0, True), (BELIEVABLE_WINDOW, True), (BELIEVABLE_WINDOW + 1, False)]
)
def test_every_machine_takes_the_fins_that_python_believes(
    order: Order, is_from_client: bool, acked: int, distance: int, is_believed: bool
) -> None:
    splice = make(PLAIN)
    header = TcpHeader(CLIENT_PORT, 443, (acked + distance) % 2**32, 2000, tcp.ACK | tcp.FIN, 500)
    packet = (from_client if is_from_client else from_backend)(PLAIN, header, b"end")
    machine = Machine(order, build_entries(splice.constants, 0), lease_until=2 * MINUTE_NS, now=MINUTE_NS)
    own, other = (0, 1) if is_from_client else (1, 0)
    machine.set_acked(own, ~acked & 0xFFFFFFFF)
    machine.set_acked(other, acked)
    met = Packet(bytearray(packet))
    assert machine.run(met) is is_believed
    assert (bytes(met.data) != packet) is is_believed
    assert (machine.fin_seen(own), machine.fin_seen(other)) == (MINUTE_NS if is_believed else 0, 0)


class _Counted(KnownFlows):
    """Counts by what a machine of this byte order reads in its packets, and not by what this one would."""

    def __init__(self, order: Order) -> None:
        self.counters = bytearray(4096)
        super().__init__(self.counters, digest(b"hash"))
        self._words = struct.Struct(("<" if order == "little" else ">") + "III")

    def add(self, key: bytes) -> None:
        super().add(struct.pack("=III", *self._words.unpack(key)))


def answering_machine(
    order: Order,
    promise: Promise,
    secret: bytes,
    *,
    now: int,
    flows: Sequence[bytes] = (),
    share: Share = ALL,
    spare: int = 1,
) -> Machine:
    known = _Counted(order)
    for key in flows:
        known.add(key)
    told = promised(promise, secret)
    listeners = build_listeners(told, share.number)
    maps = Answering(listeners, build_answering(secret, known), bytes(known.counters), until=now + 1)
    nothing = build_entries(make(PLAIN).constants, 0)
    return Machine(order, nothing, now=now, answering=maps, workers=share.workers, worker=share.number, spare=spare)


# Around the steps of the counter that cookies cover.
moments = st.builds(
    lambda count, offset: int(count * COUNTER_S) * 10**9 + offset,
    st.sampled_from([1, 2, 1000, 2**20]),
    st.sampled_from([-1000, 0, 1000, 10**9]),
)


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=80, deadline=None)
@given(promises, syns, st.booleans(), st.booleans(), st.binary(min_size=1, max_size=4), moments)
def test_every_machine_answers_a_syn_as_the_gate_does(
    order: Order, promise: Promise, packet: whole.Packet, has_df: bool, is_partial: bool, seed: bytes, now: int
) -> None:
    """Also one whose checksum is still to be completed: then so is that of its answer."""
    secret, data = digest(seed), data_of(packet, dont_fragment=has_df)
    machine = answering_machine(order, promise, secret, now=now)
    met = Packet(bytearray(to_complete(data) if is_partial else data), is_partial=is_partial)
    before = bytes(met.data)
    is_taken = (
        packet.flags & 0x17 == 2
        and not packet.payload
        and packet.src_port != 0
        and is_legal_source_v4(packet.src)
        and packet.src != SERVICE
        and is_walked_syn(data[40:])
    )
    assert machine.run(met) is is_taken
    assert machine.syns == is_taken
    if not is_taken:
        assert bytes(met.data) == before
        return
    expected = Porter(promise, secret).answer(data, now / 10**9)
    assert expected is not None
    assert bytes(met.data) == (to_complete(expected) if is_partial else expected)


PROMISE = Promise(Offer(1440, 7, sack=True, timestamps=True, ecn=False, window=65535), 1220)


@pytest.mark.parametrize("order", ORDERS)
def test_every_machine_leaves_a_sum_alone_that_only_looks_incomplete(order: Order) -> None:
    machine = answering_machine(order, PROMISE, bytes(32), now=MINUTE_NS)
    data = to_complete(data_of(syn()))
    met = Packet(bytearray(data))
    assert not machine.run(met)
    assert bytes(met.data) == data


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=10, deadline=None)
@given(st.lists(st.binary(min_size=2, max_size=2).filter(any), min_size=1, max_size=20, unique=True))
def test_every_machine_leaves_the_syns_of_known_flows_alone(order: Order, ports: list[bytes]) -> None:
    first, *others = [syn(src_port=int.from_bytes(port, "big")) for port in ports]
    flows = [bytes(data_of(packet)[12:24]) for packet in others]
    machine = answering_machine(order, PROMISE, bytes(32), now=MINUTE_NS, flows=flows)
    for packet in others:
        assert not machine.run(Packet(bytearray(data_of(packet))))
    alone = answering_machine(order, PROMISE, bytes(32), now=MINUTE_NS)
    assert alone.run(Packet(bytearray(data_of(first))))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("number", range(3))
def test_every_machine_answers_as_the_worker_does_that_has_the_client(order: Order, number: int) -> None:
    share = Share(number, 3)
    packets = [syn(src_port=port) for port in range(40000, 40040)]
    flows = [bytes(data_of(packet)[12:24]) for packet in packets[:10]]
    machine = answering_machine(order, PROMISE, bytes(32), now=MINUTE_NS, flows=flows, share=share)
    for index, packet in enumerate(packets):
        is_taken = machine.run(Packet(bytearray(data_of(packet))))
        if not share.owns(packet.src, packet.src_port) or index < 10:
            assert not is_taken
    assert machine.syns > 3


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 511), st.sampled_from([0, 1 << 9, 1 << 31]), st.integers(1, 119), st.booleans()
)
def test_every_machine_keeps_guesses_away_and_lets_cookies_through(
    order: Order, seq: int, terms: int, wrong: int, age_s: int, has_room: bool
) -> None:
    secret, now_s = bytes(32), 120  # the end of a minute: what is older than two is too old
    promise, now = PROMISE, now_s * 10**9 - 1
    packet = syn()
    key = bytes(data_of(packet)[12:24])
    scale_code = encode_scale(promise.offer.window_scale)
    isn = CookieJar(secret).bake(key, seq, terms, scale_code, now / 10**9 - age_s).isn ^ wrong
    segment = replace(packet, flags=0x10, seq=(seq + 1) % 2**32, ack=(isn + 1) % 2**32, options=(), payload=b"hello")
    machine = answering_machine(order, promise, secret, now=now, spare=int(has_room))
    assert not machine.run(Packet(bytearray(data_of(segment))))
    assert machine.has_dropped is (bool(wrong) and not has_room)
