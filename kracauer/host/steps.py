"""What can be set on the host, one value a setting, each rendered as the command that would do the same."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final, TypeAlias

from kracauer.host.routes import TABLE_LOCAL, TABLE_MAIN
from kracauer.host.rules import PROTOCOL_BOOT, PROTOCOL_KERNEL, Rule

# Marks our routes in the kernel (`ip route show proto 198`), so that leftovers of a killed service are known as ours.
ROUTE_PROTOCOL: Final = 198

# The local rule as the kernel makes it, and programs that clear rules away know and spare it.
LOCAL_RULE: Final = Rule(0, table=TABLE_LOCAL, protocol=PROTOCOL_KERNEL)
_LOCAL_FOR_A_MOMENT: Final = Rule(0, table=TABLE_LOCAL, protocol=PROTOCOL_BOOT)

# Of the rules that need not come before the local one.
OWN_PREFERENCE: Final = 198

# Marks our devices (`ip link show`, "alias"), so that one that was left is known as ours. kracauer.tun sets it.
ALIAS: Final = "kracauer"

# Begins the name of a device that is there for some seconds, to probe backends from one address of the prefix.
PROBING_DEVICE: Final = "kdoctor"

# The kernel's own default for IPv6; IPv4's is 0, which no other route can beat.
IPV4_METRIC: Final = 0
IPV6_METRIC: Final = 1024
# Worse than what any routing daemon uses: it counts only while the device's own route is away.
UNREACHABLE_METRIC: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class SetLink:
    """Give the device its MTU and bring it up."""

    device: str
    mtu: int

    def render(self) -> str:
        """The `ip` command that does the same."""
        return f"ip link set {self.device} mtu {self.mtu} up"


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """Set one of the device's own sysctls, `net.<family>.conf.<device>.<key>`.

    One that is not required is skipped where the kernel lacks it or does not let us write it, and stays when all is undone:
    putting addr_gen_mode back would have the kernel give the device an address at once.
    """

    family: str
    device: str
    key: str
    value: int
    is_required: bool = True

    @property
    def path(self) -> Path:
        """Where the kernel shows it."""
        return Path("/proc/sys/net", self.family, "conf", self.device, self.key)

    def render(self) -> str:
        """The `sysctl` command that does the same; slashes, because a device's name may contain a dot."""
        return f"sysctl -w net/{self.family}/conf/{self.device}/{self.key}={self.value}"


@dataclass(frozen=True, slots=True)
class AddRoute:
    """Lead `destination` into `device`, or answer "unreachable" for it when `device` is None."""

    destination: IPv4Network | IPv6Network
    device: str | None
    metric: int
    mtu: int | None = None
    table: int = TABLE_MAIN

    def render(self) -> str:
        """The `ip` command that does the same."""
        family = f"ip -{self.destination.version} route replace "
        target = f"{self.destination} dev {self.device}" if self.device else f"unreachable {self.destination}"
        mtu = f" mtu {self.mtu}" if self.mtu else ""
        return f"{family}{target}{_in_table(self.table)} metric {self.metric}{mtu} proto {ROUTE_PROTOCOL}"


@dataclass(frozen=True, slots=True)
class DropRoute:
    """Remove a route of ours that an earlier service has left, "unreachable" when `device` is None; not to be undone."""

    destination: IPv4Network | IPv6Network
    metric: int
    device: str | None = None
    table: int = TABLE_MAIN

    def render(self) -> str:
        """The `ip` command that does the same."""
        target = f"{self.destination} dev {self.device}" if self.device else f"unreachable {self.destination}"
        table = _in_table(self.table)
        return f"ip -{self.destination.version} route del {target}{table} metric {self.metric} proto {ROUTE_PROTOCOL}"


@dataclass(frozen=True, slots=True)
class AddRule:
    """Put a rule behind all others of its preference. One of preference 0 counts once the local rule is moved behind it."""

    rule: Rule

    def render(self) -> str:
        """The `ip` command that does the same."""
        return f"ip -4 rule add {self.rule}"


@dataclass(frozen=True, slots=True)
class DropRule:
    """Remove a rule of ours that an earlier service has left; not to be undone."""

    rule: Rule

    def render(self) -> str:
        """The `ip` command that does the same."""
        return f"ip -4 rule del {self.rule}"


@dataclass(frozen=True, slots=True)
class MoveLocalRule:
    """Put the local rule anew behind our rules, and then remove the one before them; with no moment without either."""

    def render(self) -> str:
        """The `ip` commands that do the same on a host as the kernel makes it; `ip` adds no rule that is there already."""
        changes = (("add", _LOCAL_FOR_A_MOMENT), ("del", LOCAL_RULE), ("add", LOCAL_RULE), ("del", _LOCAL_FOR_A_MOMENT))
        return " && ".join(f"ip -4 rule {verb} {rule}" for verb, rule in changes)


Step: TypeAlias = SetLink | SetSysctl | AddRoute | DropRoute | AddRule | DropRule | MoveLocalRule


def _in_table(table: int) -> str:
    return "" if table == TABLE_MAIN else f" table {table}"
