"""The fast path in the kernel: the maps of splice.bpf.c, kept in step with the flows, and the program that reads them."""

import errno
import heapq
import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Final, Self

from kracauer.fast_path import Carried, Promises, Standing
from kracauer.offload import bpf, bytecode
from kracauer.offload.answering import KNOWN_BYTES, LISTENERS, counters_for
from kracauer.offload.answers import Answers
from kracauer.offload.attachment import Attachment, attach
from kracauer.offload.bpf import OffloadError
from kracauer.offload.clock import ahead_ns
from kracauer.offload.collecting import LEASE_S, NANOSECONDS, carry_over, in_order, is_suited
from kracauer.offload.keepers import Keeper, UnkeptError
from kracauer.offload.layout import (
    CARRIED,
    COLLECTED_AT,
    CONTROL,
    IDENTIFICATIONS,
    LEAVES_FINS,
    LEAVES_FINS_AT,
    TRAFFIC_BYTES,
    Entries,
    build_entries,
)
from kracauer.offload.pins import LINK, Former
from kracauer.tcp.splice import Splice

_LICENCE: Final = "MIT"
_TO_CLIENT_AT: Final = CARRIED.size
# Columns of the traffic as a list of 64-bit numbers.
_ROW: Final = TRAFFIC_BYTES // 8
_SMALLEST_BATCH: Final = 3  # below, a call for each is no slower
_COLUMNS: Final = ((0, COLLECTED_AT // 8), (_TO_CLIENT_AT // 8, (_TO_CLIENT_AT + COLLECTED_AT) // 8))


class Places:
    """Numbers below `capacity`, lowest first. One that is given back rests: packets may still be under way with it."""

    def __init__(self, capacity: int, taken: Collection[int] = ()) -> None:
        self._capacity = capacity
        self.end = max(taken, default=-1) + 1  # all that were ever taken are below
        self._free = sorted(set(range(self.end)) - set(taken))
        self._resting: list[int] = []

    def take(self) -> int | None:
        """A number nobody has; None where there is none now."""
        if self._free:
            return heapq.heappop(self._free)
        if self.end == self._capacity:
            return None
        self.end += 1
        return self.end - 1

    def release(self, number: int) -> None:
        """Have `number` taken again, but not before `rest_over`."""
        self._resting.append(number)

    def rest_over(self) -> None:
        """Have those taken again that were released."""
        for number in self._resting:
            heapq.heappush(self._free, number)
        self._resting.clear()


class KernelPath:
    """The program with room for so many flows; attach it to a device, and sweep, and it takes packets.

    The maps may be shared by several workers: `number` says which of them this is the path of, and `capacity` is what each has.

    Needs CAP_BPF and CAP_NET_ADMIN to be opened and attached, and nothing of the kind later on.
    """

    def __init__(self, maps: dict[str, bpf.Map], program: int, capacity: int, number: int = 0) -> None:
        self.program = program
        self.refused: dict[str, int] = {}
        self.carried = Carried()
        self.maps = maps
        self._client_flows, self._backend_flows = maps["client_flows"], maps["backend_flows"]
        self.capacity = capacity
        self._first = first = number * capacity
        self._memory, self._control = maps["traffic"].map_memory(), maps["control"].map_memory()
        rows = slice(first * TRAFFIC_BYTES, (first + capacity) * TRAFFIC_BYTES)
        self._traffic = memoryview(self._memory)[rows]
        self._columns = self._traffic.cast("Q")
        self._answers = Answers(maps, number, capacity)
        # Bound once: they are called with each flow.
        self.note_flow: Callable[[bytes], None] = self._answers.known.add
        self.forget_flow: Callable[[bytes], None] = self._answers.known.discard
        self._places = Places(capacity)
        self._installed: dict[Splice, tuple[int, Entries]] = {}
        self._by_index: dict[int, Splice] = {}
        self._moved: list[Splice] = []
        self._attachment: Attachment | None = None
        self._former: Former | None = None
        self._keeper: Keeper | None = None
        self._kept: list[str] = []
        self.standing = Standing()

    @classmethod
    def open(cls, capacity: int, *, link_header_length: int = 0, former: Former | None = None, workers: int = 1) -> Self:
        """Make the maps, with room for `capacity` flows of each worker, and have the kernel verify the program.

        `link_header_length` is what lies before the IP header: nothing on a TUN device. `attach` is to replace `former`.
        Raises OffloadError.
        """
        rooms = {
            "control": 1,
            "identifications": IDENTIFICATIONS,
            "answering": workers,
            "answered": workers,
            "listeners": LISTENERS * workers,
            "known_flows": workers * counters_for(capacity) // KNOWN_BYTES,
        }
        with ExitStack() as stack:
            maps = {}
            for name, (kind, key_bytes, value_bytes, flags) in bytecode.MAPS.items():
                room = rooms.get(name, capacity * workers)
                try:
                    maps[name] = bpf.Map.create(kind, key_bytes, value_bytes, room, flags=flags, name=name)
                except OSError as error:
                    raise bpf.explain(error, f"make the map {name} for {room} flows") from error
                stack.callback(maps[name].close)
            begun = None if former is None else former.identifications
            if begun is not None:
                # As one map for all processes, so that no number is given twice in a row.
                maps["identifications"].close()
                maps["identifications"] = begun.duplicate()
                stack.callback(maps["identifications"].close)
            instructions = bpf.link(
                bytecode.INSTRUCTIONS[sys.byteorder],
                bytecode.RELOCATIONS[sys.byteorder],
                {name: entry.fd for name, entry in maps.items()},
                {"link_header_length": link_header_length, "workers": workers},
            )
            program = bpf.load_program(bpf.PROGRAM_SCHED_CLS, instructions, licence=_LICENCE, name="kracauer_splice")
            stack.callback(os.close, program)
            try:
                if begun is None:
                    with maps["identifications"].map_memory() as memory:
                        memory[:] = os.urandom(len(memory))  # RFC 7739 §5: where each begins is nobody's business
                path = cls(maps, program, capacity)
                path._former = former
            except OSError as error:
                raise bpf.explain(error, "map its memory") from error
            stack.pop_all()
        return path

    def attach(self, interface: str) -> str:
        """Put the program on the egress of `interface`, in this thread's network namespace; says how. Raises OffloadError.

        It takes the place of a former one between two packets; `standing` says whether it outlives the process.
        """
        if self._attachment is not None:
            raise OffloadError(f"already attached to {self._attachment.interface}", "close it first")
        former = self._former
        if former is None:
            self._attachment = attach(self.program, interface)
            self.standing = Standing(self._attachment.kind)
            return self._attachment.kind
        unkept = self._have_kept({name: self.maps[of].fd for of, name in former.next_names.items()})
        link, keeper = former.hand_over()
        self._attachment = attach(self.program, interface, link)
        fd = self._attachment.fd
        if unkept is None and fd >= 0:
            if fd == link and keeper is self._keeper:
                self._kept.append(LINK)  # it is
            else:
                unkept = self._have_kept({LINK: fd})
        if unkept is not None:
            self._unkeep()
        former.drop(set(self._kept), self._keeper)
        cause, remedy = ("", "") if unkept is None else (unkept.cause, unkept.remedy)
        kept_by = "" if self._keeper is None else self._keeper.kind
        self.standing = Standing(self._attachment.kind, unkept is None, cause, remedy, kept_by)
        return self._attachment.kind

    def check(self) -> None:
        """Try whether flows can still be installed, now that privileges were dropped; raises OffloadError."""
        key, value = bytes(self._client_flows.key_bytes), bytes(self._client_flows.value_bytes)
        try:
            self._client_flows.delete(key)
            with suppress(OSError):  # it may be full
                self._client_flows.update(key, value)
            self._client_flows.delete(key)
        except OSError as error:
            raise OffloadError(
                f"this kernel lets nobody change maps without CAP_BPF, which was given up ({error.strerror})",
                "use Linux 5.19 or newer, or set kernel.unprivileged_bpf_disabled=0",
            ) from error

    def keep(self) -> None:
        """Bring all records up to date, and leave program and maps to the next process, where they are kept; else `close`.

        They go on for as long as was promised at the last sweep.
        """
        if self._kept and self._attachment is not None:
            self._attachment.release()
            self._attachment = None
            self._kept = []
        self.close()

    def __len__(self) -> int:
        return len(self._installed)

    def inherits(self, splice: Splice) -> bool:
        """As the contract has it."""
        return self._former is not None and self._former.holds(splice)

    def install(self, splice: Splice) -> bool:
        """As the contract has it: both directions, or none."""
        if splice in self._installed:
            return True
        if self.program < 0 or not is_suited(splice):
            return False
        index = self._places.take()
        if index is None:
            self._note_refused(errno.ENOSPC)
            return False
        entries = build_entries(splice.constants, self._first + index)
        at = index * TRAFFIC_BYTES
        # What a former program carries until ours is in its place, ours knows nothing of.
        leaves_fins = self.inherits(splice)
        CARRIED.pack_into(self._traffic, at, 0, 0, 0, splice.backend_acked, leaves_fins, 0, 0, 0)
        CARRIED.pack_into(self._traffic, at + _TO_CLIENT_AT, 0, 0, 0, splice.client_acked, 0, 0, 0, 0)
        try:
            self._backend_flows.update(entries.backend_key, entries.to_client)
            self._client_flows.update(entries.client_key, entries.to_backend)
        except OSError as error:  # E2BIG, ENOMEM; EPERM before Linux 5.19 without CAP_BPF: the engine goes on with this one
            with suppress(OSError):
                self._backend_flows.delete(entries.backend_key)
            self._places.release(index)
            self._note_refused(error.errno or 0)
            return False
        self._installed[splice] = index, entries
        self._by_index[index] = splice
        return True

    def remove(self, splice: Splice) -> None:
        """As the contract has it. A packet that is under way at this moment may still pass, and not be counted."""
        held = self._installed.pop(splice, None)
        if held is None:
            return
        index, entries = held
        self._client_flows.delete(entries.client_key)
        self._backend_flows.delete(entries.backend_key)
        del self._by_index[index]
        self._collect(splice, index)
        self._places.release(index)

    def remove_all(self, splices: Sequence[Splice]) -> None:
        """As the contract has it, in one system call for each direction."""
        if len(splices) < _SMALLEST_BATCH:
            for splice in splices:
                self.remove(splice)
            return
        held = [(splice, *self._installed.pop(splice)) for splice in splices if splice in self._installed]
        self._client_flows.delete_all([entries.client_key for _, _, entries in held])
        self._backend_flows.delete_all([entries.backend_key for _, _, entries in held])
        for splice, index, _ in held:
            del self._by_index[index]
            self._collect(splice, index)
            self._places.release(index)

    def refresh(self, splice: Splice) -> None:
        """As the contract has it; no system call."""
        held = self._installed.get(splice)
        if held is not None:
            LEAVES_FINS.pack_into(self._traffic, held[0] * TRAFFIC_BYTES + LEAVES_FINS_AT, 1)
            self._collect(splice, held[0])

    def promise(self, promises: Promises) -> None:
        """As the contract has it; where not all of them fit, or the kernel takes one of them not, no SYN is answered."""
        if self.program < 0:
            return
        problem = self._answers.promise(promises)
        if problem:
            self._note_refused(problem)

    def sweep(self, now: float) -> Sequence[Splice]:
        """As the contract has it; no system call."""
        if self.program < 0:
            return self._take_moved()
        CONTROL.pack_into(self._control, 0, int((now + LEASE_S) * NANOSECONDS) - ahead_ns())
        self._answers.renew(now)
        self._answers.collect(self.carried)
        end = self._places.end * _ROW
        changed: set[int] = set()
        for packets_at, collected_at in _COLUMNS:
            packets = self._columns[packets_at:end:_ROW].tolist()
            collected = self._columns[collected_at:end:_ROW].tolist()
            if packets != collected:
                changed |= {index for index, count in enumerate(packets) if count != collected[index]}
        self._places.rest_over()
        for index in changed:
            splice = self._by_index.get(index)
            if splice is not None:
                self._collect(splice, index)
        return self._take_moved()

    def note_moved(self, splices: Iterable[Splice]) -> None:
        """Have the next sweep name these as well: an earlier program has carried FINs of theirs, and their records say so."""
        self._moved += splices

    def close(self) -> None:
        """As the contract has it: detach the program, and let go of it and of the maps."""
        if self.program < 0:
            return
        self._answers.stop()
        if self._attachment is not None:
            CONTROL.pack_into(self._control, 0, 0)  # where it cannot be taken away any more, it takes nothing at least
            self._attachment.close()
            self._attachment = None
        self._unkeep()
        for splice, (index, _) in self._installed.items():
            self._collect(splice, index)
        self._installed.clear()
        self._by_index.clear()
        self._answers.collect(self.carried)
        self.note_flow = self.forget_flow = _ignore  # flows may outlive what they were told to
        self._columns.release()
        self._traffic.release()
        self._answers.close()
        for memory in (self._memory, self._control):
            memory.close()
        os.close(self.program)
        self.program = -1
        for entry in self.maps.values():
            entry.close()
        self.standing = Standing()

    def _have_kept(self, objects: dict[str, int]) -> UnkeptError | None:
        """Have these kept by the first that takes them, and all that comes later by the same one; says why nobody does."""
        assert self._former is not None
        errors = []
        for keeper in self._former.keepers if self._keeper is None else (self._keeper,):
            if keeper in self._former.foreign:
                cause = f"another network namespace keeps what it has for a device of that name in {keeper.where}"
                errors.append(UnkeptError(cause, "give this one another network.device, or a bpffs of its own"))
                continue
            try:
                keeper.keep(objects)
            except UnkeptError as error:
                errors.append(error)
            else:
                self._keeper = keeper
                self._kept += objects
                return None
        return UnkeptError.join(errors)

    def _unkeep(self) -> None:
        if self._keeper is not None:
            self._keeper.drop(self._kept)
        self._keeper = None
        self._kept = []

    def _note_refused(self, number: int) -> None:
        name = errno.errorcode.get(number, "unknown")
        self.refused[name] = self.refused.get(name, 0) + 1

    def _collect(self, splice: Splice, index: int) -> None:
        if carry_over(self._traffic, index * TRAFFIC_BYTES, splice, self.carried):
            self._moved.append(splice)

    def _take_moved(self) -> Sequence[Splice]:
        moved, self._moved = tuple(in_order(self._moved)), []
        return moved


def _ignore(_key: bytes) -> None:
    """There is nobody left to be told."""
