"""Where the service keeps what must outlive it, though not the machine's boot: one directory, its files named by device."""

import os
from pathlib import Path
from typing import Final

_DEFAULT_DIRECTORY: Final = Path("/run/kracauer")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def runtime_directory() -> Path:
    """The service manager's RuntimeDirectory= if it gave one (systemd.exec(5)), or /run/kracauer."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(given) if given else _DEFAULT_DIRECTORY


def runtime_file(device: str, kind: str) -> Path:
    """The file of `device` for "secret", "flows", "lock" or "sock"."""
    return runtime_directory() / f"{device}.{kind}"


def boot_id() -> bytes:
    """What tells this boot of the machine from every other: its clock, which the files' times are on, began with it."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text(encoding="ascii").strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)
