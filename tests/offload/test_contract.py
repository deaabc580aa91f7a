"""What the engine may rely on, of either fast path: who has a packet, and when a record says so."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from offload_trials import Trial, from_backend, from_client, make, traffic
from splice_setup import PLAIN

from kracauer.fast_path import Carried
from kracauer.offload.collecting import LEASE_S
from kracauer.tcp.splice import Splice
from kracauer.tcp.timestamping import TimestampingSplice
from kracauer.wire import tcp
from kracauer.wire.buffer import Frame
from kracauer.wire.tcp import TcpHeader

HEADER = TcpHeader(49152, 443, 1000, 2000, tcp.ACK, 500)
DELTAS = replace(PLAIN, seq_delta=100)
NewTrial = Callable[..., Trial]


def go(trial: Trial, payload: bytes = b"", port: int = 1) -> bytes | None:
    return trial.receive(from_client(DELTAS, HEADER, payload, client_port=port))


def come(trial: Trial, payload: bytes = b"", port: int = 1) -> bytes | None:
    return trial.receive(from_backend(DELTAS, HEADER, payload, client_port=port))


def flow(port: int = 1) -> Splice:
    return make(DELTAS, client_port=port)


def test_a_record_says_what_has_passed_once_it_is_refreshed(new_trial: NewTrial) -> None:
    trial, splice = new_trial(), flow()
    assert trial.path.install(splice)
    start = time.monotonic()
    assert go(trial, b"four") is not None
    assert come(trial, b"to and fro") is not None
    assert come(trial) is not None
    assert traffic(splice) == (0, 0, 7, 0, 0, 8)
    assert splice.last_seen == 0
    trial.path.refresh(splice)
    assert traffic(splice) == (1, 4, 1900, 2, 10, 2000)
    assert start - 0.1 <= splice.last_seen <= time.monotonic()
    trial.path.refresh(splice)
    assert traffic(splice) == (1, 4, 1900, 2, 10, 2000)


def test_what_all_flows_have_carried_is_counted_once_and_outlives_them(new_trial: NewTrial) -> None:
    trial, flows = new_trial(), [flow(1), flow(2)]
    carried = trial.path.carried
    for splice in flows:
        trial.path.install(splice)
    assert len(trial.path) == 2
    assert go(trial, b"four", port=1) is not None
    assert come(trial, b"seventy", port=2) is not None
    assert go(trial, port=2) is not None
    trial.path.refresh(flows[0])
    assert carried == Carried(1, 4)
    trial.path.sweep(time.monotonic())
    trial.path.refresh(flows[1])
    assert carried == Carried(3, 11)
    assert come(trial, b"one", port=1) is not None
    trial.path.remove(flows[0])
    assert (len(trial.path), carried) == (1, Carried(4, 14))
    assert go(trial, b"last", port=2) is not None
    trial.path.close()
    assert (len(trial.path), carried) == (0, Carried(5, 18))


def test_a_direction_that_carried_nothing_keeps_what_was_acknowledged(new_trial: NewTrial) -> None:
    trial, splice = new_trial(), flow()
    trial.path.install(splice)
    assert go(trial) is not None
    trial.path.refresh(splice)
    assert traffic(splice) == (1, 0, 1900, 0, 0, 8)


def test_what_the_engine_counts_itself_meanwhile_is_kept(new_trial: NewTrial) -> None:
    trial, splice = new_trial(), flow()
    trial.path.install(splice)
    assert go(trial, b"one") is not None
    fin = from_client(DELTAS, HEADER._replace(flags=tcp.ACK | tcp.FIN, ack=5000), b"last", client_port=1)
    assert trial.receive(fin) is None
    trial.path.refresh(splice)
    assert splice.to_backend(Frame(fin), 1.0, vetted=True) is not None
    trial.path.refresh(splice)
    assert traffic(splice) == (2, 7, 4900, 0, 0, 8)
    assert come(trial) is not None
    trial.path.remove(splice)
    assert traffic(splice) == (2, 7, 4900, 1, 0, 2000)


def test_a_sweep_names_the_flows_that_have_carried_something(new_trial: NewTrial) -> None:
    trial, flows = new_trial(), [flow(port) for port in range(1, 6)]
    for splice in flows:
        assert trial.path.install(splice)
    assert list(trial.path.sweep(time.monotonic())) == []
    assert go(trial, port=2) is not None
    assert come(trial, port=4) is not None
    assert set(trial.path.sweep(time.monotonic())) == {flows[1], flows[3]}
    assert [traffic(splice)[0] + traffic(splice)[3] for splice in flows] == [0, 1, 0, 1, 0]
    assert list(trial.path.sweep(time.monotonic())) == []


def test_a_flow_that_is_removed_is_the_engines_again_and_knows_all(new_trial: NewTrial) -> None:
    trial, splice, other = new_trial(), flow(), flow(2)
    trial.path.install(splice)
    trial.path.install(other)
    assert go(trial, b"four") is not None
    trial.path.remove(splice)
    assert traffic(splice) == (1, 4, 1900, 0, 0, 8)
    assert go(trial) is None
    assert come(trial) is None
    assert go(trial, port=2) is not None
    trial.path.remove(splice)
    trial.path.refresh(splice)
    assert traffic(splice) == (1, 4, 1900, 0, 0, 8)


def test_a_flow_can_be_taken_again_and_counts_on(new_trial: NewTrial) -> None:
    trial, splice = new_trial(), flow()
    for _ in range(3):
        assert trial.path.install(splice)
        assert go(trial, b"four") is not None
        trial.path.remove(splice)
        trial.path.sweep(time.monotonic())
    assert traffic(splice) == (3, 12, 1900, 0, 0, 8)


def test_a_place_that_was_given_back_begins_with_nothing(new_trial: NewTrial) -> None:
    trial, first, second = new_trial(1), flow(1), flow(2)
    trial.path.install(first)
    assert go(trial, b"four", port=1) is not None
    trial.path.remove(first)
    trial.path.sweep(time.monotonic())
    assert trial.path.install(second)
    trial.path.refresh(second)
    assert traffic(second) == (0, 0, 7, 0, 0, 8)
    assert go(trial, b"x", port=2) is not None
    trial.path.refresh(second)
    assert traffic(second) == (1, 1, 1900, 0, 0, 8)
    assert traffic(first) == (1, 4, 1900, 0, 0, 8)


def test_installing_twice_changes_nothing(new_trial: NewTrial) -> None:
    trial, splice = new_trial(1), flow()
    assert trial.path.install(splice)
    assert go(trial) is not None
    assert trial.path.install(splice)
    trial.path.refresh(splice)
    assert traffic(splice)[0] == 1


def test_a_flow_that_does_not_fit_stays_with_the_engine(new_trial: NewTrial) -> None:
    trial = new_trial(2)
    flows = [flow(port) for port in (1, 2, 3)]
    assert [trial.path.install(splice) for splice in flows] == [True, True, False]
    assert trial.path.refused == {"ENOSPC": 1}
    assert go(trial, port=2) is not None
    assert go(trial, port=3) is None
    assert come(trial, port=3) is None
    trial.path.remove(flows[2])
    trial.path.remove(flows[0])
    trial.path.sweep(time.monotonic())
    assert trial.path.install(flows[2])
    assert come(trial, port=3) is not None


def test_timestamps_are_made_in_userspace(new_trial: NewTrial) -> None:
    trial, splice = new_trial(), make(DELTAS, kind=TimestampingSplice, client_port=1)
    assert not trial.path.install(splice)
    assert trial.path.refused == {}
    assert go(trial) is None


def test_nothing_is_taken_once_nobody_has_swept_for_long(new_trial: NewTrial) -> None:
    trial, splice = new_trial(), flow()
    trial.path.install(splice)
    assert go(trial) is not None
    now = time.monotonic()
    trial.path.sweep(now - LEASE_S - 1)
    assert go(trial) is None
    assert come(trial) is None
    trial.path.sweep(now - LEASE_S + 30)
    assert come(trial) is not None


def test_nothing_is_taken_before_the_first_sweep(new_trial: NewTrial) -> None:
    trial, splice = new_trial(is_swept=False), flow()
    trial.path.install(splice)
    assert go(trial) is None
    trial.path.sweep(time.monotonic())
    assert go(trial) is not None


def test_closing_leaves_the_records_up_to_date(new_trial: NewTrial) -> None:
    trial, splice = new_trial(), flow()
    trial.path.install(splice)
    assert go(trial, b"four") is not None
    trial.path.close()
    assert traffic(splice) == (1, 4, 1900, 0, 0, 8)
    trial.path.close()


@pytest.mark.parametrize("number", [0, 99])
def test_a_number_that_was_acknowledged_wraps(new_trial: NewTrial, number: int) -> None:
    trial, splice = new_trial(), flow()
    trial.path.install(splice)
    header = HEADER._replace(ack=number)
    assert trial.receive(from_client(DELTAS, header, b"", client_port=1)) is not None
    trial.path.refresh(splice)
    assert splice.backend_acked == (number - 100) % 2**32
