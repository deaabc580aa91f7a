"""The file behind the flows: found again by a process that may have it, set aside where it may not, and never in the way."""

import errno
import io
import json
import os
import resource
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kracauer.daemon.flow_file import HEADER_BYTES, FlowFile, open_flow_file, remove_flow_file
from kracauer.logs import configure
from kracauer.tcp.record import PAGE_BYTES, PAGE_RECORDS, Place

ROOT = Path(__file__).parents[2]
PREFIX = IPv6Network("2001:db8:46::/96")
BOOT = bytes(range(16))


class Opened:
    """A flow file and what opening it has said."""

    def __init__(self, path: Path, prefix: IPv6Network = PREFIX, boot_id: bytes = BOOT) -> None:
        self.stream = io.StringIO()
        self.file: FlowFile = open_flow_file(path, prefix=prefix, boot_id=boot_id, log=configure("info", "json", self.stream))

    @property
    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.said]

    def fill(self, count: int = 1) -> None:
        """Occupy so many places, and number them."""
        for number in range(count):
            place = self.file.records.take()
            struct.pack_into("!BI", place.page.memory, place.at, 1, number)

    def numbers(self) -> list[int]:
        return sorted(self._number(place) for place in self.file.records.occupied())

    def _number(self, place: Place) -> int:
        return int.from_bytes(place.page.memory[place.at + 1 : place.at + 5], "big")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "kracauer0.flows"


def leave(path: Path, count: int = 1) -> bytes:
    """Have a process leave so many records; returns the file."""
    opened = Opened(path)
    opened.fill(count)
    opened.file.close()
    return path.read_bytes()


def test_what_one_process_wrote_the_next_one_finds(path: Path) -> None:
    leave(path, 3)

    found = Opened(path)

    assert found.numbers() == [0, 1, 2]
    assert found.events == []


def test_records_of_several_pages_are_found_and_new_ones_have_room(path: Path) -> None:
    leave(path, PAGE_RECORDS + 1)

    found = Opened(path)
    found.fill(1)

    assert len(found.numbers()) == PAGE_RECORDS + 2
    assert found.file.records.unkept == 0
    assert path.stat().st_size == HEADER_BYTES + 2 * PAGE_BYTES


def test_nobody_else_can_read_it(path: Path) -> None:
    Opened(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_page_has_its_room_on_the_disk_before_it_is_used(path: Path) -> None:
    Opened(path).fill(1)

    assert path.stat().st_blocks * 512 >= HEADER_BYTES + PAGE_BYTES


@pytest.mark.parametrize(
    ("prefix", "boot_id", "reason"),
    [
        (IPv6Network("2001:db8:47::/96"), BOOT, "another prefix"),
        (IPv6Network("2001:db8::/32"), BOOT, "another prefix"),
        (PREFIX, bytes(16), "booted"),
    ],
)
def test_a_file_of_another_prefix_or_boot_is_set_aside(path: Path, prefix: IPv6Network, boot_id: bytes, reason: str) -> None:
    content = leave(path)

    found = Opened(path, prefix, boot_id)

    assert found.events == ["flows_set_aside"]
    assert reason in found.said[0]["cause"]
    assert path.with_name("kracauer0.flows.aside").read_bytes() == content
    found.fill(1)
    assert found.file.records.unkept == 0


def test_a_file_of_another_version_is_set_aside(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(path)
    monkeypatch.setattr("kracauer.daemon.flow_file.VERSION", 1_000_000)

    found = Opened(path)

    assert found.events == ["flows_set_aside"]
    assert "version" in found.said[0]["cause"]
    assert found.numbers() == []


def test_one_that_was_set_aside_earlier_makes_room(path: Path) -> None:
    leave(path, 1)
    Opened(path, boot_id=bytes(16)).file.close()
    content = leave(path, 2)  # sets aside the one of the other boot
    later = Opened(path, boot_id=bytes(16))

    assert later.events == ["flows_set_aside"]
    assert path.with_name("kracauer0.flows.aside").read_bytes() == content


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return leave(tmp_path_factory.mktemp("content") / "kracauer0.flows")


@given(length=st.integers(0, HEADER_BYTES + PAGE_BYTES - 1))
def test_any_truncation_is_set_aside(content: bytes, length: int) -> None:
    assert_set_aside(content[:length])


@given(at=st.integers(0, HEADER_BYTES - 1), difference=st.integers(1, 255))
def test_any_flipped_byte_of_the_header_is_set_aside(content: bytes, at: int, difference: int) -> None:
    spoilt = bytearray(content)
    spoilt[at] ^= difference

    assert_set_aside(bytes(spoilt))


@given(st.binary(max_size=3 * HEADER_BYTES))
def test_any_bytes_are_set_aside(garbage: bytes) -> None:
    assert_set_aside(garbage)


def assert_set_aside(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "kracauer0.flows")
        path.write_bytes(content)
        path.chmod(0o600)
        opened = Opened(path)
        try:
            assert opened.events == ["flows_set_aside"]
            opened.fill(1)
            assert opened.file.records.unkept == 0
        finally:
            opened.file.close()


def test_a_page_that_was_not_yet_counted_is_no_damage(path: Path) -> None:
    leave(path, 2)
    with path.open("ab") as file:
        file.write(b"half a page that a process was adding when it was killed")

    found = Opened(path)

    assert (found.events, found.numbers()) == ([], [0, 1])
    assert path.stat().st_size == HEADER_BYTES + PAGE_BYTES


@pytest.mark.parametrize("spoil", ["link", "directory", "fifo", "readable"])
def test_what_is_no_file_of_ours_is_set_aside(path: Path, tmp_path: Path, spoil: str) -> None:
    path.parent.mkdir()
    match spoil:
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path, 0o600)
        case "readable":
            leave(path)
            path.chmod(0o644)

    found = Opened(path)
    found.fill(1)

    assert found.events == ["flows_set_aside"]
    assert found.file.records.unkept == 0
    assert not (tmp_path / "elsewhere").exists()


def test_removing_it_leaves_nothing(path: Path) -> None:
    leave(path)
    opened = Opened(path, boot_id=bytes(16))
    opened.fill(1)

    opened.file.remove()
    opened.file.close()

    assert list(path.parent.iterdir()) == []
    remove_flow_file(path)


def test_a_directory_in_the_way_costs_a_warning_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"in the way")

    opened = Opened(tmp_path / "run" / "kracauer0.flows")
    opened.fill(2)

    assert opened.events == ["flows_not_kept"]
    assert opened.said[0]["remedy"]
    assert opened.file.records.unkept == 2
    assert not opened.file.is_kept
    opened.file.remove()


@contextmanager
def largest_file(length: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, HEADER_BYTES, HEADER_BYTES + PAGE_BYTES - 1])
def test_a_file_that_may_not_grow_costs_one_warning_and_the_service_goes_on(path: Path, room: int) -> None:
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # as Python has it: else the process would end
    with largest_file(room):
        opened = Opened(path)
        opened.fill(2 * PAGE_RECORDS)

    assert opened.events == ["flows_not_kept"]
    assert opened.said[0]["cause"] == os.strerror(errno.EFBIG)
    assert opened.file.records.unkept == 2 * PAGE_RECORDS


def test_a_file_that_could_grow_a_little_keeps_what_it_has_room_for(path: Path) -> None:
    with largest_file(HEADER_BYTES + PAGE_BYTES):
        opened = Opened(path)
        opened.fill(PAGE_RECORDS + 5)
    opened.file.close()

    assert opened.events == ["flows_not_kept"]
    assert opened.file.records.unkept == 5
    assert len(Opened(path).numbers()) == PAGE_RECORDS


FILL = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
from pathlib import Path
from test_flow_file import Opened, PAGE_RECORDS
opened = Opened(Path(sys.argv[1]) / "kracauer0.flows")
opened.fill(3 * PAGE_RECORDS)
print(opened.events, opened.file.records.unkept, opened.said[0]["cause"])
"""


@pytest.mark.lab
@pytest.mark.parametrize(
    ("mount", "unkept", "cause"),
    [
        ("mount -t tmpfs -o size=4k none {}", 3, errno.ENOSPC),
        ("mount -t tmpfs -o size=1536k none {}", 2, errno.ENOSPC),
        ("mount -t tmpfs -o ro none {}", 3, errno.EROFS),
    ],
)
def test_a_full_or_read_only_filesystem_costs_one_warning(tmp_path: Path, mount: str, unkept: int, cause: int) -> None:
    script = f'{mount.format(tmp_path)} && exec "$@"'
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", FILL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"['flows_not_kept'] {unkept * PAGE_RECORDS} {os.strerror(cause)}\n"


@pytest.mark.lab
def test_a_directory_of_somebody_else_costs_one_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    script = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", FILL, str(tmp_path)]
    os.chown(tmp_path, 65534, 65534)
    ran = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"['flows_not_kept'] {3 * PAGE_RECORDS} {os.strerror(errno.EACCES)}\n"
