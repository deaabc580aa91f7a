"""No client is given more of what all share than an eighth of what it leaves free, and what is counted is what there is."""

import itertools
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hellos import client_hello
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from script import config
from visitors import CLIENT_ISN, HELLO, UNKNOWN, House, Visitor, visitors

from kracauer.config import Config, Limits
from kracauer.engine.fairness import FREE_PER_HELD, LARGEST_HELD_BYTES, MAX_RESTING, SMALLEST_SHARED_BYTES, ClientShares
from kracauer.errors import Dropped

SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck))
ONE, TWO, THREE = "192.0.2.7", "192.0.2.8", "198.51.100.7"


def limited(**limits: float) -> Config:
    return config("[limits]\n" + "".join(f"{key} = {value}\n" for key, value in limits.items()))


def network_of(address: bytes, length: int) -> int:
    return int.from_bytes(address, "big") >> 32 - length


def assert_counts_are_right(house: House) -> None:
    """The obvious twin of the counts: a walk through the table."""
    context = house.engine._context
    shares, length = context.shares, context.config.limits.client_prefix_length
    flows: Counter[int] = Counter()
    unproven: Counter[int] = Counter()
    held: Counter[int] = Counter()
    for flow in house.engine.flows:
        network = network_of(flow.client, length)
        flows[network] += str(flow.state) not in {"both_fin", "transitory"}
        unproven[network] += str(flow.state) in {"peeking", "dialing", "refusing"}
        held[network] += 0 if flow.handshake is None else flow.handshake.held.held_bytes
    assert (shares.flows, shares.unproven, shares.held_bytes) == (flows.total(), unproven.total(), held.total())
    for address in {flow.client for flow in house.engine.flows}:
        share, network = shares.share_of(address), network_of(address, length)
        assert (share.flows, share.unproven, share.held_bytes) == (flows[network], unproven[network], held[network])
    if not context.config.limits.new_per_second_per_client and not shares._resting:
        assert len(shares) == len({network for count in (flows, unproven, held) for network in +count})


STEPS = ("open", "splice", "accept", "refuse", "finish", "reset", "abort", "go_on", "part", "gap", "unknown", "renew")
steps = st.tuples(st.sampled_from(STEPS) | st.sampled_from(("open", "splice")), st.integers(0, 5))
waits = st.tuples(st.just("wait"), st.sampled_from((1, 12, 300)))
changes = st.tuples(st.just("change"), st.integers(0, 3))
LIMITS = (
    {"flows": 12, "held_bytes": 65536},
    {"flows": 12, "unproven": 10, "client_prefix_length": 24},
    {"flows": 3, "unproven_per_client": 1, "new_per_second_per_client": 1},
    {"flows": 100, "flows_per_client": 1, "client_prefix_length": 8},
)


def take(visitor: Visitor, step: str) -> None:
    match step:
        case "part":
            visitor.say(HELLO[:20])
        case "gap":
            visitor.say(HELLO[30:50], 30)
        case "unknown":
            visitor.say(UNKNOWN)
        case "renew":
            visitor.open()
        case _:
            getattr(visitor, step)()


@settings(SLOW, max_examples=150)
@given(st.lists(steps | waits | changes, max_size=40))
def test_whatever_happens_the_counts_are_those_of_the_table(script: list[tuple[str, int]]) -> None:
    house = House(limited(**LIMITS[0]))
    crowd = [Visitor(house, address, port) for address in (ONE, TWO, THREE) for port in (20000, 20001)]
    for step, argument in script:
        if step == "wait":
            house.wait(argument)
        elif step == "change":
            house.engine.reconfigure(limited(**LIMITS[argument]), house.now)
        else:
            take(crowd[argument], step)
        assert_counts_are_right(house)
    house.wait(20_000)
    assert len(house.engine.flows) == 0
    assert_counts_are_right(house)


@settings(SLOW, max_examples=60)
@given(
    capacity=st.integers(1, 100),
    order=st.lists(st.integers(0, 3), min_size=60, max_size=120),
)
def test_greedy_clients_leave_a_share_to_whoever_comes_late(capacity: int, order: list[int]) -> None:
    """Each is admitted while it holds less than an eighth of what is free; whoever holds nothing is admitted to the last."""
    house = House(limited(flows=capacity))
    ports = iter(range(20000, 30000))
    holding: Counter[int] = Counter()
    for client in order:
        visitor = Visitor(house, f"192.0.2.{client + 1}", next(ports))
        free = capacity - holding.total()
        is_admitted = visitor.open()
        assert is_admitted is (FREE_PER_HELD * holding[client] < free)
        holding[client] += is_admitted
    if holding.total() < capacity:
        assert Visitor(house, "203.0.113.9").open()


def test_one_greedy_client_gets_a_ninth_of_the_table_and_another_a_ninth_of_the_rest() -> None:
    house = House(limited(flows=81))
    assert sum(visitor.open() for visitor in visitors(house, ONE, 100)) == 9
    assert house.drops == {"client_full": 91}
    assert house.details[-1] == "fair share of limits.flows: 81"
    assert sum(visitor.open() for visitor in visitors(house, TWO, 100)) == 8


def test_nine_greedy_clients_that_come_together_leave_eight_seventeenths_to_newcomers() -> None:
    house = House(limited(flows=170))
    ports = iter(range(20000, 30000))
    for _ in range(50):
        for client in range(9):
            Visitor(house, f"192.0.2.{client + 1}", next(ports)).open()
    shares = house.engine._context.shares
    assert {shares.share_of(IPv4Address(f"192.0.2.{client + 1}").packed).flows for client in range(9)} == {10}
    assert len(house.engine.flows) == 90


def fill(shares: ClientShares, client: bytes) -> int:
    """How many flows of `client` there is room for."""
    for count in itertools.count():
        try:
            shares.check_opening(client, 0.0)
        except Dropped:
            return count
        shares.count_flow(client, 1)
    raise AssertionError


def test_seventeen_clients_that_fill_the_usual_table_one_after_the_other_leave_an_eighth() -> None:
    shares = ClientShares(Limits())
    assert fill(shares, bytes(4)) == 7282
    for number in range(1, 17):
        fill(shares, number.to_bytes(4, "big"))
    assert 0.13 < (65_536 - shares.flows) / 65_536 < 0.14
    assert fill(shares, b"\xc0\x00\x02\x07") > 950


@pytest.mark.parametrize(("capacity", "expected"), [(1, 1), (2, 1), (9, 1), (10, 2), (18, 2), (19, 3), (54, 6)])
def test_a_table_however_small_lets_a_lone_client_in(capacity: int, expected: int) -> None:
    """A browser opens six connections at once: a table for one of them has 46 places at least."""
    house = House(limited(flows=capacity))
    assert sum(visitor.open() for visitor in visitors(house, ONE, 10)) == expected
    assert Visitor(house, TWO).open() is (expected < capacity)


def test_a_full_table_is_called_full_and_not_a_clients_fault() -> None:
    house = House(limited(flows=1))
    Visitor(house, ONE).open()
    Visitor(house, TWO).open()
    assert house.drops == {"table_full": 1}


def test_a_flood_that_fills_its_share_ends_no_connection_that_has_a_backend() -> None:
    house = House(limited(flows=20))
    friend = Visitor(house, ONE)
    friend.open()
    friend.splice()
    for address in (TWO, THREE, "203.0.113.9"):
        for visitor in visitors(house, address, 50):
            if visitor.open():
                visitor.splice()
    assert friend.is_in
    assert {event.event for event in house.events} == {"flow_spliced"}
    assert len(house.engine.flows) < 20


def test_a_finished_connection_counts_for_nobody() -> None:
    """It is kept for stragglers, and makes room."""
    house = House(limited(flows=4))
    for visitor in visitors(house, ONE, 20):
        assert visitor.open()
        visitor.splice()
        visitor.finish()
    assert house.drops == {}
    assert len(house.engine.flows) == 4


def test_one_that_goes_on_after_a_reset_counts_again() -> None:
    house = House(limited(flows=2))
    first, second = visitors(house, ONE, 2)
    first.open()
    first.splice()
    first.reset()
    assert house.engine._context.shares.flows == 0
    first.go_on()
    assert house.engine._context.shares.flows == 1
    assert not second.open()


def test_half_open_connections_have_a_limit_of_their_own() -> None:
    house = House(limited(unproven=2, unproven_per_client=100))
    first, second, third = (Visitor(house, address) for address in (ONE, TWO, THREE))
    assert first.open()
    assert second.open()
    assert not third.open()
    assert (house.drops, house.details) == ({"unproven_full": 1}, ["limits.unproven: 2"])
    first.splice()
    assert third.open()


def test_one_client_gets_a_ninth_of_them() -> None:
    house = House(limited(unproven=45))
    assert sum(visitor.open() for visitor in visitors(house, ONE, 10)) == 5
    assert house.details[-1] == "fair share of limits.unproven: 45"


def test_one_that_is_being_told_no_is_one_of_them() -> None:
    house = House(limited(unproven=1))
    first, second = Visitor(house, ONE), Visitor(house, TWO)
    first.open()
    first.say(UNKNOWN)
    assert not second.open()
    house.wait(12)
    assert second.open()


def test_a_limit_for_each_client_comes_on_top() -> None:
    house = House(limited(flows_per_client=3))
    for visitor in visitors(house, ONE, 5):
        if visitor.open():
            visitor.splice()
    assert (len(house.engine.flows), set(house.details)) == (3, {"limits.flows_per_client: 3"})
    assert Visitor(house, TWO).open()


def test_addresses_of_one_network_are_one_client() -> None:
    house = House(limited(flows_per_client=1, client_prefix_length=24))
    assert Visitor(house, ONE).open()
    assert not Visitor(house, TWO).open()
    assert Visitor(house, THREE).open()


def long_hello(size: int) -> bytes:
    """A hello in as many records as it takes (RFC 8446 §5.1)."""
    message = client_hello("www.example.com", size)[5:]
    pieces = [message[at : at + 16_384] for at in range(0, len(message), 16_384)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


LONGEST = long_hello(65_500)


def hold(visitor: Visitor, size: int, step: int = 1000) -> None:
    """Say the first `size` bytes of a message that goes on, whether they are heard or not."""
    for start in range(0, size, step):
        visitor.say(LONGEST[start : start + step], start)


# One connection at a time is exempt from its client's share.
SHARED_BYTES = SMALLEST_SHARED_BYTES - LARGEST_HELD_BYTES


def test_one_client_cannot_hold_more_than_a_ninth_of_all_that_is_held_and_one_message() -> None:
    house = House(limited(held_bytes=SMALLEST_SHARED_BYTES, unproven_per_client=1000))
    for visitor in visitors(house, ONE, 40):
        visitor.open()
        hold(visitor, 16_000)
    held = house.engine._context.shares.held_bytes
    assert SHARED_BYTES // 9 <= held < SHARED_BYTES // 9 + 1000 + 16_000
    assert set(house.details) == {f"fair share of limits.held_bytes: {SMALLEST_SHARED_BYTES}"}
    newcomer = Visitor(house, TWO)
    newcomer.open()
    newcomer.splice()
    assert [event.event for event in house.events] == ["flow_spliced"]


def test_clients_that_hold_all_they_may_one_after_the_other_leave_a_newcomer_room() -> None:
    """Seventeen leave an eighth: far more than a hello."""
    house = House(limited(held_bytes=4 * SMALLEST_SHARED_BYTES, unproven_per_client=1000))
    for number in range(17):
        for visitor in visitors(house, f"198.51.100.{number + 10}", 30):
            visitor.open()
            hold(visitor, 16_000)
    newcomer = Visitor(house, TWO)
    newcomer.open()
    newcomer.splice()
    assert [event.event for event in house.events] == ["flow_spliced"]


class Sender:
    """A client that says a long message as TCP does: the first piece that is not acknowledged it repeats."""

    PIECE = 1000

    def __init__(self, visitor: Visitor, message: bytes) -> None:
        self.visitor = visitor
        self.message = message
        self.acknowledged = 0
        visitor.open()
        for start in range(0, len(message), self.PIECE):
            self._say(start)

    def repeat(self) -> None:
        self._say(self.acknowledged)

    def _say(self, start: int) -> None:
        for answer in self.visitor.say(self.message[start : start + self.PIECE], start):
            if len(answer.dst) == 4 and not answer.payload:
                self.acknowledged = max(self.acknowledged, answer.ack - CLIENT_ISN - 1)


def states(house: House) -> Counter[str]:
    return Counter(str(flow.state) for flow in house.engine.flows)


@pytest.mark.parametrize(
    ("held_bytes", "size", "count"),
    [
        pytest.param(65_536, 30_000, 2, id="two in the smallest pool"),
        pytest.param(65_536, 30_000, 5, id="five in the smallest pool"),
        pytest.param(2 * LARGEST_HELD_BYTES, 60_000, 4, id="a pool for two"),
        pytest.param(SMALLEST_SHARED_BYTES - 1, 60_000, 20, id="the largest pool that is not shared out"),
        pytest.param(SMALLEST_SHARED_BYTES, 60_000, 20, id="the smallest that is"),
    ],
)
@pytest.mark.parametrize("has_one_address", [False, True], ids=["many addresses", "one address"])
def test_messages_that_wait_for_each_others_end_all_come_to_theirs(
    held_bytes: int, size: int, count: int, has_one_address: bool
) -> None:
    """All begin at once, and none of them fits beside the others; piece by piece, however they take turns."""
    house = House(limited(held_bytes=held_bytes))
    message = long_hello(size)
    pending = [
        Sender(Visitor(house, ONE if has_one_address else f"192.0.2.{number + 1}", 20_000 + number), message)
        for number in range(count)
    ]
    turns = 0
    while pending:
        turns += 1
        assert turns < 3 * count * (size // Sender.PIECE), f"{len(pending)} of {count} wait for ever"
        for sender in pending.copy():
            sender.repeat()
        if states(house)["dialing"]:
            for sender in pending:
                sender.visitor.accept()
        pending = [sender for sender in pending if not is_spliced(house, sender.visitor)]
    assert states(house) == {"established": count}


def is_spliced(house: House, visitor: Visitor) -> bool:
    key = (visitor.address, visitor.port)
    return any((flow.client, flow.from_client.src_port) == key and flow.splice is not None for flow in house.engine.flows)


def test_a_full_pool_still_lets_one_client_after_the_other_through() -> None:
    """Those who fill it may hold what they like for as long as they may."""
    house = House(limited(held_bytes=65_536))
    holder = Visitor(house, ONE)
    holder.open()
    hold(holder, 32_000)
    assert house.engine._context.shares.held_bytes == 32_000
    for number in range(20):
        newcomer = Visitor(house, TWO, 20_000 + number)
        newcomer.open()
        newcomer.splice()
        assert is_spliced(house, newcomer)


def test_one_that_has_its_name_does_not_keep_the_next_from_coming_to_its_end() -> None:
    """It waits for its backend, and needs no more."""
    house = House(limited(held_bytes=65_536))
    first, second, third = (Visitor(house, address) for address in (ONE, TWO, THREE))
    for visitor in (first, second, third):
        visitor.open()
    hold(first, 32_000)
    second.say(long_hello(1000))
    third.say(long_hello(1000))
    assert states(house) == {"peeking": 1, "dialing": 2}


def test_one_that_dials_gets_nothing_beyond_its_share() -> None:
    house = House(limited(held_bytes=65_536))
    first, second = Visitor(house, ONE), Visitor(house, TWO)
    first.open()
    second.open()
    second.say(HELLO)
    hold(first, 32_000)
    second.say(bytes(1000), len(HELLO))
    assert house.drops == {"held_bytes_full": 1}


def test_the_whole_of_the_smallest_pool_is_there_for_a_lone_message() -> None:
    house = House(limited(held_bytes=65_536))
    visitor = Visitor(house, ONE)
    visitor.open()
    hold(visitor, 65_000)
    assert house.engine._context.shares.held_bytes == 65_000
    visitor.say(bytes(1000), 65_000)
    assert (house.drops, house.details) == ({"held_bytes_full": 1}, ["limits.held_bytes: 65536"])


def test_the_smallest_pool_that_is_shared_takes_the_largest_message_of_a_lone_client() -> None:
    """Even while another connection is the one that goes on."""
    house = House(limited(held_bytes=SMALLEST_SHARED_BYTES))
    share = house.engine._context.shares
    going_on, alone = Visitor(house, ONE), Visitor(house, TWO)
    going_on.open()
    alone.open()
    first, second = house.engine.flows
    assert share._may_finish(first)
    for _ in range(LARGEST_HELD_BYTES):
        share.check_holding(second, 1)
        share.count_held(second.client, 1)


def test_who_opens_too_fast_has_to_wait() -> None:
    house = House(limited(new_per_second_per_client=2))
    assert sum(visitor.open() for visitor in visitors(house, ONE, 20)) == 10
    assert (house.drops, house.details[0]) == ({"client_rate": 10}, "limits.new_per_second_per_client: 2")
    assert Visitor(house, TWO).open()
    house.wait(1)
    assert sum(visitor.open() for visitor in visitors(house, ONE, 20, 30000)) == 2


def test_two_seconds_worth_may_come_at_once_where_that_is_more_than_ten() -> None:
    house = House(limited(new_per_second_per_client=40, flows=1000))
    assert sum(visitor.open() for visitor in visitors(house, ONE, 100)) == 80


def test_what_was_refused_does_not_count_for_the_rate() -> None:
    house = House(limited(new_per_second_per_client=1, flows_per_client=1))
    first, *others = visitors(house, ONE, 50)
    first.open()
    for other in others:
        other.open()
    first.abort()
    assert others[0].open()


def test_a_reload_changes_the_limits_and_keeps_the_counts() -> None:
    house = House(limited())
    crowd = list(visitors(house, ONE, 8))
    for visitor in crowd[:6]:
        visitor.open()
        visitor.splice()
    house.engine.reconfigure(limited(flows_per_client=6), house.now)
    assert not crowd[6].open()
    assert crowd[0].is_in
    crowd[0].finish()
    assert crowd[7].open()


def test_a_reload_that_makes_clients_of_networks_counts_them_anew() -> None:
    house = House(limited())
    for address in (ONE, TWO, THREE):
        visitor = Visitor(house, address)
        visitor.open()
        visitor.splice()
    house.engine.reconfigure(limited(client_prefix_length=24, flows_per_client=2), house.now)
    assert_counts_are_right(house)
    assert not Visitor(house, "192.0.2.9").open()
    gone = Visitor(house, THREE)
    gone.finish()
    house.engine.reconfigure(limited(client_prefix_length=32, flows_per_client=2), house.now)
    assert_counts_are_right(house)
    assert Visitor(house, "192.0.2.9").open()


def test_flows_that_are_adopted_count() -> None:
    house = House(limited(flows_per_client=2))
    for visitor in visitors(house, ONE, 2):
        visitor.open()
        visitor.splice()
    successor = House(limited(flows_per_client=2))
    records = house.engine._context.records
    successor.engine = type(house.engine)(limited(flows_per_client=2), secret=bytes(range(32)), now=house.now, records=records)
    assert successor.engine.adopt(house.now).adopted == 2
    assert_counts_are_right(successor)
    assert not Visitor(successor, ONE, 30000).open()


def test_nobody_is_remembered_who_holds_nothing() -> None:
    house = House(limited())
    for number in range(50):
        visitor = Visitor(house, f"192.0.2.{number}")
        visitor.open()
        visitor.abort()
    assert len(house.engine._context.shares) == 0


def opened_and_closed(shares: ClientShares, number: int, now: float) -> None:
    client = number.to_bytes(4, "big")
    shares.check_opening(client, now)
    shares.count_flow(client, 1)
    shares.note_opening(client, now)
    shares.count_flow(client, -1)


def test_clients_that_have_had_their_rest_are_forgotten_on_the_way() -> None:
    shares = ClientShares(replace(Limits(), new_per_second_per_client=1.0))
    for number in range(20_000):
        opened_and_closed(shares, number, now=100 + number / 1000)
    assert len(shares) <= 1002


def test_attackers_with_very_many_addresses_do_not_fill_the_memory() -> None:
    shares = ClientShares(replace(Limits(), new_per_second_per_client=0.001))
    for number in range(MAX_RESTING + 5000):
        opened_and_closed(shares, number, now=100)
    assert len(shares) <= MAX_RESTING + 1
