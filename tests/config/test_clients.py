"""Lists of clients: where they may stand, the files they may come from, and what is said of each mistake in them."""

import time
from ipaddress import IPv4Address, IPv4Network
from typing import cast

import pytest

from kracauer.access import EVERYBODY, AccessList
from kracauer.config import Config, Problem, parse_config
from kracauer.errors import ConfigError

BASE = """
prefix = "2001:db8:46::/96"
[[listen]]
address = "198.51.100.1"
port = 443
"""
HOSTS = '[hosts]\n"www.example.com" = "2001:db8:1::2"\n'
FILE = '[access]\ndeny_file = "denied.txt"\n'


def networks(*written: str) -> tuple[IPv4Network, ...]:
    return tuple(IPv4Network(network) for network in written)


def with_file(content: str, text: str = FILE) -> Config:
    return parse_config(BASE + HOSTS + text, read_file={"denied.txt": content}.__getitem__)


def problems(text: str, content: str = "") -> list[Problem]:
    with pytest.raises(ConfigError) as refusal:
        with_file(content, text)
    return [cast("Problem", problem) for problem in refusal.value.problems]


def test_without_any_list_everybody_may_come_everywhere() -> None:
    config = parse_config(BASE + HOSTS)
    (route,) = config.routes
    assert config.access == config.listeners[0].access == route.access == EVERYBODY


def test_networks_and_single_addresses_may_be_given() -> None:
    config = parse_config(BASE + HOSTS + '[access]\nallow = ["192.0.2.0/24", "203.0.113.8"]\ndeny = ["192.0.2.7"]\n')
    assert config.access == AccessList(networks("192.0.2.0/24", "203.0.113.8/32"), networks("192.0.2.7/32"))


def test_a_listener_has_a_list_of_its_own() -> None:
    config = parse_config(BASE + 'deny = ["192.0.2.0/24"]\n' + HOSTS)
    assert config.listeners[0].access == AccessList(None, networks("192.0.2.0/24"))
    assert config.access == EVERYBODY


@pytest.mark.parametrize(
    "hosts",
    [
        '[hosts."www.example.com"]\nbackends = "2001:db8:1::2"\nallow = ["192.0.2.0/24"]\n',
        '[hosts]\n"www.example.com" = { backends = ["2001:db8:1::2"], allow = ["192.0.2.0/24"] }\n',
        '[hosts."WWW.Example.com."]\nbackends = "2001:db8:1::2"\nallow = ["192.0.2.0/24"]\n',
    ],
)
def test_a_name_may_be_a_table_with_backends_and_a_list(hosts: str) -> None:
    route = parse_config(BASE + hosts).routes.lookup("www.example.com")
    assert route is not None
    assert [str(backend) for backend in route.backends] == ["2001:db8:1::2"]
    assert route.access == AccessList(networks("192.0.2.0/24"))


@pytest.mark.parametrize("name", ['"*.example.com"', "default", "localhost"])
def test_every_kind_of_name_may_be_a_table(name: str) -> None:
    (route,) = parse_config(BASE + f'[hosts.{name}]\nbackends = "2001:db8:1::2"\ndeny = ["192.0.2.7"]\n').routes
    assert route.access == AccessList(None, networks("192.0.2.7/32"))


def test_a_table_may_have_backends_alone() -> None:
    (route,) = parse_config(BASE + '[hosts."www.example.com"]\nbackends = "2001:db8:1::2"\n').routes
    assert route.access == EVERYBODY


def test_a_file_has_a_network_a_line_with_comments_and_blank_lines() -> None:
    content = "\ufeff# denied\r\n\r\n192.0.2.0/24\r\n  203.0.113.8 \t# a lonely one\n#198.51.100.0/24\n198.51.100.7"
    assert with_file(content).access == AccessList(None, networks("192.0.2.0/24", "203.0.113.8/32", "198.51.100.7/32"))


def test_what_stands_in_a_file_is_added_to_what_stands_in_the_list() -> None:
    text = '[access]\nallow = ["192.0.2.0/24"]\nallow_file = "denied.txt"\n'
    assert with_file("192.0.2.0/24\n203.0.113.0/24\n", text).access.allow == networks("192.0.2.0/24", "203.0.113.0/24")


def test_an_empty_deny_list_and_an_empty_file_of_one_deny_nobody() -> None:
    assert with_file("# nobody yet\n", FILE + "deny = []\n").access == EVERYBODY


@pytest.mark.parametrize(
    ("network", "hint"),
    [
        ("192.0.2.7/24", 'did you mean "192.0.2.0/24"?'),
        ("192.0.3.0/23", 'did you mean "192.0.2.0/23"?'),
        ("192.0.2.0/33", "from 0 to 32"),
        ("192.0.2.0/", "from 0 to 32"),
        ("192.0.2.0/-1", "from 0 to 32"),
        ("192.0.2.0/٢٤", "from 0 to 32"),
        ("192.0.2.0/255.255.255.0", 'did you mean "192.0.2.0/24"?'),
        ("192.0.2.9/0.0.0.255", 'did you mean "192.0.2.0/24"?'),
        ("2001:db8:9::/48", "is IPv6, and clients are IPv4"),
        ("2001:db8:9::7", "is IPv6, and clients are IPv4"),
        ("2001:db8:46::/96", "is IPv6, and clients are IPv4"),
        ("2001:db8:46::c000:207", 'did you mean "192.0.2.7"?'),
        ("[2001:db8:46::c000:207]", 'did you mean "192.0.2.7"?'),
        ("::ffff:192.0.2.7", 'did you mean "192.0.2.7"?'),
        ("192.0.2", "must be an IPv4 network or address of clients"),
        ("192.0.2.1-192.0.2.9", "must be an IPv4 network or address of clients"),
        ("client.example.com", "must be an IPv4 network or address of clients"),
        ("", "must be an IPv4 network or address of clients"),
    ],
)
def test_what_is_no_network_of_clients(network: str, hint: str) -> None:
    (problem,) = problems(f'[access]\ndeny = ["192.0.2.1", "{network}"]\n')
    assert (problem.path, problem.value) == ("access.deny[1]", network)
    assert hint in problem.message


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        ('[access]\ndeny = "192.0.2.7"\n', "access.deny", 'must be a list of networks or addresses of clients, as in ["192'),
        ("[access]\ndeny = [7]\n", "access.deny[0]", "text in quotes"),
        ("[access]\ndeny_file = 7\n", "access.deny_file", "text in quotes"),
        ("[access]\ndany = []\n", "access.dany", "did you mean deny?"),
        ("[access]\nallow = []\n", "access.allow", "locks everybody out"),
        ('[access]\nallow_file = "denied.txt"\n', "access.allow_file", "locks everybody out"),
        ('[hosts."a.example"]\nbackends = "2001:db8:1::2"\nallow = []\n', 'hosts."a.example".allow', "locks everybody out"),
        ('[hosts."a.example"]\nallow = ["192.0.2.7"]\n', 'hosts."a.example".backends', "write for example backends ="),
        ('[hosts."a.example"]\n', 'hosts."a.example".backends', "is missing"),
        ('[hosts."a.example"]\nbackends = []\n', 'hosts."a.example".backends', "at least one backend"),
        ('[hosts."a.example"]\nbackends = "192.0.2.7"\n', 'hosts."a.example".backends', "backends are IPv6 only"),
        (
            '[hosts.a]\nbackends = "2001:db8:1::2"\nport = 1\n',
            "hosts.a.port",
            "known are backends, balance, redirect, max_flows, allow",
        ),
    ],
)
def test_what_a_table_cannot_hold(text: str, path: str, hint: str) -> None:
    (problem,) = problems(text)
    assert problem.path == path
    assert hint in problem.message


def test_a_mistake_in_a_file_is_told_with_its_name_and_line() -> None:
    (problem,) = problems(FILE, "# denied\n192.0.2.0/24\n\n192.0.2.7/24 # see below\n")
    assert str(problem) == (
        'access.deny_file: "denied.txt", line 4: "192.0.2.7/24": has bits set behind its first 24: did you mean "192.0.2.0/24"?'
    )


def test_a_file_of_another_kind_does_not_make_a_problem_of_every_line() -> None:
    found = problems(FILE, "2001:db8:9::/48\n" * 1000)
    assert len(found) == 21
    assert str(found[-1]).startswith('access.deny_file: "denied.txt": has mistakes in 980 more lines')


def test_every_list_tells_its_own_mistakes_at_once() -> None:
    text = (
        BASE + 'deny = ["a"]\n[hosts."www.example.com"]\nbackends = "2001:db8:1::2"\nallow = ["b"]\n[access]\nallow = ["c"]\n'
    )
    with pytest.raises(ConfigError) as refusal:
        parse_config(text)
    paths = [cast("Problem", problem).path for problem in refusal.value.problems]
    assert paths == ["access.allow[0]", "listen[0].deny[0]", 'hosts."www.example.com".allow[0]']


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (FileNotFoundError(2, "No such file or directory"), "a relative path begins where the configuration stands"),
        (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
        (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"), "cannot be read: it is not UTF-8"),
        (ValueError("embedded\nnull byte"), "cannot be read: embedded null byte"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(error: Exception, hint: str) -> None:
    def read_file(_: str) -> str:
        raise error

    with pytest.raises(ConfigError) as refusal:
        parse_config(BASE + HOSTS + FILE, read_file)
    (problem,) = refusal.value.problems
    assert str(problem).startswith('access.deny_file: "denied.txt": ')
    assert hint in str(problem)


def test_without_a_way_to_read_files_naming_one_is_a_problem() -> None:
    with pytest.raises(ConfigError, match=r'access\.deny_file: "denied\.txt": cannot be read from here'):
        parse_config(BASE + HOSTS + FILE)


def test_fifty_thousand_networks_are_read_in_a_moment() -> None:
    content = "\n".join(f"{IPv4Address(number << 16)}/16" for number in range(50_000))
    begun = time.perf_counter()
    access = with_file(content).access
    assert time.perf_counter() - begun < 10
    assert len(access.deny) == 50_000
