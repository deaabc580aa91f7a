"""What of a fast path outlives the process: its link and its maps, kept under the name of the device.

In a bpffs, where there is one:

    /sys/fs/bpf/kracauer/DEVICE/link
    /sys/fs/bpf/kracauer/DEVICE/v1_7_client_flows    layout 1, pinned by the seventh process
    /sys/fs/bpf/kracauer/DEVICE/v1_7_traffic
    /sys/fs/bpf/kracauer/DEVICE/v1_7_identifications

The link, or where there are no links the device's filter, holds the program, and the program the rest of the maps. A process
has its maps kept before it puts its program in the place of the former one, and takes the former ones away after that. Should
it be killed in between there are two sets, and what either has counted is found: what was taken note of is written in the map
itself. Likewise where circumstances have changed, and two keepers have one each.
"""

import errno
import mmap
import os
import re
import socket
import stat
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from kracauer.fast_path import Carried
from kracauer.flows import client_key
from kracauer.offload import attachment, bpf, bytecode, layout
from kracauer.offload.collecting import carry_over
from kracauer.offload.keepers import HandedDown, Keeper, UnkeptError
from kracauer.replies import Endpoints
from kracauer.tcp.record import Constants, Place, Records, read_constants
from kracauer.tcp.splice import Splice
from kracauer.translate.identification import Identifications

ROOT: Final = Path("/sys/fs/bpf")
LINK: Final = "link"
IDENTIFICATIONS: Final = "identifications"
KEPT: Final = ("client_flows", "traffic", IDENTIFICATIONS)

_NAME: Final = re.compile(r"v(?P<layout>\d+)_(?P<number>\d+)_(?P<map>[a-z_]+)")


class Pins:
    """The directory of one device in the bpffs at `root`. What cannot be read there counts as not there."""

    kind = "bpffs"

    def __init__(self, device: str, root: Path = ROOT) -> None:
        self._root = root
        # A bpffs keeps names with dots for itself, and no interface has a colon in its name.
        self.directory = root / "kracauer" / device.replace(".", ":")

    @property
    def where(self) -> str:
        """As the protocol has it."""
        return str(self.directory)

    def names(self) -> list[str]:
        """What is pinned."""
        try:
            return [] if self._is_open_to_others() else sorted(path.name for path in self.directory.iterdir())
        except OSError:
            return []

    def open(self, name: str) -> int:
        """A descriptor of what is pinned by that name; OSError where it is not, or somebody else may have put it there."""
        if self._is_open_to_others():
            raise PermissionError
        return bpf.open_pin(self.directory / name)

    def keep(self, objects: dict[str, int]) -> None:
        """Pin what is behind each descriptor by its name, in the place of what had that name.

        Raises UnkeptError, and has pinned nothing then.
        """
        # Of a bpffs that is for root alone, systemd may show the service just the directory that is its own.
        own = self.directory.parent
        if not bpf.is_bpffs(own if own.is_dir() else self._root):
            raise UnkeptError(f"there is no bpffs at {self._root}", f"mount one: `mount -t bpf bpf {self._root}`")
        done = []
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._is_open_to_others():
                raise UnkeptError(f"{self.directory} is somebody else's, or others may write to it", "remove it")
            for name, fd in objects.items():
                self._unlink(name)
                bpf.pin(fd, self.directory / name)
                done.append(name)
        except OSError as error:
            self.drop(done)
            cause = f"nothing can be pinned in {self.directory} ({error.strerror})"
            raise UnkeptError(cause, "let the service's user write there, and give it CAP_BPF") from error

    def drop(self, names: list[str]) -> None:
        """Take these away, and the directory with the last of them."""
        for name in names:
            self._unlink(name)
        with suppress(OSError):
            self.directory.rmdir()

    def _unlink(self, name: str) -> None:
        with suppress(OSError):
            (self.directory / name).unlink()

    def _is_open_to_others(self) -> bool:
        """Whether others than this user and root may have pinned something; root itself clears up behind every user."""
        user = os.geteuid()
        for directory in (self.directory.parent, self.directory):
            status = directory.lstat()
            is_trusted = user == 0 or status.st_uid in (0, user)
            if not stat.S_ISDIR(status.st_mode) or not is_trusted or status.st_mode & 0o022:
                return True
        return False


class _Link(NamedTuple):
    """A link on this very device, and where it was found; `number` is the kernel's."""

    number: int
    fd: int
    keeper: Keeper


class _Set(NamedTuple):
    """The maps of one process; `number` is the kernel's for the first of them: the later, the higher."""

    number: int
    client_flows: bpf.Map
    traffic: mmap.mmap
    identifications: bpf.Map | None  # None: lost on its way from one name to another


class Former:
    """What earlier processes have left of the fast path on a device: read by `collect`, and closed in any case."""

    def __init__(self, keepers: Sequence[Keeper], interface: str) -> None:
        self.keepers = tuple(keepers)
        self.foreign: list[Keeper] = []  # where another network namespace keeps what it has for a device of that name
        self.unreadable: list[str] = []  # what this version cannot read
        self.unreadable_at: list[str] = []
        self._interface = interface
        self._links: list[_Link] = []
        self._sets: list[_Set] = []
        self._flows: list[tuple[Splice, mmap.mmap, int]] | None = None
        self._held: set[Place] = set()
        self._names: dict[Keeper, list[str]] = {}

    @classmethod
    def find(cls, device: str, root: Path = ROOT, store: Keeper | None = None) -> Self:
        """Open what is kept for `device` of this thread's network namespace; what cannot be read is noted.

        It may be pinned in the bpffs at `root`, or in `store`. What is to be kept is so in the first of them that takes it.
        """
        former = cls((Pins(device, root), *(() if store is None else (store,))), device)
        for keeper in former.keepers:
            if former._open_link(keeper):
                former._names[keeper] = keeper.names()
            else:
                former.foreign.append(keeper)
        former._links.sort(key=lambda link: link.number)
        former._open_sets()
        return former

    @classmethod
    def inherit(cls, device: str, handed_down: Iterable[dict[str, int]]) -> Self:
        """The same of maps alone, that another process has found and handed down; their descriptors are the caller's."""
        former = cls([HandedDown(descriptors) for descriptors in handed_down], device)
        former._names = {keeper: keeper.names() for keeper in former.keepers}
        former._open_sets()
        return former

    def hand_down(self) -> list[dict[str, int]]:
        """Descriptors of all maps by their names, for `inherit` in another process; they are the caller's."""
        handed_down = []
        for keeper, names in self._names.items():
            found = {}
            for name in names:
                if name != LINK:
                    with suppress(OSError):
                        found[name] = keeper.open(name)
            handed_down.append(found)
        return handed_down

    @property
    def is_found(self) -> bool:
        """Whether anything was there."""
        return any(self._names.values())

    @property
    def is_foreign(self) -> bool:
        """Whether there is anything of another network namespace."""
        return bool(self.foreign)

    @property
    def next_names(self) -> dict[str, str]:
        """By what names those maps are to be kept that come after these: by the name of the map."""
        names = (name for names in self._names.values() for name in names)
        numbers = [int(match["number"]) for match in map(_NAME.fullmatch, names) if match]
        prefix = f"v{layout.VERSION}_{max(numbers, default=0) + 1}_"
        return {name: prefix + name for name in KEPT}

    @property
    def identifications(self) -> bpf.Map | None:
        """What numbers packets to each client, to go on with."""
        found = (each.identifications for each in reversed(self._sets))
        return next((each for each in found if each is not None), None)

    def collect(self, records: Records) -> list[Splice]:
        """Carry over into the records what has been counted since that was done last; may be done again.

        Returns the flows that are in another state by that.
        """
        if self._flows is None:
            self._flows = []
            for place in list(records.occupied()):
                self._match(place)
        carried = Carried()
        return [splice for splice, traffic, at in self._flows if splice.state and carry_over(traffic, at, splice, carried)]

    @property
    def flows(self) -> int:
        """How many flows it holds."""
        return len(self._held)

    def holds(self, splice: Splice) -> bool:
        """Whether the packets of this flow were the program's to the end. Then no SYN of its addresses was answered since."""
        return Place(splice.page, splice.at) in self._held

    def hand_over(self) -> tuple[int, Keeper | None]:
        """The descriptor of the link, which is the caller's from now on, and where that is kept; -1 and None: there is none.

        Should there be several it is the latest; the others were not found by the process that made it, and their programs go.
        """
        if not self._links:
            return -1, None
        link = self._links.pop()
        self._detach({link.number})
        return link.fd, link.keeper

    def drop(self, kept: set[str], keeper: Keeper | None) -> None:
        """Have nothing kept any more but these, there. What is open stays so."""
        for each, names in self._names.items():
            each.drop([name for name in names if each is not keeper or name not in kept])

    def remove(self) -> bool:
        """Take program and maps away; returns whether there were any."""
        self._detach(set())
        self.drop(set(), None)
        had_filter = not self.is_foreign and attachment.remove_filter(self._interface)
        self.close()
        return self.is_found or had_filter

    def close(self) -> None:
        """Let go of all that is open."""
        for link in self._links:
            os.close(link.fd)
        self._links = []
        for each in self._sets:
            each.client_flows.close()
            each.traffic.close()
            if each.identifications is not None:
                each.identifications.close()
        self._sets = []
        self._flows = []
        self._held = set()

    def _detach(self, spared: set[int]) -> None:
        for link in self._links:
            if link.number not in spared:  # two may keep one and the same
                with suppress(OSError):
                    bpf.detach_link(link.fd)
            os.close(link.fd)
        self._links = []

    def _open_link(self, keeper: Keeper) -> bool:
        """Open the link that is kept there, if it is on this device; returns whether all that is there may be ours."""
        try:
            fd = keeper.open(LINK)
        except OSError:
            return True
        try:
            info = bpf.link_info(fd)
        except OSError:
            os.close(fd)
            return True
        if self._is_here(info):
            self._links.append(_Link(info.id, fd, keeper))
            return True
        os.close(fd)
        # Of a device that has gone; or of one of that name in another network namespace, which is none of our business.
        return info.interface_index == 0

    def _is_here(self, info: bpf.LinkInfo) -> bool:
        try:
            index = socket.if_nametoindex(self._interface)
            return index == info.interface_index and info.id in bpf.links_of(index)
        except OSError:
            return False

    def _open_sets(self) -> None:
        for keeper, names in self._names.items():
            groups: dict[int, list[str]] = {}
            for name in names:
                match = _NAME.fullmatch(name)
                if match and int(match["layout"]) == layout.VERSION:
                    groups.setdefault(int(match["number"]), []).append(name)
                elif name != LINK:
                    self._note_unreadable(keeper, [name])
            for number, found in groups.items():
                opened = _open_set(keeper, number)
                if opened is None:
                    self._note_unreadable(keeper, found)
                else:
                    self._sets.append(opened)
        self._sets.sort(key=lambda each: each.number)

    def _note_unreadable(self, keeper: Keeper, names: list[str]) -> None:
        self.unreadable += names
        if keeper.where not in self.unreadable_at:
            self.unreadable_at.append(keeper.where)

    def _match(self, place: Place) -> None:
        assert self._flows is not None
        constants = read_constants(place.page.memory, place.at)
        if constants is None:
            return
        key = key_of(constants)
        for each in self._sets:
            try:
                value = each.client_flows.lookup(key)
            except OSError:
                continue  # without CAP_BPF, before Linux 5.19
            if value is None:
                continue
            held = layout.parse_held(value)
            is_same = (held.seq_delta, held.v6_addresses) == (constants.seq_delta, constants.v6_addresses)
            if not is_same or held.at + layout.TRAFFIC_BYTES > len(each.traffic):
                continue
            self._flows.append((Splice(place, Identifications(0)), each.traffic, held.at))
            if each is self._sets[-1]:
                self._held.add(place)


def _open_set(keeper: Keeper, number: int) -> _Set | None:
    with ExitStack() as stack:
        maps = {}
        for name in KEPT:
            try:
                maps[name] = _open_map(keeper, number, name)
            except OSError:
                if name == IDENTIFICATIONS:
                    continue
                return None
            stack.callback(maps[name].close)
        try:
            traffic = maps["traffic"].map_memory()
            made = bpf.identify(maps["client_flows"].fd)[1]
        except OSError:
            return None
        stack.pop_all()
        maps["traffic"].close()
        return _Set(made, maps["client_flows"], traffic, maps.get(IDENTIFICATIONS))


def _open_map(keeper: Keeper, number: int, name: str) -> bpf.Map:
    found = bpf.Map.from_descriptor(keeper.open(f"v{layout.VERSION}_{number}_{name}"))
    if bpf.map_info(found.fd)[:3] != bytecode.MAPS[name][:3]:
        found.close()
        raise OSError(errno.EINVAL, "another map")
    return found


def key_of(constants: Constants) -> bytes:
    """The key by which the client's packets of this flow are found."""
    service, client = constants.v4_addresses[:4], constants.v4_addresses[4:]
    return client_key(Endpoints(client, service, constants.client_port, constants.service_port))
