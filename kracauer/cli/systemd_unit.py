"""The unit of the service, for systemd (systemd.unit(5), systemd.service(5), systemd.exec(5))."""

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from kracauer.cli.exit_codes import ExitCode
from kracauer.daemon.descriptor_store import MOST

USER: Final = "kracauer"
# What the unit hides from the service (ProtectHome=, PrivateTmp=), and the setting that does it.
_HIDDEN: Final = {
    Path("/home"): "ProtectHome",
    Path("/root"): "ProtectHome",
    Path("/run/user"): "ProtectHome",
    Path("/tmp"): "PrivateTmp",
    Path("/var/tmp"): "PrivateTmp",
}
_PLAIN: Final = re.compile(r"[\w@+=:,./-]+")
NOTIFY_RELOAD_SINCE: Final = 253  # an older systemd would ignore the line, and take the service for ready at once
_NOTIFY: Final = f"""\
# From systemd {NOTIFY_RELOAD_SINCE} on `kracauer install-service` writes notify-reload here.
Type=notify"""
_NOTIFY_RELOAD: Final = """\
# A reload begins with a SIGHUP of systemd's own, and is over when the service says so.
Type=notify-reload"""

_REACHES_NOBODY: Final = """\
# Sockets of its own reach nobody. Packets cross the device, which is none; netlink and the notices to systemd are not IP.
IPAddressDeny=any"""
_REACHES_SERVERS: Final = """\
# Sockets of its own reach the name servers of the configuration. Packets cross the device, which is none.
IPAddressDeny=any
IPAddressAllow={servers}"""
_REACHES_RESOLVERS: Final = """\
# Not IPAddressDeny=: names of backends are looked up, and the system's resolvers may be others tomorrow."""
_HEARS_ROUTERS: Final = """\
# Not IPAddressDeny=: ICMP errors that come for the shared address are heard, and any router may have to send one."""
_NET_ADMIN: Final = """\
# Device, routes, rules, the device's own sysctls. With network.manage = false, and a device of this user's, none is needed."""
_NET_ADMIN_OFFLOADING: Final = """\
# Device, routes, rules, the device's own sysctls. With network.manage = false, and a device of this user's, only the fast
# path takes it."""
_BPF: Final = """\
# CAP_BPF is for the program of the fast path, and is given up once that is on the device."""
_NET_RAW: Final = """\
# CAP_NET_RAW is for hearing ICMP errors that come for the shared address, and is given up once that has begun."""
_PINS: Final = """\
# What of the fast path outlives the process is pinned in a directory of the bpffs, which is for root alone as a whole: the
# first line makes it this user's, and the others show it nothing else. Where there is no bpffs they do nothing.
ExecStartPre=-+/usr/bin/install --directory --mode=0700 --owner={user} /sys/fs/bpf/kracauer
TemporaryFileSystem=/sys/fs/bpf:ro
BindPaths=-/sys/fs/bpf/kracauer
# Where there is no bpffs systemd itself holds it, from one process to the next, but not beyond a stop.
FileDescriptorStoreMax={most}

"""
_CALLS: Final = """\
# capset gives up, when all is set up, what it does not need any more; fchown leaves its lock file to this user.
SystemCallFilter=capset fchown"""
_CALLS_OFFLOADING: Final = """\
# bpf loads the program of the fast path, and tells it of connections; capset gives up, when all is set up, what it does not
# need any more; fchown leaves its lock file to this user.
SystemCallFilter=bpf capset fchown"""

_TEMPLATE: Final = """\
[Unit]
Description=Kracauer, IPv4 to IPv6 by hostname
Documentation=file:{config_uri}
Wants=network-online.target
After=network-online.target nftables.service
# It is tried again for as long as it takes: what is in the way, an interface perhaps, may come back.
StartLimitIntervalSec=0

[Service]
{kind}
NotifyAccess=main
ExecStart={command} run -c {config}
# Waits for the new configuration to be in force, and fails where it was refused, which no notice to systemd can tell.
ExecReload={command} reload -c {config}
# No ExecStop=: what SIGTERM ends, the next start goes on with. `kracauer stop --forget` is for good.
Restart=on-failure
# Clients repeat what was lost after 0.2 s at the earliest.
RestartSec=200ms
# A wrong command line or configuration does not get better by trying again.
RestartPreventExitStatus={hopeless}
WatchdogSec=20
TimeoutStartSec=60
TimeoutStopSec=10

# The secret of the SYN cookies and the open connections are here; a stop must not take them away.
RuntimeDirectory=kracauer
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
UMask=0077

# A user of its own, and one that stays: device and files are found again by it. DynamicUser= may be another one each time.
User={user}
{capabilities}
NoNewPrivileges=yes

{pins}# PrivateDevices= would take /dev/net/tun away.
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateIPC=yes
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
# Not ProtectKernelTunables=: the device's sysctls have to be set. The user can write none but those of the network.
# Not ProcSubset=pid: they are in /proc/sys.
ProtectProc=invisible
# Not PrivateNetwork=, not PrivateUsers=: it is this machine's network that packets come from, and the capability is for.
RestrictAddressFamilies={families}
{reach}
SocketBindDeny=any
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
{calls}
# A call that was not foreseen fails; it does not kill.
SystemCallErrorNumber=EPERM

LimitNOFILE=1024
# No core file may hold the secret.
LimitCORE=0
# Ten times what the default limits let it take. Beyond that it is a mistake of ours, and a restart keeps connections.
MemoryMax=2G
OOMScoreAdjust=-800

[Install]
WantedBy=multi-user.target
"""


class Service(NamedTuple):
    """What the unit is to run: the program's absolute command, the configuration's absolute path, and as whom.

    `name_servers` are the addresses it asks for names: none where it looks nothing up, None for the system's resolvers.
    `is_sharing` tells that its service address is this machine's own, too; `is_offloading` that it may have a fast path.
    """

    command: tuple[str, ...]
    config: Path
    user: str = USER
    name_servers: tuple[str, ...] | None = ()
    is_sharing: bool = False
    is_offloading: bool = True


def render_unit(service: Service, systemd: int | None) -> str:
    """The unit's text for that version of systemd; None: it is not known, and the unit is one for all."""
    return _TEMPLATE.format(
        kind=_NOTIFY if systemd is None or systemd < NOTIFY_RELOAD_SINCE else _NOTIFY_RELOAD,
        command=" ".join(map(_quote, service.command)),
        config=_quote(str(service.config)),
        config_uri=re.sub(
            r"[^\w./~-]", lambda found: "".join(f"%%{byte:02X}" for byte in found[0].encode()), str(service.config)
        ),
        hopeless=f"{ExitCode.USAGE:d} {ExitCode.CONFIG_UNUSABLE:d}",
        user=service.user,
        capabilities=_capabilities(service),
        pins=_PINS.format(user=service.user, most=MOST) if service.is_offloading else "",
        calls=_CALLS_OFFLOADING if service.is_offloading else _CALLS,
        reach=_HEARS_ROUTERS if service.is_sharing else _reach(service.name_servers),
        families="AF_UNIX AF_NETLINK AF_INET AF_INET6",
    )


def _capabilities(service: Service) -> str:
    held = {"CAP_NET_ADMIN": _NET_ADMIN_OFFLOADING if service.is_offloading else _NET_ADMIN}
    if service.is_offloading:
        held["CAP_BPF"] = _BPF
    if service.is_sharing:
        held["CAP_NET_RAW"] = _NET_RAW
    names = " ".join(held)
    return "\n".join((*held.values(), f"AmbientCapabilities={names}", f"CapabilityBoundingSet={names}"))


def _reach(name_servers: tuple[str, ...] | None) -> str:
    if name_servers is None:
        return _REACHES_RESOLVERS
    return _REACHES_SERVERS.format(servers=" ".join(name_servers)) if name_servers else _REACHES_NOBODY


def _quote(word: str) -> str:
    """`word` as systemd.service(5) reads it back, "Command Lines"."""
    word = word.replace("%", "%%").replace("$", "$$")
    return word if _PLAIN.fullmatch(word) else '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unreachable(paths: dict[str, Path], user: str) -> Iterator[str]:
    """What the service could not get at once it runs in its unit as `user`: a line for each, with what mends it.

    The keys of `paths` say what they are; a directory must be one that the user may enter and read.
    """
    identity = _identify(user)
    for what, path in paths.items():
        real = path.resolve()
        hidden = [
            f"{place} is hidden from the service ({setting}=)"
            for place, setting in _HIDDEN.items()
            if real.is_relative_to(place)
        ]
        if hidden:
            yield f"{what} {real}: {hidden[0]}: have it elsewhere, below /opt or /etc, and run that one"
        elif (barred := _barred(real, identity)) is not None:
            yield f"{what} {real}: {user} may not read {barred}: chmod o+rX {barred}"


def _barred(path: Path, identity: tuple[int, frozenset[int]] | None) -> Path | None:
    """The first directory or file on the way to `path`, or itself, that one with this identity may not read or pass."""
    for place in (*reversed(path.parents), path):
        is_passage = place != path
        try:
            status = place.stat()
        except OSError:
            return place
        wanted = 0o1 if is_passage else 0o5 if stat.S_ISDIR(status.st_mode) else 0o4
        if not _permits(status, wanted, identity):
            return place
    return None


def _permits(status: os.stat_result, wanted: int, identity: tuple[int, frozenset[int]] | None) -> bool:
    """Whether the mode's bits `wanted` (as for others) are set for that identity; None has neither user nor group here."""
    shift = 0
    if identity is not None:
        user, groups = identity
        shift = 6 if status.st_uid == user else 3 if status.st_gid in groups else 0
    return status.st_mode >> shift & wanted == wanted


def _identify(user: str) -> tuple[int, frozenset[int]] | None:
    """The numbers of a user and of its groups; None for one that is still to be made."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return None
    groups = {group.gr_gid for group in grp.getgrall() if user in group.gr_mem}
    return entry.pw_uid, frozenset(groups | {entry.pw_gid})
