"""Records in the file of the worker that they are of, whatever the number of workers was before."""

import io
import json
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from splice_setup import PLAIN

from kracauer.daemon.flow_file import open_flow_file
from kracauer.daemon.flow_files import arrange_flow_files, flow_path, flow_paths, remove_flow_files
from kracauer.logs import configure
from kracauer.steering import worker_of
from kracauer.tcp.record import read_constants
from kracauer.tcp.splice import Splice
from kracauer.tcp.state import CODES, State
from kracauer.translate.identification import Identifications

DEVICE = "kracauer0"
PREFIX = IPv6Network("2001:db8:46::/96")
BOOT = bytes(range(16))
PORTS = range(40000, 40060)


class House:
    """A runtime directory, and what was said about the files in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stream = io.StringIO()
        self.log = configure("info", "json", self.stream)

    def open(self, number: int, workers: int) -> Any:
        return open_flow_file(flow_path(DEVICE, number, workers), prefix=PREFIX, boot_id=BOOT, log=self.log)

    def fill(self, workers: int, ports: range = PORTS) -> None:
        """Have each worker hold its flows, as it would."""
        files = [self.open(number, workers) for number in range(workers)]
        for port in ports:
            begin(files[worker_of(PLAIN.client, port, workers)].records, port)
        for file in files:
            file.close()

    def arrange(self, workers: int) -> None:
        arrange_flow_files(DEVICE, workers, prefix=PREFIX, boot_id=BOOT, log=self.log)

    def ports(self, number: int, workers: int) -> list[int]:
        file = self.open(number, workers)
        found = []
        for place in file.records.occupied():
            constants = read_constants(place.page.memory, place.at)
            assert constants is not None
            assert place.page.memory[place.at] == CODES[State.ESTABLISHED]
            found.append(constants.client_port)
        file.close()
        return sorted(found)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.stream.getvalue().splitlines()) if line["event"] == event]


def begin(records: Any, port: int) -> None:
    splice = Splice.begin(
        records.take(),
        Identifications(1),
        v4_addresses=PLAIN.service + PLAIN.client,
        v6_addresses=PLAIN.mapped + PLAIN.backend,
        service_port=443,
        backend_port=443,
        client_port=port,
        seq_delta=0,
        ts_delta=0,
        window_shift_to_backend=0,
        window_shift_to_client=0,
        has_timestamps=False,
        backend_acked=7,
        client_acked=8,
        max_to_backend=1500,
        max_to_client=1500,
        unfragmented_to_backend=1500,
        now=0.0,
    )
    splice.state = CODES[State.ESTABLISHED]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return House(tmp_path)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 5), (5, 2)])
def test_each_record_goes_to_the_worker_that_has_it_now(house: House, before: int, after: int) -> None:
    house.fill(before)
    house.arrange(after)
    for number in range(after):
        assert house.ports(number, after) == [port for port in PORTS if worker_of(PLAIN.client, port, after) == number]
    assert house.names() == sorted(flow_path(DEVICE, number, after).name for number in range(after))
    (line,) = house.said("flows_rearranged")
    assert (line["workers"], line["flows"]) == (after, len(PORTS))


@pytest.mark.parametrize("workers", [1, 4])
def test_nothing_is_written_where_the_number_has_not_changed(house: House, workers: int) -> None:
    house.fill(workers)
    before = {path: path.read_bytes() for path in house.directory.iterdir()}
    house.arrange(workers)
    assert {path: path.read_bytes() for path in house.directory.iterdir()} == before
    assert house.said("flows_rearranged") == []


def test_where_there_is_no_file_none_is_made(house: House) -> None:
    house.arrange(3)
    assert house.names() == []


def test_what_was_cut_short_is_done_again_and_nothing_doubled(house: House) -> None:
    """Drafts of an earlier attempt are made anew; a record that is in old and new files both is one."""
    house.fill(1)
    house.fill(2, PORTS[:30])
    for number in range(2):
        flow_path(DEVICE, number, 2).with_name(f"{DEVICE}.flows.2.{number}.draft").write_bytes(b"torn")
    house.arrange(2)
    assert sorted(house.ports(0, 2) + house.ports(1, 2)) == list(PORTS)
    assert house.names() == [f"{DEVICE}.flows.2.0", f"{DEVICE}.flows.2.1"]


def test_records_that_are_not_whole_stay_behind(house: House) -> None:
    house.fill(1)
    file = house.open(0, 1)
    place = next(iter(file.records.occupied()))
    place.page.memory[place.at + 70] ^= 0xFF
    file.close()
    house.arrange(2)
    assert len(house.ports(0, 2) + house.ports(1, 2)) == len(PORTS) - 1


def test_a_file_of_another_prefix_is_set_aside_as_ever(house: House) -> None:
    file = open_flow_file(flow_path(DEVICE, 0, 1), prefix=IPv6Network("2001:db8:47::/96"), boot_id=BOOT, log=house.log)
    begin(file.records, 1)
    file.close()
    house.arrange(2)
    assert house.ports(0, 2) + house.ports(1, 2) == []
    assert len(house.said("flows_set_aside")) == 1


def test_all_are_removed_and_those_of_other_devices_are_not(house: House) -> None:
    house.fill(3)
    house.fill(1)
    others = ["kracauer0.flowsome", "kracauer0.flows.x.1", "kracauer00.flows", "kracauer0.secret"]
    for name in others:
        (house.directory / name).touch()
    assert len(flow_paths(DEVICE)) == 4
    remove_flow_files(DEVICE)
    assert house.names() == sorted(others)
