"""The pump, with a device in memory and an engine that does what a test tells it."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv6Address
from itertools import pairwise

import pytest
import structlog
from daemon_stage import CLIENT, SERVICE, Stage
from offload_trials import from_client, make
from splice_setup import PLAIN

from kracauer.daemon import service
from kracauer.daemon.service import BATCH, BATCH_S, FOLLOWED, Service
from kracauer.errors import DropReason
from kracauer.events import CloseReason, Event, FlowClosed, FlowRefused, NameWanted, PacketDropped, RefusalReason
from kracauer.fast_path import FastPath
from kracauer.logs import LINES_AT_ONCE
from kracauer.offload.memory import MemoryPath
from kracauer.tcp.state import CODES, State
from kracauer.tun import DeviceLostError
from kracauer.wire import tcp
from kracauer.wire.buffer import Buffer, Frame
from kracauer.wire.tcp import TcpHeader


@pytest.fixture
def stage() -> Iterator[Stage]:
    before = structlog.get_config()
    opened = Stage()
    yield opened
    opened.device.close()
    structlog.configure(**before)


@contextmanager
def opened(fast_path: FastPath) -> Iterator[Stage]:
    """A stage whose service has this fast path."""
    before = structlog.get_config()
    stage = Stage()
    stage.service = Service(stage.device, stage.engine, structlog.get_logger(), fast_path=fast_path)
    yield stage
    stage.device.close()
    structlog.configure(**before)


def test_packets_are_read_handed_over_and_the_answers_written(stage: Stage) -> None:
    async def act() -> None:
        for packet in (b"one", b"two"):
            stage.device.inject(packet)
        await stage.until(lambda: len(stage.device.outgoing) == 2)

    stage.play(act)

    assert list(stage.device.outgoing) == [bytes(10) + b"one", bytes(10) + b"two"]
    assert (stage.service.counters.packets_read, stage.service.counters.packets_written) == (2, 2)


def test_other_callbacks_get_their_turn_after_a_bounded_batch(stage: Stage) -> None:
    seen: list[int] = []

    async def act() -> None:
        for _ in range(3 * BATCH):
            stage.device.inject(b"one")
        while len(stage.engine.received) < 3 * BATCH:
            await asyncio.sleep(0)
            seen.append(len(stage.engine.received))

    stage.play(act)

    assert max(after - before for before, after in pairwise([0, *seen])) <= BATCH


def test_other_callbacks_get_their_turn_before_long_however_slow_the_packets(stage: Stage) -> None:
    seen: list[int] = []
    receive = stage.engine.receive

    def receive_slowly(frame: Frame, now: float) -> Sequence[Buffer]:
        time.sleep(BATCH_S)
        return receive(frame, now)

    async def act() -> None:
        stage.engine.receive = receive_slowly  # type: ignore[method-assign]
        for _ in range(10):
            stage.device.inject(b"one")
        while len(stage.engine.received) < 10:
            await asyncio.sleep(0)
            seen.append(len(stage.engine.received))

    stage.play(act)

    assert max(after - before for before, after in pairwise([0, *seen])) <= 2


def test_an_exception_costs_one_packet_and_is_logged_once_with_its_traceback(stage: Stage) -> None:
    async def act() -> None:
        for packet in (b"bad", b"bad", b"good"):
            stage.device.inject(packet)
        await stage.until(lambda: len(stage.engine.received) == 3)

    stage.play(act)

    assert list(stage.device.outgoing) == [bytes(10) + b"good"]
    assert stage.service.counters.internal_errors == 2
    first, summary = stage.logged("internal_error")
    assert "the engine stumbled" in first["exception"]
    assert (summary["repeated"], "exception" in summary) == (1, False)


def test_the_timer_fires_when_the_engine_asks_for_it(stage: Stage) -> None:
    asked = time.monotonic() + 0.05
    stage.engine.due.extend([asked, asked + 0.05])

    async def act() -> None:
        await stage.until(lambda: not stage.engine.due)

    stage.play(act)

    first, second, *_ = stage.engine.timer_calls
    assert first >= asked - 0.001
    assert second >= asked + 0.049
    assert bytes(10) + b"timer" in stage.device.outgoing


def test_a_deadline_that_a_packet_brings_forward_is_kept(stage: Stage) -> None:
    stage.engine.due.append(time.monotonic() + 3600)

    async def act() -> None:
        stage.engine.due.appendleft(time.monotonic() + 0.01)
        stage.device.inject(b"one")
        await stage.until(lambda: bool(stage.engine.timer_calls))

    stage.play(act)


def test_a_timer_that_fails_is_not_tried_without_end(stage: Stage) -> None:
    stage.engine.timer_error = ValueError("again")
    stage.engine.due.append(time.monotonic())

    async def act() -> None:
        await stage.until(lambda: bool(stage.engine.timer_calls))
        await asyncio.sleep(0.1)
        stage.device.inject(b"one")
        await stage.until(lambda: bool(stage.engine.received))

    stage.play(act)

    assert len(stage.engine.timer_calls) == 1
    assert stage.service.counters.internal_errors == 1


def test_a_deadline_that_does_not_move_does_not_spin(stage: Stage) -> None:
    stage.engine.is_stuck = True
    stage.engine.due.append(float("-inf"))

    async def act() -> None:
        await asyncio.sleep(0.1)

    stage.play(act)

    assert 1 <= len(stage.engine.timer_calls) <= 110


def test_a_lost_device_ends_the_service_at_once(stage: Stage) -> None:
    async def act() -> None:
        stage.device.lose()
        async with asyncio.timeout(5):
            while stage.service.is_running:
                await asyncio.sleep(0.001)

    with pytest.raises(DeviceLostError, match="memory0 has gone away"):
        stage.play(act)


def test_a_device_lost_while_a_timer_writes_ends_the_service(stage: Stage) -> None:
    stage.engine.due.append(time.monotonic() + 0.02)

    async def act() -> None:
        asyncio.get_running_loop().remove_reader(stage.device.fileno())
        stage.device.lose()
        await stage.until(lambda: not stage.service.is_running)

    with pytest.raises(DeviceLostError):
        stage.play(act)


@pytest.mark.parametrize(("number", "is_final"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_stop_signal_ends_the_service_for_a_while_or_for_good(stage: Stage, number: signal.Signals, is_final: bool) -> None:
    async def act() -> None:
        os.kill(os.getpid(), number)
        await stage.until(lambda: not stage.service.is_running)

    stage.play(act)

    assert stage.service.is_final == is_final


def test_sigusr1_logs_the_counters(stage: Stage) -> None:
    async def act() -> None:
        stage.engine.events.append(PacketDropped(DropReason.NO_FLOW))
        stage.device.inject(b"one")
        await stage.until(lambda: bool(stage.engine.received))
        os.kill(os.getpid(), signal.SIGUSR1)
        await stage.until(lambda: bool(stage.logged("counters")))

    stage.play(act)

    (line,) = stage.logged("counters")
    assert (line["packets_read"], line["dropped"]) == (1, {"no_flow": 1})


def test_every_event_is_counted_and_logged_with_its_fields(stage: Stage) -> None:
    event = FlowRefused(CLIENT, SERVICE, RefusalReason.NO_ROUTE, "alert", hostname="www.example.com")

    async def act() -> None:
        stage.engine.events.extend([event, event])
        stage.device.inject(b"one")
        await stage.until(lambda: not stage.engine.events)

    stage.play(act)

    assert stage.service.counters.events == {"flow_refused": 2}
    line, _ = stage.logged("flow_refused")
    assert (line["level"], line["hostname"], line["client"]) == ("warning", "www.example.com", "192.0.2.7:40000")


def test_drops_are_all_counted_and_logged_once_with_a_summary(stage: Stage) -> None:
    async def act() -> None:
        stage.engine.events.extend([PacketDropped(DropReason.BAD_CHECKSUM)] * 50 + [PacketDropped(DropReason.NO_FLOW)])
        stage.device.inject(b"one")
        await stage.until(lambda: not stage.engine.events)

    stage.play(act)

    assert stage.service.counters.dropped == {"bad_checksum": 50, "no_flow": 1}
    logged = [(line["reason"], line.get("repeated")) for line in stage.logged("packet_dropped")]
    assert logged == [("bad_checksum", None), ("no_flow", None), ("bad_checksum", 49)]


def test_clients_that_come_to_nothing_do_not_flood_the_log_and_leave_their_lines_to_the_others(stage: Stage) -> None:
    count = 3 * int(LINES_AT_ONCE)
    flood: list[Event] = [FlowClosed(CLIENT, SERVICE, CloseReason.CLIENT_ABORTED, "peeking", 0.1)] * count
    served = FlowClosed(CLIENT, SERVICE, CloseReason.FINISHED, "both_fin", 1.0)

    async def act() -> None:
        stage.engine.events.extend([*flood, served])
        stage.device.inject(b"one")
        await stage.until(lambda: not stage.engine.events)

    stage.play(act)

    assert stage.service.counters.events == {"flow_closed": count + 1}
    written = stage.logged("flow_closed")
    assert len(written) < LINES_AT_ONCE * 1.5
    assert [line["state"] for line in written if line.get("reason") == "finished"] == ["both_fin"]
    assert written[-1]["reasons"] == {"client_aborted": written[-1]["repeated"]}
    assert len(written) - 1 + written[-1]["repeated"] == count + 1


def test_what_is_below_the_level_is_counted_and_not_logged() -> None:
    before = structlog.get_config()
    stage = Stage("error")
    try:

        async def act() -> None:
            stage.engine.events.append(FlowRefused(CLIENT, SERVICE, RefusalReason.NO_ROUTE, "alert"))
            stage.device.inject(b"one")
            await stage.until(lambda: not stage.engine.events)

        stage.play(act)

        assert stage.service.counters.events == {"flow_refused": 1}
        assert stage.stream.getvalue() == ""
    finally:
        stage.device.close()
        structlog.configure(**before)


def test_packets_that_the_kernel_refuses_are_counted_by_errno(stage: Stage) -> None:
    async def act() -> None:
        stage.device.refused.update(EINVAL=3, EIO=1)
        stage.device.inject(b"one")
        await stage.until(lambda: bool(stage.service.counters.refused))

    stage.play(act)

    assert stage.service.counters.refused == {"EINVAL": 3, "EIO": 1}
    assert stage.device.refused == {}
    told = [(line["errno"], line.get("repeated")) for line in stage.logged("write_refused")]
    assert told == [("EINVAL", None), ("EIO", None), ("EINVAL", 2)]


def fast_path_with(flows: int, capacity: int) -> MemoryPath:
    path = MemoryPath(capacity)
    for port in range(1, flows + 1):
        path.install(make(PLAIN, client_port=port))
    return path


def test_flows_that_the_fast_path_could_not_take_are_counted_by_errno_and_told_once() -> None:
    path = fast_path_with(flows=3, capacity=1)
    with opened(path) as stage:

        async def act() -> None:
            assert stage.service.counters.offload_refused == {"ENOSPC": 2}
            path.install(make(PLAIN, client_port=9))

        stage.play(act)

        assert stage.service.counters.offload_refused == {"ENOSPC": 3}
        assert path.refused == {}
        first, rest = stage.logged("offload_refused")
        assert (first["level"], first["errno"]) == ("warning", "ENOSPC")
        assert (rest["errno"], rest["repeated"]) == ("ENOSPC", 2)


def test_what_was_learnt_ages_though_no_packet_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "SWEEP_S", 0.01)
    stage = Stage()

    async def act() -> None:
        await stage.until(lambda: len(stage.engine.aged) >= 3)

    stage.play(act)
    assert stage.engine.aged == sorted(stage.engine.aged)


def test_what_the_fast_path_has_carried_is_counted_up_to_its_end() -> None:
    path = fast_path_with(flows=1, capacity=1)

    def carry(payload: bytes) -> None:
        frame = Frame(from_client(PLAIN, TcpHeader(49152, 443, 1, 2, tcp.ACK, 500), payload, client_port=1))
        assert path.receive(frame, time.monotonic()) is not None

    with opened(path) as stage:
        assert "carried" not in stage.service.counters.fields()

        async def act() -> None:
            carry(b"four")
            await stage.until(lambda: stage.service.counters.carried.packets == 1)  # the sweep's own work
            assert stage.service.counters.fields()["carried"] == {"packets": 1, "bytes": 4, "syns": 0}
            carry(b"seventy")

        stage.play(act)
        path.close()

        assert stage.service.counters.fields()["carried"] == {"packets": 2, "bytes": 11, "syns": 0}
        assert stage.service.counters.packets_read == 0


def test_the_engine_is_told_of_fins_that_the_fast_path_has_carried_and_its_timer_set_anew() -> None:
    path = MemoryPath(1)
    splice = make(PLAIN, client_port=1)
    splice.state = CODES[State.ESTABLISHED]
    path.install(splice)
    frame = Frame(from_client(PLAIN, TcpHeader(49152, 443, 8, 2, tcp.ACK | tcp.FIN, 500), b"", client_port=1))
    with opened(path) as stage:

        async def act() -> None:
            assert path.receive(frame, time.monotonic()) is not None
            stage.engine.due.append(time.monotonic() + 1.1)
            await stage.until(lambda: bool(stage.engine.timer_calls))

        stage.play(act)

        assert stage.engine.followed == [splice]


def test_packets_have_their_turn_between_many_flows_that_have_ended() -> None:
    count = 3 * FOLLOWED
    path = MemoryPath(count)
    path.sweep(time.monotonic())
    for port in range(1, count + 1):
        splice = make(PLAIN, client_port=port)
        splice.state = CODES[State.ESTABLISHED]
        path.install(splice)
        fin = from_client(PLAIN, TcpHeader(49152, 443, 8, 2, tcp.ACK | tcp.FIN, 500), b"", client_port=port)
        assert path.receive(Frame(fin), time.monotonic()) is not None
    with opened(path) as stage:
        followed = []

        async def act() -> None:
            for _ in range(3):
                followed.append(len(stage.engine.followed))
                await asyncio.sleep(0)
            await stage.until(lambda: len(stage.engine.followed) == count)

        stage.play(act)

        assert followed[0] < count
        assert len(set(followed)) > 1


def test_a_mistake_in_a_callback_of_the_loop_is_logged_like_any_other(stage: Stage) -> None:
    async def act() -> None:
        stage.engine.events.append("no event at all")  # type: ignore[arg-type]
        stage.device.inject(b"one")
        await stage.until(lambda: bool(stage.logged("internal_error")))
        stage.device.inject(b"two")
        await stage.until(lambda: len(stage.engine.received) == 2)

    stage.play(act)


def test_what_a_name_has_reaches_the_engine_and_its_packets_the_device(stage: Stage) -> None:
    address = IPv6Address("2001:db8:1::2")

    async def act() -> None:
        stage.service.note_addresses("web1.example.net", [address])
        stage.service.note_addresses("web1.example.net", None)

    stage.play(act)
    stage.service.note_addresses("late.example.net", None)
    assert stage.engine.noted == [("web1.example.net", [address]), ("web1.example.net", None)]
    assert stage.service.counters.packets_written == 2


def test_whoever_asked_for_a_kind_of_event_gets_it_and_no_other(stage: Stage) -> None:
    heard = list[str]()
    stage.service.on(NameWanted, lambda event: heard.append(event.name))

    async def act() -> None:
        stage.engine.events.append(NameWanted("web1.example.net"))
        stage.refuse_a_flow()
        await stage.until(lambda: bool(stage.service.counters.events["flow_refused"]))

    stage.play(act)
    assert heard == ["web1.example.net"]
    assert [line["name"] for line in stage.logged("name_wanted")] == ["web1.example.net"]
