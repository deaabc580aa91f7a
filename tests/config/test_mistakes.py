"""Every mistake that a file can hold: its path, its value, and the hint that it gets."""

from typing import cast

import pytest

from kracauer.config import ABSENT, Problem, parse_config
from kracauer.errors import ConfigError

PREFIX = 'prefix = "2001:db8:46::/96"\n'
LISTEN = '[[listen]]\naddress = "198.51.100.1"\nport = 443\n'
HOSTS = '[hosts]\n"www.example.com" = "2001:db8:1::2"\n'


def problems(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as refusal:
        parse_config(text)
    return [cast("Problem", problem) for problem in refusal.value.problems]


def assert_only_problem(text: str, path: str, value: object, hint: str) -> None:
    (problem,) = problems(text)
    assert (problem.path, problem.value) == (path, value)
    assert type(problem.value) is type(value)
    assert hint in problem.message


@pytest.mark.parametrize(
    ("prefix", "hint"),
    [
        ("64:ff9b::/96", "well-known prefix"),
        ("64:ff9b:0::/96", "use a /96 of your own"),
        ("2001:db8:46::/64", 'as in "2001:db8:46::/96"'),
        ("2001:db8:46::", 'as in "2001:db8:46::/96"'),
        ("2001:db8:46::/128", "must be a /96"),
        ("2001:db8:46::/ffff::", "must be a /96"),
        ("2001:db8:46::1/96", 'did you mean "2001:db8:46::/96"?'),
        ("2001:db8:46:0:100::/96", "bits 64 to 71"),
        ("2001:db8:46::/96 ", "must be a /96"),
        ("fe80::/96", "link-local"),
        ("fe80::%eth0/96", "zone"),
        ("fec0::/96", "RFC 3879"),
        ("ff02::/96", "multicast"),
        ("100::/96", "discard-only"),
        ("::ffff:0:0/96", "IPv4 address written as IPv6"),
        ("::/96", "IPv4-compatible"),
        ("0:1::/96", "::/8"),
        ("198.51.100.0/24", "must be an IPv6 prefix"),
        ("prefix", "must be an IPv6 prefix"),
        ("", "must be an IPv6 prefix"),
    ],
)
def test_a_prefix_that_cannot_work(prefix: str, hint: str) -> None:
    assert_only_problem(f'prefix = "{prefix}"\n' + LISTEN + HOSTS, "prefix", prefix, hint)


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("0.0.0.0", "no host's address"),
        ("0.1.2.3", "no host's address"),
        ("127.0.0.1", "loopback"),
        ("169.254.1.1", "RFC 3927"),
        ("224.0.0.1", "multicast"),
        ("240.0.0.1", "class E"),
        ("255.255.255.255", "broadcast"),
        ("2001:db8:1::1", "IPv6 clients reach the backends without a translator"),
        ("[2001:db8:1::1]", "IPv6 clients reach the backends without a translator"),
        ("2001:db8:46::c633:6401", "inside the prefix 2001:db8:46::/96"),
        ("::ffff:198.51.100.1", 'did you mean "198.51.100.1"?'),
        ("198.51.100.1/32", 'did you mean "198.51.100.1"?'),
        ("198.51.100.1:443", "the port has its own key"),
        ("198.51.100.01", "must be an IPv4 address"),
        ("198.51.100", "must be an IPv4 address"),
        ("www.example.com", "must be an IPv4 address"),
        ("", "must be an IPv4 address"),
    ],
)
def test_an_address_nobody_can_dial(address: str, hint: str) -> None:
    listen = f'[[listen]]\naddress = "{address}"\nport = 443\n'
    assert_only_problem(PREFIX + listen + HOSTS, "listen[0].address", address, hint)


@pytest.mark.parametrize(
    ("backend", "hint"),
    [
        ("198.51.100.7", "backends are IPv6 only"),
        ("198.51.100.7:80", "backends are IPv6 only"),
        ("[198.51.100.7]:80", "backends are IPv6 only"),
        ("2001:db8:46::1", "inside the prefix 2001:db8:46::/96"),
        ("[2001:db8:46::192.0.2.7]:443", "inside the prefix 2001:db8:46::/96"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "zone"),
        ("2001:db8:1::2%eth0", "zone"),
        ("[fe80::1%eth0]:443", "zone"),
        ("ff02::1", "multicast"),
        ("::1", "loopback"),
        ("::", "unspecified"),
        ("::ffff:198.51.100.7", "IPv4 address written as IPv6"),
        ("::198.51.100.7", "IPv4-compatible"),
        ("fec0::1", "site-local"),
        ("backend.example.com:0", 'its port must be a whole number from 1 to 65535, as in "web1.example.net:8443"'),
        ("backend.example.com:https", "its port must be a whole number"),
        ("[backend.example.com]:443", 'has brackets, which are for addresses: did you mean "backend.example.com:443"?'),
        ("[backend.example.com]", 'did you mean "backend.example.com"?'),
        ("*.example.com", 'as a DNS name it has "*" where it cannot stand'),
        ("a..example.com", "as a DNS name it has an empty label"),
        ("back end.example.com", "as a DNS name it is no valid host name"),
        ("203.0.113.1000", "must be an IPv6 address"),
        ("x" * 64 + ".example.com", "as a DNS name it has a label of more than 63 characters"),
        ("localhost", "has no dot: a DNS name must be written as a whole"),
        ("https://www.example.com", "not a URL"),
        ("https://[2001:db8:1::2]", "not a URL"),
        ("2001:db8:1::/64", 'one address without "/"'),
        ("[2001:db8:1::2]:0", "its port must be a whole number from 1 to 65535"),
        ("[2001:db8:1::2]:65536", "its port must be a whole number from 1 to 65535"),
        ("[2001:db8:1::2]:", "its port must be a whole number from 1 to 65535"),
        ("[2001:db8:1::2]:https", "its port must be a whole number from 1 to 65535"),
        ("[2001:db8:1::2]:٤٤٣", "its port must be a whole number from 1 to 65535"),
        ("[2001:db8:1::2", 'or with a port, as in "[2001:db8:1::2]:8443"'),
        ("2001:db8:1:0:0:0:0:2:8443", 'or with a port, as in "[2001:db8:1::2]:8443"'),
        ("2001:db8:1::2 ", "must be an IPv6 address"),
        ("", "must be an IPv6 address"),
    ],
)
@pytest.mark.parametrize("in_list", [False, True])
def test_a_backend_nobody_can_reach(backend: str, hint: str, in_list: bool) -> None:
    value, path = (f'["{backend}"]', 'hosts."www.example.com"[0]') if in_list else (f'"{backend}"', 'hosts."www.example.com"')
    assert_only_problem(PREFIX + LISTEN + f'[hosts]\n"www.example.com" = {value}\n', path, backend, hint)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("192.0.2.1", "use default for those that send none"),
        ("a..example", "empty label"),
        ("*", "write default"),
        ("a.*.example", "whole first label"),
        ("☃.example", "U+2603"),
    ],
)
def test_a_name_no_client_sends(key: str, hint: str) -> None:
    assert_only_problem(PREFIX + LISTEN + f'[hosts]\n"{key}" = "2001:db8:1::2"\n', f'hosts."{key}"', key, hint)


@pytest.mark.parametrize(
    ("first", "second", "normalised"),
    [
        ("example.com", "EXAMPLE.com", "example.com"),
        ("example.com", "example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("*.example.com", "*.Example.com", "*.example.com"),
    ],
)
def test_two_spellings_of_one_name(first: str, second: str, normalised: str) -> None:
    text = PREFIX + LISTEN + f'[hosts]\n"{first}" = "2001:db8:1::2"\n"{second}" = "2001:db8:1::3"\n'
    hint = f'is the same name as hosts."{first}", both being {normalised}'
    assert_only_problem(text, f'hosts."{second}"', second, hint)


# Settings: what stands after "=", the value as Python has it, the hint.
@pytest.mark.parametrize(
    ("section", "key", "written", "value", "hint"),
    [
        ("backend_profile", "mss", "535", 535, "from 536 to 65535"),
        ("backend_profile", "mss", "65536", 65536, "from 536 to 65535"),
        ("backend_profile", "mss", "true", True, "from 536 to 65535"),
        ("backend_profile", "mss", "1440.0", 1440.0, "from 536 to 65535"),
        ("backend_profile", "mss", '"1440"', "1440", "from 536 to 65535"),
        ("backend_profile", "window_scale", "15", 15, "from 0 to 14, or false for none"),
        ("backend_profile", "window_scale", "-1", -1, "from 0 to 14, or false for none"),
        ("backend_profile", "window_scale", "true", True, "from 0 to 14, or false for none"),
        ("backend_profile", "sack", "1", 1, "true or false"),
        ("backend_profile", "timestamps", '"yes"', "yes", "true or false"),
        ("backend_profile", "ecn", "0", 0, "true or false"),
        ("backend_profile", "window", "0", 0, "from 1 to 65535"),
        ("backend_profile", "window", "65536", 65536, "from 1 to 65535"),
        ("timeouts", "peek_s", "0", 0, "from 0.1 to 3600"),
        ("timeouts", "peek_s", "inf", float("inf"), "from 0.1 to 3600"),
        ("timeouts", "peek_s", "true", True, "from 0.1 to 3600"),
        ("timeouts", "peek_s", '"30s"', "30s", "number of seconds"),
        ("timeouts", "dial_attempt_s", "0.01", 0.01, "from 0.05 to 60"),
        ("timeouts", "dial_attempt_s", "20", 20.0, "at most dial_s, 10"),
        ("timeouts", "dial_s", "0.25", 0.25, "at least dial_attempt_s, 0.5"),
        ("timeouts", "dial_s", "301", 301, "from 0.05 to 300"),
        ("timeouts", "established_idle_s", "7439", 7439, "below_rfc_floors = true"),
        ("timeouts", "established_idle_s", "2592001", 2592001, "RFC 5382 §5"),
        ("timeouts", "transitory_s", "239.9", 239.9, "below_rfc_floors = true"),
        ("timeouts", "transitory_s", "86401", 86401, "from 240 to 86400"),
        ("timeouts", "below_rfc_floors", '"true"', "true", "true or false"),
        ("limits", "flows", "0", 0, "from 1 to 16777216"),
        ("limits", "flows", "16777217", 16777217, "from 1 to 16777216"),
        ("limits", "peek_bytes", "1023", 1023, "from 1024 to 65536"),
        ("limits", "peek_bytes", "65537", 65537, "from 1024 to 65536"),
        ("limits", "held_bytes", "65535", 65535, "from 65536 to 1099511627776"),
        ("limits", "unproven", "0", 0, "from 1 to 16777216"),
        ("limits", "unproven_per_client", "0", 0, "from 1 to 16777216"),
        ("limits", "flows_per_client", "-1", -1, "from 0 to 16777216"),
        ("limits", "new_per_second_per_client", "-0.1", -0.1, "a number from 0 to 1000000"),
        ("limits", "new_per_second_per_client", "inf", float("inf"), "a number from 0 to 1000000"),
        ("limits", "new_per_second_per_client", "true", True, "a number from 0 to 1000000"),
        ("limits", "new_per_second_per_client", '"5"', "5", "a number from 0 to 1000000"),
        ("limits", "client_prefix_length", "7", 7, "from 8 to 32"),
        ("limits", "client_prefix_length", "33", 33, "from 8 to 32"),
        ("network", "manage", '"no"', "no", "true or false"),
        ("network", "offloads", "1", 1, "true or false"),
        ("network", "ipv4_mtu", "575", 575, "from 576 to 65535"),
        ("network", "ipv6_mtu", "1279", 1279, "from 1280 to 65535"),
        ("network", "ipv6_mtu", "65536", 65536, "from 1280 to 65535"),
        ("network", "device", '""', "", "1 to 15 characters"),
        ("network", "table", "0", 0, "from 1 to 4294967295"),
        ("network", "table", "254", 254, 'is the table "main"'),
        ("network", "ownership", '"share"', "share", 'did you mean "shared"?'),
        ("network", "offload", '"of"', "of", 'one of "auto", "off", "require": did you mean "off"?'),
        ("network", "offload", '"on"', "on", 'one of "auto", "off", "require"'),
        ("network", "offload", "true", True, 'did you mean "auto", or the key offloads?'),
        ("network", "offload", "false", False, 'did you mean "off", or the key offloads?'),
        ("network", "offloads", '"off"', "off", "without quotes: did you mean the key offload?"),
        ("network", "device", '"kracauer-device0"', "kracauer-device0", "1 to 15 characters"),
        ("network", "device", '"a b"', "a b", "printable ASCII"),
        ("network", "device", '"a/b"', "a/b", "printable ASCII"),
        ("network", "device", '"a:b"', "a:b", "printable ASCII"),
        ("network", "device", '"tun%d"', "tun%d", "printable ASCII"),
        ("network", "device", '"."', ".", "printable ASCII"),
        ("network", "device", '".."', "..", "printable ASCII"),
        ("network", "device", '"bücher"', "bücher", "printable ASCII"),
        ("network", "device", '"a\\u0000"', "a\0", "printable ASCII"),
        ("network", "device", '"lo"', "lo", "loopback device"),
        ("network", "device", '"all"', "all", "sysctl"),
        ("network", "device", "0", 0, "text in quotes"),
        ("log", "level", '"verbose"', "verbose", 'one of "debug", "info", "warning", "error"'),
        ("log", "level", '"INFO"', "INFO", 'did you mean "info"?'),
        ("log", "level", "1", 1, "one of"),
        ("log", "format", '"jsn"', "jsn", 'did you mean "json"?'),
    ],
)
def test_a_setting_out_of_range_or_of_the_wrong_type(section: str, key: str, written: str, value: object, hint: str) -> None:
    text = PREFIX + LISTEN + HOSTS + f"[{section}]\n{key} = {written}\n"
    assert_only_problem(text, f"{section}.{key}", value, hint)


def test_a_timeout_that_is_no_number_at_all() -> None:
    (problem,) = problems(PREFIX + LISTEN + HOSTS + "[timeouts]\npeek_s = nan\n")
    assert str(problem) == "timeouts.peek_s: nan: must be a number of seconds from 0.1 to 3600"


def test_a_timeout_below_the_lowest_even_with_the_explicit_word() -> None:
    text = PREFIX + LISTEN + HOSTS + "[timeouts]\nbelow_rfc_floors = true\ntransitory_s = 0\n"
    assert_only_problem(text, "timeouts.transitory_s", 0, "from 1 to 86400")


@pytest.mark.parametrize(
    ("text", "path", "value", "hint"),
    [
        (LISTEN + HOSTS, "prefix", ABSENT, 'write for example prefix = "2001:db8:46::/96"'),
        (PREFIX + HOSTS, "listen", ABSENT, "write at least one [[listen]]"),
        (PREFIX + LISTEN, "hosts", ABSENT, "at least one name"),
        (PREFIX + LISTEN + "[hosts]\n", "hosts", ABSENT, "at least one name"),
        (PREFIX + "listen = []\n" + HOSTS, "listen", [], "one table or more"),
        (PREFIX + '[[listen]]\naddress = "198.51.100.1"\n' + HOSTS, "listen[0].port", ABSENT, "write for example port = 443"),
        (PREFIX + "[[listen]]\nport = 443\n" + HOSTS, "listen[0].address", ABSENT, 'address = "198.51.100.1"'),
        (PREFIX + LISTEN + '[hosts]\n"a.example" = []\n', 'hosts."a.example"', [], "at least one backend"),
    ],
)
def test_something_needed_is_missing(text: str, path: str, value: object, hint: str) -> None:
    assert_only_problem(text, path, value, hint)


@pytest.mark.parametrize(
    ("text", "path", "value", "hint"),
    [
        ("prefix = 96\n" + LISTEN + HOSTS, "prefix", 96, "text in quotes"),
        (PREFIX + LISTEN + "[hosts]\ndefault = 5\n", "hosts.default", 5, "must be text"),
        (PREFIX + LISTEN + "[hosts]\ndefault = [5]\n", "hosts.default[0]", 5, "must be text"),
        (PREFIX + LISTEN + '[hosts]\ndefault = [["2001:db8:1::2"]]\n', "hosts.default[0]", ["2001:db8:1::2"], "must be text"),
        (PREFIX + "hosts = 5\n" + LISTEN, "hosts", 5, "a line [hosts]"),
        (PREFIX + "timeouts = 30\n" + LISTEN + HOSTS, "timeouts", 30, "a line [timeouts]"),
        (PREFIX + '[listen]\naddress = "198.51.100.1"\nport = 443\n' + HOSTS, "listen", None, "[[listen]]"),
        (PREFIX + 'listen = ["198.51.100.1:443"]\n' + HOSTS, "listen", ["198.51.100.1:443"], "[[listen]]"),
        (PREFIX + LISTEN.replace("443", '"443"') + HOSTS, "listen[0].port", "443", "whole number from 1 to 65535"),
        (PREFIX + LISTEN.replace("443", "true") + HOSTS, "listen[0].port", True, "whole number from 1 to 65535"),
        (PREFIX + LISTEN.replace("443", "70000") + HOSTS, "listen[0].port", 70000, "whole number from 1 to 65535"),
        (PREFIX + LISTEN.replace("443", "0") + HOSTS, "listen[0].port", 0, "whole number from 1 to 65535"),
        (PREFIX + LISTEN + 'protocol = "https"\n' + HOSTS, "listen[0].protocol", "https", '"tls", "http", "auto"'),
        (PREFIX + LISTEN + 'protocol = "TLS"\n' + HOSTS, "listen[0].protocol", "TLS", 'did you mean "tls"?'),
    ],
)
def test_something_is_of_the_wrong_type(text: str, path: str, value: object, hint: str) -> None:
    (problem,) = problems(text)
    assert problem.path == path
    assert value is None or problem.value == value
    assert hint in problem.message


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        (PREFIX + "prefx = 1\n" + LISTEN + HOSTS, "prefx", "did you mean prefix?"),
        (PREFIX + LISTEN + "adress = 1\n" + HOSTS, "listen[0].adress", "is not a key of listen[0]: did you mean address?"),
        (PREFIX + LISTEN + "xyz = 1\n" + HOSTS, "listen[0].xyz", "known are address, port, protocol"),
        (PREFIX + LISTEN + HOSTS + "[timeout]\n", "timeout", "did you mean timeouts?"),
        (PREFIX + LISTEN + HOSTS + "[timeouts]\nestablished_idle = 1\n", "timeouts.established_idle", "established_idle_s?"),
        (PREFIX + LISTEN + HOSTS + "[backend_profile]\nsak = 1\n", "backend_profile.sak", "did you mean sack?"),
        (PREFIX + LISTEN + HOSTS + "[limits]\nflow = 1\n", "limits.flow", "did you mean flows?"),
        (PREFIX + LISTEN + HOSTS + "[network]\nipv6-mtu = 1\n", "network.ipv6-mtu", "did you mean ipv6_mtu?"),
        (PREFIX + LISTEN + HOSTS + "[log]\nlvl = 1\n", "log.lvl", "did you mean level?"),
    ],
)
def test_an_unknown_key_gets_the_nearest_right_one(text: str, path: str, hint: str) -> None:
    (problem,) = problems(text)
    assert problem.path == path
    assert hint in problem.message


@pytest.mark.parametrize(
    ("hosts", "path", "hint"),
    [
        ('www.example.com = "2001:db8:1::2"', "hosts.www", 'did you mean "www.example.com"?'),
        ('a.b = "2001:db8:1::2"\na.c = "2001:db8:1::2"', "hosts.a", 'as in "www.example.com"'),
        ('default = {address = "2001:db8:1::2"}', "hosts.default", 'as in "www.example.com"'),
        ('www.example.com = {backends = "2001:db8:1::2"}', "hosts.www", 'did you mean "www.example.com"?'),
        ('[hosts.www.example.com]\nbackends = "2001:db8:1::2"', "hosts.www", 'did you mean "www.example.com"?'),
        ('[hosts.www.example.com]\nbackends = "2001:db8:1::2"\ndeny = []', "hosts.www", 'did you mean "www.example.com"?'),
        ('backends.example.com = "2001:db8:1::2"', "hosts.backends", 'did you mean "backends.example.com"?'),
        ("[hosts.www]", "hosts.www", "or a table with backends"),
    ],
)
def test_a_name_without_quotes_is_recognised(hosts: str, path: str, hint: str) -> None:
    (problem,) = problems(PREFIX + LISTEN + f"[hosts]\n{hosts}\n")
    assert problem.path == path
    assert hint in problem.message


def test_a_listener_given_twice_names_both() -> None:
    text = PREFIX + LISTEN.replace("443", "80") + LISTEN + LISTEN + HOSTS
    assert_only_problem(text, "listen[2]", "198.51.100.1:443", "already listened on by listen[1]")


def test_a_backend_twice_in_one_list_names_both() -> None:
    text = PREFIX + LISTEN + '[hosts]\ndefault = ["2001:db8:1::2", "2001:db8:1::3", "2001:db8:1:0::2"]\n'
    assert_only_problem(text, "hosts.default[2]", "2001:db8:1:0::2", "same backend as hosts.default[0]")


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("2001:db8:1::99", "no backend in hosts"),
        ("fe80::1", "link-local"),
        ("x:y", "must be an IPv6 address"),
        ("::ffff:192.0.2.1", "IPv4 address written as IPv6"),
    ],
)
def test_a_profile_of_no_backend(address: str, hint: str) -> None:
    text = PREFIX + LISTEN + HOSTS + f'[backend_profile."{address}"]\nsack = false\n'
    assert_only_problem(text, f'backend_profile."{address}"', address, hint)


def test_two_profiles_of_one_backend() -> None:
    text = PREFIX + LISTEN + HOSTS + '[backend_profile."2001:db8:1::2"]\n[backend_profile."2001:DB8:1::2"]\n'
    assert_only_problem(text, 'backend_profile."2001:DB8:1::2"', "2001:DB8:1::2", "second profile of 2001:db8:1::2")


def test_a_mistake_inside_the_profile_of_one_backend() -> None:
    text = PREFIX + LISTEN + HOSTS + '[backend_profile."2001:db8:1::2"]\nmss = 1\n'
    assert_only_problem(text, 'backend_profile."2001:db8:1::2".mss', 1, "from 536 to 65535")


def test_every_problem_is_told_at_once_in_the_order_of_the_sections() -> None:
    text = """
        prefix = "64:ff9b::/96"
        surprise = 1
        [[listen]]
        address = "127.0.0.1"
        port = 70000
        [[listen]]
        adress = "198.51.100.1"
        port = 80
        protocol = "htpp"
        [hosts]
        "a..example" = "198.51.100.7"
        default = []
        [timeouts]
        transitory_s = 5
        [network]
        device = ""
    """
    assert [problem.path for problem in problems(text)] == [
        "prefix",
        "listen[0].address",
        "listen[0].port",
        "listen[1].address",
        "listen[1].protocol",
        "listen[1].adress",
        'hosts."a..example"',
        'hosts."a..example"',
        "hosts.default",
        "timeouts.transitory_s",
        "network.device",
        "surprise",
    ]


def test_a_wrong_prefix_does_not_make_backends_wrong() -> None:
    assert_only_problem('prefix = "2001:db8:1::/64"\n' + LISTEN + HOSTS, "prefix", "2001:db8:1::/64", "must be a /96")


def test_a_wrong_host_does_not_make_its_profile_unknown() -> None:
    text = PREFIX + LISTEN + '[hosts]\n"a..example" = "2001:db8:1::2"\n[backend_profile."2001:db8:1::2"]\nsack = false\n'
    assert_only_problem(text, 'hosts."a..example"', "a..example", "empty label")


def test_two_listeners_that_lack_their_ports_are_not_called_the_same() -> None:
    listen = '[[listen]]\naddress = "198.51.100.1"\n'
    assert [problem.path for problem in problems(PREFIX + listen * 2 + HOSTS)] == ["listen[0].port", "listen[1].port"]


@pytest.mark.parametrize(("key", "value"), [('"a:b"', "5"), ("other", "{sack = false}")])
def test_only_a_table_under_an_address_is_the_profile_of_one_backend(key: str, value: str) -> None:
    (problem,) = problems(PREFIX + LISTEN + HOSTS + f"[backend_profile]\n{key} = {value}\n")
    assert problem.path == f"backend_profile.{key}"
    assert "is not a key of backend_profile" in problem.message
