"""The flow files of a device: one, or where there are several workers one each, named by how many there are and by number.

    DEVICE.flows            one process
    DEVICE.flows.4.0        the first of four workers

With another number of workers a flow may be another one's. The records are then written anew before anybody serves, in files of
their own that take their names at the end: whenever that is cut short, each record is still in one file at least.
"""

import contextlib
from ipaddress import IPv6Network
from pathlib import Path
from typing import Final

from structlog.typing import FilteringBoundLogger

from kracauer.daemon.flow_file import FlowFile, open_flow_file, remove_flow_file
from kracauer.daemon.runtime import runtime_directory, runtime_file
from kracauer.steering import worker_of
from kracauer.tcp.record import RECORD_BYTES, Place, read_constants

_KIND: Final = "flows"
_DRAFT: Final = ".draft"


def flow_path(device: str, number: int, workers: int) -> Path:
    """The flow file of worker `number` of so many."""
    return runtime_file(device, _KIND if workers == 1 else f"{_KIND}.{workers}.{number}")


def flow_paths(device: str) -> list[Path]:
    """Every flow file of `device` that there is."""
    directory, name = runtime_directory(), runtime_file(device, _KIND).name
    with contextlib.suppress(OSError):
        # Device names may hold what a pattern gives a meaning to.
        return sorted(path for path in directory.iterdir() if _is_named(path.name, name))
    return []


def remove_flow_files(device: str) -> None:
    """Remove every flow file of `device`, and what was set aside of earlier ones."""
    for path in (runtime_file(device, _KIND), *flow_paths(device)):
        remove_flow_file(path)
        with contextlib.suppress(OSError):
            path.with_name(path.name + _DRAFT).unlink()


def arrange_flow_files(device: str, workers: int, *, prefix: IPv6Network, boot_id: bytes, log: FilteringBoundLogger) -> None:
    """Have each record in the file of the worker that its flow is of among so many. What is amiss is logged, not raised."""
    wanted = [flow_path(device, number, workers) for number in range(workers)]
    found = flow_paths(device)
    if set(found) <= set(wanted):
        return

    def open_file(path: Path) -> FlowFile:
        return open_flow_file(path, prefix=prefix, boot_id=boot_id, log=log)

    drafts = [path.with_name(path.name + _DRAFT) for path in wanted]
    for draft in drafts:
        remove_flow_file(draft)
    sources, targets = [open_file(path) for path in found], [open_file(draft) for draft in drafts]
    moved = _distribute(sources, targets)
    for file in (*sources, *targets):
        file.close()
    if not all(draft.exists() for draft in drafts):
        return  # there was no room for them, which has been said; what there is stays for another start
    for draft, path in zip(drafts, wanted, strict=True):
        draft.rename(path)
    for path in set(found) - set(wanted):
        remove_flow_file(path)
    log.info("flows_rearranged", device=device, workers=workers, flows=moved)


def _distribute(sources: list[FlowFile], targets: list[FlowFile]) -> int:
    """Copy each record that is whole into the file of its worker, once; returns how many there were."""
    seen: set[bytes] = set()
    for source in sources:
        for place in list(source.records.occupied()):
            constants = read_constants(place.page.memory, place.at)
            if constants is None:
                continue
            key = constants.v4_addresses + constants.client_port.to_bytes(2, "big") + constants.service_port.to_bytes(2, "big")
            if key not in seen:
                seen.add(key)
                worker = worker_of(constants.v4_addresses[4:], constants.client_port, len(targets))
                _copy(place, targets[worker].records.take())
    return len(seen)


def _copy(source: Place, target: Place) -> None:
    record = source.page.memory[source.at : source.at + RECORD_BYTES]
    memoryview(target.page.memory)[target.at : target.at + RECORD_BYTES] = record


def _is_named(name: str, first: str) -> bool:
    if name == first:
        return True
    workers, _, number = name.removeprefix(f"{first}.").partition(".")
    return name.startswith(f"{first}.") and workers.isdecimal() and number.isdecimal()
