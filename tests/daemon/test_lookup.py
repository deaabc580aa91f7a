"""What comes of asking a name server: a real one, on the loopback interface."""

import asyncio
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from name_server import NameServer, Zone

from kracauer.config import Dns
from kracauer.config import NameServer as Server
from kracauer.daemon.lookup import Answer, Lookup, LookupFailedError

TWO = (IPv6Address("2001:db8:1::2"), IPv6Address("2001:db8:1::3"))
ZONE: Zone = {
    "web1.example.net": {"addresses": ["2001:db8:1::3", "2001:db8:1::2"], "ttl": 60},
    "alias.example.net": {"alias": "web1.example.net", "addresses": ["2001:db8:1::2"], "ttl": 7},
    "v4.example.net": {"addresses": []},
    "failing.example.net": {"rcode": "SERVFAIL"},
    "secret.example.net": {"rcode": "REFUSED"},
    "silent.example.net": {"is_silent": True},
    "large.example.net": {"addresses": [f"2001:db8:1::{number:x}" for number in range(1, 1001)], "is_cut": True},
    "": {"negative_ttl": 33},
}


@pytest.fixture
def server() -> Iterator[NameServer]:
    with NameServer(ZONE) as running:
        yield running


def settings(*ports: int, timeout_s: float = 5.0) -> Dns:
    return Dns(servers=tuple(Server(IPv4Address("127.0.0.1"), port) for port in ports), timeout_s=timeout_s)


def ask(name: str, lookup: Lookup | Dns) -> Answer:
    return asyncio.run((Lookup(lookup) if isinstance(lookup, Dns) else lookup).ask(name))


def failure(name: str, lookup: Lookup | Dns) -> str:
    with pytest.raises(LookupFailedError) as raised:
        ask(name, lookup)
    return str(raised.value)


def closed_port() -> int:
    with NameServer({}) as server:
        return server.port


def test_the_addresses_of_a_name_and_for_how_long(server: NameServer) -> None:
    answer = ask("web1.example.net", settings(server.port))
    assert (sorted(answer.addresses), answer.ttl_s) == (list(TWO), 60)


def test_an_alias_is_followed(server: NameServer) -> None:
    assert ask("alias.example.net", settings(server.port)) == Answer(TWO[:1], 7)


@pytest.mark.parametrize("name", ["v4.example.net", "nowhere.example.net"])
def test_a_name_without_addresses_holds_as_long_as_the_zone_says(server: NameServer, name: str) -> None:
    assert ask(name, settings(server.port)) == Answer((), 33)


def test_a_name_without_addresses_of_a_zone_that_says_nothing_holds_no_longer_than_it_has_to() -> None:
    with NameServer({}) as server:
        assert ask("nowhere.example.net", settings(server.port)) == Answer((), 0)


def test_a_cut_answer_is_fetched_by_tcp(server: NameServer) -> None:
    assert len(ask("large.example.net", settings(server.port)).addresses) == 1000


def test_nothing_is_put_behind_a_name(server: NameServer) -> None:
    ask("nowhere.example.net", settings(server.port))
    assert server.asked == ["nowhere.example.net"]


def test_the_next_server_is_asked_where_one_does_not_know(server: NameServer) -> None:
    with NameServer({"web1.example.net": {"rcode": "SERVFAIL"}}) as broken:
        assert ask("web1.example.net", settings(broken.port, server.port)).ttl_s == 60


def test_the_next_server_is_asked_where_one_is_silent_or_not_there(server: NameServer) -> None:
    with NameServer({"web1.example.net": {"is_silent": True}}) as silent:
        assert ask("web1.example.net", settings(silent.port, closed_port(), server.port, timeout_s=2)).ttl_s == 60


@pytest.mark.parametrize(("name", "cause"), [("failing.example.net", "SERVFAIL"), ("secret.example.net", "REFUSED")])
def test_a_refusal_is_told_in_the_words_of_the_dns(server: NameServer, name: str, cause: str) -> None:
    assert failure(name, settings(server.port)) == cause


def test_silence_ends_with_the_time(server: NameServer) -> None:
    began = time.monotonic()
    assert failure("silent.example.net", settings(server.port, timeout_s=0.3)) == "timeout"
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("name", ["x" * 64 + ".example.net", "a" * 300, "a..b", "\\777.example.net"])
def test_what_is_no_name_fails(server: NameServer, name: str) -> None:
    assert failure(name, settings(server.port))


def test_the_systems_resolvers_are_read_from_a_file(tmp_path: Path) -> None:
    """It has no place for ports, so that nobody is there; that it was read shows in how it fails."""
    (tmp_path / "resolv.conf").write_text("search example.org\nnameserver 127.0.0.77\n")
    lookup = Lookup(Dns(timeout_s=0.3), tmp_path / "resolv.conf")
    assert failure("web1.example.net", lookup)
    assert lookup.servers == ("127.0.0.77",)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"nameserver\n", b"search example.org\n"])
def test_a_host_without_resolvers_asks_itself(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "resolv.conf").write_bytes(content)
    lookup = Lookup(Dns(timeout_s=0.3), tmp_path / "resolv.conf")
    assert failure("web1.example.net", lookup)
    assert lookup.servers == ("127.0.0.1",)


def test_many_names_at_once_read_the_file_once(tmp_path: Path, server: NameServer) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.77\n")
    lookup = Lookup(settings(server.port), tmp_path / "resolv.conf")

    async def many() -> list[Answer]:
        return await asyncio.gather(*(lookup.ask("web1.example.net") for _ in range(50)))

    assert {answer.ttl_s for answer in asyncio.run(many())} == {60}


def test_other_settings_are_asked_by_from_then_on(server: NameServer) -> None:
    lookup = Lookup(settings(closed_port(), timeout_s=0.3))
    assert failure("web1.example.net", lookup)
    lookup.configure(settings(server.port))
    assert ask("web1.example.net", lookup).ttl_s == 60
