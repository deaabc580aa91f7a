"""Backends by their DNS names, the networks that they may be in, and how they are looked up."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from kracauer.config import Config, Dns, NameServer, Problem, parse_config
from kracauer.errors import ConfigError
from kracauer.routes import Backend, NamedBackend

PREFIX = 'prefix = "2001:db8:46::/96"\n'
GUARD = 'backend_networks = ["2001:db8:1::/64"]\n'
LISTEN = '[[listen]]\naddress = "198.51.100.1"\nport = 443\n'
NAMED = '[hosts]\n"www.example.com" = "web1.example.net"\n'
STATIC = '[hosts]\n"www.example.com" = "2001:db8:1::2"\n'


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as raised:
        parse_config(text)
    return tuple(problem for problem in raised.value.problems if isinstance(problem, Problem))


def assert_only_problem(text: str, path: str, hint: str) -> None:
    (problem,) = problems(text)
    assert problem.path == path
    assert hint in problem.message


def with_backend(written: str) -> Config:
    return parse_config(PREFIX + GUARD + LISTEN + f'[hosts]\n"www.example.com" = {written}\n')


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('"web1.example.net"', (NamedBackend("web1.example.net"),)),
        ('"Web1.Example.NET."', (NamedBackend("web1.example.net"),)),
        ('"web1.example.net:8443"', (NamedBackend("web1.example.net", 8443),)),
        ('"bücher.example"', (NamedBackend("xn--bcher-kva.example"),)),
        ('"пример.example:80"', (NamedBackend("xn--e1afmkfd.example", 80),)),
        (
            '["web1.example.net", "2001:db8:1::3", "web1.example.net:8443"]',
            (
                NamedBackend("web1.example.net"),
                Backend(IPv6Address("2001:db8:1::3")),
                NamedBackend("web1.example.net", 8443),
            ),
        ),
    ],
)
def test_a_dns_name_stands_where_an_address_may(written: str, expected: tuple[Backend | NamedBackend, ...]) -> None:
    [route] = with_backend(written).routes
    assert route.backends == expected


def test_names_and_addresses_are_told_apart_over_all_routes() -> None:
    routes = parse_config(PREFIX + GUARD + LISTEN + NAMED + 'default = ["2001:db8:1::2", "web1.example.net:81"]\n').routes
    assert routes.names == ("web1.example.net",)
    assert routes.named_backends == (NamedBackend("web1.example.net"), NamedBackend("web1.example.net", 81))
    assert routes.backends == (Backend(IPv6Address("2001:db8:1::2")),)


def test_one_name_in_two_spellings_is_one_backend() -> None:
    text = PREFIX + GUARD + LISTEN + '[hosts]\ndefault = ["web1.example.net", "WEB1.example.net."]\n'
    assert_only_problem(text, "hosts.default[1]", "same backend as hosts.default[0]")


def test_a_name_takes_the_networks_that_it_may_lead_into() -> None:
    assert_only_problem(PREFIX + LISTEN + NAMED, "backend_networks", 'the DNS name "web1.example.net" could have any address')


def test_serving_any_name_takes_them_too() -> None:
    assert_only_problem(PREFIX + LISTEN + STATIC + "[dns]\nserve_any = true\n", "backend_networks", "with dns.serve_any")


def test_networks_that_are_wrong_are_not_missing_as_well() -> None:
    assert_only_problem(PREFIX + "backend_networks = []\n" + LISTEN + NAMED, "backend_networks", "at least one IPv6 network")


@pytest.mark.parametrize(
    ("network", "hint"),
    [
        ("2001:db8:46::/96", "is inside the prefix 2001:db8:46::/96"),
        ("2001:db8:46::/112", "is inside the prefix"),
        ("ff02::/16", "is multicast: no backend can be there"),
        ("fe80::/64", "is link-local: no backend can be there"),
        ("::1", "is the loopback address: no backend can be there"),
        ("::ffff:198.51.100.0/120", "is an IPv4 address written as IPv6"),
        ("c000::/2", "with ff00::/8 in it, where no backend can be"),
        ("2001:db8:1::1/64", 'did you mean "2001:db8:1::/64"?'),
        ("2001:db8:1::/129", "is no IPv6 network"),
        ("198.51.100.0/24", "backends are IPv6 only"),
        ("web1.example.net", "is no IPv6 network"),
        ("2001:db8:1::/64%eth0", "is no IPv6 network"),
    ],
)
def test_networks_in_which_no_backend_can_be(network: str, hint: str) -> None:
    assert_only_problem(PREFIX + f'backend_networks = ["{network}"]\n' + LISTEN + STATIC, "backend_networks", hint)


def test_an_address_and_a_network_are_networks() -> None:
    config = parse_config(PREFIX + 'backend_networks = ["2001:db8:1::2", "fd00::/8"]\n' + LISTEN + STATIC)
    assert config.backend_networks == (IPv6Network("2001:db8:1::2/128"), IPv6Network("fd00::/8"))


def test_an_address_outside_of_the_networks_is_a_problem_where_there_are_any() -> None:
    outside = STATIC.replace("2001:db8:1::2", "2001:db8:2::2")
    assert_only_problem(PREFIX + GUARD + LISTEN + outside, 'hosts."www.example.com"', "is in none of backend_networks")
    assert parse_config(PREFIX + LISTEN + outside).backend_networks == ()


def test_any_name_and_a_default_do_not_go_together() -> None:
    text = PREFIX + GUARD + LISTEN + '[hosts]\ndefault = "2001:db8:1::2"\n[dns]\nserve_any = true\n'
    assert_only_problem(text, "dns.serve_any", "so does hosts.default")


def test_any_name_needs_no_hosts() -> None:
    config = parse_config(PREFIX + GUARD + LISTEN + "[dns]\nserve_any = true\n")
    assert (len(config.routes), config.dns) == (0, Dns(serve_any=True))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("192.0.2.53", NameServer(IPv4Address("192.0.2.53"))),
        ("127.0.0.53", NameServer(IPv4Address("127.0.0.53"))),
        ("::1", NameServer(IPv6Address("::1"))),
        ("192.0.2.53:5353", NameServer(IPv4Address("192.0.2.53"), 5353)),
        ("[2001:db8::53]:5353", NameServer(IPv6Address("2001:db8::53"), 5353)),
        ("[2001:db8::53]", NameServer(IPv6Address("2001:db8::53"))),
    ],
)
def test_a_resolver_is_an_address_of_either_family(written: str, expected: NameServer) -> None:
    config = parse_config(PREFIX + LISTEN + STATIC + f'[dns]\nservers = ["{written}"]\n')
    assert config.dns.servers == (expected,)
    assert parse_config(PREFIX + LISTEN + STATIC + f'[dns]\nservers = ["{expected}"]\n') == config


@pytest.mark.parametrize(
    ("setting", "path", "hint"),
    [
        ('servers = "192.0.2.53"', "dns.servers", "must be a list of addresses"),
        ('servers = ["ns.example.net"]', "dns.servers", "is no address"),
        ('servers = ["192.0.2.53:0"]', "dns.servers", "is no address"),
        ('servers = ["192.0.2.53:٣"]', "dns.servers", "is no address"),
        ('servers = ["ff02::fb"]', "dns.servers", "where no name server can be"),
        ('servers = ["192.0.2.53", "192.0.2.53:53"]', "dns.servers", "twice"),
        ("servers = [53]", "dns.servers", "must be text"),
        ("serve_any = 1", "dns.serve_any", "true or false"),
        ("timeout_s = 0", "dns.timeout_s", "from 0.1 to 60"),
        ("min_ttl_s = 0", "dns.min_ttl_s", "from 1 to 86400"),
        ("min_ttl_s = 7200", "dns.min_ttl_s", "at most max_ttl_s, 3600"),
        ("max_ttl_s = 2", "dns.max_ttl_s", "at least min_ttl_s, 5"),
        ("max_names = 0", "dns.max_names", "from 1 to 1048576"),
        ("max_name = 1", "dns.max_name", "did you mean max_names?"),
    ],
)
def test_a_setting_of_the_dns_that_cannot_be(setting: str, path: str, hint: str) -> None:
    assert_only_problem(PREFIX + LISTEN + STATIC + f"[dns]\n{setting}\n", path, hint)


def test_a_profile_may_be_that_of_an_address_a_name_could_have() -> None:
    profile = '[backend_profile."2001:db8:1::99"]\nsack = false\n'
    config = parse_config(PREFIX + GUARD + LISTEN + NAMED + profile)
    assert not config.profile_of(IPv6Address("2001:db8:1::99")).sack
    outside = profile.replace("1::99", "2::99")
    assert_only_problem(PREFIX + GUARD + LISTEN + NAMED + outside, 'backend_profile."2001:db8:2::99"', "no backend in hosts")


def test_a_network_may_contain_the_prefix() -> None:
    """Whoever has one /64 has backends and prefix in it."""
    text = 'prefix = "2001:db8:1:2:0:46::/96"\nbackend_networks = ["2001:db8:1:2::/64"]\n'
    text += '[[listen]]\naddress = "198.51.100.1"\nport = 443\n[hosts]\n"www.example.com" = "web.example.net"\n'
    assert str(parse_config(text).backend_networks[0]) == "2001:db8:1:2::/64"
