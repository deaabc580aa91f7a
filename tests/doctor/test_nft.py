"""What becomes of a packet in a ruleset as nft prints it."""

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from kracauer.doctor.nft import Fate, Packet, Ruleset, parse

Rule = list[dict[str, Any]]
ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}
SERVICE = IPv4Address("198.51.100.1")
FROM_CLIENT = Packet("eth0", "kracauer0", None, SERVICE, dport=443)
TO_CLIENT = Packet("kracauer0", "eth0", SERVICE, None, sport=443, is_new=False)
TO_BACKEND = Packet("kracauer0", "eth1", IPv6Address("2001:db8:46::c000:207"), IPv6Address("2001:db8:1::2"), dport=443)


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": key}}, right, op)


def payload(protocol: str, field: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": field}}, right, op)


def state(right: Any, op: str = "in") -> dict[str, Any]:
    return match({"ct": {"key": "state"}}, right, op)


def chain(name: str = "forward", **more: Any) -> dict[str, Any]:
    return {"chain": {"family": "inet", "table": "filter", "name": name, **more}}


def base(policy: str = "drop", family: str = "inet", kind: str = "filter", hook: str = "forward") -> dict[str, Any]:
    return chain(type=kind, hook=hook, prio=0, policy=policy, family=family)


def rule(*expressions: dict[str, Any], at: str = "forward") -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "filter", "chain": at, "expr": list(expressions)}}


def ruleset(*entries: dict[str, Any]) -> Ruleset:
    return parse(json.loads(json.dumps({"nftables": [{"metainfo": {}}, *entries]})))


def fates(rules: Ruleset, packet: Packet = FROM_CLIENT) -> set[Fate]:
    (forward,) = rules.base_chains("forward", ("filter",))
    return set(rules.fates(forward, packet))


def test_a_chain_without_rules_does_what_its_policy_says() -> None:
    assert fates(ruleset(base("drop"))) == {Fate.DROP}
    assert fates(ruleset(base("accept"))) == {Fate.ACCEPT}


@pytest.mark.parametrize(
    "condition",
    [
        meta("oifname", "kracauer0"),
        meta("oifname", "krac*"),
        meta("iifname", "eth1", "!="),
        meta("oifname", {"set": ["eth7", "kracauer0"]}),
        meta("nfproto", "ipv4"),
        meta("l4proto", {"set": ["tcp", "icmp"]}),
        payload("ip", "daddr", "198.51.100.1"),
        payload("ip", "daddr", {"prefix": {"addr": "198.51.100.0", "len": 24}}),
        payload("ip", "daddr", {"range": ["198.51.100.0", "198.51.100.9"]}),
        payload("ip", "daddr", "@services"),
        payload("ip", "saddr", "203.0.113.9", "!="),
        payload("tcp", "dport", {"set": [80, 443]}),
        payload("th", "dport", {"range": [400, 500]}),
        payload("tcp", "dport", {"set": [{"elem": {"val": 443, "comment": "x"}}]}),
        state(["new", "established"]),
        match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, "0", "!="),
    ],
)
def test_what_the_client_s_packet_meets_lets_it_through(condition: dict[str, Any]) -> None:
    services = {"set": {"family": "inet", "table": "filter", "name": "services", "type": "ipv4_addr", "elem": ["198.51.100.1"]}}
    assert fates(ruleset(base(), services, rule(condition, {"counter": {"packets": 0, "bytes": 0}}, ACCEPT))) == {Fate.ACCEPT}


@pytest.mark.parametrize(
    "condition",
    [
        meta("oifname", "eth7"),
        meta("nfproto", "ipv6"),
        payload("ip6", "daddr", "2001:db8::1"),
        payload("udp", "dport", 443),
        payload("tcp", "dport", 22),
        payload("ip", "saddr", {"prefix": {"addr": "203.0.113.0", "len": 24}}),
        state(["established", "related"]),
        state("invalid"),
        match({"ct": {"key": "status"}}, "dnat", "in"),
        match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, "0"),
    ],
)
def test_what_it_does_not_meet_leaves_it_to_the_policy(condition: dict[str, Any]) -> None:
    assert fates(ruleset(base(), rule(condition, ACCEPT))) == {Fate.DROP}


def test_invalid_connections_may_be_dropped() -> None:
    assert fates(ruleset(base("accept"), rule(state("invalid"), DROP))) == {Fate.ACCEPT}


def test_an_answer_belongs_to_its_connection() -> None:
    rules = ruleset(base(), rule(state(["established", "related"]), ACCEPT))
    assert (fates(rules, TO_CLIENT), fates(rules, FROM_CLIENT)) == ({Fate.ACCEPT}, {Fate.DROP})


def test_a_condition_that_is_not_understood_leaves_both_possible() -> None:
    assert fates(ruleset(base(), rule({"xt": None}, ACCEPT))) == {Fate.ACCEPT, Fate.DROP}
    assert fates(ruleset(base(), rule({"limit": {"rate": 5, "per": "second"}}, ACCEPT))) == {Fate.ACCEPT, Fate.DROP}


def test_a_verdict_map_behind_a_condition_that_is_not_understood_may_not_be_reached() -> None:
    verdicts = {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["new", DROP]]}}}
    assert fates(ruleset(base("accept"), rule({"xt": None}, verdicts))) == {Fate.ACCEPT, Fate.DROP}


def test_a_verdict_map_decides_by_the_state() -> None:
    verdicts = [["invalid", DROP], ["established", ACCEPT], ["new", DROP]]
    rules = ruleset(base("accept"), rule({"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": verdicts}}}))
    assert (fates(rules, FROM_CLIENT), fates(rules, TO_CLIENT)) == ({Fate.DROP}, {Fate.ACCEPT})


def test_a_map_with_a_name_decides_as_one_without() -> None:
    by_name = {"map": {"family": "inet", "table": "filter", "name": "m", "type": "ifname", "elem": [["eth0", ACCEPT]]}}
    rules = ruleset(base(), by_name, rule({"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@m"}}))
    assert (fates(rules, FROM_CLIENT), fates(rules, TO_CLIENT)) == ({Fate.ACCEPT}, {Fate.DROP})


def test_a_jump_comes_back_and_a_goto_does_not() -> None:
    other = chain("other")
    later = rule(ACCEPT)
    assert fates(ruleset(base(), other, rule({"jump": {"target": "other"}}), later)) == {Fate.ACCEPT}
    assert fates(ruleset(base(), other, rule({"goto": {"target": "other"}}), later)) == {Fate.DROP}


def test_a_return_ends_the_chain_that_was_jumped_to_alone() -> None:
    inner = (chain("other"), rule({"return": None}, at="other"), rule(DROP, at="other"))
    assert fates(ruleset(base(), *inner, rule({"jump": {"target": "other"}}), rule(ACCEPT))) == {Fate.ACCEPT}


def test_a_perhaps_that_returns_leaves_what_comes_after_possible() -> None:
    inner = (chain("other"), rule({"xt": None}, {"return": None}, at="other"), rule(DROP, at="other"))
    assert fates(ruleset(base("accept"), *inner, rule({"jump": {"target": "other"}}))) == {Fate.ACCEPT, Fate.DROP}


def test_chains_that_jump_in_a_circle_come_to_an_end() -> None:
    circle = rule({"jump": {"target": "forward"}})
    assert Fate.DROP in fates(ruleset(base(), circle))


def test_a_masquerade_is_no_verdict_of_a_filter() -> None:
    rules = ruleset(base("accept", "inet", "nat", "postrouting"), rule(meta("oifname", "eth1"), {"masquerade": None}))
    (nat,) = rules.base_chains("postrouting", ("nat",))
    assert set(rules.fates(nat, TO_BACKEND)) == {Fate.NAT}
    assert set(rules.fates(nat, FROM_CLIENT)) == {Fate.ACCEPT}


def test_chains_come_in_the_order_of_their_priorities() -> None:
    late = chain("late", type="filter", hook="forward", prio=10, policy="accept")
    early = chain("early", type="filter", hook="forward", prio=-10, policy="accept")
    assert [found.name for found in ruleset(late, early).base_chains("forward", ("filter",))] == ["early", "late"]
