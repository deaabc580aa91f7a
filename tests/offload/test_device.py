"""What no test run can show: the program on a real device, with super-packets and checksums that are not complete."""

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import segment_strategies as packets
import splice_twin as twin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from offload_trials import CLIENT_PORT, make, same_but_identification, traffic
from splice_setup import PLAIN
from two_devices import Router, one_hop_less

from kracauer.offload import attachment
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath
from kracauer.tcp.splice import Splice
from kracauer.wire import tcp, vnet_hdr
from kracauer.wire.buffer import Frame
from kracauer.wire.tcp import TcpHeader
from kracauer.wire.vnet_hdr import GSO_ECN, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, NO_OFFLOAD, VnetHeader

pytestmark = pytest.mark.lab

HEADER = TcpHeader(CLIENT_PORT, 443, 1000, 2000, tcp.ACK | tcp.PSH, 500)
DELTAS = replace(PLAIN, seq_delta=0xDEADBEEF, ts_delta=0x7FFF0001, window_shift_to_backend=2, window_shift_to_client=-3)
TIMESTAMPS = bytes.fromhex("0101080afffffff000000010")
BLOCKS = bytes.fromhex("0101051a00000001fffffff0123456789abcdef00000000000000001")


@pytest.fixture(params=[True, False], ids=["offloads", "none"])
def router(request: pytest.FixtureRequest, own_netns: Callable[[str], str]) -> Iterator[Router]:
    router = Router(own_netns, has_offloads=request.param)
    yield router
    router.close()


@pytest.fixture
def path(router: Router) -> Iterator[KernelPath]:
    try:
        path = KernelPath.open(16)
    except OffloadError as error:
        pytest.skip(str(error))
    path.attach(router.kracauer.name)
    path.sweep(time.monotonic())
    yield path
    path.close()


def expected_of(splice: Splice, packet: bytes, vnet: VnetHeader) -> tuple[VnetHeader, bytes]:
    """What comes out by way of userspace: the same hops, and the splice in Python between them."""
    frame = Frame(one_hop_less(packet), vnet_hdr.build(vnet))
    view = (splice.to_backend if packet[0] >> 4 == 4 else splice.to_client)(frame, 1.0)
    assert view is not None
    return vnet_hdr.parse(view), one_hop_less(bytes(view[vnet_hdr.LENGTH :]))


def client_packet(header: TcpHeader, payload: bytes, vnet: VnetHeader = NO_OFFLOAD) -> bytes:
    return twin.build_v4(DELTAS.client, DELTAS.service, 2, 64, vnet, header, payload)[1]


def backend_packet(header: TcpHeader, payload: bytes, vnet: VnetHeader = NO_OFFLOAD) -> bytes:
    header = header._replace(src_port=DELTAS.backend_port, dst_port=CLIENT_PORT)
    return twin.build_v6(DELTAS.backend, DELTAS.mapped, 2, 64, vnet, header, payload)[1]


def zero_as_one_form(packet: bytes) -> bytes:
    """A checksum that is still to be completed may begin as either form of zero: that of the kernel's is 0xFFFF."""
    at = (40 if packet[0] >> 4 == 6 else 20) + 16
    return packet[:at] + bytes(2) + packet[at + 2 :] if packet[at : at + 2] == b"\xff\xff" else packet


def check_same(router: Router, path: KernelPath, packet: bytes, vnet: VnetHeader) -> None:
    """Send it through the kernel and compare with Python: what it is, and what is still to be done to it."""
    splice, by_hand = make(DELTAS), make(DELTAS)
    path.sweep(time.monotonic())
    assert path.install(splice)
    router.send(packet, vnet)
    result_vnet, result = router.receive()
    path.remove(splice)
    expected_vnet, expected = expected_of(by_hand, packet, vnet)
    if expected_vnet.needs_csum:
        result, expected = zero_as_one_form(result), zero_as_one_form(expected)
    assert result == expected if result[0] >> 4 == 6 else same_but_identification(result, expected)
    keys = ("gso_type", "gso_size", "needs_csum") + (("csum_start", "csum_offset") if expected_vnet.needs_csum else ())
    assert [getattr(result_vnet, key) for key in keys] == [getattr(expected_vnet, key) for key in keys]
    assert traffic(splice) == traffic(by_hand)


options = st.sampled_from([b"", TIMESTAMPS, BLOCKS, TIMESTAMPS + BLOCKS])
device_settings = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@device_settings
@given(packets.segments(options), st.binary(max_size=40) | st.just(bytes(range(256)) * 5), st.booleans(), st.booleans())
def test_a_packet_comes_out_as_python_makes_it(
    router: Router, path: KernelPath, header: TcpHeader, payload: bytes, is_partial: bool, is_from_client: bool
) -> None:
    header = header._replace(src_port=CLIENT_PORT, dst_port=443)
    start = 20 if is_from_client else 40
    is_partial = is_partial and router.kracauer.has_offloads
    vnet = VnetHeader(NEEDS_CSUM, 0, start + header.length, 0, start, 16) if is_partial else NO_OFFLOAD
    packet = (client_packet if is_from_client else backend_packet)(header, payload, vnet)
    check_same(router, path, packet, vnet)


@device_settings
@given(
    packets.segments(options),
    st.integers(1461, 64_000),
    st.sampled_from([536, 1100, 1208, 1220, 1300, 1388]),
    st.booleans(),
    st.booleans(),
)
def test_a_super_packet_comes_out_whole_as_python_makes_it(
    router: Router, path: KernelPath, header: TcpHeader, size: int, gso_size: int, is_from_client: bool, has_ecn: bool
) -> None:
    if not router.kracauer.has_offloads:
        pytest.skip("super-packets do not cross a device without offloads")
    flags = header.flags & ~(tcp.CWR | tcp.FIN | tcp.SYN | tcp.RST) | (tcp.CWR if has_ecn else 0)
    header = header._replace(src_port=CLIENT_PORT, dst_port=443, flags=flags)
    start, kind = (20, GSO_TCPV4) if is_from_client else (40, GSO_TCPV6)
    vnet = VnetHeader(NEEDS_CSUM, kind | (GSO_ECN if has_ecn else 0), start + header.length, gso_size, start, 16)
    packet = (client_packet if is_from_client else backend_packet)(header, bytes(size), vnet)
    check_same(router, path, packet, vnet)


def test_what_is_not_plain_reaches_userspace_as_it_is(router: Router, path: KernelPath) -> None:
    splice = make(DELTAS)
    assert path.install(splice)
    for flags in (tcp.SYN, tcp.FIN, tcp.FIN | tcp.RST | tcp.ACK, tcp.RST):
        for packet in (client_packet(HEADER._replace(flags=flags), b""), backend_packet(HEADER._replace(flags=flags), b"")):
            router.send(packet, NO_OFFLOAD)
            assert router.receive_in_userspace()[1] == one_hop_less(packet)
    path.remove(splice)
    assert traffic(splice)[0] == traffic(splice)[3] == 0


def test_without_a_flow_everything_reaches_userspace(router: Router, path: KernelPath) -> None:
    splice = make(DELTAS)
    packet = client_packet(HEADER, b"x")
    for is_installed in (False, True, False):
        (path.install if is_installed else path.remove)(splice)
        router.send(packet, NO_OFFLOAD)
        (router.receive if is_installed else router.receive_in_userspace)()


def test_closing_leaves_everything_to_userspace(router: Router, path: KernelPath) -> None:
    splice = make(DELTAS)
    path.install(splice)
    packet = client_packet(HEADER, b"x")
    router.send(packet, NO_OFFLOAD)
    router.receive()
    path.close()
    router.send(packet, NO_OFFLOAD)
    router.receive_in_userspace()


def test_a_kernel_without_links_gets_a_filter(router: Router) -> None:
    try:
        path = KernelPath.open(16)
    except OffloadError as error:
        pytest.skip(str(error))
    path.sweep(time.monotonic())
    assert path.install(make(DELTAS))
    device = router.kracauer.name
    packet = client_packet(HEADER, b"x")
    for _ in range(2):  # whoever died without taking it away is replaced
        held = attachment.attach_filter(path.program, device, socket.if_nametoindex(device))
    assert held.kind == "clsact"
    router.send(packet, NO_OFFLOAD)
    assert router.receive()[1][0] >> 4 == 6
    held.close()
    router.send(packet, NO_OFFLOAD)
    router.receive_in_userspace()
    held.close()
    path.close()


def test_an_interface_that_is_not_there_is_told(own_netns: Callable[[str], str]) -> None:
    assert own_netns("link")
    try:
        path = KernelPath.open(16)
    except OffloadError as error:
        pytest.skip(str(error))
    with pytest.raises(OffloadError, match="there is no interface kracauer9"):
        path.attach("kracauer9")
    path.close()
