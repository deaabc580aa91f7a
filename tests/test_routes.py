"""Hostname to route: the order of preference, and a cost that does not grow with the table."""

import time
from collections.abc import Sequence
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kracauer.routes import Backend, Route, RouteTable

FIRST = Backend(IPv6Address("2001:db8:1::2"))
SECOND = Backend(IPv6Address("2001:db8:1::3"), 8443)


def route(pattern: str, *backends: Backend) -> Route:
    return Route(pattern, backends or (FIRST,))


def pattern_found(patterns: Sequence[str], hostname: str | None) -> str | None:
    found = RouteTable(map(route, patterns)).lookup(hostname)
    return None if found is None else found.pattern


@pytest.mark.parametrize(
    ("patterns", "hostname", "expected"),
    [
        (["www.example.com", "*.example.com", "default"], "www.example.com", "www.example.com"),
        (["default", "*.example.com", "www.example.com"], "www.example.com", "www.example.com"),
        (["*.example.com", "*.b.example.com", "default"], "a.b.example.com", "*.b.example.com"),
        (["*.b.example.com", "*.example.com", "default"], "c.example.com", "*.example.com"),
        (["*.example.com"], "a.b.c.example.com", "*.example.com"),
        (["*.example.com"], "example.com", None),
        (["*.example.com", "default"], "example.com", "default"),
        (["*.example.com"], "notexample.com", None),
        (["*.example.com"], "example.com.evil.example", None),
        (["*.com"], "www.example.com", "*.com"),
        (["www.example.com"], "a.www.example.com", None),
        (["www.example.com", "default"], "other.example", "default"),
        (["www.example.com"], "other.example", None),
        (["*.example.com", "default"], None, "default"),
        (["*.example.com"], None, None),
        (["default"], "", "default"),
        ([], "www.example.com", None),
        (["com"], "com", "com"),
    ],
)
def test_exact_beats_the_longest_wildcard_and_that_beats_the_default(
    patterns: list[str], hostname: str | None, expected: str | None
) -> None:
    assert pattern_found(patterns, hostname) == expected


def linear_lookup(patterns: Sequence[str], hostname: str) -> str | None:
    """The obvious twin: rank every pattern that matches."""
    ranked = [(2, 0, pattern) for pattern in patterns if pattern == hostname and pattern != "default"]
    ranked += [(1, len(pattern), pattern) for pattern in patterns if pattern[0] == "*" and hostname.endswith(pattern[1:])]
    ranked += [(0, 0, pattern) for pattern in patterns if pattern == "default"]
    return max(ranked)[2] if ranked else None


labels = st.sampled_from(["a", "b", "ab", "example", "xn--bcher-kva"])
names = st.lists(labels, min_size=1, max_size=6).map(".".join)
patterns = st.lists(st.one_of(names, names.map("*.{}".format), st.just("default")), unique=True, max_size=12)


@given(patterns, names)
def test_lookup_agrees_with_ranking_every_pattern(given_patterns: list[str], hostname: str) -> None:
    assert pattern_found(given_patterns, hostname) == linear_lookup(given_patterns, hostname)


def lookup_seconds(table: RouteTable, hostnames: Sequence[str]) -> float:
    best = float("inf")
    for _ in range(7):
        begun = time.perf_counter()
        for hostname in hostnames:
            table.lookup(hostname)
        best = min(best, time.perf_counter() - begun)
    return best


def test_ten_thousand_names_cost_about_what_ten_do() -> None:
    asked = [f"www{number}.example.com" for number in range(10)] + ["a.b.c.example.org"] * 10 + ["unknown.example.net"] * 10
    small = [route(f"www{number}.example.com") for number in range(10)]
    large = [route(f"www{number}.example.com") for number in range(10_000)]
    large += [route(f"*.zone{number}.example.com") for number in range(10_000)]
    few = lookup_seconds(RouteTable([*small, route("*.example.org")]), asked)
    many = lookup_seconds(RouteTable([*large, route("*.example.org")]), asked)
    assert many < 10 * few  # a table that was walked would cost a thousand times as much


def test_a_name_made_of_dots_costs_no_more_than_its_tail() -> None:
    table = RouteTable([route("*.example.com")])
    begun = time.perf_counter()
    found = table.lookup("a." * 500_000 + "example.com")
    assert found is not None
    assert time.perf_counter() - begun < 1  # a look-up of every tail would copy 250 gigabytes


def test_routes_come_in_the_order_given() -> None:
    given_routes = [route("default"), route("b.example"), route("*.a.example")]
    assert list(RouteTable(given_routes)) == given_routes
    assert len(RouteTable(given_routes)) == 3


def test_backends_are_distinct_and_in_the_order_of_first_use() -> None:
    table = RouteTable([route("a.example", SECOND), route("b.example", FIRST, SECOND), route("default", FIRST)])
    assert table.backends == (SECOND, FIRST)


def test_a_backend_with_a_port_is_not_the_one_without() -> None:
    assert Backend(FIRST.address, 443) != FIRST


def test_tables_of_equal_routes_are_equal() -> None:
    assert RouteTable([route("a.example")]) == RouteTable([route("a.example")])
    assert hash(RouteTable([route("a.example")])) == hash(RouteTable([route("a.example")]))
    assert RouteTable([route("a.example")]) != RouteTable([route("b.example")])


@pytest.mark.parametrize("pattern", ["a.example", "*.a.example", "default"])
def test_two_routes_of_one_pattern_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="two routes for"):
        RouteTable([route(pattern), route(pattern, SECOND)])


def test_a_route_without_backends_is_refused() -> None:
    with pytest.raises(ValueError, match="no backend"):
        Route("a.example", ())


@pytest.mark.parametrize(("backend", "text"), [(FIRST, "2001:db8:1::2"), (SECOND, "[2001:db8:1::3]:8443")])
def test_a_backend_renders_as_the_configuration_writes_it(backend: Backend, text: str) -> None:
    assert str(backend) == text
