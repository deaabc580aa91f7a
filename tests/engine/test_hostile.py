"""Hostile input: nothing raises, nothing reaches a flow that it does not belong to, and the timers always make progress."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packets import FLAGS, Packet, build
from script import Conversation, backend_side, client_side

from kracauer.events import PacketDropped
from kracauer.tcp.record import RECORD_BYTES
from kracauer.tcp.splice import Splice
from kracauer.translate.identification import Identifications
from kracauer.wire.buffer import Frame

SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck))
PORTS = {"peeking": 40001, "dialing": 40002, "refusing": 40003, "established": 40004, "client_fin": 40005, "relieved": 40006}
OPEN = """
    0.00  C> S  c    win=64240 mss=1460 sackOK ts=500:0 ws=7
          C< SA s    ack=c+1 win=65535 mss=1440 sackOK ts=t:500 ws=7
    0.01  C> A  c+1  ack=s+1 ts=501:t
"""
SPLICE = """
    0.02  C> PA c+1  ack=s+1 ts=502:t data=hello
          B< S  c    win=65535 mss=1440 sackOK ts=502:0 ws=7
    0.03  B> SA b    ack=c+1 win=65535 mss=1440 sackOK ts=9000:502 ws=7
          B< PA c+1  ack=b+1 ts=502:9000 data=hello
"""
SCRIPTS = {
    "peeking": OPEN + "0.02 C> A c+1 ack=s+1 ts=502:t data=hello[:9]",
    "dialing": OPEN + SPLICE.partition("0.03")[0],
    "refusing": OPEN + "0.02 C> PA c+1 ack=s+1 ts=502:t data=b'?' \n C< FPA s+1 ack=c+2 win=512 ts=t:502 data=alert",
    "established": OPEN + SPLICE,
    "client_fin": OPEN + SPLICE + "C> FA c+1+H ack=s+1 ts=503:t \n B< FA c+1+H ack=b+1 ts=503:9000",
    "relieved": OPEN
    + """
    0.02  C> A  c+1  ack=s+1 ts=502:t data=hello[:50]
    0.03  C> A  c+1  ack=s+1 ts=503:t data=hello[:50]
          C< A  s+1  ack=c+51 win=639 ts=t:503
          C> PA c+51 ack=s+1 ts=504:t data=hello[50:]
          B< S  c    win=65535 mss=1440 sackOK ts=504:0 ws=7
          B> SA b    ack=c+1 win=65535 mss=1440 sackOK ts=9000:502 ws=7
          B< PA c+1  ack=b+1 ts=504:9000 data=hello
    """,
}
ALERT = bytes((21, 3, 3, 0, 2, 2, 10))


def populated() -> Conversation:
    """An engine with one flow in each state, each of a client port of its own."""
    talk = Conversation(alert=ALERT)
    for state, port in PORTS.items():
        other = Conversation(
            engine=talk.engine,
            alert=ALERT,
            sides={"C": client_side(port=port), "B": backend_side(client_port=port)},
        )
        other.play(SCRIPTS[state])
        other.take_sent()
    talk.now += 0.1
    return talk


def snapshot(value: Any, depth: int = 0) -> Any:
    """Everything that is a flow's own, as something that can be compared."""
    if depth > 6 or callable(value) or isinstance(value, Identifications):  # the last is shared by all flows
        return None
    if value is None or isinstance(value, int | float | str | bytes):
        return value
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, Splice):
        return bytes(value.memory[value.at : value.at + RECORD_BYTES])
    if isinstance(value, list | tuple):
        return [snapshot(item, depth + 1) for item in value]
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    return {name: snapshot(getattr(value, name, None), depth + 1) for name in names}


def snapshots(talk: Conversation) -> dict[int, Any]:
    return {flow.from_client.src_port: snapshot(flow) for flow in talk.engine.flows}


def drain(talk: Conversation) -> Iterator[object]:
    while (event := talk.engine.next_event()) is not None:
        yield event


def receive(talk: Conversation, data: bytes, vnet: bytes) -> list[object]:
    frame = Frame()
    frame.buffer[:] = bytes([0x45]) * len(frame.buffer)  # what an earlier packet left behind must not matter
    frame.load(data, vnet)
    for packet in talk.engine.receive(frame, talk.now):
        assert len(packet) > 10
    return list(drain(talk))


def finish(talk: Conversation) -> None:
    """Let every timer fire: each step must take the deadlines on."""
    steps = 0
    while (deadline := talk.engine.next_deadline()) is not None:
        talk.now = max(talk.now, deadline)
        talk.engine.handle_timer(talk.now)
        following = talk.engine.next_deadline()
        assert following is None or following > talk.now
        steps += 1
        assert steps < 1000
    assert len(talk.engine.flows) == 0
    assert not talk.engine.flows.by_backend


vnets = st.one_of(
    st.just(bytes(10)),
    st.binary(min_size=10, max_size=10),
    st.tuples(st.sampled_from((0, 1, 2, 3)), st.sampled_from((0, 1, 4, 0x81, 3)), st.binary(min_size=8, max_size=8)).map(
        lambda parts: bytes(parts[:2]) + parts[2]
    ),
)


versioned = st.tuples(st.sampled_from((b"\x45", b"\x46", b"\x60")), st.binary(max_size=90)).map(b"".join)


@settings(SLOW, max_examples=200)
@given(data=st.binary(max_size=120) | versioned, vnet=vnets)
def test_garbage_is_dropped_and_touches_no_flow(data: bytes, vnet: bytes) -> None:
    talk = populated()
    before = snapshots(talk)
    events = receive(talk, data, vnet)
    assert all(isinstance(event, PacketDropped) for event in events)
    assert len(events) == 1
    assert snapshots(talk) == before


numbers = st.integers(0, 2**32 - 1)


@st.composite
def packets(draw: st.DrawFn, port: int) -> Packet:
    """A well-formed segment from either end of the flow of `port`, its numbers near the right ones or anywhere."""
    side = draw(st.sampled_from((client_side(port=port), backend_side(client_port=port))))
    near = st.integers(-3, 90)
    return Packet(
        src=side.src,
        dst=side.dst,
        src_port=side.src_port,
        dst_port=side.dst_port,
        flags=draw(st.sets(st.sampled_from("FSRPAAUEWN")).map(lambda chosen: sum(FLAGS[letter] for letter in chosen))),
        seq=draw(near.map(lambda near: (0x1000_0000 + near) % 2**32) | near.map(lambda near: 0xB000_0000 + near) | numbers),
        ack=draw(near.map(lambda near: (0x1000_0000 + near) % 2**32) | near.map(lambda near: 0xB000_0000 + near) | numbers),
        window=draw(st.integers(0, 65535)),
        options=draw(st.sampled_from(((), ("ts=5:6",), ("sack=1-2,3-4",), ("opt=1e03ff",), ("opt=08030101",)))),
        payload=draw(st.binary(max_size=60)),
    )


@settings(SLOW, max_examples=200)
@given(data=st.data(), state=st.sampled_from(sorted(PORTS)), vnet=vnets, cut=st.none() | st.integers(0, 110))
def test_a_packet_of_one_flow_touches_no_other(data: st.DataObject, state: str, vnet: bytes, cut: int | None) -> None:
    talk = populated()
    before = snapshots(talk)
    for packet in data.draw(st.lists(packets(PORTS[state]), min_size=1, max_size=6)):
        raw = bytearray(build(packet)[1])
        ours = [*range(12), *range(24, len(raw))] if packet.version == 4 else [*range(8), *range(44, len(raw))]
        for at, value in data.draw(st.lists(st.tuples(st.sampled_from(ours), st.integers(0, 255)), max_size=3)):
            raw[at] = value  # anywhere but in addresses and ports
        receive(talk, bytes(raw[:cut]), vnet)
    after = snapshots(talk)
    del before[PORTS[state]]
    after.pop(PORTS[state], None)
    assert {port: after[port] for port in before} == before
    finish(talk)
