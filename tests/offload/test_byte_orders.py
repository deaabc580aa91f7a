"""The program as machines of either byte order run it; and with it, what is left of a checksum that is to be completed."""

import pytest
import segment_strategies as packets
from bpf_machine import Machine, Order, Packet
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_trials import CLIENT_PORT, from_backend, from_client, make
from splice_setup import PLAIN, any_deltas
from splice_twin import Deltas, build_v4, build_v6

from kracauer.offload.layout import build_entries
from kracauer.offload.options import is_walked
from kracauer.tcp.splice import BELIEVABLE_WINDOW
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
