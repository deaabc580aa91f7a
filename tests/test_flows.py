from collections.abc import Callable
from ipaddress import IPv6Address

import pytest
from flow_samples import BACKEND, CLIENT, PREFIX, SERVICE, flow, from_backend, to_service
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kracauer.flows import Flow, FlowTable, backend_key, client_key
from kracauer.replies import Endpoints
from kracauer.routes import Backend
from kracauer.tcp.record import Records
from kracauer.tcp.splice import Splice
from kracauer.tcp.state import CODES, SPLICED, Happening, State
from kracauer.translate.identification import Identifications

CAPACITY = 4
ports = st.integers(50_000, 50_005)


class FlowTableMachine(RuleBasedStateMachine):
    """A table next to plain dictionaries that say what should be found by which port."""

    def __init__(self) -> None:
        super().__init__()
        self.table = FlowTable(CAPACITY)
        self.by_client: dict[int, Flow] = {}
        self.by_backend: dict[int, Flow] = {}
        self.retired: list[Flow] = []

    def choose(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.by_client)))

    @rule(port=ports)
    def insert(self, port: int) -> None:
        new = flow(port)
        if port in self.by_client:
            with pytest.raises(ValueError, match="client key"):
                self.table.insert(new)
        else:
            self.table.insert(new)
            self.by_client[port] = new

    @precondition(lambda self: self.by_client)
    @rule(data=st.data(), port=ports)
    def bind(self, data: st.DataObject, port: int) -> None:
        chosen = self.by_client[self.choose(data)]
        self.by_backend = {at: holder for at, holder in self.by_backend.items() if holder is not chosen}
        if port in self.by_backend:
            with pytest.raises(ValueError, match="backend key"):
                self.table.bind(chosen, backend_key(from_backend(port)))
        else:
            self.table.bind(chosen, backend_key(from_backend(port)))
            self.by_backend[port] = chosen

    @precondition(lambda self: self.by_client)
    @rule(data=st.data())
    def unbind(self, data: st.DataObject) -> None:
        chosen = self.by_client[self.choose(data)]
        self.table.unbind(chosen)
        self.by_backend = {at: holder for at, holder in self.by_backend.items() if holder is not chosen}

    @precondition(lambda self: self.by_client)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        chosen = self.by_client[self.choose(data)]
        self.table.retire(chosen)
        if chosen not in self.retired:
            self.retired.append(chosen)

    @precondition(lambda self: self.by_client)
    @rule(data=st.data())
    def revive(self, data: st.DataObject) -> None:
        chosen = self.by_client[self.choose(data)]
        self.table.revive(chosen)
        self.retired = [other for other in self.retired if other is not chosen]

    @precondition(lambda self: self.by_client)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        chosen = self.by_client.pop(self.choose(data))
        self.table.remove(chosen)
        self.by_backend = {at: holder for at, holder in self.by_backend.items() if holder is not chosen}
        self.retired = [other for other in self.retired if other is not chosen]

    @invariant()
    def client_packets_find_their_flows(self) -> None:
        assert self.table.by_client == {client_key(to_service(port)): one for port, one in self.by_client.items()}
        assert list(self.table) == list(self.by_client.values())

    @invariant()
    def backend_packets_find_their_flows(self) -> None:
        assert self.table.by_backend == {backend_key(from_backend(port)): one for port, one in self.by_backend.items()}

    @invariant()
    def each_flow_knows_what_it_is_bound_to(self) -> None:
        bound = {id(one): from_backend(port) for port, one in self.by_backend.items()}
        assert all(one.from_backend == bound.get(id(one)) for one in self.by_client.values())

    @invariant()
    def the_flow_retired_first_is_the_first_to_make_room(self) -> None:
        assert self.table.oldest_retired is (self.retired[0] if self.retired else None)

    @invariant()
    def the_table_is_full_at_its_capacity(self) -> None:
        assert len(self.table) == len(self.by_client)
        assert self.table.is_full == (len(self.by_client) >= CAPACITY)


TestFlowTable = FlowTableMachine.TestCase
TestFlowTable.settings = settings(max_examples=80, stateful_step_count=30)


def test_the_clients_key_is_cut_from_the_packet_as_it_stands() -> None:
    assert client_key(to_service(0x1234)) == CLIENT + SERVICE + b"\x12\x34\x01\xbb"


def test_the_backends_key_is_cut_from_the_packet_as_it_stands() -> None:
    assert backend_key(from_backend(0x1234)) == BACKEND + PREFIX + CLIENT + b"\x20\xfb\x12\x34"


def test_a_flow_that_could_not_be_bound_is_found_by_no_backend() -> None:
    table, holder, other = FlowTable(9), flow(50_000), flow(50_001)
    table.insert(holder)
    table.insert(other)
    table.bind(holder, backend_key(from_backend(1)))
    table.bind(other, backend_key(from_backend(2)))
    with pytest.raises(ValueError, match="backend key"):
        table.bind(other, backend_key(from_backend(1)))
    assert other.from_backend is None
    assert list(table.by_backend.values()) == [holder]


def test_a_flow_may_be_bound_to_its_backend_again() -> None:
    table, one = FlowTable(9), flow()
    table.insert(one)
    table.bind(one, backend_key(from_backend()))
    table.bind(one, backend_key(from_backend()))
    assert list(table.by_backend.values()) == [one]


def test_a_flow_that_is_inserted_twice_is_there_once() -> None:
    table, one = FlowTable(9), flow()
    table.insert(one)
    table.insert(one)
    assert list(table) == [one]


@pytest.mark.parametrize("mark", [FlowTable.retire, FlowTable.revive])
def test_a_mark_changes_nothing_about_who_is_found(mark: Callable[[FlowTable, Flow], None]) -> None:
    table, one = FlowTable(9), flow()
    table.insert(one)
    mark(table, one)
    assert table.by_client[client_key(one.from_client)] is one


def test_a_flow_advances_as_the_state_table_says() -> None:
    one = flow()
    assert one.advance(Happening.ROUTED)
    assert one.state is State.DIALING
    assert not one.advance(Happening.RESET)
    assert one.state is State.DIALING


def test_a_new_flow_is_peeked_at_and_takes_no_shortcut() -> None:
    one = flow()
    assert one.state is State.PEEKING
    assert (one.fast, one.splice, one.from_backend, one.tick) == (None, None, None, None)


ADDRESS = Backend(IPv6Address(BACKEND), 8443)
words = st.integers(1, 0xFFFF)


def left_behind(
    client_port: int = 49152, service_port: int = 443, *, hostname: str | None = None, created: float = 5.0
) -> Splice:
    """A splice as an earlier process leaves it."""
    return Splice.begin(
        Records().take(),
        Identifications(1),
        v4_addresses=SERVICE + CLIENT,
        v6_addresses=PREFIX + CLIENT + BACKEND,
        service_port=service_port,
        backend_port=8443,
        client_port=client_port,
        seq_delta=7,
        ts_delta=0,
        has_timestamps=False,
        backend_acked=0,
        client_acked=0,
        window_shift_to_backend=0,
        window_shift_to_client=0,
        max_to_backend=1480,
        max_to_client=1500,
        unfragmented_to_backend=1260,
        now=9.0,
        client_isn=0x1234_5678,
        created=created,
        hostname=hostname,
    )


@given(words, words)
def test_a_flow_that_is_resumed_is_found_by_the_packets_that_it_was_found_by(client_port: int, service_port: int) -> None:
    one = Flow.resume(left_behind(client_port, service_port), State.ESTABLISHED, ADDRESS)
    assert one.from_client == Endpoints(CLIENT, SERVICE, client_port, service_port)
    assert one.client_key == client_key(one.from_client)
    assert (one.client, one.service) == (CLIENT, SERVICE)
    assert one.from_backend is None


@pytest.mark.parametrize("hostname", [None, "", "www.example.com"])
def test_a_flow_that_is_resumed_is_what_it_was(hostname: str | None) -> None:
    splice = left_behind(hostname=hostname)
    one = Flow.resume(splice, State.CLIENT_FIN, ADDRESS)
    assert (one.splice, one.state, one.backend, one.hostname, one.created) == (splice, State.CLIENT_FIN, ADDRESS, hostname, 5.0)
    assert one.client_isn == 0x1234_5678
    assert (one.handshake, one.dial, one.refusal, one.delivery, one.route, one.tick) == (None,) * 6


@pytest.mark.parametrize("state", sorted(SPLICED))
def test_a_flow_with_a_splice_writes_down_where_it_stands(state: State) -> None:
    """And that it stands nowhere any more when it has ended."""
    one = Flow.resume(left_behind(), state, ADDRESS)
    assert one.splice is not None
    for happening in (Happening.RESET, Happening.REVIVED, Happening.CLIENT_FIN, Happening.BACKEND_FIN):
        if one.advance(happening):
            assert one.splice.state == CODES[one.state]
    one.advance(Happening.ENDED)
    assert (one.state, one.splice.state) == (State.CLOSED, 0)


def test_a_record_that_has_been_begun_counts_as_free() -> None:
    assert left_behind().state == 0


def test_a_flow_without_a_splice_has_the_clients_number_from_its_handshake() -> None:
    one = flow()
    assert one.client_isn == 1000
    one.handshake = None
    assert one.client_isn == 0
