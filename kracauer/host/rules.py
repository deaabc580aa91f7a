"""The kernel's IPv4 policy rules, read and written (ip-rule(8), Linux's include/uapi/linux/fib_rules.h).

Rules of one preference are asked in the order in which they were added. A request to delete means the first rule that has all
that the request has, whatever else that rule may have: `first_meant` tells which one that is.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from types import TracebackType
from typing import Final, Self

from kracauer.host.routes import ATTRIBUTE, NLMSG_HEADER, RTMSG, SEQUENCE, TABLE_LOCAL, messages

PROTOCOL_KERNEL: Final = 2
PROTOCOL_BOOT: Final = 3

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x001
_NLM_F_ACK: Final = 0x004
_NLM_F_DUMP: Final = 0x300
_NLM_F_CREATE: Final = 0x400
_RTM_NEWRULE: Final = 32
_RTM_DELRULE: Final = 33
_RTM_GETRULE: Final = 34

_FRA_DST: Final = 1
_FRA_SRC: Final = 2
_FRA_IIFNAME: Final = 3
_FRA_PRIORITY: Final = 6
_FRA_TABLE: Final = 15
_FRA_PROTOCOL: Final = 21
_FRA_IP_PROTO: Final = 22
_FRA_SPORT_RANGE: Final = 23
_FRA_DPORT_RANGE: Final = 24
# What says nothing where all its bits are set: FRA_SUPPRESS_PREFIXLEN, from Linux 6.15 on FRA_SPORT_MASK and FRA_DPORT_MASK.
_SAY_NOTHING: Final = {14: b"\xff\xff\xff\xff", 28: b"\xff\xff", 29: b"\xff\xff"}
_ACTIONS: Final = {1: "lookup", 6: "blackhole"}
_DETACHED: Final = 0x18  # an interface that a rule names is not there: iif, oif
_ANY_TABLE_BYTE: Final = 252  # RT_TABLE_COMPAT, for a number above 255

_BYTE: Final = struct.Struct("=B")
_NUMBER: Final = struct.Struct("=I")
_PORTS: Final = struct.Struct("=HH")
_ERROR: Final = struct.Struct("=i")
_TIMEOUT_S: Final = 10.0
_PROTOCOL_NAMES: Final = {PROTOCOL_KERNEL: "kernel", PROTOCOL_BOOT: "boot"}
_TABLE_NAMES: Final = {253: "default", 254: "main", TABLE_LOCAL: "local"}
_IP_PROTO_NAMES: Final = {6: "tcp"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; 0, None and the empty name stand for any. One that says more than is written here `is_opaque`."""

    preference: int
    table: int = 0
    action: str = "lookup"
    iif: str = ""
    src: IPv4Network | None = None
    dst: IPv4Network | None = None
    ip_proto: int = 0
    sport: int = 0
    dport: int = 0
    protocol: int = 0
    is_opaque: bool = False

    @property
    def is_local(self) -> bool:
        """Whether it has the local table asked for every packet."""
        anything = Rule(self.preference, table=TABLE_LOCAL, protocol=self.protocol)
        return self == anything

    def __str__(self) -> str:
        words = [f"pref {self.preference}"]
        words += [f"from {self.src.network_address}"] if self.src else []
        words += [f"to {self.dst.network_address}"] if self.dst else []
        words += [f"iif {self.iif}"] if self.iif else []
        words += [f"ipproto {_IP_PROTO_NAMES.get(self.ip_proto, self.ip_proto)}"] if self.ip_proto else []
        words += [f"sport {self.sport}"] if self.sport else []
        words += [f"dport {self.dport}"] if self.dport else []
        words += [f"lookup {_TABLE_NAMES.get(self.table, self.table)}"] if self.action == "lookup" else [self.action]
        words += [f"protocol {_PROTOCOL_NAMES.get(self.protocol, self.protocol)}"] if self.protocol else []
        return " ".join(words)


def first_meant(rules: Iterable[Rule], asked: Rule) -> Rule | None:
    """The one of `rules` that the kernel deletes when asked to delete `asked`."""

    def is_meant(rule: Rule) -> bool:
        wanted = (
            (asked.action, rule.action),
            (asked.table, rule.table),
            (asked.iif, rule.iif),
            (asked.src, rule.src),
            (asked.dst, rule.dst),
            (asked.ip_proto, rule.ip_proto),
            (asked.sport, rule.sport),
            (asked.dport, rule.dport),
            (asked.protocol, rule.protocol),
        )
        return rule.preference == asked.preference and all(has == value for value, has in wanted if value)

    return next(filter(is_meant, rules), None)


class RuleTable:
    """A channel on which the kernel is asked for its IPv4 rules and told of them. All methods raise OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def read(self) -> tuple[Rule, ...]:
        """All rules, in the order in which they are asked."""
        self._send(_RTM_GETRULE, _NLM_F_DUMP, RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0))
        found: list[Rule] = []
        while True:
            datagram = self._socket.recv(65536)
            for offset, kind, end in messages(datagram, len(datagram)):
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    _raise_error(datagram, offset)
                    return tuple(found)
                if kind == _RTM_NEWRULE:
                    found.append(parse_rule(datagram, offset, end))

    def add(self, rule: Rule) -> None:
        """Put `rule` behind all others of its preference, though there may be one like it."""
        self._request(_RTM_NEWRULE, _NLM_F_CREATE, rule)

    def delete(self, rule: Rule) -> None:
        """Delete the first rule that `rule` means."""
        self._request(_RTM_DELRULE, 0, rule)

    def _request(self, kind: int, flags: int, rule: Rule) -> None:
        self._send(kind, flags | _NLM_F_ACK, build_rule(rule))
        datagram = self._socket.recv(65536)
        for offset, answer, _ in messages(datagram, len(datagram)):
            if answer == _NLMSG_ERROR:
                _raise_error(datagram, offset)

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        header = NLMSG_HEADER.pack(NLMSG_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, SEQUENCE, 0)
        self._socket.sendto(header + body, (0, 0))


def build_rule(rule: Rule) -> bytes:
    """The body of a request about `rule`."""
    if rule.is_opaque:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    action = next(number for number, name in _ACTIONS.items() if name == rule.action)
    src_len, dst_len = (0 if network is None else network.prefixlen for network in (rule.src, rule.dst))
    table = rule.table if rule.table < 256 else _ANY_TABLE_BYTE
    body = RTMSG.pack(socket.AF_INET, dst_len, src_len, 0, table, 0, 0, action, 0)
    body += _attribute(_FRA_PRIORITY, _NUMBER.pack(rule.preference))
    if rule.table:
        body += _attribute(_FRA_TABLE, _NUMBER.pack(rule.table))
    for kind, network in ((_FRA_SRC, rule.src), (_FRA_DST, rule.dst)):
        if network is not None:
            body += _attribute(kind, network.network_address.packed)
    if rule.iif:
        body += _attribute(_FRA_IIFNAME, rule.iif.encode() + b"\0")
    for kind, number in ((_FRA_IP_PROTO, rule.ip_proto), (_FRA_PROTOCOL, rule.protocol)):
        if number:
            body += _attribute(kind, _BYTE.pack(number))
    for kind, port in ((_FRA_SPORT_RANGE, rule.sport), (_FRA_DPORT_RANGE, rule.dport)):
        if port:
            body += _attribute(kind, _PORTS.pack(port, port))
    return body


def parse_rule(datagram: bytes, offset: int, end: int) -> Rule:
    """Parse the IPv4 rule whose header begins at `offset`."""
    _, dst_len, src_len, tos, table, _, _, action, flags = RTMSG.unpack_from(datagram, offset)
    attributes: dict[int, bytes] = {}
    offset += RTMSG.size
    while offset + ATTRIBUTE.size <= end:
        size, kind = ATTRIBUTE.unpack_from(datagram, offset)
        attributes[kind] = datagram[offset + ATTRIBUTE.size : offset + size]
        offset += max((size + 3) & ~3, ATTRIBUTE.size)
    for kind, value in _SAY_NOTHING.items():
        if attributes.get(kind) == value:
            del attributes[kind]
    known, is_opaque = {}, bool(tos or flags & ~_DETACHED or action not in _ACTIONS)
    for kind in (_FRA_SPORT_RANGE, _FRA_DPORT_RANGE):
        first, last = _PORTS.unpack(attributes.pop(kind, bytes(_PORTS.size)))
        known[kind] = first
        is_opaque = is_opaque or first != last
    return Rule(
        preference=_number(attributes.pop(_FRA_PRIORITY, b"")),
        table=_number(attributes.pop(_FRA_TABLE, _BYTE.pack(table))),
        action=_ACTIONS.get(action, "other"),
        iif=attributes.pop(_FRA_IIFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        src=_network(attributes.pop(_FRA_SRC, b""), src_len),
        dst=_network(attributes.pop(_FRA_DST, b""), dst_len),
        ip_proto=_number(attributes.pop(_FRA_IP_PROTO, b"")),
        sport=known[_FRA_SPORT_RANGE],
        dport=known[_FRA_DPORT_RANGE],
        protocol=_number(attributes.pop(_FRA_PROTOCOL, b"")),
        is_opaque=is_opaque or bool(attributes),
    )


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little" if _NUMBER.pack(1)[0] else "big")


def _network(address: bytes, length: int) -> IPv4Network | None:
    return IPv4Network((address, length)) if length else None


def _attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _raise_error(datagram: bytes, offset: int) -> None:
    (code,) = _ERROR.unpack_from(datagram, offset)
    if code:
        raise OSError(-code, os.strerror(-code))
