"""What a valid file becomes, and that whatever else is given becomes a ConfigError and nothing worse."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from kracauer.config import (
    BackendProfile,
    Config,
    Limits,
    Listener,
    Log,
    Network,
    Timeouts,
    parse_config,
    parse_document,
)
from kracauer.errors import ConfigError
from kracauer.peek import Protocol
from kracauer.routes import Backend, Route, RouteTable

MINIMAL = """
prefix = "2001:db8:46::/96"

[[listen]]
address = "198.51.100.1"
port = 443

[hosts]
"www.example.com" = "2001:db8:1::2"
"""
WEB = IPv6Address("2001:db8:1::2")


def test_the_minimal_file_gets_every_default() -> None:
    assert parse_config(MINIMAL) == Config(
        prefix=IPv6Network("2001:db8:46::/96"),
        listeners=(Listener(IPv4Address("198.51.100.1"), 443, Protocol.AUTO),),
        routes=RouteTable([Route("www.example.com", (Backend(WEB),))]),
        profile=BackendProfile(),
        timeouts=Timeouts(peek_s=30, dial_attempt_s=0.5, dial_s=10, established_idle_s=7440, transitory_s=240),
        limits=Limits(flows=65536, peek_bytes=65536, held_bytes=67108864),
        network=Network(manage=True, device="kracauer0", ipv4_mtu=1500, ipv6_mtu=1500, offloads=True),
        log=Log(level="info", format="auto"),
    )


def test_bytes_are_read_like_text() -> None:
    assert parse_config(MINIMAL.encode()) == parse_config(MINIMAL)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm() -> None:
    assert parse_config(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode()) == parse_config(MINIMAL)


def test_every_setting_can_be_given() -> None:
    config = parse_config(
        MINIMAL
        + """
[backend_profile]
mss = 1220
window_scale = 9
sack = false
timestamps = false
ecn = true
window = 28800
[timeouts]
peek_s = 5
dial_attempt_s = 0.25
dial_s = 3.5
established_idle_s = 9000
transitory_s = 300
[limits]
flows = 10
peek_bytes = 2048
held_bytes = 100000
unproven = 9
unproven_per_client = 8
flows_per_client = 7
new_per_second_per_client = 0.5
client_prefix_length = 24
[network]
manage = false
device = "tun-web"
ipv4_mtu = 1400
ipv6_mtu = 1280
offloads = false
[log]
level = "debug"
format = "json"
"""
    )
    assert config.profile == BackendProfile(1220, 9, sack=False, timestamps=False, ecn=True, window=28800)
    assert config.timeouts == Timeouts(5, 0.25, 3.5, 9000, 300)
    assert config.limits == Limits(10, 2048, 100_000, 9, 8, 7, 0.5, 24)
    assert config.network == Network(manage=False, device="tun-web", ipv4_mtu=1400, ipv6_mtu=1280, offloads=False)
    assert config.log == Log("debug", "json")


def test_seconds_are_floats_however_they_are_written() -> None:
    timeouts = parse_config(MINIMAL + "[timeouts]\npeek_s = 7\n").timeouts
    assert isinstance(timeouts.peek_s, float)


def test_every_protocol_can_be_listened_for() -> None:
    text = 'prefix = "2001:db8:46::/96"\nhosts.default = "2001:db8:1::2"\n'
    for port, protocol in enumerate(Protocol, start=1):
        text += f'[[listen]]\naddress = "198.51.100.1"\nport = {port}\nprotocol = "{protocol.value}"\n'
    assert [listener.protocol for listener in parse_config(text).listeners] == list(Protocol)


@pytest.mark.parametrize(
    ("written", "backends"),
    [
        ('"2001:db8:1::2"', (Backend(WEB),)),
        ('"2001:DB8:1:0::2"', (Backend(WEB),)),
        ('"[2001:db8:1::2]"', (Backend(WEB),)),
        ('"[2001:db8:1::2]:8443"', (Backend(WEB, 8443),)),
        ('"[2001:db8:1::2]:65535"', (Backend(WEB, 65535),)),
        ('["2001:db8:1::2"]', (Backend(WEB),)),
        ('["2001:db8:1::3", "2001:db8:1::2"]', (Backend(IPv6Address("2001:db8:1::3")), Backend(WEB))),
        ('["2001:db8:1::2", "[2001:db8:1::2]:443"]', (Backend(WEB), Backend(WEB, 443))),
    ],
)
def test_backends_are_addresses_with_or_without_a_port_in_the_order_given(written: str, backends: tuple[Backend, ...]) -> None:
    config = parse_config(MINIMAL + f'"api.example.com" = {written}\n')
    route = config.routes.lookup("api.example.com")
    assert route is not None
    assert route.backends == backends


def test_a_unicode_name_is_found_by_its_a_labels() -> None:
    config = parse_config(MINIMAL + '"*.Bücher.example" = "2001:db8:1::3"\n')
    assert config.routes.lookup("www.xn--bcher-kva.example") == Route(
        "*.xn--bcher-kva.example", (Backend(IPv6Address("2001:db8:1::3")),)
    )


@pytest.mark.parametrize("prefix", ["2001:db8:46::/96", "fd00:0:0:46::/96", "64:ff9b:1::/96", "64:ff9b:1:fffe::/96"])
def test_prefixes_that_can_be_routed_are_accepted(prefix: str) -> None:
    assert parse_config(MINIMAL.replace("2001:db8:46::/96", prefix)).prefix == IPv6Network(prefix)


def test_timeouts_below_the_floors_need_the_explicit_word() -> None:
    timeouts = parse_config(
        MINIMAL + "[timeouts]\nbelow_rfc_floors = true\nestablished_idle_s = 60\ntransitory_s = 1\n"
    ).timeouts
    assert (timeouts.established_idle_s, timeouts.transitory_s) == (60, 1)


@pytest.mark.parametrize(
    "setting",
    [
        *("backend_profile.mss = 536", "backend_profile.mss = 65535"),
        *("backend_profile.window_scale = 0", "backend_profile.window_scale = 14"),
        *("backend_profile.window = 1", "backend_profile.window = 65535"),
        *("timeouts.peek_s = 0.1", "timeouts.peek_s = 3600"),
        *("timeouts.dial_attempt_s = 0.05", "timeouts.dial_attempt_s = 10"),
        *("timeouts.dial_s = 0.5", "timeouts.dial_s = 300"),
        *("timeouts.established_idle_s = 7440", "timeouts.established_idle_s = 2592000"),
        *("timeouts.transitory_s = 240", "timeouts.transitory_s = 86400"),
        *("limits.flows = 1", "limits.flows = 16777216"),
        *("limits.peek_bytes = 1024", "limits.peek_bytes = 65536"),
        *("limits.held_bytes = 65536", "limits.held_bytes = 1099511627776"),
        *("limits.unproven = 1", "limits.unproven = 16777216"),
        *("limits.unproven_per_client = 1", "limits.unproven_per_client = 16777216"),
        *("limits.flows_per_client = 0", "limits.flows_per_client = 16777216"),
        *("limits.new_per_second_per_client = 0", "limits.new_per_second_per_client = 1000000"),
        *("limits.client_prefix_length = 8", "limits.client_prefix_length = 32"),
        *("network.ipv4_mtu = 576", "network.ipv4_mtu = 65535"),
        *("network.ipv6_mtu = 1280", "network.ipv6_mtu = 65535"),
        *('network.device = "k"', 'network.device = "kracauer-device"'),
        *('log.level = "error"', 'log.format = "console"'),
    ],
)
def test_the_ends_of_each_range_belong_to_it(setting: str) -> None:
    place, value = setting.split(" = ")
    section, key = place.split(".")
    settings = getattr(parse_config(f"{setting}\n{MINIMAL}"), section.replace("backend_", ""))
    assert getattr(settings, key) == tomli.loads(f"value = {value}")["value"]


def test_window_scale_false_means_none() -> None:
    assert parse_config(MINIMAL + "[backend_profile]\nwindow_scale = false\n").profile.window_scale is None


def test_window_scale_zero_is_a_scale() -> None:
    scale = parse_config(MINIMAL + "[backend_profile]\nwindow_scale = 0\n").profile.window_scale
    assert scale == 0
    assert scale is not False


def test_a_profile_of_one_backend_inherits_from_that_of_all() -> None:
    config = parse_config(MINIMAL + '[backend_profile]\nmss = 1400\n[backend_profile."2001:DB8:1::0:2"]\nsack = false\n')
    assert config.profile_of(WEB) == BackendProfile(mss=1400, sack=False)
    assert config.profile_of(IPv6Address("2001:db8:1::3")) == BackendProfile(mss=1400)


def test_backends_and_service_addresses_are_distinct_and_in_order() -> None:
    config = parse_config(
        MINIMAL
        + 'default = ["2001:db8:1::3", "2001:db8:1::2"]\n'
        + '[[listen]]\naddress = "198.51.100.2"\nport = 443\n[[listen]]\naddress = "198.51.100.1"\nport = 80\n'
    )
    assert [str(backend) for backend in config.backends] == ["2001:db8:1::2", "2001:db8:1::3"]
    assert [str(address) for address in config.service_addresses] == ["198.51.100.1", "198.51.100.2"]


def test_a_configuration_can_be_hashed_and_compared() -> None:
    override = '[backend_profile."2001:db8:1::2"]\nsack = false\n'
    assert hash(parse_config(MINIMAL + override)) == hash(parse_config(MINIMAL + override))
    assert parse_config(MINIMAL + override) != parse_config(MINIMAL)


def test_ten_thousand_names_are_read() -> None:
    text = MINIMAL + "".join(f'"host{number}.example.org" = "2001:db8:1::{number:x}"\n' for number in range(2, 10_002))
    assert len(parse_config(text).routes) == 10_001


VALID: dict[str, object] = {
    "prefix": "2001:db8:46::/96",
    "listen": [{"address": "198.51.100.1", "port": 443, "protocol": "tls"}, {"address": "198.51.100.1", "port": 80}],
    "hosts": {
        "www.example.com": "2001:db8:1::2",
        "*.example.org": ["2001:db8:1::3", "[2001:db8:1::4]:8443"],
        "shop.example.com": {"backends": "2001:db8:1::3", "deny": ["203.0.113.0/24"]},
        "default": "2001:db8:1::2",
    },
    "backend_profile": {"mss": 1400, "2001:db8:1::2": {"window_scale": False}},
    "timeouts": {"peek_s": 10, "below_rfc_floors": False},
    "limits": {"flows": 10},
    "network": {"device": "kracauer1"},
    "log": {"level": "debug"},
    "access": {"allow": ["192.0.2.0/24"], "deny": ["192.0.2.7"], "deny_file": "denied.txt"},
}
words = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["2001:db8:46::/96", "2001:db8:46::1", "::1", "198.51.100.1", "[::1]:80", "default", "*.a", "tls", "xn--a"]
    ),
    st.from_regex(r"\[?[0-9a-f:.%/]{0,20}\]?(:[0-9]{0,6})?", fullmatch=True),
)
scalars = st.one_of(words, st.booleans(), st.integers(), st.floats(), st.datetimes(), st.dates(), st.times(), st.just(1 << 400))
keys = st.one_of(words, st.sampled_from(["listen", "address", "port", "hosts", "prefix", "mss", "network", "2001:db8:1::2"]))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)


def problems_of(parse: Callable[[], Config]) -> tuple[object, ...] | None:
    """The problems that `parse` raises; None where it returns a Config."""
    try:
        config = parse()
    except ConfigError as error:
        return error.problems
    assert isinstance(config, Config)
    return None


def assert_config_or_problems(parse: Callable[[], Config]) -> None:
    problems = problems_of(parse)
    assert problems is None or problems
    assert all(str(problem).isprintable() for problem in problems or ())


@given(st.dictionaries(st.sampled_from(sorted(VALID)) | keys, values))
def test_any_document_is_a_config_or_a_list_of_problems(document: dict[str, object]) -> None:
    assert_config_or_problems(lambda: parse_document(document))


def places(content: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path] * bool(path) + [place for key, value in inner for place in places(value, (*path, key))]


def changed(content: object, path: tuple[str | int, ...], value: object) -> object:
    if not path:
        return value
    if isinstance(content, dict):
        return {key: changed(inner, path[1:], value) if key == path[0] else inner for key, inner in content.items()}
    assert isinstance(content, list)
    return [changed(inner, path[1:], value) if index == path[0] else inner for index, inner in enumerate(content)]


@given(st.sampled_from(places(VALID)), values)
def test_any_value_in_any_place_is_accepted_or_a_problem(place: tuple[str | int, ...], value: object) -> None:
    document = changed(VALID, place, value)
    assert isinstance(document, dict)
    assert_config_or_problems(lambda: parse_document(document, read_file=lambda name: f"198.51.100.0/24\n{name}"))


def test_the_document_the_properties_start_from_is_valid() -> None:
    assert isinstance(parse_document(VALID, read_file=lambda _: "198.51.100.0/24"), Config)


@given(
    st.text() | st.lists(st.sampled_from([*MINIMAL.splitlines(), "[", "]]", '"', "= 0x", "a.b.c = {}", "\x00"])).map("\n".join)
)
def test_any_text_is_a_config_or_a_list_of_problems(text: str) -> None:
    assert_config_or_problems(lambda: parse_config(text))


@given(st.binary())
def test_any_bytes_are_a_config_or_a_list_of_problems(data: bytes) -> None:
    assert_config_or_problems(lambda: parse_config(data))
