"""The rules of nftables as `nft --json list ruleset` prints them, and what becomes of a packet that meets them (nft(8)).

What is not understood may match or not: then more than one fate is possible. A client of which nothing is known is one like any
other, whom no list of addresses means.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final, NamedTuple, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Expression: TypeAlias = Mapping[str, Any]

_DEEPEST_JUMP: Final = 16  # as the kernel
_HARMLESS: Final = frozenset({"counter", "log", "comment", "notrack", "mangle", "ct helper", "ct timeout", "flow"})
_NAT: Final = frozenset({"masquerade", "snat", "dnat", "redirect", "tproxy"})
_FIELDS: Final = {"saddr": "src", "daddr": "dst"}
_PRIORITIES: Final = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}


class Fate(StrEnum):
    """What a rule or chain may do with a packet."""

    ACCEPT = "accept"
    DROP = "drop"
    NAT = "nat"
    GO_ON = "go on"


class Packet(NamedTuple):
    """A packet on its way through this machine; what is None is any."""

    iif: str | None
    oif: str | None
    src: Address | None
    dst: Address | None
    sport: int | None = None
    dport: int | None = None
    is_new: bool = True

    @property
    def version(self) -> int:
        """Its family."""
        known = self.src or self.dst
        assert known is not None
        return known.version


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """A chain and its rules, like no other; `hook` is empty for one that is only jumped to."""

    family: str
    table: str
    name: str
    kind: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    rules: tuple[tuple[Expression, ...], ...] = ()

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"

    def sees(self, packet: Packet) -> bool:
        """Whether packets of this family come by."""
        return self.family == "inet" or self.family == {4: "ip", 6: "ip6"}[packet.version]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Every chain, by family, table and name, and the elements of every set, likewise."""

    chains: Mapping[tuple[str, str, str], Chain]
    sets: Mapping[tuple[str, str, str], tuple[Any, ...] | None]

    def base_chains(self, hook: str, kinds: Iterable[str]) -> tuple[Chain, ...]:
        """The chains of these kinds at `hook`, in the order in which packets meet them."""
        found = [chain for chain in self.chains.values() if chain.hook == hook and chain.kind in kinds]
        return tuple(sorted(found, key=lambda chain: chain.priority))

    def fates(self, chain: Chain, packet: Packet) -> frozenset[Fate]:
        """What may become of `packet` in a base chain: more than one fate where that cannot be said for certain."""
        policy = Fate.DROP if chain.policy == "drop" else Fate.ACCEPT
        return frozenset(policy if fate is Fate.GO_ON else fate for fate in _Walk(self, packet).through(chain, 0))


def parse(content: Mapping[str, Any]) -> Ruleset:
    """The ruleset in what `nft --json list ruleset` has printed."""
    chains: dict[tuple[str, str, str], dict[str, Any]] = {}
    rules: dict[tuple[str, str, str], list[tuple[Expression, ...]]] = {}
    sets: dict[tuple[str, str, str], tuple[Any, ...] | None] = {}
    for entry in content.get("nftables", ()):
        for kind, value in entry.items():
            if kind == "chain":
                chains[value["family"], value["table"], value["name"]] = value
            elif kind == "rule":
                rules.setdefault((value["family"], value["table"], value["chain"]), []).append(tuple(value.get("expr", ())))
            elif kind in ("set", "map"):
                elements = value.get("elem", ())
                is_plain = isinstance(value.get("type"), str) and isinstance(elements, list | tuple)
                sets[value["family"], value["table"], value["name"]] = tuple(elements) if is_plain else None
    return Ruleset({key: _chain(value, rules.get(key, ())) for key, value in chains.items()}, sets)


def _chain(value: Mapping[str, Any], rules: Iterable[tuple[Expression, ...]]) -> Chain:
    priority = value.get("prio", 0)
    return Chain(
        family=value["family"],
        table=value["table"],
        name=value["name"],
        kind=value.get("type", ""),
        hook=value.get("hook", ""),
        priority=_PRIORITIES.get(priority, 0) if isinstance(priority, str) else int(priority),
        policy=value.get("policy", "accept"),
        rules=tuple(rules),
    )


class _Outcome(NamedTuple):
    """Whether a rule's conditions hold, None being perhaps; what it then does; whether the chain is left, GO_ON or not."""

    is_match: bool | None
    fates: frozenset[Fate]
    is_leaving: bool = False


_LEAVING: Final = frozenset({"return", "goto"})
_NO_MATCH: Final = _Outcome(is_match=False, fates=frozenset({Fate.GO_ON}))
_ANYTHING: Final = frozenset({Fate.ACCEPT, Fate.DROP, Fate.GO_ON})


class _Walk:
    """One packet's way through the chains of one hook."""

    def __init__(self, ruleset: Ruleset, packet: Packet) -> None:
        self._ruleset = ruleset
        self._packet = packet

    def through(self, chain: Chain, depth: int) -> frozenset[Fate]:
        """What may become of the packet; GO_ON at the end of the chain."""
        possible: set[Fate] = set()
        for rule in chain.rules:
            outcome = self._rule(chain, rule, depth)
            if outcome.is_match is False:
                continue
            possible |= outcome.fates - {Fate.GO_ON}
            if outcome.is_leaving and Fate.GO_ON in outcome.fates:
                possible.add(Fate.GO_ON)
            if outcome.is_match and (outcome.is_leaving or Fate.GO_ON not in outcome.fates):
                return frozenset(possible)
        return frozenset(possible | {Fate.GO_ON})

    def _rule(self, chain: Chain, rule: Iterable[Expression], depth: int) -> "_Outcome":
        is_match: bool | None = True
        for statement in rule:
            ((kind, value),) = statement.items()
            if kind == "match":
                holds = self._holds(chain, value)
                if holds is False:
                    return _NO_MATCH
                is_match = is_match if holds else None
            elif kind == "vmap":
                outcome = self._map(chain, value, depth)
                return outcome._replace(is_match=None) if is_match is None and outcome.is_match else outcome
            elif (fates := self._verdict(chain, kind, value, depth)) is not None:
                return _Outcome(is_match, fates, kind in _LEAVING)
            elif kind not in _HARMLESS:
                is_match = None
        return _Outcome(is_match, frozenset({Fate.GO_ON}))

    def _verdict(self, chain: Chain, kind: str, value: Any, depth: int) -> frozenset[Fate] | None:
        if kind in _NAT:
            return frozenset({Fate.NAT})
        match kind:
            case "accept":
                return frozenset({Fate.ACCEPT})
            case "drop" | "reject":
                return frozenset({Fate.DROP})
            case "continue" | "return":
                return frozenset({Fate.GO_ON})
            case "queue":  # a program decides
                return frozenset({Fate.ACCEPT, Fate.DROP})
            case "jump" | "goto":
                target = self._ruleset.chains.get((chain.family, chain.table, value["target"]))
                return _ANYTHING if target is None or depth >= _DEEPEST_JUMP else self.through(target, depth + 1)
        return None

    def _map(self, chain: Chain, value: Expression, depth: int) -> "_Outcome":
        data = value.get("data", {})
        if isinstance(data, dict):
            entries = data.get("set", ())
        else:
            entries = self._ruleset.sets.get((chain.family, chain.table, str(data).removeprefix("@")))
        if entries is None:
            return _Outcome(None, _ANYTHING)
        possible: set[Fate] = set()
        for key, verdict in entries:
            holds = self._holds(chain, {"op": "==", "left": value["key"], "right": key})
            if holds is False:
                continue
            ((kind, target),) = verdict.items()
            fates = self._verdict(chain, kind, target, depth) or frozenset({Fate.GO_ON})
            if holds:
                return _Outcome(is_match=True, fates=frozenset(possible | fates), is_leaving=kind in _LEAVING)
            possible |= fates
        return _Outcome(None, frozenset(possible)) if possible else _NO_MATCH

    def _holds(self, chain: Chain, match: Expression) -> bool | None:
        left, right, operator = match["left"], match["right"], match["op"]
        if not isinstance(left, dict):
            return None
        if left.get("fib", {}).get("result") == "oif":
            # The way back is the one it came by: wherever it is not, there are other checks to say so.
            is_way = right not in (False, 0, "0")
            return not is_way if operator == "!=" else is_way
        value = self._value(left)
        if value is _NEVER:
            return False
        if value is _UNSEEN:
            return None
        if operator not in ("==", "!=", "in"):
            return None
        if isinstance(right, str) and right.startswith("@"):
            elements = self._ruleset.sets.get((chain.family, chain.table, right[1:]))
            if elements is None:
                return None
            right = {"set": elements}
        # A client like any other is not the one that a rule is about.
        is_in = False if value is None else _contains(right, value)
        return is_in if operator != "!=" or is_in is None else not is_in

    def _value(self, left: Expression) -> Any:
        """What the packet has there; None: any, `_NEVER`: it has no such thing, `_UNSEEN`: it cannot be said."""
        packet = self._packet
        ((kind, detail),) = left.items()
        if kind == "payload" and isinstance(detail, dict) and "protocol" in detail:
            protocol, name = detail["protocol"], detail["field"]
            if protocol in ("ip", "ip6"):
                if protocol != {4: "ip", 6: "ip6"}[packet.version]:
                    return _NEVER
                if name in ("protocol", "nexthdr"):
                    return "tcp"
                return getattr(packet, _FIELDS[name]) if name in _FIELDS else _UNSEEN
            if protocol in ("tcp", "th"):
                port = {"sport": packet.sport, "dport": packet.dport}.get(name)
                return _UNSEEN if port is None else port
            return _NEVER if protocol in ("udp", "icmp", "icmpv6", "sctp", "dccp", "esp", "ah", "udplite") else _UNSEEN
        if kind == "meta":
            return self._meta(detail["key"])
        if kind == "ct" and detail.get("key") == "state":
            return "new" if packet.is_new else "established"
        if kind == "ct" and detail.get("key") == "status":
            return "confirmed"
        return _UNSEEN

    def _meta(self, key: str) -> Any:
        packet = self._packet
        match key:
            case "iifname" | "iif":
                return packet.iif if packet.iif is not None else _UNSEEN
            case "oifname" | "oif":
                return packet.oif if packet.oif is not None else _UNSEEN
            case "nfproto":
                return {4: "ipv4", 6: "ipv6"}[packet.version]
            case "protocol":
                return {4: "ip", 6: "ip6"}[packet.version]
            case "l4proto":
                return "tcp"
        return _UNSEEN


_NEVER: Final = object()
_UNSEEN: Final = object()


def _contains(right: Any, value: Any) -> bool | None:
    """Whether `value` is the right-hand side, or one of it; None where that is written in a way not understood."""
    if isinstance(right, dict):
        ((kind, detail),) = right.items()
        match kind:
            case "set":
                return _any(detail, value)
            case "elem":
                return _contains(detail["val"], value)
            case "prefix" if isinstance(value, IPv4Address | IPv6Address):
                return value in ip_network((detail["addr"], detail["len"]), strict=False)
            case "range":
                low, high = (_like(bound, value) for bound in detail)
                return None if low is None or high is None else bool(low <= value <= high)
        return None
    if isinstance(right, list | tuple):
        return _any(right, value)
    if isinstance(value, str):
        # "eth*" stands for all that begin so.
        return fnmatchcase(value, right) if isinstance(right, str) else None
    wanted = _like(right, value)
    return None if wanted is None else bool(wanted == value)


def _any(elements: Iterable[Any], value: Any) -> bool | None:
    results = [_contains(element, value) for element in elements]
    if True in results:
        return True
    return None if None in results else False


def _like(written: Any, value: Any) -> Any:
    """`written` as a value of the same kind, or None."""
    if isinstance(value, int):
        return written if isinstance(written, int) else None
    try:
        found = ip_address(written)
    except ValueError:
        return None
    return found if found.version == value.version else None
