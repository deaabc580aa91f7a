"""One worker's part of a fast path that all workers share: the maps are one, the rows of the traffic are divided."""

from collections.abc import Iterator
from typing import NamedTuple, Self

from kracauer.fast_path import Carried, Standing
from kracauer.offload import bpf
from kracauer.offload.collecting import carry_over
from kracauer.offload.kernel import KernelPath, Places
from kracauer.offload.layout import TRAFFIC_BYTES, Held, build_entries, other_key, parse_held
from kracauer.offload.pins import Former, key_of
from kracauer.tcp.record import Place, Records, read_constants
from kracauer.tcp.splice import Splice
from kracauer.translate.identification import Identifications


class SharedMap(NamedTuple):
    """A map by its descriptor, with its sizes."""

    descriptor: int
    key_bytes: int
    value_bytes: int
    max_entries: int


class SharedMaps(NamedTuple):
    """What worker `number` needs of the fast path that its supervisor has opened; `capacity` flows are its own."""

    maps: dict[str, SharedMap]
    program: int
    number: int
    capacity: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        return (self.program, *(each.descriptor for each in self.maps.values()))


def share_maps(path: KernelPath, number: int) -> SharedMaps:
    """What worker `number` is given of `path`."""
    maps = {name: SharedMap(each.fd, each.key_bytes, each.value_bytes, each.max_entries) for name, each in path.maps.items()}
    return SharedMaps(maps, path.program, number, path.capacity)


class WorkerPath(KernelPath):
    """A worker's part. The program is the supervisor's: nothing that is done here puts it on a device or takes it away."""

    def __init__(self, maps: dict[str, bpf.Map], program: int, capacity: int, number: int = 0) -> None:
        super().__init__(maps, program, capacity, number)
        self._left: dict[bytes, int] = {}  # by the client's key: the place of what a predecessor has left in the maps
        self._found: set[Place] = set()

    @classmethod
    def join(cls, shared: SharedMaps, standing: Standing, former: Former | None = None) -> Self:
        """Take the descriptors, which are the path's from then on. `former` tells of an earlier service's flows."""
        maps = {
            name: bpf.Map(each.descriptor, each.key_bytes, each.value_bytes, each.max_entries)
            for name, each in shared.maps.items()
        }
        path = cls(maps, shared.program, shared.capacity, shared.number)
        path.standing = standing
        path._former = former
        return path

    def reclaim(self, records: Records) -> None:
        """Find what a predecessor has left, have `records` tell what it has carried since, and let it go on meanwhile.

        Only what has no record that fits is taken away. `release_left` is to follow once flows were made of the records.
        """
        self._answers.reclaim()
        found = dict(self._own_entries())
        for place in list(records.occupied()):
            constants = read_constants(place.page.memory, place.at)
            if constants is None:
                continue
            key = key_of(constants)
            held = found.get(key)
            if held is not None and (held.seq_delta, held.v6_addresses) == (constants.seq_delta, constants.v6_addresses):
                del found[key]
                self._found.add(place)
                self._left[key] = held.at // TRAFFIC_BYTES - self._first
                splice = Splice(place, Identifications(0))
                carry_over(self._traffic, self._left[key] * TRAFFIC_BYTES, splice, Carried())
        for key, held in found.items():
            self._delete(key, other_key(key, held))
        self._places = Places(self.capacity, self._left.values())

    def release_left(self) -> None:
        """Take away what nobody has gone on with."""
        for key, place in self._left.items():
            value = self._client_flows.lookup(key)
            if value is not None:
                self._delete(key, other_key(key, parse_held(value)))
            self._places.release(place)
        self._left.clear()

    def inherits(self, splice: Splice) -> bool:
        """As the contract has it."""
        return Place(splice.page, splice.at) in self._found or super().inherits(splice)

    def install(self, splice: Splice) -> bool:
        """As the contract has it; what a predecessor has installed stays in its place, and what it has counted there."""
        place = self._left.pop(key_of(splice.constants), None) if self._left else None
        if place is None:
            return super().install(splice)
        self._installed[splice] = place, build_entries(splice.constants, self._first + place)
        self._by_index[place] = splice
        return True

    def _own_entries(self) -> Iterator[tuple[bytes, Held]]:
        """What stands in the maps with a place of this worker's."""
        for key, value in self._client_flows.items():
            held = parse_held(value)
            if 0 <= held.at // TRAFFIC_BYTES - self._first < self.capacity:
                yield key, held

    def _delete(self, client_key: bytes, backend_key: bytes) -> None:
        self._client_flows.delete(client_key)
        self._backend_flows.delete(backend_key)
