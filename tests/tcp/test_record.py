import math
import mmap
import re
import struct
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kracauer.tcp import record
from kracauer.tcp.record import (
    PAGE_BYTES,
    PAGE_RECORDS,
    READ_TO_BACKEND,
    READ_TO_BACKEND_AT,
    READ_TO_CLIENT,
    READ_TO_CLIENT_AT,
    RECORD_BYTES,
    WRITE_TO_BACKEND,
    WRITE_TO_BACKEND_AT,
    WRITE_TO_CLIENT,
    WRITE_TO_CLIENT_AT,
    Constants,
    Fields,
    Memory,
    Page,
    Place,
    Records,
    get_constants,
    read_constants,
    write_beginning,
    write_constants,
)

LONGEST_KEPT = 93
AT = RECORD_BYTES  # of the record that a test writes, between two others
byte, word, number = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1)
long, shift = st.integers(0, 2**64 - 1), st.integers(-14, 14)
moment = st.floats(allow_nan=False)
any_hostname = st.none() | st.text(st.characters(codec="ascii"), max_size=120) | st.just("x" * 93) | st.just("x" * 94)
any_constants = st.builds(
    Constants,
    seq_delta=number,
    ts_delta=number,
    address_difference=word,
    whole_difference=word,
    service_port=word,
    backend_port=word,
    client_port=word,
    max_to_backend=word,
    unfragmented_to_backend=word,
    max_to_client=word,
    window_shift_to_backend=shift,
    window_shift_to_client=shift,
    kind=byte,
    sum_v4=word,
    v4_addresses=st.binary(min_size=8, max_size=8),
    v6_addresses=st.binary(min_size=32, max_size=32),
    client_isn=number,
    backend_isn=number,
    opening_window=word,
    created=moment,
    clock_origin=number,
    hostname=any_hostname,
)
SAMPLE = Constants(
    seq_delta=0x01020304,
    ts_delta=0x05060708,
    address_difference=0x0910,
    whole_difference=0x1112,
    service_port=443,
    backend_port=8443,
    client_port=40000,
    max_to_backend=1480,
    unfragmented_to_backend=1260,
    max_to_client=1500,
    window_shift_to_backend=7,
    window_shift_to_client=-5,
    kind=1,
    sum_v4=0x1314,
    v4_addresses=bytes(range(1, 9)),
    v6_addresses=bytes(range(9, 41)),
    client_isn=0x15161718,
    backend_isn=0x191A1B1C,
    opening_window=64240,
    created=60000.03,
    clock_origin=0x1D1E1F20,
    hostname="www.example.com",
)
FIELDS = {
    "state": byte,
    "was_reset_by_client": st.booleans(),
    "has_client_answered": st.booleans(),
    "has_backend_answered": st.booleans(),
    "is_owed": st.booleans(),
    "is_reset_certain": st.booleans(),
    "state_since": moment,
    "backend_acked": number,
    "packets_to_backend": long,
    "bytes_to_backend": long,
    "last_seen": moment,
    "client_acked": number,
    "packets_to_client": long,
    "bytes_to_client": long,
    "client_tsval": number,
    "max_to_backend": word,
    "unfragmented_to_backend": word,
    "max_to_client": word,
}
SIZES = {"max_to_backend", "unfragmented_to_backend", "max_to_client"}  # constants that are set anew by each process
FLAGS = {name for name in FIELDS if name.startswith(("was_", "has_", "is_"))}
SINGLE_CONSTANTS = sorted(set(Constants._fields) & set(vars(Fields)))


class Holder(Fields):
    """An object that knows its record, and nothing else."""

    __slots__ = ("at", "memory")

    def __init__(self, memory: Memory, at: int = AT) -> None:
        self.memory = memory
        self.at = at


def three_records(fill: bytes = b"\0") -> bytearray:
    return bytearray(fill * (3 * RECORD_BYTES))


def changed(before: bytes | bytearray, after: bytes | bytearray) -> list[int]:
    return [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]


@given(any_constants, st.binary(min_size=1, max_size=1))
def test_constants_are_read_as_they_were_written(constants: Constants, fill: bytes) -> None:
    """Whatever lay there before; a hostname that is too long is the one thing that is not kept."""
    memory = three_records(fill)
    write_constants(memory, AT, constants)
    is_kept = constants.hostname is None or len(constants.hostname) <= LONGEST_KEPT
    expected = constants if is_kept else constants._replace(hostname=None)
    assert read_constants(memory, AT) == expected
    assert get_constants(memory, AT) == expected


@pytest.mark.parametrize("length", range(LONGEST_KEPT + 8))
def test_a_hostname_of_up_to_93_bytes_is_kept(length: int) -> None:
    hostname = "abcdefghij." * 10
    memory = three_records(b"\xff")
    write_constants(memory, AT, SAMPLE._replace(hostname=hostname[:length]))
    constants = read_constants(memory, AT)
    assert constants is not None
    assert constants.hostname == (hostname[:length] if length <= LONGEST_KEPT else None)


@given(st.text(max_size=300))
def test_no_hostname_keeps_a_record_from_being_written(hostname: str) -> None:
    """There should be none that is not ASCII; if there is, the flow still is."""
    memory = three_records()
    write_constants(memory, AT, SAMPLE._replace(hostname=hostname))
    constants = read_constants(memory, AT)
    assert constants is not None
    assert constants._replace(hostname=None) == SAMPLE._replace(hostname=None)
    assert constants.hostname in (hostname.encode("ascii", "replace").decode(), None)


@given(any_constants, any_constants)
def test_writing_constants_touches_nothing_but_their_bytes_and_the_checksum(first: Constants, second: Constants) -> None:
    memory = three_records(b"\xaa")
    write_constants(memory, AT, first)
    before = bytes(memory)
    write_constants(memory, AT, second)
    assert {at - AT for at in changed(before, memory)} <= {*range(4, 8), *range(64, 250)}


@pytest.mark.parametrize("at", [*range(4, 8), *range(64, 82), *range(88, 250)])
def test_a_flipped_bit_of_constants_or_checksum_is_noticed(at: int) -> None:
    memory = three_records()
    write_constants(memory, AT, SAMPLE)
    for bit in range(8):
        memory[AT + at] ^= 1 << bit
        assert read_constants(memory, AT) is None
        memory[AT + at] ^= 1 << bit
    assert read_constants(memory, AT) == SAMPLE


@given(st.data())
def test_what_changes_is_covered_by_no_checksum(data: st.DataObject) -> None:
    memory = three_records()
    write_constants(memory, AT, SAMPLE)
    outside = [*range(4), *range(8, 64), *range(82, 88), *range(250, 256)]
    for at, value in data.draw(st.dictionaries(st.sampled_from(outside), byte, max_size=20)).items():
        memory[AT + at] = value
    constants = read_constants(memory, AT)
    assert constants is not None
    assert without_sizes(constants) == without_sizes(SAMPLE)


def without_sizes(constants: Constants) -> Constants:
    return constants._replace(max_to_backend=0, unfragmented_to_backend=0, max_to_client=0)


def test_zeros_are_no_constants() -> None:
    """Else a page that has just been made would hold 4,096 of them."""
    assert read_constants(three_records(), AT) is None


def test_a_record_of_another_version_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = three_records()
    write_constants(memory, AT, SAMPLE)
    monkeypatch.setattr(record, "VERSION", record.VERSION + 1)
    assert read_constants(memory, AT) is None


@given(st.data())
def test_a_record_whose_writing_was_cut_short_is_none(data: st.DataObject) -> None:
    """Any part of the new bytes over another record: whole is just the old or the new."""
    memory, target = three_records(), three_records()
    write_constants(memory, AT, data.draw(any_constants))
    write_constants(target, AT, data.draw(any_constants))
    whole = [without_sizes(get_constants(memory, AT)), without_sizes(get_constants(target, AT))]
    cut = AT + data.draw(st.integers(64, 250))
    memory[AT + 64 : cut] = target[AT + 64 : cut]
    constants = read_constants(memory, AT)
    assert constants is None or without_sizes(constants) in whole


@given(st.lists(st.sampled_from(sorted(FIELDS)).flatmap(lambda name: st.tuples(st.just(name), FIELDS[name])), max_size=20))
def test_each_field_keeps_what_it_was_given_and_touches_no_other(writes: list[tuple[str, int | float | bool]]) -> None:
    memory = three_records(b"\x5a")
    write_constants(memory, AT, SAMPLE)
    write_beginning(memory, AT, backend_acked=0, client_acked=0, now=0.0)
    holder, expected = Holder(memory), {}
    for name, value in writes:
        setattr(holder, name, value)
        expected[name] = value
    assert {name: getattr(holder, name) for name in expected} == expected
    assert not any(getattr(holder, name) for name in FLAGS - set(expected))
    constants = read_constants(memory, AT)
    assert constants is not None
    assert without_sizes(constants) == without_sizes(SAMPLE)
    assert memory[:AT] + memory[AT + RECORD_BYTES :] == b"\x5a" * (2 * RECORD_BYTES)


@pytest.mark.parametrize("flag", sorted(FLAGS))
def test_a_flag_is_taken_back_alone(flag: str) -> None:
    holder = Holder(three_records())
    for name in FLAGS:
        setattr(holder, name, True)
    setattr(holder, flag, False)
    assert {name for name in FLAGS if getattr(holder, name)} == FLAGS - {flag}


@given(number, number, moment)
def test_a_beginning_is_written_at_once(backend_acked: int, client_acked: int, now: float) -> None:
    """Over whatever lay there, and over nothing else: neither the state nor the constants."""
    memory = three_records(b"\xff")
    write_constants(memory, AT, SAMPLE)
    before = bytes(memory)
    write_beginning(memory, AT, backend_acked=backend_acked, client_acked=client_acked, now=now)
    holder = Holder(memory)
    assert not any(getattr(holder, name) for name in FLAGS)
    assert (holder.backend_acked, holder.client_acked) == (backend_acked, client_acked)
    assert (holder.last_seen, holder.state_since) == (now, now)
    assert not any((holder.packets_to_backend, holder.packets_to_client, holder.bytes_to_backend, holder.bytes_to_client))
    assert {at - AT for at in changed(before, memory)} <= {1, *range(8, 64)}


@given(any_constants)
def test_single_constants_are_those_of_the_whole(constants: Constants) -> None:
    memory = three_records()
    write_constants(memory, AT, constants)
    holder = Holder(memory)
    assert len(SINGLE_CONSTANTS) > 5
    assert [getattr(holder, name) for name in SINGLE_CONSTANTS] == [getattr(constants, name) for name in SINGLE_CONSTANTS]


@given(any_constants, long, long)
def test_the_fast_path_reads_what_the_fields_say(constants: Constants, packets: int, size: int) -> None:
    memory = three_records()
    write_constants(memory, AT, constants)
    holder = Holder(memory)
    holder.packets_to_backend = holder.packets_to_client = packets
    holder.bytes_to_backend = holder.bytes_to_client = size
    c = constants
    head = (packets, size, c.seq_delta, c.ts_delta, c.address_difference, c.whole_difference)
    to_backend = (c.backend_port, c.max_to_backend, c.unfragmented_to_backend, c.window_shift_to_backend, c.v6_addresses)
    to_client = (c.service_port, c.max_to_client, c.window_shift_to_client, c.sum_v4, c.v4_addresses)
    assert READ_TO_BACKEND.unpack_from(memory, AT + READ_TO_BACKEND_AT) == (*head, *to_backend)
    assert READ_TO_CLIENT.unpack_from(memory, AT + READ_TO_CLIENT_AT) == (*head, *to_client)


@given(number, long, long, moment)
def test_the_fast_path_writes_what_the_fields_say(acked: int, packets: int, size: int, now: float) -> None:
    to_backend, to_client = three_records(), three_records()
    WRITE_TO_BACKEND.pack_into(to_backend, AT + WRITE_TO_BACKEND_AT, acked, packets, size, now)
    WRITE_TO_CLIENT.pack_into(to_client, AT + WRITE_TO_CLIENT_AT, now, acked, packets, size)
    one, other = Holder(three_records()), Holder(three_records())
    one.backend_acked, one.packets_to_backend, one.bytes_to_backend = acked, packets, size
    other.client_acked, other.packets_to_client, other.bytes_to_client = acked, packets, size
    one.last_seen = other.last_seen = now
    assert (to_backend, to_client) == (one.memory, other.memory)


def documented_offsets() -> Iterator[tuple[str, int]]:
    for at, name in re.findall(r"(\d+)  ([a-z_]+)", record.__doc__ or ""):
        yield name, int(at)


@pytest.mark.parametrize(("name", "offset"), [pair for pair in documented_offsets() if pair[0] in FIELDS])
def test_a_field_lies_where_the_documentation_has_it(name: str, offset: int) -> None:
    memory = three_records()
    value = 1.7e-300 if isinstance(vars(Fields)[name], record.Time) else 0x01
    setattr(Holder(memory), name, value)
    assert min(changed(three_records(), memory)) == AT + offset


def test_the_documentation_names_every_field() -> None:
    documented = dict(documented_offsets())
    assert documented.keys() == FIELDS.keys() - FLAGS - SIZES | {"flags", "checksum"}
    memory = three_records()
    Holder(memory).is_owed = True
    assert changed(three_records(), memory) == [AT + documented["flags"]]
    memory = three_records()
    write_constants(memory, AT, SAMPLE)
    checksum = struct.unpack_from("=I", memory, AT + documented["checksum"])[0]
    assert checksum == zlib.crc32(memory[AT + 64 : AT + 82] + memory[AT + 88 : AT + 250], record.VERSION)


def test_a_record_lies_in_a_mapped_file_as_well() -> None:
    with mmap.mmap(-1, PAGE_BYTES) as memory:
        page, at = Records([memory]).take()
        write_constants(page.memory, at, SAMPLE)
        holder = Holder(page.memory, at)
        holder.state, holder.is_owed, holder.state_since = 3, True, math.pi
        assert page.memory is memory
        assert Page(bytearray(memory[:]), is_kept=True).occupied() == [at]
        assert read_constants(memory, at) == SAMPLE
        assert (holder.state, holder.is_owed, holder.state_since) == (3, True, math.pi)


@pytest.mark.parametrize("size", [0, RECORD_BYTES, PAGE_BYTES - 1, PAGE_BYTES + 1])
def test_a_page_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="1048576 bytes"):
        Page(bytearray(size), is_kept=True)


def page_with(occupied: set[int]) -> bytearray:
    """A page in which an earlier process has left records of these numbers."""
    memory = bytearray(PAGE_BYTES)
    for index in occupied:
        memory[index * RECORD_BYTES] = 1
    return memory


EARLIER = {
    "none": set[int](),
    "the first": {0},
    "the last": {PAGE_RECORDS - 1},
    "every other": set(range(0, PAGE_RECORDS, 2)),
    "all but one": set(range(PAGE_RECORDS)) - {77},
    "all": set(range(PAGE_RECORDS)),
}
contents = st.sampled_from(list(EARLIER.values())) | st.sets(st.integers(0, PAGE_RECORDS - 1), max_size=20)


class RecordsMachine(RuleBasedStateMachine):
    """Records next to plain sets of the places that are taken and those that are free."""

    def __init__(self) -> None:
        super().__init__()
        self.to_grow = 0
        self.pages: dict[int, Page] = {}  # as they show up in places
        self.kept_ids: set[int] = set()
        self.memories: list[bytearray] = []  # kept ones, which stay: no two have the same id
        self.free_kept: set[tuple[int, int]] = set()
        self.free_unkept: set[tuple[int, int]] = set()
        self.taken: dict[tuple[int, int], Place] = {}
        self.is_full = False

    @initialize(earlier=st.lists(contents, max_size=2))
    def begin(self, earlier: list[set[int]]) -> None:
        for occupied in earlier:
            self.know_kept(page_with(occupied), occupied)
        self.records = Records(self.memories.copy(), self.grow)
        for place in self.records.occupied():
            self.taken[self.key(place)] = place
        assert len(self.taken) == sum(map(len, earlier))

    def know_kept(self, memory: bytearray, occupied: set[int]) -> None:
        self.memories.append(memory)
        self.kept_ids.add(id(memory))
        free = set(range(PAGE_RECORDS)) - occupied
        self.free_kept |= {(id(memory), index * RECORD_BYTES) for index in free}

    def grow(self) -> bytearray | None:
        assert not self.free_kept, "grown while there is room"
        if not self.to_grow:
            return None
        self.to_grow -= 1
        memory = bytearray(PAGE_BYTES)
        self.know_kept(memory, set())
        return memory

    @staticmethod
    def key(place: Place) -> tuple[int, int]:
        return id(place.page.memory), place.at

    @rule(pages=st.integers(0, 2))
    def let_grow(self, pages: int) -> None:
        self.to_grow = pages

    @rule(count=st.sampled_from((1, 1, 3, PAGE_RECORDS - 1, PAGE_RECORDS + 1)), is_written=st.booleans())
    def take(self, count: int, is_written: bool) -> None:
        for _ in range(count):
            has_kept, has_unkept = bool(self.free_kept), bool(self.free_unkept)
            place = self.records.take()
            key = self.key(place)
            assert key not in self.taken, "handed out twice"
            assert place.at % RECORD_BYTES == 0
            assert 0 <= place.at < PAGE_BYTES
            assert place.page.is_kept == (key[0] in self.kept_ids)
            assert place.page.memory[place.at] == 0, "handed out with a state"
            if not place.page.is_kept:
                assert not has_kept, "private memory while there is some that is kept"
                assert not self.to_grow, "private memory while more could be had that is kept"
                if not has_unkept:
                    self.free_unkept |= {(key[0], index * RECORD_BYTES) for index in range(PAGE_RECORDS)}
            (self.free_kept if place.page.is_kept else self.free_unkept).remove(key)
            self.taken[key] = place
            place.page.memory[place.at] = is_written

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), share=st.sampled_from((0.0, 0.0, 0.5, 1.0)))
    def release(self, data: st.DataObject, share: float) -> None:
        keys = list(self.taken)
        start = data.draw(st.integers(0, len(keys) - 1))
        for key in keys[start : start + 1 + int(share * len(keys))]:
            place = self.taken.pop(key)
            self.records.release(*place)
            assert place.page.memory[place.at] == 0, "not erased"
            (self.free_kept if place.page.is_kept else self.free_unkept).add(key)

    @invariant()
    def the_unkept_are_counted(self) -> None:
        if hasattr(self, "records"):
            assert self.records.unkept == sum(not place.page.is_kept for place in self.taken.values())

    @invariant()
    def what_is_written_is_found(self) -> None:
        if hasattr(self, "records"):
            written = {key for key, place in self.taken.items() if place.page.memory[place.at]}
            assert {self.key(place) for place in self.records.occupied()} == written


TestRecords = RecordsMachine.TestCase
TestRecords.settings = settings(max_examples=40, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("occupied", EARLIER.values(), ids=EARLIER)
def test_what_an_earlier_process_has_left_is_handed_to_nobody(occupied: set[int]) -> None:
    records = Records([page_with(occupied)], lambda: None)
    places = [records.take() for _ in range(PAGE_RECORDS)]
    kept = [place.at // RECORD_BYTES for place in places if place.page.is_kept]
    assert sorted(kept) == sorted(set(range(PAGE_RECORDS)) - occupied)
    assert records.unkept == len(occupied)


def test_records_need_no_pages_and_no_file() -> None:
    records = Records()
    first, second = records.take(), records.take()
    assert not first.page.is_kept
    assert first != second
    assert records.unkept == 2


def test_memory_that_is_kept_is_used_again_as_soon_as_there_is_some() -> None:
    """Records that did not fit go on in private memory; those that come later do not follow them there."""
    records = Records([page_with(EARLIER["all"])])
    private = records.take()
    (place, *_) = records.occupied()
    records.release(*place)
    assert not private.page.is_kept
    assert records.take() == place
    assert records.unkept == 1


def test_memory_that_is_kept_is_taken_as_soon_as_more_can_be_had() -> None:
    """A full disk that has room again is not to cost the records that fit into a page that was begun meanwhile."""
    supply: list[bytearray] = []
    records = Records((), lambda: supply.pop() if supply else None)
    private = records.take()
    supply.append(bytearray(PAGE_BYTES))
    assert not private.page.is_kept
    assert records.take().page.is_kept
    records.release(*private)
    assert records.take().page.is_kept
    assert records.unkept == 0


def test_what_is_there_may_be_released_while_it_is_looked_at() -> None:
    records = Records([page_with(EARLIER["every other"]), page_with(EARLIER["the last"])])
    for place in records.occupied():
        records.release(*place)
    assert list(records.occupied()) == []
