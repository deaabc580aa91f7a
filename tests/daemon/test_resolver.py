"""When names are looked up, what the engine is told, and what a flood of names or dead resolvers can do to it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from ipaddress import IPv6Address
from itertools import pairwise

import pytest
import virtual_time

from kracauer.config import Config, Dns, parse_config
from kracauer.daemon.lookup import Answer, LookupFailedError
from kracauer.daemon.resolver import (
    AT_ONCE,
    LONGEST_RETRY_S,
    LOOKUP_BURST,
    LOOKUPS_PER_S,
    MAX_QUEUED,
    ON_DEMAND_AT_ONCE,
    ON_DEMAND_BURST,
    Resolver,
)
from kracauer.events import Event, NameFailed

FIRST = IPv6Address("2001:db8:1::2")
SECOND = IPv6Address("2001:db8:1::3")
OUTSIDE = IPv6Address("2001:db8:2::2")
BASE = """
prefix = "2001:db8:46::/96"
backend_networks = ["2001:db8:1::/64"]
[[listen]]
address = "198.51.100.1"
port = 443
"""


def config(*names: str, dns: str = "") -> Config:
    hosts = "\n".join(f'"{name}" = "{name}"' for name in names)
    return parse_config(f"{BASE}[hosts]\n{hosts}\n[dns]\n{dns}\n" if names else f"{BASE}[dns]\n{dns}\n")


ANY = config(dns="serve_any = true")
NAMED = config("web1.example.net")


class FakeLookup:
    """Says what `zone` has at that moment: an answer, a word for a failure, or an error to raise. Waits while `is_held`."""

    def __init__(self) -> None:
        self.zone: dict[str, Answer | str | Exception] = {}
        self.asked: list[tuple[float, str]] = []
        self.settings: list[Dns] = []
        self.under_way = 0
        self.most = 0
        self.is_held = False
        self.go = asyncio.Event()

    def configure(self, settings: Dns) -> None:
        self.settings.append(settings)

    async def ask(self, name: str) -> Answer:
        self.asked.append((asyncio.get_running_loop().time(), name))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if self.is_held:
                await self.go.wait()
            else:
                await asyncio.sleep(0.01)
        finally:
            self.under_way -= 1
        said = self.zone.get(name, Answer((), 300))
        if isinstance(said, str):
            raise LookupFailedError(said)
        if isinstance(said, Exception):
            raise said
        return said

    def count(self, name: str) -> int:
        return sum(asked == name for _, asked in self.asked)


class Stage:
    """A resolver, what it is told by its lookup, and what it tells."""

    def __init__(self, settings: Config) -> None:
        self.lookup = FakeLookup()
        self.told: list[tuple[str, Collection[IPv6Address] | None]] = []
        self.known: dict[str, Collection[IPv6Address]] = {}
        self.events: list[Event] = []
        self.errors: list[Exception] = []
        self.resolver = Resolver(settings, self.lookup, self.tell, self.events.append, self.errors.append)

    def tell(self, name: str, addresses: Collection[IPv6Address] | None) -> None:
        self.told.append((name, addresses))
        if addresses is None:
            self.known.pop(name, None)
        else:
            self.known[name] = addresses

    def play(self, act: Callable[["Stage"], Awaitable[None]]) -> None:
        async def whole() -> None:
            self.resolver.start()
            try:
                await act(self)
            finally:
                await self.resolver.close()
            await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) == 1

        virtual_time.run(whole())


def test_names_of_the_configuration_are_looked_up_at_the_start() -> None:
    stage = Stage(config("web1.example.net", "web2.example.net"))
    stage.lookup.zone = {"web1.example.net": Answer((FIRST,), 60), "web2.example.net": Answer((), 60)}

    async def act(stage: Stage) -> None:
        assert stage.told == []
        await asyncio.sleep(1)
        assert stage.known == {"web1.example.net": (FIRST,), "web2.example.net": ()}

    stage.play(act)


@pytest.mark.parametrize(
    ("ttl", "dns", "least", "most"),
    [
        (60, "", 54, 60),
        (0, "", 4.5, 5),
        (100_000, "", 3240, 3600),
        (7, "min_ttl_s = 20", 18, 20),
        (7000, "max_ttl_s = 30", 27, 30),
    ],
)
def test_they_are_looked_up_again_when_the_answer_ages_and_not_all_at_once(
    ttl: float, dns: str, least: float, most: float
) -> None:
    stage = Stage(config(*(f"n{number}.example.net" for number in range(20)), dns=dns))
    stage.lookup.zone = {f"n{number}.example.net": Answer((FIRST,), ttl) for number in range(20)}

    async def act(stage: Stage) -> None:
        await asyncio.sleep(most + 1)
        first, again = [at for at, _ in stage.lookup.asked[:20]], [at for at, _ in stage.lookup.asked[20:40]]
        assert len(again) == 20
        assert least <= min(again) - min(first) < max(again) - max(first) <= most + 0.1
        assert len({round(at, 3) for at in again}) > 10

    stage.play(act)


def test_a_name_that_moves_is_told_with_the_next_answer() -> None:
    stage = Stage(NAMED)
    stage.lookup.zone["web1.example.net"] = Answer((FIRST,), 30)

    async def act(stage: Stage) -> None:
        await asyncio.sleep(1)
        stage.lookup.zone["web1.example.net"] = Answer((SECOND,), 30)
        await asyncio.sleep(31)
        assert stage.known == {"web1.example.net": (SECOND,)}
        stage.lookup.zone["web1.example.net"] = Answer((), 30)
        await asyncio.sleep(31)
        assert stage.known == {"web1.example.net": ()}

    stage.play(act)


def test_what_was_known_outlives_the_resolvers_and_ends_when_it_is_stale() -> None:
    stage = Stage(config("web1.example.net", dns="stale_s = 600"))
    stage.lookup.zone["web1.example.net"] = Answer((FIRST,), 60)

    async def act(stage: Stage) -> None:
        await asyncio.sleep(1)
        stage.lookup.zone["web1.example.net"] = "SERVFAIL"
        await asyncio.sleep(650)
        assert stage.known == {"web1.example.net": (FIRST,)}
        assert stage.events == [NameFailed("web1.example.net", "SERVFAIL", keeps=True)]
        await asyncio.sleep(LONGEST_RETRY_S + 20)
        assert stage.known == {}
        assert stage.events[1:] == [NameFailed("web1.example.net", "SERVFAIL", keeps=False)]
        stage.lookup.zone["web1.example.net"] = Answer((SECOND,), 60)
        await asyncio.sleep(LONGEST_RETRY_S + 1)
        assert stage.known == {"web1.example.net": (SECOND,)}

    stage.play(act)


def test_failures_are_tried_again_ever_less_often_and_told_once() -> None:
    stage = Stage(NAMED)
    stage.lookup.zone["web1.example.net"] = "timeout"

    async def act(stage: Stage) -> None:
        await asyncio.sleep(3600)
        times = [at for at, _ in stage.lookup.asked]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps[0] < 1.1
        assert all(gap <= LONGEST_RETRY_S + 0.1 for gap in gaps)
        assert 55 < len(times) < 80
        assert stage.events == [NameFailed("web1.example.net", "timeout", keeps=False)]
        assert stage.told == []

    stage.play(act)


def test_somebody_who_waits_has_a_failed_name_tried_again_at_once_but_not_more_than_once_a_second() -> None:
    stage = Stage(NAMED)
    stage.lookup.zone["web1.example.net"] = "timeout"

    async def act(stage: Stage) -> None:
        await asyncio.sleep(300)
        before = len(stage.lookup.asked)
        for _ in range(100):
            stage.resolver.want("web1.example.net")
            await asyncio.sleep(0.001)
        assert len(stage.lookup.asked) - before <= 1
        stage.lookup.zone["web1.example.net"] = Answer((FIRST,), 60)
        await asyncio.sleep(1.1)
        stage.resolver.want("web1.example.net")
        await asyncio.sleep(0.1)
        assert stage.known == {"web1.example.net": (FIRST,)}

    stage.play(act)


def test_a_mistake_of_ours_costs_one_look_up() -> None:
    stage = Stage(NAMED)
    stage.lookup.zone["web1.example.net"] = RuntimeError("stumbled")

    async def act(stage: Stage) -> None:
        await asyncio.sleep(0.1)
        assert [str(error) for error in stage.errors] == ["stumbled"]
        stage.lookup.zone["web1.example.net"] = Answer((FIRST,), 60)
        await asyncio.sleep(2)
        assert stage.known == {"web1.example.net": (FIRST,)}

    stage.play(act)


def test_thousands_of_names_are_looked_up_one_after_the_other_and_one_that_is_waited_for_before_the_others() -> None:
    names = [f"n{number}.example.net" for number in range(2000)]
    stage = Stage(config(*names))

    async def act(stage: Stage) -> None:
        await asyncio.sleep(0.001)
        assert len(stage.lookup.asked) == LOOKUP_BURST
        stage.resolver.want(names[-1])
        await asyncio.sleep(0.01)
        assert names[-1] in [name for _, name in stage.lookup.asked]
        await asyncio.sleep(2000 / LOOKUPS_PER_S)
        assert len(stage.known) == 2000
        assert len(stage.lookup.asked) == 2000

    stage.play(act)


def test_no_more_than_so_many_are_under_way_at_once_and_none_is_forgotten_over_it() -> None:
    names = [f"n{number}.example.net" for number in range(200)]
    stage = Stage(config(*names))

    async def act(stage: Stage) -> None:
        stage.lookup.is_held = True
        await asyncio.sleep(2)
        assert stage.lookup.under_way == AT_ONCE
        stage.lookup.is_held = False
        stage.lookup.go.set()
        await asyncio.sleep(2)
        assert len(stage.known) == 200
        assert stage.lookup.most == AT_ONCE

    stage.play(act)


def test_a_reload_keeps_what_is_known_looks_up_what_is_new_and_forgets_the_rest() -> None:
    stage = Stage(config("web1.example.net", "web2.example.net"))
    stage.lookup.zone = {f"web{number}.example.net": Answer((FIRST,), 60) for number in (1, 2, 3)}

    async def act(stage: Stage) -> None:
        await asyncio.sleep(1)
        stage.resolver.reconfigure(config("web2.example.net", "web3.example.net", dns="timeout_s = 1"))
        assert stage.lookup.settings == [Dns(timeout_s=1)]
        assert stage.known == {"web2.example.net": (FIRST,)}
        await asyncio.sleep(1)
        assert stage.known == {"web2.example.net": (FIRST,), "web3.example.net": (FIRST,)}
        assert stage.lookup.count("web2.example.net") == 1
        await asyncio.sleep(70)
        assert (stage.lookup.count("web1.example.net"), stage.lookup.count("web2.example.net")) == (1, 2)

    stage.play(act)


def test_an_answer_that_comes_after_the_name_has_gone_is_not_told() -> None:
    stage = Stage(NAMED)

    async def act(stage: Stage) -> None:
        await asyncio.sleep(0.001)
        stage.resolver.reconfigure(config("web2.example.net"))
        await asyncio.sleep(1)
        assert [name for name, addresses in stage.told if addresses is not None] == ["web2.example.net"]

    stage.play(act)


# On demand


def test_a_name_that_somebody_wants_is_looked_up_and_told() -> None:
    stage = Stage(ANY)
    stage.lookup.zone["a.example.org"] = Answer((FIRST,), 60)

    async def act(stage: Stage) -> None:
        stage.resolver.want("a.example.org")
        stage.resolver.want("a.example.org")
        await asyncio.sleep(0.1)
        assert stage.told == [("a.example.org", (FIRST,))]
        assert stage.lookup.count("a.example.org") == 1

    stage.play(act)


def test_without_serve_any_nobody_is_asked_for_it() -> None:
    stage = Stage(NAMED)

    async def act(stage: Stage) -> None:
        stage.resolver.want("a.example.org")
        await asyncio.sleep(0.1)
        assert ("a.example.org", None) in stage.told
        assert stage.lookup.count("a.example.org") == 0

    stage.play(act)


def test_a_name_that_is_used_is_looked_up_again_and_one_that_is_not_is_forgotten() -> None:
    stage = Stage(ANY)
    stage.lookup.zone = {f"{name}.example.org": Answer((FIRST,), 60) for name in "ab"}

    async def act(stage: Stage) -> None:
        for name in "ab":
            stage.resolver.want(f"{name}.example.org")
        for _ in range(5):
            await asyncio.sleep(50)
            stage.resolver.touch("a.example.org")
        assert set(stage.known) == {"a.example.org"}
        assert stage.lookup.count("a.example.org") >= 4
        assert stage.lookup.count("b.example.org") == 1

    stage.play(act)


def test_a_name_that_does_not_exist_is_not_asked_for_again_as_long_as_that_holds() -> None:
    stage = Stage(ANY)
    stage.lookup.zone["a.example.org"] = Answer((), 60)

    async def act(stage: Stage) -> None:
        for _ in range(10):
            stage.resolver.want("a.example.org")
            await asyncio.sleep(5)
        assert stage.lookup.count("a.example.org") == 1
        assert stage.known == {"a.example.org": ()}
        await asyncio.sleep(20)
        assert stage.known == {}
        stage.resolver.want("a.example.org")
        await asyncio.sleep(1)
        assert stage.lookup.count("a.example.org") == 2

    stage.play(act)


def test_a_name_that_has_just_failed_is_refused_at_once_and_tried_again_a_second_later() -> None:
    stage = Stage(ANY)
    stage.lookup.zone["a.example.org"] = "SERVFAIL"

    async def act(stage: Stage) -> None:
        for _ in range(5):
            stage.resolver.want("a.example.org")
            await asyncio.sleep(0.1)
        assert stage.told == [("a.example.org", None)] * 5
        assert stage.lookup.count("a.example.org") == 1
        await asyncio.sleep(1)
        stage.resolver.want("a.example.org")
        await asyncio.sleep(0.1)
        assert stage.lookup.count("a.example.org") == 2

    stage.play(act)


def test_a_used_name_whose_resolvers_die_is_kept() -> None:
    stage = Stage(ANY)
    stage.lookup.zone["a.example.org"] = Answer((FIRST,), 60)

    async def act(stage: Stage) -> None:
        stage.resolver.want("a.example.org")
        await asyncio.sleep(1)
        stage.resolver.touch("a.example.org")
        stage.lookup.zone["a.example.org"] = "timeout"
        await asyncio.sleep(600)
        assert stage.known == {"a.example.org": (FIRST,)}

    stage.play(act)


@pytest.fixture
def flooded() -> Iterator[Stage]:
    """Room for 10 names, one of which is served again and again."""
    stage = Stage(config(dns="serve_any = true\nmax_names = 10"))
    stage.lookup.zone["ours.example.org"] = Answer((FIRST,), 3600)
    yield stage
    assert stage.errors == []


@pytest.mark.parametrize("answer", [Answer((), 3600), Answer((OUTSIDE,), 3600), "SERVFAIL"])
def test_a_flood_of_names_that_are_not_ours_forgets_none_that_is(flooded: Stage, answer: Answer | str) -> None:
    async def act(stage: Stage) -> None:
        stage.resolver.want("ours.example.org")
        await asyncio.sleep(1)
        for number in range(500):
            stage.lookup.zone[f"n{number}.example.org"] = answer
            stage.resolver.want(f"n{number}.example.org")
            await asyncio.sleep(0.02)
            assert len(stage.resolver) <= 12
        assert stage.known["ours.example.org"] == (FIRST,)
        assert len(stage.known) <= 10

    flooded.play(act)


def test_a_flood_of_names_that_are_ours_forgets_those_used_longest_ago(flooded: Stage) -> None:
    async def act(stage: Stage) -> None:
        stage.resolver.want("ours.example.org")
        await asyncio.sleep(1)
        for number in range(100):
            stage.lookup.zone[f"n{number}.example.org"] = Answer((SECOND,), 3600)
            stage.resolver.want(f"n{number}.example.org")
            await asyncio.sleep(0.02)
            stage.resolver.touch("ours.example.org")
        assert set(stage.known) == {"ours.example.org", *(f"n{number}.example.org" for number in range(91, 100))}

    flooded.play(act)


def test_names_whose_servers_never_answer_leave_room_for_those_of_the_configuration() -> None:
    stage = Stage(config("web1.example.net", dns="serve_any = true"))

    async def act(stage: Stage) -> None:
        stage.lookup.zone["web1.example.net"] = Answer((FIRST,), 5)
        await asyncio.sleep(1)
        stage.lookup.is_held = True
        for number in range(500):
            stage.resolver.want(f"n{number}.example.org")
        await asyncio.sleep(1)
        assert stage.lookup.under_way == ON_DEMAND_AT_ONCE
        await asyncio.sleep(5)
        assert stage.lookup.count("web1.example.net") == 2

    stage.play(act)


def test_no_more_names_are_asked_for_than_the_rate_allows_and_the_others_are_told_so() -> None:
    stage = Stage(ANY)

    async def act(stage: Stage) -> None:
        for number in range(3000):
            stage.resolver.want(f"n{number}.example.org")
        await asyncio.sleep(0.1)
        assert stage.told.count(("n2999.example.org", None)) == 1
        assert sum(addresses is None for _, addresses in stage.told) >= 3000 - ON_DEMAND_BURST - 20
        assert len(stage.resolver) <= MAX_QUEUED + ON_DEMAND_AT_ONCE

    stage.play(act)


def test_a_name_that_becomes_one_of_the_configuration_stays_known() -> None:
    stage = Stage(ANY)
    stage.lookup.zone["a.example.org"] = Answer((FIRST,), 60)

    async def act(stage: Stage) -> None:
        stage.resolver.want("a.example.org")
        await asyncio.sleep(1)
        stage.resolver.reconfigure(config("a.example.org"))
        assert stage.known == {"a.example.org": (FIRST,)}
        await asyncio.sleep(70)
        assert stage.lookup.count("a.example.org") == 2

    stage.play(act)


def test_whoever_no_longer_serves_any_name_forgets_them() -> None:
    stage = Stage(ANY)
    stage.lookup.zone["a.example.org"] = Answer((FIRST,), 60)

    async def act(stage: Stage) -> None:
        stage.resolver.want("a.example.org")
        await asyncio.sleep(1)
        stage.resolver.reconfigure(config("web1.example.net"))
        assert stage.known == {}

    stage.play(act)
