import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import program_runs
import pytest

from kracauer.offload import bpf
from kracauer.offload.bpf import ANY, EXIST, F_MMAPABLE, F_NO_PREALLOC, MAP_ARRAY, MAP_HASH, NOEXIST, Map, OffloadError

PASS = bytes.fromhex("b7000000ffffffff9500000000000000")  # return -1
LEAKING = bytes.fromhex("9500000000000000")  # returns without having set what it returns


def make_map(kind: int = MAP_HASH, key: int = 4, value: int = 8, room: int = 8, flags: int = F_NO_PREALLOC) -> Map:
    try:
        return Map.create(kind, key, value, room, flags=flags)
    except OSError as error:
        pytest.skip(str(bpf.explain(error, "make a map")))


@pytest.fixture
def table() -> Iterator[Map]:
    table = make_map()
    yield table
    table.close()


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def test_what_is_set_is_found_until_it_is_deleted(table: Map) -> None:
    assert table.lookup(number(1)) is None
    table.update(number(1), number(11, 8))
    assert table.lookup(number(1)) == number(11, 8)
    table.update(number(1), number(12, 8), ANY)
    assert table.lookup(number(1)) == number(12, 8)
    assert table.delete(number(1))
    assert not table.delete(number(1))
    assert table.lookup(number(1)) is None


def test_whether_there_may_be_one_already_can_be_said(table: Map) -> None:
    with pytest.raises(FileNotFoundError):
        table.update(number(1), number(11, 8), EXIST)
    table.update(number(1), number(11, 8), NOEXIST)
    with pytest.raises(FileExistsError):
        table.update(number(1), number(12, 8), NOEXIST)
    assert table.lookup(number(1)) == number(11, 8)


def test_a_full_map_says_so(table: Map) -> None:
    for index in range(8):
        table.update(number(index), bytes(8))
    with pytest.raises(OSError, match="too long") as caught:
        table.update(number(8), bytes(8))
    assert caught.value.errno == errno.E2BIG


def test_keys_and_values_have_the_maps_sizes(table: Map) -> None:
    with pytest.raises(ValueError, match="a key has 4 bytes, not 3"):
        table.lookup(bytes(3))
    with pytest.raises(ValueError, match="a value has 8 bytes, not 9"):
        table.update(bytes(4), bytes(9))


def test_many_are_found_at_once(table: Map) -> None:
    items = {number(index): number(index * 3, 8) for index in range(8)}
    for key, value in items.items():
        table.update(key, value)
    assert dict(table.items()) == items
    for key in list(items)[:5]:
        table.delete(key)
    assert dict(table.items()) == dict(list(items.items())[5:])


def test_an_empty_map_has_no_items(table: Map) -> None:
    assert table.items() == []


def test_the_memory_of_an_array_is_its_values() -> None:
    array = make_map(MAP_ARRAY, 4, 4, 3, F_MMAPABLE)
    with array.map_memory() as memory:
        array.update(number(1), b"abcd")
        assert memory[8:12] == b"abcd"
        memory[16:20] = b"efgh"
        assert array.lookup(number(2)) == b"efgh"
    array.close()


def test_closing_twice_is_no_error(table: Map) -> None:
    table.close()
    table.close()


def test_a_program_is_loaded_and_run() -> None:
    fd = load(PASS)
    assert program_runs.run(fd, bytes(64)) == (-1, bytes(64))
    os.close(fd)


def load(instructions: bytes) -> int:
    try:
        return bpf.load_program(bpf.PROGRAM_SCHED_CLS, instructions, licence="MIT", name="test")
    except OffloadError as error:
        if "does not let this process" in error.cause:
            pytest.skip(str(error))
        raise


def test_a_program_that_the_verifier_refuses_is_shown_with_its_words() -> None:
    with pytest.raises(OffloadError, match="R0 !read_ok") as caught:
        load(LEAKING)
    assert caught.value.remedy == 'use Linux 5.15 or newer, or set network.offload = "off"'


@pytest.mark.parametrize(
    ("number", "cause", "remedy"),
    [
        (errno.EPERM, "does not let this process load it", "CAP_BPF and CAP_NET_ADMIN"),
        (errno.ENOSYS, "has no bpf", "CONFIG_BPF_SYSCALL"),
        (errno.ENOMEM, "no memory to load it", "fewer flows"),
        (errno.EINVAL, "refuses to load it", "Linux 5.15"),
        (524, "not supported", "Linux 5.15"),
    ],
)
def test_what_the_kernel_says_is_explained(number: int, cause: str, remedy: str) -> None:
    error = bpf.explain(OSError(number, os.strerror(number)), "load it")
    assert cause in error.cause
    assert remedy in error.remedy
    assert 'network.offload = "off"' in error.remedy


@pytest.fixture
def foreign_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    bpf.syscall_number.cache_clear()
    yield
    bpf.syscall_number.cache_clear()


@pytest.mark.usefixtures("foreign_machine")
def test_a_machine_that_is_not_known_is_told() -> None:
    with pytest.raises(OffloadError, match=r"bpf\(2\) on pdp11"):
        Map.create(MAP_HASH, 4, 4, 1)


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    if subprocess.run(["mount", "-t", "bpf", "none", tmp_path], check=False, capture_output=True).returncode:
        pytest.skip("needs to mount a bpffs: run it as root")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_what_is_pinned_is_there_for_the_next_one(bpffs: Path, table: Map) -> None:
    table.update(number(5), number(6, 8))
    bpf.pin(table.fd, bpffs / "table")
    table.close()
    found = Map.from_descriptor(bpf.open_pin(bpffs / "table"))
    assert (found.key_bytes, found.value_bytes, found.max_entries) == (4, 8, 8)
    assert found.lookup(number(5)) == number(6, 8)
    found.close()
    (bpffs / "table").unlink()
    with pytest.raises(FileNotFoundError):
        Map.from_descriptor(bpf.open_pin(bpffs / "table"))


def test_a_program_can_be_attached_replaced_and_taken_away(own_netns: Callable[[str], str]) -> None:
    own_netns("link add near type veth peer name far")
    index = int(own_netns("-o link show near").split(":")[0])
    first, second = load(PASS), load(PASS)
    try:
        link = bpf.attach_link(first, index)
    except OSError as error:
        pytest.skip(f"needs tcx links, as of Linux 6.6 ({error.strerror})")
    bpf.replace_link(link, second)
    with pytest.raises(FileExistsError):
        bpf.attach_link(second, index)
    os.close(link)
    os.close(bpf.attach_link(second, index))
    os.close(first)
    os.close(second)
