"""Workers that share the maps: each with its own rows, and what one that has died leaves is gone on with, and nothing else."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from splice_setup import PLAIN
from survivors import Host, backend_packet, client_packet

from kracauer.fast_path import Promise, Promises
from kracauer.offload.answering import ANSWERED, LISTENER
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath
from kracauer.offload.shared import SharedMap, SharedMaps, WorkerPath, share_maps
from kracauer.tcp.terms import Offer
from kracauer.wire.vnet_hdr import NO_OFFLOAD

pytestmark = pytest.mark.lab

CAPACITY, WORKERS = 8, 2  # of each
OTHER = replace(PLAIN, client=bytes((192, 0, 2, 8)), mapped=PLAIN.mapped[:12] + bytes((192, 0, 2, 8)))


class House:
    """A supervisor with the program on the device, and workers one after the other."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.path = KernelPath.open(CAPACITY, workers=WORKERS)
        self.path.attach(host.device)
        self.path.sweep(time.monotonic())

    def worker(self, number: int = 0) -> WorkerPath:
        """A process that has just begun, with descriptors of its own."""
        return WorkerPath.join(handed_down(share_maps(self.path, number)), self.path.standing)

    def answers_until(self) -> list[int]:
        """Until when the SYNs of each worker's clients are answered."""
        with self.path.maps["answered"].map_memory() as memory:
            return [ANSWERED.unpack_from(memory, number * ANSWERED.size)[0] for number in range(WORKERS)]

    def installed(self) -> set[bytes]:
        return {key for key, _ in self.path.maps["client_flows"].items()}

    def carry(self) -> None:
        """Have the kernel carry a packet each way; fails where it does not."""
        self.host.router.send(client_packet(), NO_OFFLOAD)
        self.host.router.receive()
        self.host.router.send(backend_packet(), NO_OFFLOAD)
        self.host.router.receive()


def handed_down(shared: SharedMaps) -> SharedMaps:
    """The same by other descriptors, as another process has them."""
    maps = {name: each._replace(descriptor=os.dup(each.descriptor)) for name, each in shared.maps.items()}
    assert all(isinstance(each, SharedMap) for each in maps.values())
    return shared._replace(maps=maps, program=os.dup(shared.program))


@pytest.fixture
def house(own_netns: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    host = Host(own_netns, tmp_path_factory.mktemp("bpf"))
    try:
        made = House(host)
    except OffloadError as error:
        pytest.skip(str(error))
    yield made
    made.path.close()
    host.router.close()


def test_each_worker_counts_in_rows_of_its_own(house: House) -> None:
    first, second = house.worker(0), house.worker(1)
    mine, others = house.host.splice(), house.host.splice(OTHER)
    assert first.install(others)
    assert second.install(mine)
    house.carry()
    first.sweep(time.monotonic())
    second.sweep(time.monotonic())
    assert (mine.packets_to_backend, mine.packets_to_client) == (1, 1)
    assert (others.packets_to_backend, others.packets_to_client) == (0, 0)
    for path in (first, second):
        path.close()
    assert len(house.installed()) == 2  # the program is not theirs to take away, nor are the maps


def test_each_has_no_more_than_its_part(house: House) -> None:
    worker = house.worker(1)
    for last in range(CAPACITY):
        deltas = replace(PLAIN, client=bytes((192, 0, 2, 100 + last)))
        assert worker.install(house.host.splice(deltas))
    assert not worker.install(house.host.splice())
    assert worker.refused == {"ENOSPC": 1}
    assert house.worker(0).install(house.host.splice())
    worker.close()


def test_a_successor_goes_on_where_the_one_before_has_died(house: House) -> None:
    dead = house.worker()
    splice = house.host.splice()
    assert dead.install(house.host.splice(OTHER))
    assert dead.install(splice)
    house.carry()

    worker = house.worker()
    worker.reclaim(house.host.records)
    house.carry()  # meanwhile nothing stops
    assert (splice.packets_to_backend, splice.packets_to_client) == (1, 1)
    assert worker.inherits(splice)
    assert worker.install(splice)
    worker.release_left()
    house.carry()
    worker.refresh(splice)
    assert (splice.packets_to_backend, splice.packets_to_client) == (3, 3)
    assert len(worker) == 1
    assert len(house.installed()) == 1  # of the other one nobody has made a flow
    worker.remove(splice)
    assert house.installed() == set()
    worker.close()


def test_what_has_no_record_is_taken_away_and_another_workers_is_not(house: House) -> None:
    """A stale entry would put the next connection of the same addresses and ports wrong."""
    dead, other = house.worker(0), house.worker(1)
    splice, gone = house.host.splice(OTHER), house.host.splice()
    assert other.install(splice)
    assert dead.install(gone)
    gone.state = 0
    house.host.records.release(gone.page, gone.at)

    worker = house.worker(0)
    worker.reclaim(house.host.records)
    house.host.check_left_alone()
    assert len(house.installed()) == 1
    assert not worker.inherits(splice)
    other.remove(splice)
    assert house.installed() == set()


def test_a_record_of_another_connection_with_the_same_ends_is_not_mistaken(house: House) -> None:
    dead = house.worker()
    before = house.host.splice()
    assert dead.install(before)
    house.host.records.release(before.page, before.at)
    now = house.host.splice(replace(PLAIN, seq_delta=77))

    worker = house.worker()
    worker.reclaim(house.host.records)
    assert not worker.inherits(now)
    assert house.installed() == set()


def test_places_that_are_taken_are_not_given_twice(house: House) -> None:
    dead = house.worker()
    splice = house.host.splice()
    assert dead.install(splice)
    worker = house.worker()
    worker.reclaim(house.host.records)
    another = house.host.splice(OTHER)
    assert worker.install(another)
    assert worker.install(splice)
    house.carry()
    worker.refresh(another)
    worker.refresh(splice)
    assert (another.packets_to_backend, splice.packets_to_backend) == (0, 1)
    worker.close()


def test_a_successor_answers_by_nothing_of_the_one_before(house: House) -> None:
    promise = Promise(Offer(1440, 7, sack=True, timestamps=True, ecn=False, window=65535), 1220)
    before = {(PLAIN.service, 443): promise, (PLAIN.service, 80): promise}
    dead, other = house.worker(0), house.worker(1)
    for worker in (dead, other):
        worker.promise(Promises(bytes(32), before, {PLAIN.service}))
        worker.sweep(time.monotonic())
    dead.note_flow(b"c" * 12)
    assert [until > 0 for until in house.answers_until()] == [True, True]

    worker = house.worker(0)
    worker.reclaim(house.host.records)
    assert [until > 0 for until in house.answers_until()] == [False, True]
    worker.promise(Promises(bytes(32), {(PLAIN.service, 443): promise}, {PLAIN.service}))
    listeners = [LISTENER.unpack(key) for key, _ in house.path.maps["listeners"].items()]
    assert sorted(int.from_bytes(port, "big") for _, port, number in listeners if number == 0) == [0, 443]
    assert sorted(int.from_bytes(port, "big") for _, port, number in listeners if number == 1) == [0, 80, 443]
    worker.sweep(time.monotonic())
    assert [until > 0 for until in house.answers_until()] == [True, True]
    worker.close()
    assert [until > 0 for until in house.answers_until()] == [False, True]
    other.close()
