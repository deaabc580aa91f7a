import pytest

from kracauer.tcp.state import SPLICED, SUPERSEDABLE, TABLE, Happening, State, next_state


def reachable(start: State) -> set[State]:
    seen, ahead = {start}, [start]
    while ahead:
        following = set(TABLE[ahead.pop()].values()) - seen
        seen |= following
        ahead += following
    return seen


def follow(*happenings: Happening, start: State = State.PEEKING) -> State:
    state = start
    for happening in happenings:
        state = next_state(state, happening)
    return state


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(TABLE) == set(State)


def test_every_state_can_be_reached_from_a_new_flow() -> None:
    assert reachable(State.PEEKING) == set(State)


def test_no_flow_comes_back_from_the_end() -> None:
    assert reachable(State.CLOSED) == {State.CLOSED}


def test_every_happening_moves_some_state_on() -> None:
    assert {happening for row in TABLE.values() for happening in row} == set(Happening)


@pytest.mark.parametrize("state", [state for state in State if state is not State.CLOSED])
def test_every_flow_can_be_ended(state: State) -> None:
    assert next_state(state, Happening.ENDED) is State.CLOSED


@pytest.mark.parametrize("state", State)
def test_a_happening_that_a_state_does_not_list_leaves_it_there(state: State) -> None:
    for happening in set(Happening) - set(TABLE[state]):
        assert next_state(state, happening) is state


def test_no_row_lists_a_move_that_is_none() -> None:
    assert all(state is not target for state, row in TABLE.items() for target in row.values())


def test_a_flow_is_peeked_at_and_dialled_before_it_is_established() -> None:
    assert follow(Happening.ROUTED) is State.DIALING
    assert follow(Happening.ROUTED, Happening.ACCEPTED) is State.ESTABLISHED
    assert follow(Happening.ACCEPTED) is State.PEEKING


def test_a_flow_may_have_to_wait_for_an_address_before_it_is_dialled_or_refused() -> None:
    assert follow(Happening.AWAITED) is State.RESOLVING
    assert follow(Happening.AWAITED, Happening.ROUTED) is State.DIALING
    assert follow(Happening.AWAITED, Happening.REFUSED) is State.REFUSING


def test_a_refused_flow_only_ends() -> None:
    assert reachable(follow(Happening.REFUSED)) == {State.REFUSING, State.CLOSED}


@pytest.mark.parametrize(
    ("first", "second", "between"),
    [
        (Happening.CLIENT_FIN, Happening.BACKEND_FIN, State.CLIENT_FIN),
        (Happening.BACKEND_FIN, Happening.CLIENT_FIN, State.BACKEND_FIN),
    ],
)
def test_both_sides_close_in_either_order(first: Happening, second: Happening, between: State) -> None:
    assert follow(first, start=State.ESTABLISHED) is between
    assert follow(first, first, start=State.ESTABLISHED) is between
    assert follow(first, second, start=State.ESTABLISHED) is State.BOTH_FIN


@pytest.mark.parametrize("state", [State.ESTABLISHED, State.CLIENT_FIN, State.BACKEND_FIN])
def test_a_reset_is_doubted_first(state: State) -> None:
    assert next_state(state, Happening.RESET) is State.TRANSITORY
    assert follow(Happening.RESET, Happening.REVIVED, start=state) is State.ESTABLISHED


@pytest.mark.parametrize("state", [State.ESTABLISHED, State.CLIENT_FIN, State.BACKEND_FIN])
def test_an_idle_flow_is_probed_before_it_is_given_up(state: State) -> None:
    assert next_state(state, Happening.TIMED_OUT) is State.PROBING
    assert follow(Happening.TIMED_OUT, Happening.REVIVED, start=state) is State.ESTABLISHED
    assert follow(Happening.TIMED_OUT, Happening.RESET, start=state) is State.TRANSITORY


def test_a_reset_after_both_fins_changes_nothing() -> None:
    assert next_state(State.BOTH_FIN, Happening.RESET) is State.BOTH_FIN


def test_a_spliced_flow_stays_spliced_until_it_ends() -> None:
    assert reachable(State.ESTABLISHED) == SPLICED | {State.CLOSED}
    before = {State.PEEKING, State.RESOLVING, State.DIALING, State.REFUSING, State.CLOSED}
    assert reachable(State.PEEKING) - SPLICED == before


def test_only_flows_that_an_end_may_have_forgotten_make_room() -> None:
    assert {State.BOTH_FIN, State.TRANSITORY} == SUPERSEDABLE


def test_the_table_cannot_be_altered() -> None:
    with pytest.raises(TypeError):
        TABLE[State.CLOSED] = {}  # type: ignore[index]
