"""What the engine may rely on, of either fast path: who has a packet, and when a record says so."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from offload_trials import Trial, from_backend, from_client, make, traffic
from splice_setup import PLAIN

from kracauer.fast_path import Carried
from kracauer.offload.collecting import LEASE_S
from kracauer.tcp.splice import BELIEVABLE_WINDOW, Splice
from kracauer.tcp.state import BY_CODE, CODES, State
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
    reset = from_client(DELTAS, HEADER._replace(flags=tcp.ACK | tcp.RST, ack=5000), b"last", client_port=1)
    assert trial.receive(reset) is None
    trial.path.refresh(splice)
    assert splice.to_backend(Frame(reset), 1.0, vetted=True) is not None
    trial.path.refresh(splice)
    assert traffic(splice) == (2, 7, 4900, 0, 0, 8)
    assert come(trial) is not None
    trial.path.remove(splice)
    assert traffic(splice) == (2, 7, 4900, 1, 0, 2000)


def test_a_sweep_brings_all_records_up_to_date(new_trial: NewTrial) -> None:
    trial, flows = new_trial(), [flow(port) for port in range(1, 6)]
    for splice in flows:
        assert trial.path.install(splice)
    assert list(trial.path.sweep(time.monotonic())) == []
    assert go(trial, port=2) is not None
    assert come(trial, port=4) is not None
    assert list(trial.path.sweep(time.monotonic())) == []
    assert [traffic(splice)[0] + traffic(splice)[3] for splice in flows] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_many_flows_are_removed_at_a_time_and_the_others_stay(new_trial: NewTrial, count: int) -> None:
    trial, flows = new_trial(), [flow(port) for port in range(1, 9)]
    for splice in flows:
        assert trial.path.install(splice)
        assert go(trial, b"four", port=splice.constants.client_port) is not None
    trial.path.remove(flows[1])
    trial.path.remove_all([flow(99), *flows[:count]])
    kept = max(8 - count - (count < 2), 0)
    assert len(trial.path) == kept
    assert [traffic(splice)[:2] for splice in flows] == [(1, 4)] * max(count, 2) + [(0, 0)] * min(8 - count, 6)
    assert [go(trial, port=port) is None for port in range(1, 9)] == [True] * (8 - kept) + [False] * kept
    trial.path.remove_all([])
    trial.path.sweep(time.monotonic())
    for splice in flows:
        assert trial.path.install(splice)


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


def live(port: int = 1, state: State = State.ESTABLISHED) -> Splice:
    """A flow whose record says what state it is in."""
    splice = flow(port)
    splice.state = CODES[state]
    return splice


def state_of(splice: Splice) -> State:
    return BY_CODE[splice.state]


def finish(trial: Trial, side: str, *, seq: int = 2000, ack: int = 2000, payload: bytes = b"", port: int = 1) -> bytes | None:
    """One side's FIN."""
    header = HEADER._replace(flags=tcp.ACK | tcp.FIN, seq=seq % 2**32, ack=ack)
    return trial.receive((from_client if side == "client" else from_backend)(DELTAS, header, payload, client_port=port))


@pytest.mark.parametrize("side", ["client", "backend"])
@pytest.mark.parametrize("told_by", ["refresh", "sweep", "remove", "remove_all", "close"])
def test_a_fin_that_is_carried_stands_in_the_record(new_trial: NewTrial, side: str, told_by: str) -> None:
    trial, splice, others = new_trial(), live(), [live(2), live(3)]
    for each in (splice, *others):
        trial.path.install(each)
    start = time.monotonic()
    assert finish(trial, side, payload=b"end") is not None
    end = time.monotonic()
    match told_by:
        case "refresh":
            trial.path.refresh(splice)
        case "sweep":
            assert list(trial.path.sweep(time.monotonic())) == [splice]
        case "remove":
            trial.path.remove(splice)
        case "remove_all":
            trial.path.remove_all([*others, splice])
        case "close":
            trial.path.close()
    assert state_of(splice) is (State.CLIENT_FIN if side == "client" else State.BACKEND_FIN)
    assert start - 0.1 <= splice.state_since <= end
    assert traffic(splice) == ((1, 3, 1900, 0, 0, 8) if side == "client" else (0, 0, 7, 1, 3, 2000))
    # However it came out, the next sweep says so, and no other one.
    assert list(trial.path.sweep(time.monotonic())) == ([] if told_by == "sweep" else [splice])
    assert list(trial.path.sweep(time.monotonic())) == []


@pytest.mark.parametrize("sides", [("client", "backend"), ("backend", "client")])
@pytest.mark.parametrize("is_swept", [True, False])
def test_fins_of_both_sides_are_carried_and_what_comes_behind_them_too(
    new_trial: NewTrial, sides: tuple[str, str], is_swept: bool
) -> None:
    trial, splice = new_trial(), live()
    trial.path.install(splice)
    assert finish(trial, sides[0]) is not None
    if is_swept:
        trial.path.sweep(time.monotonic())
    between = time.monotonic()
    time.sleep(0.02)  # the kernel's coarse clock moves every few milliseconds
    assert finish(trial, sides[1]) is not None
    assert go(trial) is not None
    assert come(trial) is not None
    assert list(trial.path.sweep(time.monotonic())) == [splice]
    assert state_of(splice) is State.BOTH_FIN
    assert between < splice.state_since <= time.monotonic()
    assert traffic(splice) == (2, 0, 1900, 2, 0, 2000)


def test_a_fin_that_comes_again_changes_nothing(new_trial: NewTrial) -> None:
    trial, splice = new_trial(), live()
    trial.path.install(splice)
    assert finish(trial, "client") is not None
    trial.path.sweep(time.monotonic())
    since = splice.state_since
    time.sleep(0.02)
    assert finish(trial, "client") is not None
    assert list(trial.path.sweep(time.monotonic())) == []
    assert (state_of(splice), splice.state_since) == (State.CLIENT_FIN, since)
    assert traffic(splice)[0] == 2


@pytest.mark.parametrize("state", [State.BOTH_FIN, State.TRANSITORY, State.PROBING])
def test_a_flow_that_is_in_a_state_of_the_engines_stays_there(new_trial: NewTrial, state: State) -> None:
    """As one that the engine is about to take away."""
    trial, splice = new_trial(), live()
    trial.path.install(splice)
    assert finish(trial, "client") is not None
    splice.state = CODES[state]
    trial.path.remove(splice)
    assert state_of(splice) is state
    assert list(trial.path.sweep(time.monotonic())) == []


@pytest.mark.parametrize("side", ["client", "backend"])
@pytest.mark.parametrize("acked", [None, 5, 2**32 - 5])
@pytest.mark.parametrize(
    ("distance", "is_believed"),
    [(-1, False), (0, True), (1, True), (BELIEVABLE_WINDOW, True), (BELIEVABLE_WINDOW + 1, False), (2**31, False)],
)
def test_a_fin_is_the_engines_where_it_would_not_be_believed(
    new_trial: NewTrial, side: str, acked: int | None, distance: int, is_believed: bool
) -> None:
    """By what the other side has acknowledged last, whoever has carried that: at first it is what the record says."""
    trial, splice = new_trial(), live()
    trial.path.install(splice)
    start = 8 if side == "client" else 7
    if acked is not None:
        start = acked
        # What the backend acknowledges are the client's own numbers; what the client does is 100 ahead of the backend's.
        header = HEADER._replace(ack=acked if side == "client" else (acked + DELTAS.seq_delta) % 2**32)
        carry = from_backend if side == "client" else from_client
        assert trial.receive(carry(DELTAS, header, b"", client_port=1)) is not None
    assert (finish(trial, side, seq=start + distance) is not None) is is_believed
    assert len(trial.path.sweep(time.monotonic())) == is_believed
    wanted = State.CLIENT_FIN if side == "client" else State.BACKEND_FIN
    assert state_of(splice) is (wanted if is_believed else State.ESTABLISHED)


@pytest.mark.parametrize("side", ["client", "backend"])
def test_fins_are_the_engines_once_it_may_have_carried_something_itself(new_trial: NewTrial, side: str) -> None:
    trial, splice = new_trial(), live()
    trial.path.install(splice)
    trial.path.refresh(splice)
    assert go(trial) is not None
    assert finish(trial, side) is None
    assert list(trial.path.sweep(time.monotonic())) == []
    trial.path.remove(splice)
    trial.path.sweep(time.monotonic())
    trial.path.install(splice)
    assert finish(trial, side) is not None


def test_a_place_that_was_given_back_has_seen_no_fin(new_trial: NewTrial) -> None:
    trial, first, second = new_trial(1), live(1), live(2)
    trial.path.install(first)
    assert finish(trial, "client", port=1) is not None
    trial.path.refresh(first)
    trial.path.remove(first)
    trial.path.sweep(time.monotonic())
    trial.path.install(second)
    assert go(trial, port=2) is not None
    assert list(trial.path.sweep(time.monotonic())) == []
    assert state_of(second) is State.ESTABLISHED
    assert finish(trial, "backend", port=2) is not None
    assert list(trial.path.sweep(time.monotonic())) == [second]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_a_sweep_tells_of_fins_in_the_order_in_which_they_came(new_trial: NewTrial, order: tuple[int, ...]) -> None:
    trial, flows = new_trial(), {port: live(port) for port in (1, 2, 3)}
    for splice in flows.values():
        trial.path.install(splice)
    for port in order:
        assert finish(trial, "client", port=port) is not None
        time.sleep(0.02)
    trial.path.refresh(flows[2])
    assert list(trial.path.sweep(time.monotonic())) == [flows[port] for port in order]
