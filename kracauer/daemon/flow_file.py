"""Memory for the records of spliced flows that outlives the process: a file in the runtime directory, mapped a page at a time.

A header of 4,096 bytes, and behind it the pages:

      0  "KRACFLOW"               20  pages there are        41  boot id (16 bytes)
      8  version of the records   24  prefix (16 bytes)      57  zeros
     12  bytes of a record        40  its length           4092  CRC-32 of the bytes before
     16  bytes of a page

A page is given its room on the disk before it is mapped: a hole in a full filesystem is a SIGBUS to whoever writes to it. It is
there once the header counts it; what lies beyond is what a process that died was about to add, and is added anew.
"""

import contextlib
import errno
import mmap
import os
import stat
import struct
import time
import zlib
from ipaddress import IPv6Network
from pathlib import Path
from typing import Final

from structlog.typing import FilteringBoundLogger

from kracauer.tcp.record import PAGE_BYTES, RECORD_BYTES, VERSION, Records

HEADER_BYTES: Final = 4096
_HEADER: Final = struct.Struct("=8sIIII16sB16s4035xI")
_MAGIC: Final = b"KRACFLOW"
_COUNT_AT: Final = 20
_RETRY_S: Final = 10.0
_REMEDIES: Final = {
    errno.ENOSPC: "make room in that filesystem",
    errno.EDQUOT: "raise the quota of that filesystem",
    errno.EFBIG: "raise the limit on the size of files (RLIMIT_FSIZE)",
    errno.EROFS: "set RUNTIME_DIRECTORY to a directory that is writable",
}


class FlowFile:
    """The file and the `records` in it; where it cannot be had, they lie in memory that ends with the process."""

    def __init__(self, path: Path, header: bytes, log: FilteringBoundLogger) -> None:
        self.path = path
        self.records = Records()
        self._header = header
        self._log = log
        self._descriptor: int | None = None
        self._pages: list[mmap.mmap] = []
        self._retry_at = 0.0
        self._has_warned = False

    @property
    def is_kept(self) -> bool:
        """Whether there is a file."""
        return self._descriptor is not None

    def open(self) -> None:
        """Find the pages there are, or begin a new file; where neither can be, say so once and go on without."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._find():
                self._begin()
        except OSError as error:
            self._let_go()
            self._warn(error)
        self.records = Records(self._pages, self._grow if self.is_kept else None)

    def close(self) -> None:
        """Let go of the file, and leave it as it is."""
        self._let_go()

    def remove(self) -> None:
        """Let go of the file, and have no process find it again."""
        self._let_go()
        remove_flow_file(self.path)

    def _let_go(self) -> None:
        for page in self._pages:
            with contextlib.suppress(BufferError):  # somebody still looks at it: it goes with the process
                page.close()
        self._pages = []
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _find(self) -> bool:
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
            self._set_aside("it is no file")
            return False
        reason = _fault(self._descriptor, self._header)
        if reason is not None:
            self._let_go()
            self._set_aside(reason)
            return False
        count = _count(os.pread(self._descriptor, HEADER_BYTES, 0))
        end = HEADER_BYTES + count * PAGE_BYTES
        os.ftruncate(self._descriptor, end)
        os.posix_fallocate(self._descriptor, 0, end)
        for number in range(count):
            self._map(number)
        return True

    def _begin(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(self._descriptor, 0, HEADER_BYTES)
            self._write_header(0)
        except OSError:
            with contextlib.suppress(OSError):
                self.path.unlink()
            raise

    def _set_aside(self, reason: str) -> None:
        aside = self.path.with_name(f"{self.path.name}.aside")
        self.path.rename(aside)
        self._log.warning("flows_set_aside", path=str(self.path), aside=str(aside), cause=reason)

    def _grow(self) -> mmap.mmap | None:
        """One more page of zeros; None where there is none to be had, which is not tried again at once."""
        if self._descriptor is None or (self._retry_at and time.monotonic() < self._retry_at):
            return None
        number = len(self._pages)
        end = HEADER_BYTES + number * PAGE_BYTES
        try:
            os.posix_fallocate(self._descriptor, end, PAGE_BYTES)
            page = self._map(number)
            self._write_header(number + 1)
        except (OSError, ValueError) as error:
            del self._pages[number:]
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, end)
            self._retry_at = time.monotonic() + _RETRY_S
            self._warn(error)
            return None
        self._has_warned = False
        return page

    def _map(self, number: int) -> mmap.mmap:
        assert self._descriptor is not None
        page = mmap.mmap(self._descriptor, PAGE_BYTES, offset=HEADER_BYTES + number * PAGE_BYTES)
        self._pages.append(page)
        return page

    def _write_header(self, count: int) -> None:
        assert self._descriptor is not None
        draft = bytearray(self._header)
        struct.pack_into("=I", draft, _COUNT_AT, count)
        struct.pack_into("=I", draft, HEADER_BYTES - 4, zlib.crc32(draft[:-4]))
        os.pwrite(self._descriptor, draft, 0)

    def _warn(self, error: OSError | ValueError) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        number = error.errno if isinstance(error, OSError) else None
        remedy = _REMEDIES.get(number or 0, "make that directory writable for the service's user")
        self._log.warning(
            "flows_not_kept",
            path=str(self.path),
            cause=os.strerror(number) if number else str(error),
            remedy=f"{remedy}; until then connections that begin now do not outlive this process",
        )


def open_flow_file(path: Path, *, prefix: IPv6Network, boot_id: bytes, log: FilteringBoundLogger) -> FlowFile:
    """Open the flow file at `path`, or begin one. Raises nothing: what is amiss is logged, and the service goes on.

    A file of another version, prefix or boot, or one that is damaged, is renamed to end in `.aside`, and a new one is begun.
    """
    header = _HEADER.pack(
        _MAGIC, VERSION, RECORD_BYTES, PAGE_BYTES, 0, prefix.network_address.packed, prefix.prefixlen, boot_id[:16], 0
    )
    file = FlowFile(path, header, log)
    file.open()
    return file


def remove_flow_file(path: Path) -> None:
    """Remove the flow file at `path`, if there is one, and what was set aside of earlier ones."""
    for each in (path, path.with_name(f"{path.name}.aside")):
        with contextlib.suppress(OSError):
            each.unlink()


def _count(header: bytes) -> int:
    count: int = struct.unpack_from("=I", header, _COUNT_AT)[0]
    return count


def _fault(descriptor: int, wanted: bytes) -> str | None:
    """Why the file cannot be used by a process that would write the header `wanted`; None where it can."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return "it is no file"
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        return "others own it or could have written to it"
    header = os.pread(descriptor, HEADER_BYTES, 0)
    if len(header) < HEADER_BYTES:
        return "its header is cut short"
    magic, version, *sizes, count, prefix, length, boot, checksum = _HEADER.unpack(header)
    _, expected_version, *expected_sizes, _, expected_prefix, expected_length, expected_boot, _ = _HEADER.unpack(wanted)
    if magic != _MAGIC or checksum != zlib.crc32(header[:-4]):
        return "its header is damaged"
    if (version, sizes) != (expected_version, expected_sizes):
        return f"its records are of version {version}, not {expected_version}"
    if (prefix, length) != (expected_prefix, expected_length):
        return "it is of another prefix"
    if boot != expected_boot:
        return "it is from before the machine was booted"
    if status.st_size < HEADER_BYTES + count * PAGE_BYTES:
        return "it is cut short"
    return None
