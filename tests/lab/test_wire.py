"""Faults strike as often as they are asked to, and never what a test is not about."""

import functools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import sum_words

from kracauer.lab import content, wire
from kracauer.lab.namespaces import python_module
from kracauer.lab.offloads import has_segmentation, set_offloads
from kracauer.lab.topology import ORIGIN_1, Lab, Topology
from kracauer.lab.visits import visit
from kracauer.lab.wire import Faults, Impairment

ETHERNET_V4 = bytes(12) + b"\x08\x00"
ETHERNET_V6 = bytes(12) + b"\x86\xdd"
TCP_V4 = ETHERNET_V4 + bytes(9) + b"\x06" + bytes(30)
UDP_V4 = ETHERNET_V4 + bytes(9) + b"\x11" + bytes(30)
TCP_V6 = ETHERNET_V6 + bytes(6) + b"\x06" + bytes(53)
NEIGHBOUR_SOLICITATION = ETHERNET_V6 + bytes(6) + b"\x3a" + bytes(33) + b"\x87" + bytes(20)
PACKET_TOO_BIG = ETHERNET_V6 + bytes(6) + b"\x3a" + bytes(33) + b"\x02" + bytes(20)
ARP = bytes(12) + b"\x08\x06" + bytes(28)


def fates(impairment: Impairment, frame: bytes = TCP_V4, count: int = 1, direction: str = "ab") -> list[tuple[float, bytes]]:
    faults = Faults(impairment)
    return [fate for _ in range(count) for fate in faults.apply(frame, direction, 100.0)]


@given(st.binary(min_size=60, max_size=1514))
def test_a_wire_without_faults_passes_every_frame_at_once_and_unchanged(frame: bytes) -> None:
    assert fates(Impairment(), frame) == [(100.0, frame)]


@pytest.mark.parametrize("frame", [TCP_V4, UDP_V4, TCP_V6, PACKET_TOO_BIG])
def test_total_loss_loses_every_packet(frame: bytes) -> None:
    assert fates(Impairment(loss=100), frame, 10) == []


@pytest.mark.parametrize("frame", [ARP, NEIGHBOUR_SOLICITATION])
def test_address_resolution_is_never_harmed(frame: bytes) -> None:
    assert fates(Impairment(loss=100, corrupt=100, delay_ms=5), frame) == [(100.0, frame)]


def test_loss_comes_about_as_often_as_asked() -> None:
    assert 850 < len(fates(Impairment(loss=10), count=1000)) < 950


def test_a_burst_takes_the_packets_after_a_lost_one_along() -> None:
    faults = Faults(Impairment(loss=1, burst=4, seed=3))
    survived = [bool(list(faults.apply(TCP_V4, "ab", 0.0))) for _ in range(1000)]
    first = survived.index(False)
    assert survived[first : first + 5] == [False] * 5


def test_a_duplicate_follows_its_original() -> None:
    assert fates(Impairment(dup=100)) == [(100.0, TCP_V4)] * 2


def test_a_reordered_packet_is_held_back_by_two_milliseconds_at_least() -> None:
    assert fates(Impairment(reorder=100)) == [(100.002, TCP_V4)]


def test_a_corrupted_packet_differs_in_one_bit_behind_the_ip_header() -> None:
    [(_, spoiled)] = fates(Impairment(corrupt=100))
    assert spoiled[:34] == TCP_V4[:34]
    assert (int.from_bytes(spoiled, "big") ^ int.from_bytes(TCP_V4, "big")).bit_count() == 1


@pytest.mark.parametrize("head", [TCP_V4[:14] + b"\x45" + bytes(8) + b"\x06" + bytes(10), TCP_V6[:54]], ids=["v4", "v6"])
def test_padding_goes_behind_the_options_and_leaves_the_sum_as_it_was(head: bytes) -> None:
    timestamps = bytes.fromhex("0101080a1234567890abcdef")
    [(_, changed)] = fates(Impairment(repad=100), head + bytes(12) + b"\x80" + bytes(7) + timestamps + b"payload")
    assert changed == head + bytes(12) + b"\x80" + bytes(7) + timestamps[2:] + timestamps[:2] + b"payload"
    assert sum_words(changed[len(head) :]) == sum_words(bytes(12) + b"\x80" + bytes(7) + timestamps + b"payload")


@pytest.mark.parametrize("frame", [TCP_V4, UDP_V4, TCP_V6, PACKET_TOO_BIG, ARP])
def test_what_has_no_such_padding_stays_as_it_is(frame: bytes) -> None:
    assert [fate for _, fate in fates(Impairment(repad=100), frame)] == [frame]


def test_delay_and_jitter_add_up() -> None:
    assert all(100.005 <= time_s <= 100.007 for time_s, _ in fates(Impairment(delay_ms=5, jitter_ms=2), count=100))


def test_a_slow_line_spaces_packets_by_their_length() -> None:
    bits = len(TCP_V4) * 8
    times = [time_s for time_s, _ in fates(Impairment(rate_mbit=1), count=3)]
    assert times == pytest.approx([100 + bits / 1e6, 100 + 2 * bits / 1e6, 100 + 3 * bits / 1e6])


def test_only_the_chosen_direction_suffers() -> None:
    assert fates(Impairment(loss=100, direction="ab"), direction="ba") == [(100.0, TCP_V4)]
    assert fates(Impairment(loss=100, direction="ab"), direction="ab") == []


def test_only_tcp_suffers_where_that_is_asked() -> None:
    assert fates(Impairment(loss=100, only="tcp"), UDP_V4) == [(100.0, UDP_V4)]
    assert fates(Impairment(loss=100, only="tcp"), TCP_V6) == []


def test_the_same_seed_brings_the_same_fates() -> None:
    troubled = Impairment(loss=5, dup=5, reorder=5, corrupt=5, jitter_ms=3, seed=7)
    assert fates(troubled, count=500) == fates(troubled, count=500)


def test_an_impairment_survives_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Impairment(loss=1.5, burst=2, direction="ba", only="tcp", seed=9)
    monkeypatch.setattr(sys, "argv", ["wire", "a", "b", *wanted.arguments()])
    options = vars(wire.parse_arguments())
    assert (options.pop("a"), options.pop("b"), Impairment(**options)) == ("a", "b", wanted)


@pytest.mark.lab
def test_super_packets_cross_a_wire_whole() -> None:
    with Lab(Topology(client_wire=Impairment())) as lab:
        lab.start_origin("origin1")
        for namespace, interface in ((lab.client, "eth0"), (lab.router, "client0")):
            namespace.call(functools.partial(set_offloads, interface, is_on=True))
            assert namespace.call(functools.partial(has_segmentation, interface))
        script = (
            "import hashlib, sys, urllib.request;"
            f"print(hashlib.sha256(urllib.request.urlopen('http://[{ORIGIN_1}]/bytes/{32 << 20}').read()).hexdigest())"
        )
        result = lab.client.run([sys.executable, "-c", script])
        lab.wires["client"].stop()
        assert result.stdout.decode().strip() == content.digest(32 << 20)
        frames = int(lab.wires["client"].log.partition('"forwarded": ')[2].partition(",")[0])
        assert frames < 32 * 1024 * 1024 / 1500


@pytest.mark.lab
def test_a_wire_counts_what_it_did_when_it_is_stopped() -> None:
    with Lab(Topology(client_wire=Impairment(dup=100, only="tcp"))) as lab:
        lab.start_origin("origin1")
        assert visit(lab.client, "http", "origin1", ORIGIN_1).status == 200
        assert lab.wires["client"].stop() == 0
        assert '"lost": 0' in lab.wires["client"].log
        assert '"duplicated": 0' not in lab.wires["client"].log


@pytest.mark.lab
def test_an_interface_that_is_not_there_ends_the_wire_with_an_error() -> None:
    with Lab() as lab:
        result = lab.client.run(python_module("kracauer.lab.wire", "eth0", "nowhere"))
        assert result.returncode != 0
        assert b"No such device" in result.stderr or b"no interface with this name" in result.stderr
