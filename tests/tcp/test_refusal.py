import pytest

from kracauer.tcp.refusal import GIVE_UP_S, LINGER_S, Due, Refusal
from kracauer.wire import tcp
from kracauer.wire.tcp import TcpHeader

ANSWER = b"no"
SEQ, ACK = 0xFFFFFFFE, 5000  # the answer's FIN stands behind the wrap
NEXT = 1
START = 100.0


def refusal(*, has_client_fin: bool = False) -> Refusal:
    return Refusal(answer=ANSWER, seq=SEQ, ack=ACK, has_client_fin=has_client_fin, timestamps=None, now=START)


def segment(seq: int = ACK, *, ack: int = SEQ, flags: int = tcp.ACK) -> TcpHeader:
    return TcpHeader(49152, 443, seq, ack, flags, 500)


def due_times(refusal: Refusal) -> list[tuple[float, Due]]:
    """What each deadline brings, up to the one that ends it."""
    told: list[tuple[float, Due]] = []
    while not told or told[-1][1] not in (Due.DONE, Due.RESET):
        now = refusal.deadline
        told.append((now - START, refusal.handle_timer(now)))
        assert len(told) < 20
    return told


def test_the_number_past_the_fin_wraps() -> None:
    assert refusal().next_seq == NEXT


def test_an_answer_that_nobody_acknowledges_is_repeated_at_doubled_intervals_and_then_reset() -> None:
    assert due_times(refusal()) == [(1.0, Due.REPEAT), (3.0, Due.REPEAT), (7.0, Due.REPEAT), (10.0, Due.RESET)]


def test_nothing_is_due_before_the_deadline() -> None:
    assert refusal().handle_timer(START + 0.99) is Due.NOTHING


def test_an_acknowledged_answer_is_not_repeated() -> None:
    told = refusal()
    assert not told.receive(segment(ack=NEXT), 0, START + 0.1)
    assert told.handle_timer(START + 1) is Due.NOTHING
    assert due_times(told) == [(GIVE_UP_S, Due.RESET)]


@pytest.mark.parametrize("ack", [SEQ, SEQ + 1, 0, 2])
def test_an_acknowledgment_of_less_or_of_what_was_never_sent_does_not_count(ack: int) -> None:
    told = refusal()
    told.receive(segment(ack=ack), 0, START + 0.1)
    assert told.handle_timer(told.deadline) is Due.REPEAT


def test_a_number_in_a_segment_without_ack_acknowledges_nothing() -> None:
    told = refusal()
    told.receive(segment(ack=NEXT, flags=0), 0, START + 0.1)
    assert told.handle_timer(told.deadline) is Due.REPEAT


def test_it_ends_a_little_after_both_sides_have_closed() -> None:
    told = refusal()
    assert told.receive(segment(ack=NEXT, flags=tcp.ACK | tcp.FIN), 0, START + 0.5)
    assert told.ack == ACK + 1
    assert told.deadline == START + 0.5 + LINGER_S
    assert told.handle_timer(START + 0.5 + LINGER_S - 0.1) is Due.NOTHING
    assert told.handle_timer(START + 0.5 + LINGER_S) is Due.DONE


def test_the_client_may_have_closed_before_it_was_refused() -> None:
    told = refusal(has_client_fin=True)
    told.receive(segment(ack=NEXT), 0, START + 0.25)
    assert due_times(told) == [(0.25 + LINGER_S, Due.DONE)]


def test_the_client_may_close_long_after_it_has_the_answer() -> None:
    told = refusal()
    told.receive(segment(ack=NEXT), 0, START + 0.1)
    told.receive(segment(ack=NEXT, flags=tcp.ACK | tcp.FIN), 0, START + 8.0)
    assert due_times(told) == [(8.0 + LINGER_S, Due.DONE)]


def test_a_repeated_fin_is_acknowledged_and_keeps_nothing_longer() -> None:
    told, fin = refusal(), segment(ack=NEXT, flags=tcp.ACK | tcp.FIN)
    told.receive(fin, 0, START + 0.5)
    assert told.receive(fin, 0, START + 0.9)
    assert told.ack == ACK + 1
    assert told.deadline == START + 0.5 + LINGER_S


def test_the_clients_fin_alone_does_not_end_it() -> None:
    told = refusal()
    told.receive(segment(flags=tcp.ACK | tcp.FIN), 0, START + 0.1)
    assert told.handle_timer(told.deadline) is Due.REPEAT
    assert told.ack == ACK + 1


def test_data_that_nobody_reads_is_acknowledged() -> None:
    told = refusal()
    assert told.receive(segment(), 10, START + 0.1)
    assert told.ack == ACK + 10


def test_data_that_overlaps_what_was_acknowledged_moves_it_on() -> None:
    told = refusal()
    assert told.receive(segment(ACK - 4), 10, START + 0.1)
    assert told.ack == ACK + 6


@pytest.mark.parametrize("seq", [ACK - 10, ACK + 1])
def test_old_data_and_data_behind_a_gap_are_owed_an_ack_that_moves_nothing(seq: int) -> None:
    told = refusal()
    assert told.receive(segment(seq), 10, START + 0.1)
    assert told.ack == ACK


def test_a_fin_behind_a_gap_does_not_close() -> None:
    told = refusal()
    told.receive(segment(ACK + 1, ack=NEXT, flags=tcp.ACK | tcp.FIN), 0, START + 0.1)
    assert due_times(told) == [(GIVE_UP_S, Due.RESET)]


def test_a_bare_ack_is_owed_none() -> None:
    assert not refusal().receive(segment(), 0, START + 0.1)


def test_the_acknowledged_number_wraps() -> None:
    told = Refusal(answer=b"", seq=0, ack=0xFFFFFFFF, has_client_fin=False, timestamps=None, now=START)
    told.receive(segment(0xFFFFFFFF, flags=tcp.ACK | tcp.FIN), 3, START)
    assert told.ack == 3
