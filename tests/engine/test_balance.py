"""Clients are spread over backends by their address: in the shares wanted, always the same way, and nobody moves in vain."""

from collections import Counter, deque
from ipaddress import IPv6Address

import pytest
from engine_kinds import alone
from hypothesis import given, settings
from hypothesis import strategies as st
from probed import Client, Network, probed_config

from kracauer.config import Probes
from kracauer.engine.balance import Balancer, Choice
from kracauer.engine.health import Health
from kracauer.routes import Backend, Balance

pytestmark = alone  # nothing is said to a backend that was chosen
SECRET = bytes(range(32))
CLIENTS = [number.to_bytes(4, "big") for number in range(0xC0000200, 0xC0000200 + 4000)]
BACKENDS = [Backend(IPv6Address(f"2001:db8:1::{number:x}"), 443) for number in range(1, 12)]
NEW = BACKENDS.pop()


class _Health(Health):
    """One that is known to have `down` down."""

    def __init__(self, down: frozenset[Backend]) -> None:
        super().__init__(Probes(), deque())
        self._down = down

    def is_usable(self, backend: Backend, _client: bytes, _now: float) -> bool:
        return backend not in self._down


def pick(of: list[Choice], down: frozenset[Backend] = frozenset(), secret: bytes = SECRET) -> dict[bytes, Backend]:
    """Where each client is led first."""
    balancer = Balancer(_Health(down), secret)
    return {client: balancer.order(of, Balance.CLIENT, client, 0.0)[0] for client in CLIENTS}


def choices(*weights: float, drained: int | None = None) -> list[Choice]:
    return [Choice(BACKENDS[index], weight, index == drained) for index, weight in enumerate(weights)]


@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1, 1), (2, 1), (10, 3, 1), (0.5, 0.5, 1)])
def test_shares_are_as_the_weights(weights: tuple[float, ...]) -> None:
    counts = Counter(pick(choices(*weights)).values())
    for index, weight in enumerate(weights):
        assert counts[BACKENDS[index]] / len(CLIENTS) == pytest.approx(weight / sum(weights), abs=0.03)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=8), st.integers(0, 7))
@settings(max_examples=15, deadline=None)
def test_nobody_moves_but_to_the_backend_that_comes(weights: list[int], at: int) -> None:
    before = pick(choices(*weights))
    more = choices(*weights)
    more.insert(at % (len(weights) + 1), Choice(NEW, 2))
    after = pick(more)
    assert {after[client] for client in CLIENTS if after[client] != before[client]} == {NEW}


@given(st.lists(st.integers(1, 5), min_size=2, max_size=8), st.integers(0, 7))
@settings(max_examples=15, deadline=None)
def test_nobody_moves_but_from_the_backend_that_goes_is_down_or_is_emptied(weights: list[int], at: int) -> None:
    gone = at % len(weights)
    before = pick(choices(*weights))
    fewer = choices(*weights)
    del fewer[gone]
    after = pick(fewer)
    assert {before[client] for client in CLIENTS if after[client] != before[client]} == {BACKENDS[gone]}
    assert pick(choices(*weights), frozenset({BACKENDS[gone]})) == after
    assert pick(choices(*weights, drained=gone)) == after


def test_the_order_of_the_configuration_does_not_matter() -> None:
    assert pick(choices(1, 2, 3)) == pick(choices(1, 2, 3)[::-1])


def test_another_secret_leads_elsewhere() -> None:
    """So nobody can tell from the outside what address would lead to which backend."""
    here, there = pick(choices(1, 1)), pick(choices(1, 1), secret=bytes(32))
    assert 0.4 < sum(here[client] == there[client] for client in CLIENTS) / len(CLIENTS) < 0.6


def test_a_clients_next_backend_is_its_own_too() -> None:
    """Those of one that fails are spread over all others, not heaped on one."""
    down = frozenset({BACKENDS[0]})
    before, after = pick(choices(1, 1, 1, 1)), pick(choices(1, 1, 1, 1), down=down)
    moved = Counter(after[client] for client in CLIENTS if before[client] == BACKENDS[0])
    assert len(moved) == 3
    assert min(moved.values()) > 0.2 * sum(moved.values())


def test_what_is_emptied_comes_before_what_is_down() -> None:
    assert set(pick(choices(1, 1, drained=0), down=frozenset({BACKENDS[1]})).values()) == {BACKENDS[0]}


SPREAD = '[hosts."www.example.com"]\nbalance = "client"\nbackends = ["2001:db8:1::2", "2001:db8:1::3", "2001:db8:1::4"]\n'
DRAINED = """
"www.example.com" = [{ address = "2001:db8:1::2", drain = true }, "2001:db8:1::3"]
"""


def spread(network: Network, number: int = 60) -> list[str]:
    backends = []
    for index in range(number):
        client = Client(network, f"192.0.2.{index + 1}", port=41000)
        backends.append(client.backend)
        client.accept()
    return backends


def test_clients_are_spread_and_each_comes_back_to_the_same_backend_also_after_a_restart() -> None:
    first = spread(Network(probed_config(SPREAD)))
    assert len(set(first)) == 3
    assert spread(Network(probed_config(SPREAD))) == first


def test_a_backend_to_be_emptied_gets_no_new_connection_and_keeps_those_it_has() -> None:
    network = Network(probed_config('"www.example.com" = ["2001:db8:1::2", "2001:db8:1::3"]\n'))
    Client(network).accept()
    network.engine.reconfigure(probed_config(DRAINED), network.now)
    assert Client(network, port=40001).backend == "2001:db8:1::3"
    assert network.status("2001:db8:1::2").flows == 1
    assert network.status("2001:db8:1::2").is_draining


def test_a_backend_to_be_emptied_takes_over_when_no_other_is_left() -> None:
    network = Network(probed_config(DRAINED))
    network.tell("2001:db8:1::3", "refuse")
    network.run(30)
    assert Client(network).backend == "2001:db8:1::2"
