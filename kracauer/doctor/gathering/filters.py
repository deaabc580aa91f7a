"""The rules of the firewall, as its own programs list them."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kracauer.doctor.facts import Firewall
from kracauer.doctor.nft import Ruleset, parse

_TIMEOUT_S: Final = 3.0
_SBIN: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
# Tables of the old kind that are in use, and the program that lists them.
_LEGACY: Final = {"/proc/net/ip_tables_names": "iptables-legacy", "/proc/net/ip6_tables_names": "ip6tables-legacy"}


def look_at_firewall() -> Firewall:
    """What can be had of it; whatever cannot has its reason."""
    legacy: dict[str, tuple[str, ...]] = {}
    unreadable = []
    for program in _legacy_programs():
        listed = _run(program, "-S", "FORWARD")
        if listed is None:
            unreadable.append(program)
        else:
            legacy[program] = tuple(line.strip() for line in listed.splitlines())
    ruleset, reason = _ruleset()
    return Firewall(ruleset, reason, legacy, tuple(unreadable))


def _ruleset() -> tuple[Ruleset | None, str]:
    if _find("nft") is None:
        return None, "nft is not installed, and only it can list what filters packets here"
    listed = _run("nft", "--json", "list", "ruleset")
    if listed is None:
        return None, "`nft --json list ruleset` has failed: it takes root, and nftables in the kernel"
    try:
        return parse(json.loads(listed or "{}")), ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"what `nft --json list ruleset` prints was not understood ({error!r})"


def _legacy_programs() -> Iterator[str]:
    for path, program in _LEGACY.items():
        try:
            names = Path(path).read_text(encoding="ascii").split()
        except OSError:
            continue
        if "filter" in names:
            yield program


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=_SBIN)


def _run(program: str, *arguments: str) -> str | None:
    """What it prints; None where it is not there or fails."""
    path = _find(program)
    if path is None:
        return None
    try:
        ran = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout if ran.returncode == 0 else None
