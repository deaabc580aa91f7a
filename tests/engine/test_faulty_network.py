"""Whatever the network does to a connection, both ends finally hold the same bytes, and the engine forgets them."""

import pytest
from endpoints import LINK_S, USUAL, Close, End, Fate, Network, Stack
from engines import make_engine
from hellos import bulk, client_hello
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from script import EPOCH, SECRET, backend_side, client_side, config

from kracauer.events import FlowSpliced

LOST: Fate = ()
FAULTS: tuple[Fate, ...] = (LOST, (LINK_S, LINK_S), (LINK_S, 0.7), (LINK_S, 4.0), (0.05,), (0.35,), (2.0,))
MAX_LOST = 5

RESPONSE = bulk(9000)
LINUX = Stack()
STACKS = {
    "linux": LINUX,
    "no timestamps": Stack(timestamps=False),
    "no scale": Stack(window_scale=None),
    "bare": Stack(mss=536, window_scale=None, sack=False, timestamps=False, window=8192),
    "small bursts": Stack(burst=1),
    "other scale": Stack(window_scale=2, window=60_000),
}


def connect(
    fates: list[Fate],
    *,
    hello: bytes,
    client_stack: Stack = LINUX,
    backend_stack: Stack = LINUX,
    client_close: Close = Close.AFTER_PEER,
    backend_close: Close = Close.AT_ONCE,
) -> tuple[Network, End, End]:
    request = hello + bulk(500)
    client = End(client_side(), 0xFFFF_FA00, request, client_stack, client_close, is_client=True)
    backend = End(backend_side(), 0x7000_0000, RESPONSE, backend_stack, backend_close, is_client=False, awaits=len(hello))
    lost = 0
    bounded = []
    for fate in fates:
        lost += fate == LOST
        bounded.append(USUAL if fate == LOST and lost > MAX_LOST else fate)
    network = Network(make_engine(config(), secret=SECRET, now=EPOCH), [client, backend], bounded, EPOCH)
    network.run(100.0)
    return network, client, backend


def check(network: Network, client: End, backend: End) -> None:
    said = "\n".join(network.log)
    assert not client.complaints, f"{client.complaints}\n{said}"
    assert not backend.complaints, f"{backend.complaints}\n{said}"
    assert not client.is_reset, said
    assert not backend.is_reset, said
    assert not network.strangers, said
    assert bytes(backend.received) == client.data, said
    assert bytes(client.received) == backend.data, said
    assert client.is_done, said
    assert backend.is_done, said
    assert backend.connections == 1, said
    assert sum(isinstance(event, FlowSpliced) for event in network.events) == 1, said
    network.drain_timers()
    assert len(network.engine.flows) == 0, said
    assert not network.engine.flows.by_backend, said


HELLOS = {"one segment": client_hello("www.example.com", 500), "three segments": client_hello("www.example.com", 3500)}
fates = st.lists(st.sampled_from((USUAL, USUAL, *FAULTS)), max_size=40)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    fates=fates,
    hello=st.sampled_from(sorted(HELLOS)),
    client_stack=st.sampled_from(sorted(STACKS)),
    backend_stack=st.sampled_from(sorted(STACKS)),
    closes=st.sampled_from(
        ((Close.AFTER_PEER, Close.AT_ONCE), (Close.AT_ONCE, Close.AFTER_PEER), (Close.AT_ONCE, Close.AT_ONCE))
    ),
)
def test_both_ends_finally_hold_the_same_bytes(
    fates: list[Fate], hello: str, client_stack: str, backend_stack: str, closes: tuple[Close, Close]
) -> None:
    check(
        *connect(
            fates,
            hello=HELLOS[hello],
            client_stack=STACKS[client_stack],
            backend_stack=STACKS[backend_stack],
            client_close=closes[0],
            backend_close=closes[1],
        )
    )


@pytest.mark.parametrize("hello", sorted(HELLOS))
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("position", range(24))
def test_any_one_fault_is_survived(position: int, fault: Fate, hello: str) -> None:
    check(*connect([*[USUAL] * position, fault], hello=HELLOS[hello]))
