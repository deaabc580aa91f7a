"""Probes: what they look like, when they come, what is believed of their answers, and what is learnt from them."""

from dataclasses import replace
from itertools import pairwise

import pytest
from engine_kinds import alone
from hypothesis import given, settings
from hypothesis import strategies as st
from icmp_quotes import error_v6
from packets import Packet, build, flag_letters, parse_flags
from probed import FULL, ONE, PROBE, TWO, Client, Network, packed, probed_config, reversed_of
from script import EPOCH

from kracauer.config import parse_config
from kracauer.events import ProfileLearnt
from kracauer.steering import Share

pytestmark = alone  # probes are of no flow
MANY = "".join(f'"h{index}.example.com" = "2001:db8:1:{index >> 8:x}::{index & 0xFF:x}2"\n' for index in range(2000))


@pytest.fixture
def network() -> Network:
    return Network()


def test_a_probe_is_an_ordinary_syn_with_every_option(network: Network) -> None:
    """What it did not ask for its answer could not tell (RFC 7323 §2.2, RFC 2018 §2)."""
    network.run(0.1)
    ((_, probe),) = network.probes
    assert (probe.src, probe.dst, probe.dst_port) == (PROBE, packed("2001:db8:1::2"), 443)
    assert (flag_letters(probe.flags), probe.window) == ("S", 65535)
    assert [option.partition("=")[0] for option in probe.options] == ["mss", "sackOK", "ts", "ws"]
    assert "mss=1440" in probe.options


def test_the_handshake_is_ended_by_the_exact_number(network: Network) -> None:
    """RFC 5961 §3.2."""
    network.run(0.1)
    ((_, probe),) = network.probes
    (reset,) = network.resets
    assert (flag_letters(reset.flags), reset.seq, reset.dst_port) == ("R", (probe.seq + 1) % 2**32, 443)
    assert (reset.src_port, reset.dst) == (probe.src_port, probe.dst)


def test_a_backend_is_probed_once_in_each_interval(network: Network) -> None:
    network.run(60)
    times = network.times()
    gaps = {round(later - sooner, 1) for sooner, later in pairwise(times[1:])}
    assert gaps == {5.0}
    assert 11 <= len(times) <= 13


def test_each_probe_has_another_port_and_number(network: Network) -> None:
    network.run(60)
    assert len({probe.seq for _, probe in network.probes}) == len(network.probes)
    assert len({probe.src_port for _, probe in network.probes}) == len(network.probes)


@pytest.mark.parametrize("number", range(5))
def test_a_workers_probes_are_answered_to_its_own_queue(number: int) -> None:
    share = Share(number, 5)
    network = Network(share=share)
    network.run(60)
    assert len(network.probes) >= 11
    assert all(share.owns(bytes((0, 0, 0, 1)), probe.src_port) for _, probe in network.probes)
    assert network.states() == ["up"]


def test_ecn_is_asked_for_where_the_configuration_says_that_the_backend_has_it() -> None:
    network = Network(probed_config(extra="backend_profile.ecn = true"))
    network.run(0.1)
    assert flag_letters(network.probes[0][1].flags) == "SEW"


def test_no_probe_is_sent_where_they_are_switched_off() -> None:
    network = Network(probed_config(probes="enabled = false"))
    network.run(60)
    assert network.engine.next_deadline() is None
    assert network.probes == []


def test_each_port_of_a_backend_is_probed() -> None:
    network = Network(probed_config('"a.example.com" = "2001:db8:1::2"\n"b.example.com" = "[2001:db8:1::2]:8443"\n'))
    network.run(1)
    assert {probe.dst_port for _, probe in network.probes} == {443, 8443}


def test_thousands_of_backends_are_probed_evenly_and_no_more_than_500_a_second() -> None:
    network = Network(probed_config(MANY))
    network.run(30)
    later = [at - EPOCH for at, _ in network.probes if at > EPOCH + 12]
    by_call: dict[float, int] = {}
    for at, _ in network.probes:
        by_call[at] = by_call.get(at, 0) + 1
    assert max(by_call.values()) <= 50
    for second in range(12, 30):
        assert 250 <= sum(second <= at < second + 1 for at in later) <= 550
    assert set(network.states()) == {"up"}


def test_what_has_come_due_during_a_pause_of_the_process_does_not_go_out_at_once() -> None:
    network = Network(probed_config(MANY))
    network.run(12)
    before = len(network.probes)
    network.now += 60
    network.run(0.001)
    assert len(network.probes) - before <= 50
    network.run(10)
    assert len(network.probes) - before >= 2000


def test_a_backend_that_comes_by_a_reload_is_probed_soon_and_one_that_goes_no_more(network: Network) -> None:
    network.run(7)
    network.engine.reconfigure(probed_config('"www.example.com" = "2001:db8:1::3"\n'), network.now)
    before = network.times()
    network.run(20)
    assert network.times() == before
    assert network.times("2001:db8:1::3")[0] < 7.2


def test_a_reload_leaves_what_is_known_of_those_that_stay(network: Network) -> None:
    network.tell("2001:db8:1::2", "silent")
    network.run(10)
    network.engine.reconfigure(probed_config(TWO), network.now)
    assert network.states() == ["down", "unknown"]


def test_probes_can_be_switched_off_and_on_again_by_reloads(network: Network) -> None:
    network.tell("2001:db8:1::2", "silent")
    network.run(10)
    network.engine.reconfigure(probed_config(probes="enabled = false"), network.now)
    assert network.states() == ["unknown"]
    sent = len(network.probes)
    network.run(60)
    assert len(network.probes) == sent
    network.engine.reconfigure(probed_config(), network.now)
    network.run(10)
    assert network.states() == ["down"]


def test_a_silent_backend_is_sent_a_reset_lest_it_repeats_its_answer(network: Network) -> None:
    network.tell("2001:db8:1::2", "silent")
    network.run(1.2)
    (reset,) = network.resets
    assert (flag_letters(reset.flags), reset.seq) == ("R", (network.probes[0][1].seq + 1) % 2**32)


def test_a_late_answer_is_refused_and_changes_nothing(network: Network) -> None:
    network.tell("2001:db8:1::2", "silent")
    network.run(20)
    late = network.syn_ack(network.probes[0][1])
    (reset,) = network.receive(build(late)[1])
    assert (flag_letters(reset.flags), reset.seq) == ("R", late.ack % 2**32)
    assert network.states() == ["down"]
    assert network.drops == ["no_flow"]


@pytest.mark.parametrize("change", [{"ack": 5}, {"dst_port": 7}, {"src": packed("2001:db8:1::9")}, {"src_port": 444}])
@pytest.mark.parametrize("flags", ["SA", "RA"])
def test_an_answer_that_has_not_seen_the_probe_is_not_believed(
    network: Network, change: dict[str, int | bytes], flags: str
) -> None:
    """RFC 5961 §1.2: whoever guesses has to guess the number and the port."""
    network.tell("2001:db8:1::2", "silent")
    network.run(0.1)
    forged = replace(network.syn_ack(network.probes[0][1]), flags=parse_flags(flags), **change)  # type: ignore[arg-type]
    network.receive(build(forged)[1])
    assert network.status().last_failure is None
    assert network.states() == ["unknown"]
    assert network.drops == ["no_flow"]


def test_an_answer_from_an_address_that_is_no_backends_is_answered_by_nothing(network: Network) -> None:
    forged = Packet(packed("2001:db8:9::9"), PROBE, 443, 4000, parse_flags("SA"), seq=1, ack=2)
    assert network.receive(build(forged)[1]) == []
    assert network.drops == ["no_flow"]


@pytest.mark.parametrize("flags", ["A", "FA", "PA"])
def test_what_is_neither_syn_nor_reset_tells_nothing(network: Network, flags: str) -> None:
    network.tell("2001:db8:1::2", "silent")
    network.run(0.1)
    network.receive(build(reversed_of(network.probes[0][1], flags, ack=network.probes[0][1].seq + 1))[1])
    assert network.states() == ["unknown"]
    assert network.drops == ["unexpected"]


@pytest.mark.parametrize(("kind", "seq"), [(1, 5), (3, None), (2, None)])
def test_an_icmp_error_is_believed_only_about_this_very_probe(network: Network, kind: int, seq: int | None) -> None:
    """RFC 5927 §4.1. A hop limit used up, or a packet too big, is no word on the backend."""
    network.tell("2001:db8:1::2", "silent")
    network.run(0.1)
    probe = network.probes[0][1]
    quoted = build(probe if seq is None else replace(probe, seq=seq))[1]
    network.receive(error_v6(kind, 0, quoted, rest=1400 if kind == 2 else 0, dst="2001:db8:46::1"))
    assert network.status().last_failure is None
    assert len(network.drops) == 1


def test_a_late_word_that_a_backend_is_unreachable_counts_for_more_than_silence(network: Network) -> None:
    """A host tells it after three seconds of asking for a neighbour; by then two more probes have been given up."""
    network.tell("2001:db8:1::2", "silent")
    network.run(3)
    assert network.status().last_failure == "silent"
    network.receive(error_v6(1, 3, build(network.probes[0][1])[1], dst="2001:db8:46::1"))
    assert network.status().last_failure == "unreachable"
    network.run(10)
    assert network.status().last_failure == "unreachable"
    network.run(30)
    assert network.status().last_failure == "silent"
    assert network.drops == []


def test_no_client_can_have_the_address_that_probes_come_from(network: Network) -> None:
    client = Packet(bytes((0, 0, 0, 1)), bytes((198, 51, 100, 1)), 40000, 443, parse_flags("S"), seq=1)
    assert network.receive(build(client)[1]) == []
    assert network.drops == ["illegal_source"]


def test_an_answer_makes_no_flow_and_touches_none(network: Network) -> None:
    Client(network).accept()
    (flow,) = network.engine.flows
    before = flow.state, flow.splice
    network.run(60)
    assert [*network.engine.flows] == [flow]
    assert (flow.state, flow.splice) == before


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (("mss=1220", "sackOK", "ts=7000:1", "ws=7"), {"mss": 1220}),
        (("mss=1440", "ts=7000:1", "ws=7"), {"sack": False}),
        (("mss=1440", "sackOK", "ws=7"), {"timestamps": False}),
        (("mss=1440", "sackOK", "ts=7000:1"), {"window_scale": None}),
        (("mss=1440", "sackOK", "ts=7000:1", "ws=10"), {"window_scale": 10}),
    ],
)
def test_the_next_client_is_offered_what_the_answer_showed(options: tuple[str, ...], shown: dict[str, object]) -> None:
    network = Network()
    network.options[packed("2001:db8:1::2")] = options
    network.run(1)
    assert {field: getattr(network.status().profile, field) for field in shown} == shown
    (event,) = (event for event in network.events if isinstance(event, ProfileLearnt))
    assert event.profile == network.status().profile
    syn = Packet(
        bytes((192, 0, 2, 7)),
        bytes((198, 51, 100, 1)),
        40000,
        443,
        parse_flags("S"),
        options=("mss=1460", "sackOK", "ts=1:0", "ws=7"),
    )
    (syn_ack,) = network.receive(build(syn)[1])
    offered = {option.partition("=")[0] for option in syn_ack.options}
    assert offered == {option.partition("=")[0] for option in options}


def test_what_probes_show_is_not_forgotten_after_an_hour_and_told_once() -> None:
    """With a wrong `ecn = true`: else one client in each hour would be promised it in vain."""
    network = Network(probed_config(probes="interval_s = 60", extra="backend_profile.ecn = true"))
    network.run(4 * 3600)
    network.receive(build(Packet(bytes((192, 0, 2, 7)), bytes((198, 51, 100, 1)), 40000, 443, parse_flags("SEW")))[1])
    assert network.status().profile.ecn is False
    assert len(network.told("profile_learnt")) == 1


def test_what_a_backend_lacked_once_is_offered_again_once_it_answers_with_it(network: Network) -> None:
    """Clients alone would not find out: what is not offered is not asked for."""
    network.options[packed("2001:db8:1::2")] = ("mss=1220",)
    network.run(1)
    network.options[packed("2001:db8:1::2")] = FULL
    network.run(10)
    assert network.status().profile.sack
    assert network.status().profile.mss == 1440


def test_with_one_secret_an_engine_probes_at_the_same_moments_as_the_one_before() -> None:
    """So that a restart does not heap them up."""
    first, second = Network(probed_config(ONE)), Network(probed_config(ONE))
    first.run(30)
    second.run(30)
    assert first.times() == second.times()


LISTENERS = """
prefix = "2001:db8:46::/96"
[[listen]]
address = "198.51.100.1"
port = 443
[[listen]]
address = "198.51.100.1"
port = 80
protocol = "http"
"""


@pytest.mark.parametrize(
    ("text", "probed"),
    [
        ('redirect = "https"\n[hosts]\ndefault = "2001:db8:1::2"\n', {443}),
        ('[hosts]\ndefault = { backends = "2001:db8:1::2", redirect = "https" }\n', {443}),
        ('[hosts]\ndefault = "2001:db8:1::2"\n"a.example" = { backends = "2001:db8:1::2", redirect = "https" }\n', {80, 443}),
    ],
)
def test_a_port_on_which_clients_are_only_redirected_is_not_probed(text: str, probed: set[int]) -> None:
    """Nothing needs to listen there, so that nothing there can be down."""
    network = Network(parse_config(LISTENERS + text))
    network.run(1)
    assert {probe.dst_port for _, probe in network.probes} == probed


@given(st.binary(max_size=200), st.booleans(), st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_whatever_comes_to_the_probe_address_raises_nothing_and_makes_no_flow(data: bytes, is_icmp: bool, cut: int) -> None:
    network = Network()
    network.tell("2001:db8:1::2", "silent")
    network.run(0.1)
    probe = network.probes[0][1]
    payload = build(probe)[1][: 40 + cut] + data if is_icmp else data
    answer = replace(network.syn_ack(probe), flags=data[0] if data else 0, payload=payload)
    network.receive(error_v6(1, 3, payload, dst="2001:db8:46::1") if is_icmp else build(answer)[1])
    network.run(20)
    assert len(network.engine.flows) == 0
    assert len(network.probes) >= 3
