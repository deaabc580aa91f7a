"""What this process may do, where the runtime directory is, and what runs."""

import os
import re
from pathlib import Path
from typing import Final

import kracauer
from kracauer.daemon import ControlError, NotPermittedError, NotRunningError, ask
from kracauer.daemon.flow_files import flow_paths
from kracauer.daemon.runtime import runtime_directory
from kracauer.doctor.facts import Service, ServiceState, Storage

_EFFECTIVE: Final = re.compile(r"^CapEff:\s*([0-9a-f]+)$", re.MULTILINE)
_CAPABILITIES: Final = {12: "cap_net_admin", 13: "cap_net_raw", 21: "cap_sys_admin", 39: "cap_bpf"}
_ANSWER_S: Final = 3.0


def capabilities() -> frozenset[str]:
    """Those of this process that matter to Kracauer."""
    try:
        found = _EFFECTIVE.search(Path("/proc/self/status").read_text(encoding="ascii"))
    except OSError:
        found = None
    held = int(found[1], 16) if found else 0
    return frozenset(name for number, name in _CAPABILITIES.items() if held >> number & 1)


def look_at_storage(device: str) -> Storage:
    """The runtime directory, or the nearest one around it that there is. Raises OSError."""
    directory = runtime_directory()
    place = directory
    while not place.exists():
        place = place.parent
    room = os.statvfs(place)
    return Storage(
        directory=directory,
        is_there=directory.is_dir(),
        is_writable=place.is_dir() and os.access(place, os.W_OK | os.X_OK) and (directory.is_dir() or place != directory),
        free_bytes=room.f_bavail * room.f_frsize,
        flow_file_bytes=sum(path.stat().st_size for path in flow_paths(device)),
        mount=_mount_point(place.resolve()),
        mount_bytes=room.f_blocks * room.f_frsize,
    )


def _mount_point(place: Path) -> Path:
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return place


def look_at_service(device: str) -> Service:
    """What the service says of itself."""
    version = kracauer.__version__
    try:
        status = ask(device, "status", timeout_s=_ANSWER_S)
    except NotRunningError:
        return Service(ServiceState.ABSENT, version=version)
    except NotPermittedError as error:
        return Service(ServiceState.HIDDEN, error=f"this user may not ask the service ({error.cause})", version=version)
    except ControlError as error:
        return Service(ServiceState.MUTE, error=error.cause, version=version)
    return Service(ServiceState.RUNNING, status, version=version)
