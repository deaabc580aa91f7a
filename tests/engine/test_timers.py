"""How long each phase of a flow lasts, and how an idle one is asked before it is given up (RFC 6146 §3.5.2, RFC 5382 §5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openings import BACKEND, HANDSHAKE, HELLO, PLAIN_HANDSHAKE, PLAIN_HELLO, PLAIN_SPLICED, SPLICED
from script import EPOCH, Conversation, client_side

from kracauer.engine.opening import Opening
from kracauer.flows import Flow

# The backend's handshake was the last that was heard, at 0.03; deadlines are rounded up to a twentieth of a second.
PROBED = """
 7440.05  B< A  c        ack=b+1
          C< A  s        ack=c+1
          ?? state=probing
"""
FINS = """
    0.10  C> FA c+1+H    ack=s+1
          B< FA c+1+H    ack=b+1
    0.20  B> FA b+1      ack=c+2+H
          C< FA s+1      ack=c+2+H
"""
DEADLINES = {
    "nothing": ("", None),
    "a SYN": (PLAIN_HANDSHAKE.partition("0.01")[0], None),
    "peeking": (PLAIN_HANDSHAKE, 30.05),
    "dialing": (PLAIN_HANDSHAKE + PLAIN_HELLO, 1.05),
    "established": (PLAIN_SPLICED, 7440.05),
    "transitory": (PLAIN_SPLICED + "0.10 C> R c+1+H \n B< R c+1+H", 240.1),
    "both FINs": (PLAIN_SPLICED + FINS, 240.2),
}


@pytest.fixture
def talk() -> Conversation:
    """Client and backend are joined, without timestamps."""
    return Conversation().play(PLAIN_SPLICED)


@pytest.mark.parametrize(("script", "deadline"), DEADLINES.values(), ids=DEADLINES)
def test_the_next_deadline_is_that_of_the_state(script: str, deadline: float | None) -> None:
    talk = Conversation().play(script)
    actual = talk.engine.next_deadline()
    if deadline is None:
        assert actual is None
    else:
        assert actual is not None
        assert actual - EPOCH == pytest.approx(deadline, abs=0.051)


def test_the_next_deadline_is_the_earliest_of_all_flows(talk: Conversation) -> None:
    """And goes back to the later one when the earlier is done."""
    first = talk.engine.next_deadline()
    talk.play("""
       10.00  H> S  c      mss=1460
              H< SA z      ack=c+1 win=65535 mss=1440
              H> A  c+1    ack=z+1
    """)
    second = talk.engine.next_deadline()
    assert second == pytest.approx(EPOCH + 40.0, abs=0.051)
    talk.play("   10.00  H> R c+1 \n !! flow_closed reason=client_aborted")
    assert talk.engine.next_deadline() == first


def test_handling_a_timer_too_early_does_nothing(talk: Conversation) -> None:
    assert list(talk.engine.handle_timer(EPOCH + 7000)) == []
    assert talk.engine.next_deadline() == pytest.approx(EPOCH + 7440.05, abs=0.051)


def test_an_idle_flow_has_both_sides_asked(talk: Conversation) -> None:
    talk.play(PROBED)


def test_both_answer_and_the_flow_goes_on(talk: Conversation) -> None:
    talk.play(PROBED).play("""
     7440.10  B> A  b+1      ack=c+1+H
              C< A  s+1      ack=c+1+H
              ?? state=probing
     7440.20  C> A  c+1+H    ack=s+1
              B< A  c+1+H    ack=b+1
              ?? state=established
    14880.15  ?? state=established
    14880.20  B< A  c+H      ack=b+1
              C< A  s        ack=c+1+H
              ?? state=probing
    """)


@pytest.mark.parametrize(
    "answer",
    ["B> A b+1 ack=c+1+H \n C< A s+1 ack=c+1+H", "C> A c+1+H ack=s+1 \n B< A c+1+H ack=b+1"],
    ids=["backend", "client"],
)
def test_one_answer_is_not_enough(talk: Conversation, answer: str) -> None:
    """The other side has vanished, so the one that answers is told."""
    talk.play(PROBED).play("7450.00 --\n" + answer)
    talk.run_until(7680.0)
    assert len(talk.take_sent()) == 6
    talk.play("7680.00 ?? state=probing")
    talk.run_until(7680.25)
    resets = talk.take_sent()
    assert [talk.render(packet).split()[:2] for packet in resets] == [["B<", "R"], ["C<", "R"]]
    talk.play("!! flow_closed reason=idle \n ?? flows=0")


@pytest.mark.parametrize("answered", [7500.05, 7560.05, 7620.05])
def test_a_probe_that_is_lost_costs_no_connection(talk: Conversation, answered: float) -> None:
    """RFC 1122 §4.2.3.6. Both are asked four times in all, and it takes one answer of each."""
    talk.play(PROBED)
    for again in (7500.05, 7560.05, 7620.05):
        talk.play(f"{again} B< A c ack=b+1 \n C< A s ack=c+1")
        if again == answered:
            break
    talk.play("-- \n B> A b+1 ack=c+1+H \n C< A s+1 ack=c+1+H \n C> A c+1+H ack=s+1 \n B< A c+1+H ack=b+1")
    talk.play("7690.00 ?? state=established")


def test_the_resets_of_an_idle_flow_have_the_numbers_that_each_side_expects(talk: Conversation) -> None:
    """RFC 5961 §3.2: any other number would get a challenge."""
    talk.play("""
        1.00  B> PA b+1      ack=c+1+H data=bulk(100)
              C< PA s+1      ack=c+1+H data=bulk(100)
        1.01  C> A  c+1+H    ack=s+101
              B< A  c+1+H    ack=b+101
     7441.05  B< A  c+H      ack=b+101
              C< A  s+100    ack=c+1+H
    """)
    for again in (7501.05, 7561.05, 7621.05):
        talk.play(f"{again} B< A c+H ack=b+101 \n C< A s+100 ack=c+1+H")
    talk.play("""
     7681.05  B< R  c+1+H
              C< R  s+101
              !! flow_closed reason=idle
              ?? flows=0
    """)


def test_a_probe_carries_the_timestamps_that_were_agreed() -> None:
    """RFC 7323 §3.2: without them it might be dropped and not answered."""
    talk = Conversation().play(SPLICED)
    talk.run_until(7440.1)
    probes = talk.take_sent()
    assert [packet.version for packet in probes] == [6, 6, 4, 4]
    assert all(packet.options[0].startswith("ts=") for packet in probes)


@given(ts_recent=st.integers(0, 2**32 - 1))
def test_of_the_probes_one_is_as_new_as_what_came_last_whatever_that_was(ts_recent: int) -> None:
    """RFC 7323 §5.3, R1: there are stacks that answer nothing that fails this test."""
    talk = Conversation().play(SPLICED)
    talk.run_until(7440.1)
    probes = talk.take_sent()
    for version in (4, 6):
        values = [int(packet.options[0][3:].partition(":")[0]) for packet in probes if packet.version == version]
        assert any((value - ts_recent) % 2**32 < 2**31 for value in values)


def test_a_probe_to_a_client_with_made_up_timestamps_carries_them() -> None:
    """RFC 7323 §3.2: it was promised them; its backend was not."""
    talk = (
        Conversation()
        .play(HANDSHAKE + HELLO)
        .play("""
        0.10  B> SA b    ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< PA c+1  ack=b+1 data=hello
              B> A  b+1  ack=c+1+H
              C< A  s+1  ack=c+1+H ts=t:502
    """)
    )
    talk.run_until(7440.3)
    to_backend, *to_client = talk.take_sent()
    assert (to_backend.version, to_backend.options) == (6, ())
    assert [(packet.version, packet.options) for packet in to_client] == [(4, ("ts=0:0",)), (4, (f"ts={2**31}:0",))]


def test_a_half_closed_flow_is_asked_too(talk: Conversation) -> None:
    talk.play("""
        0.10  C> FA c+1+H    ack=s+1
              B< FA c+1+H    ack=b+1
        0.11  B> A  b+1      ack=c+2+H
              C< A  s+1      ack=c+2+H
     7440.15  B< A  c+1+H    ack=b+1
              C< A  s        ack=c+2+H
              ?? state=probing
    """)


def test_traffic_one_way_alone_keeps_a_flow(talk: Conversation) -> None:
    for hour in range(1, 5):
        talk.play(f"""
            {hour * 3600}.0  C> A c+1+H ack=s+1
                             B< A c+1+H ack=b+1
        """)
    talk.play("21000.0 ?? state=established")


def test_a_reset_while_probing_ends_it_in_four_minutes(talk: Conversation) -> None:
    talk.play(PROBED).play("""
     7450.00  B> R  b+1
              C< R  s+1
              ?? state=transitory
     7689.00  ?? flows=1
     7690.10  !! flow_closed reason=reset
              ?? flows=0
    """)


def test_a_fin_while_probing_is_a_fin(talk: Conversation) -> None:
    talk.play(PROBED).play("""
     7450.00  B> FA b+1      ack=c+1+H
              C< FA s+1      ack=c+1+H
              ?? state=backend_fin
     7700.00  ?? state=backend_fin
    """)


def test_one_fin_leaves_the_long_time(talk: Conversation) -> None:
    """A half-closed connection may be a long download."""
    talk.play("""
        0.10  C> FA c+1+H    ack=s+1
              B< FA c+1+H    ack=b+1
     7439.00  ?? state=client_fin
    """)


def test_the_times_are_configurable() -> None:
    talk = Conversation("[timeouts]\nestablished_idle_s = 10\ntransitory_s = 5\nbelow_rfc_floors = true\n").play(PLAIN_SPLICED)
    talk.play("""
       10.05  B< A  c        ack=b+1
              C< A  s        ack=c+1
       11.30  B< A  c        ack=b+1
              C< A  s        ack=c+1
       12.55  B< A  c        ack=b+1
              C< A  s        ack=c+1
       13.80  B< A  c        ack=b+1
              C< A  s        ack=c+1
       15.05  B< R  c+1
              C< R  s+1
              !! flow_closed reason=idle
    """)


def test_a_dialled_backend_answers_before_the_peek_would_have_ended() -> None:
    """The peek's deadline is gone once the hostname is known."""
    talk = (
        Conversation("[timeouts]\npeek_s = 1\n")
        .play(HANDSHAKE + HELLO)
        .play("""
        1.05  B< S  c    win=65535 mss=1440 sackOK ts=502:0 ws=7
        1.10  ?? state=dialing
    """)
    )
    talk.play(BACKEND.replace("0.03", "1.20"))


def test_a_mistake_in_one_flows_timer_leaves_the_others_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three clients say nothing for half a minute; with the first of them something of ours goes wrong."""
    talk = Conversation()
    for port in (40000, 40001, 40002):
        Conversation(engine=talk.engine, sides={"C": client_side(port=port)}).play(PLAIN_HANDSHAKE)
    expire = Opening.expire_peek
    handled: list[int] = []

    def fail_once(opening: Opening, flow: Flow, now: float) -> None:
        handled.append(flow.from_client.src_port)
        if len(handled) == 1:
            raise RuntimeError
        expire(opening, flow, now)

    monkeypatch.setattr(Opening, "expire_peek", fail_once)
    with pytest.raises(RuntimeError):
        talk.engine.handle_timer(EPOCH + 40)
    assert len(talk.engine.flows) == 3
    deadline = talk.engine.next_deadline()
    assert deadline is not None
    assert deadline <= EPOCH + 40.1
    assert len(talk.engine.handle_timer(EPOCH + 40.1)) == 2
    assert sorted(handled) == [40000, 40001, 40002]
    assert [flow.from_client.src_port for flow in talk.engine.flows] == handled[:1]
    # Nor is the first one left without an end.
    assert len(talk.engine.handle_timer(EPOCH + 101)) == 1
    assert len(talk.engine.flows) == 0
