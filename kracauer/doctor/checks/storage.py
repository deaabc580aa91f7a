"""The runtime directory, in which everything lies that outlives a service."""

from collections.abc import Iterator
from typing import Final

from kracauer.doctor.facts import Facts
from kracauer.doctor.finding import Finding, Topic, advise, run_here
from kracauer.tcp.record import PAGE_BYTES, PAGE_RECORDS

DIRECTORY: Final = Topic(
    "runtime-directory", "Without it connections do not outlive a restart, and no command reaches the service."
)
ROOM: Final = Topic("flow-file", "Connections for which there is no room in the flow file end with the process.")

HEADER_BYTES: Final = 4096


def examine_directory(facts: Facts) -> Iterator[Finding]:
    """Whether it can be written."""
    storage = facts.storage
    if storage is None:
        yield DIRECTORY.skipped(facts.missing.get("storage", "it could not be looked at"))
    elif storage.is_writable:
        yield DIRECTORY.ok(f"{storage.directory} {'is writable' if storage.is_there else 'can be made'}")
    elif facts.user != 0:
        yield DIRECTORY.skipped(f"{storage.directory} is not for user {facts.user}")
    else:
        remedy = run_here(f"install -d -m 0700 {storage.directory}")
        yield DIRECTORY.failure(
            f"{storage.directory} cannot be written", remedy, advise("or set RUNTIME_DIRECTORY to a directory that can")
        )


def examine_room(facts: Facts) -> Iterator[Finding]:
    """Whether as many connections as are allowed have room in the filesystem."""
    storage, config = facts.storage, facts.config
    if storage is None or config is None:
        yield ROOM.skipped("there is no valid configuration" if config is None else "the directory could not be looked at")
        return
    pages = -(-config.limits.flows // PAGE_RECORDS)
    needed = HEADER_BYTES + pages * PAGE_BYTES
    free = storage.free_bytes + storage.flow_file_bytes
    if needed <= free:
        yield ROOM.ok(f"{config.limits.flows} connections take {_mebibytes(needed)} MiB, {_mebibytes(free)} MiB are free")
        return
    kept = max((free - HEADER_BYTES) // PAGE_BYTES, 0) * PAGE_RECORDS
    found = (
        f"limits.flows = {config.limits.flows} takes {_mebibytes(needed)} MiB in {storage.directory}, which has "
        f"{_mebibytes(free)}: of more than {kept} connections the rest is not kept"
    )
    grown = _mebibytes(storage.mount_bytes + needed - free) + 1
    yield ROOM.warning(
        found,
        run_here(f"mount -o remount,size={grown}M {storage.mount}"),
        advise("that is for a tmpfs; or have RUNTIME_DIRECTORY elsewhere, or lower limits.flows"),
    )


def _mebibytes(size: int) -> int:
    return -(-size // (1 << 20))
