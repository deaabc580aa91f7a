"""What a spliced flow is, as 256 bytes that outlive the process, and the pages they lie in.

A record begins with what changes, each field written by one store and covered by no checksum:

      0  state (0: the record is free)         16  backend_acked          44  client_acked
      1  flags                                 20  packets_to_backend     48  packets_to_client
      4  checksum                              28  bytes_to_backend       56  bytes_to_client
      8  state_since                           36  last_seen             250  client_tsval

Bytes 64 to 249 are written once, when the flow is spliced: `Constants`, in that order. The checksum covers them but for the
sizes (82 to 87), which are the configuration's and are set anew by each process. The state is written last and erased first,
so a process that dies in between leaves a record that is free, or one whose checksum does not fit. Numbers stand in the
machine's own byte order, without padding: the file never leaves the machine.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, Protocol, overload

VERSION: Final = 1  # of this layout: a process that knows another one leaves the records alone
RECORD_BYTES: Final = 256
PAGE_RECORDS: Final = 4096
PAGE_BYTES: Final = RECORD_BYTES * PAGE_RECORDS

_STATE_AT: Final = 0
_FLAGS_AT: Final = 1
_CHECKSUM_AT: Final = 4
_BEGINNING_AT: Final = 8
_CONSTANTS_AT: Final = 64
_CONSTANTS_END: Final = 250
_SIZES_AT: Final = 82
_SIZES_END: Final = 88

_BYTE: Final = struct.Struct("=B")
_SHORT: Final = struct.Struct("=H")
_NUMBER: Final = struct.Struct("=I")
_LONG: Final = struct.Struct("=Q")
_TIME: Final = struct.Struct("=d")
_BEGINNING: Final = struct.Struct("=dIQQdIQQ")
_CONSTANTS: Final = struct.Struct("=IIHHHHHHHHbbBxH8s32sIIHdIB93s")

# What the fast path reads and writes of a record, each in one go.
READ_TO_BACKEND_AT: Final = 20
READ_TO_BACKEND: Final = struct.Struct("=QQ28xIIHH2xH2xHH2xb13x32s")
READ_TO_CLIENT_AT: Final = 48
READ_TO_CLIENT: Final = struct.Struct("=QQIIHHH8xHxb2xH8s")
WRITE_TO_BACKEND_AT: Final = 16
WRITE_TO_BACKEND: Final = struct.Struct("=IQQd")
WRITE_TO_CLIENT_AT: Final = 36
WRITE_TO_CLIENT: Final = struct.Struct("=dIQQ")

HAS_TIMESTAMPS: Final = 1
MAKES_TIMESTAMPS: Final = 2

# Where records lie in a page. A number of its own for each flow would be 32 bytes more to keep, and to fetch with each packet.
_PLACES: Final = tuple(range(0, PAGE_BYTES, RECORD_BYTES))

_LONGEST_HOSTNAME: Final = 93
_NO_HOSTNAME: Final = 0xFF
_FREE: Final = 0


class Memory(Protocol):
    """Bytes that can be written: a bytearray, or a file that is mapped."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, at: int, /) -> int: ...
    @overload
    def __getitem__(self, at: slice, /) -> bytes | bytearray: ...
    def __setitem__(self, at: int, value: int, /) -> None: ...


class Constants(NamedTuple):
    """The fields of a record that never change, in the order of their bytes.

    `address_difference` is what a checksum gains when the IPv4 addresses give way to the IPv6 ones, `whole_difference` what it
    loses when the ports do as well, both mod 65,535. `kind` is HAS_TIMESTAMPS and MAKES_TIMESTAMPS. `clock_origin` is what the
    milliseconds of the clock are added to where timestamps are made here. A `hostname` of more than 93 bytes is not kept.
    """

    seq_delta: int
    ts_delta: int
    address_difference: int
    whole_difference: int
    service_port: int
    backend_port: int
    client_port: int
    max_to_backend: int
    unfragmented_to_backend: int
    max_to_client: int
    window_shift_to_backend: int
    window_shift_to_client: int
    kind: int
    sum_v4: int
    v4_addresses: bytes
    v6_addresses: bytes
    client_isn: int
    backend_isn: int
    opening_window: int
    created: float
    clock_origin: int
    hostname: str | None


class Recorded(Protocol):
    """What the descriptors below read from: an object that knows its record."""

    memory: Memory
    at: int


class Constant:
    """A number that never changes, as an attribute: `layout` at `offset`."""

    __slots__ = ("_layout", "_offset")

    def __init__(self, layout: struct.Struct, offset: int) -> None:
        self._layout = layout
        self._offset = offset

    def __get__(self, owner: Recorded, _kind: object = None) -> int:
        value: int = self._layout.unpack_from(owner.memory, owner.at + self._offset)[0]
        return value


class Number(Constant):
    """A number that changes, likewise."""

    __slots__ = ()

    def __set__(self, owner: Recorded, value: int) -> None:
        self._layout.pack_into(owner.memory, owner.at + self._offset, value)


class Time:
    """A moment in seconds of the engine's clock, likewise."""

    __slots__ = ("_offset",)

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def __get__(self, owner: Recorded, _kind: object = None) -> float:
        value: float = _TIME.unpack_from(owner.memory, owner.at + self._offset)[0]
        return value

    def __set__(self, owner: Recorded, value: float) -> None:
        _TIME.pack_into(owner.memory, owner.at + self._offset, value)


class Flag:
    """One bit of the flags, likewise."""

    __slots__ = ("_mask",)

    def __init__(self, mask: int) -> None:
        self._mask = mask

    def __get__(self, owner: Recorded, _kind: object = None) -> bool:
        return bool(owner.memory[owner.at + _FLAGS_AT] & self._mask)

    def __set__(self, owner: Recorded, is_set: bool) -> None:
        flags = owner.memory[owner.at + _FLAGS_AT]
        owner.memory[owner.at + _FLAGS_AT] = flags | self._mask if is_set else flags & ~self._mask


class Fields:
    """Single fields of the record at `at` in `memory`, as attributes; for the paths that need not be fast.

    `state` is a code, 0 for a record that is free. `is_owed` says that the client was relieved of bytes that the backend has
    not acknowledged; the bytes themselves are nowhere but in the process. `is_reset_certain`: a RST had the very number
    that was acknowledged last.
    """

    __slots__ = ()

    state = Number(_BYTE, _STATE_AT)
    was_reset_by_client = Flag(1)
    has_client_answered = Flag(2)
    has_backend_answered = Flag(4)
    is_owed = Flag(8)
    is_reset_certain = Flag(16)
    state_since = Time(8)
    backend_acked = Number(_NUMBER, 16)
    packets_to_backend = Number(_LONG, 20)
    bytes_to_backend = Number(_LONG, 28)
    last_seen = Time(36)
    client_acked = Number(_NUMBER, 44)
    packets_to_client = Number(_LONG, 48)
    bytes_to_client = Number(_LONG, 56)
    seq_delta = Constant(_NUMBER, 64)
    max_to_backend = Number(_SHORT, 82)
    unfragmented_to_backend = Number(_SHORT, 84)
    max_to_client = Number(_SHORT, 86)
    client_isn = Constant(_NUMBER, 134)
    backend_isn = Constant(_NUMBER, 138)
    opening_window = Constant(_SHORT, 142)
    clock_origin = Constant(_NUMBER, 152)
    client_tsval = Number(_NUMBER, 250)


def write_beginning(memory: Memory, at: int, *, backend_acked: int, client_acked: int, now: float) -> None:
    """Have the record at `at` say that nothing has passed yet; its flags are taken back."""
    memory[at + _FLAGS_AT] = 0
    _BEGINNING.pack_into(memory, at + _BEGINNING_AT, now, backend_acked, 0, 0, now, client_acked, 0, 0)


def write_constants(memory: Memory, at: int, constants: Constants) -> None:
    """Write `constants`, and the checksum over them, into the record at `at`."""
    encoded = b"" if constants.hostname is None else constants.hostname.encode("ascii", "replace")
    has_room = constants.hostname is not None and len(encoded) <= _LONGEST_HOSTNAME
    length = len(encoded) if has_room else _NO_HOSTNAME
    _CONSTANTS.pack_into(memory, at + _CONSTANTS_AT, *constants[:-1], length, encoded if has_room else b"")
    _NUMBER.pack_into(memory, at + _CHECKSUM_AT, _checksum(memory, at))


def read_constants(memory: Memory, at: int) -> Constants | None:
    """The constants of the record at `at`; None where their checksum does not fit."""
    if _NUMBER.unpack_from(memory, at + _CHECKSUM_AT)[0] != _checksum(memory, at):
        return None
    return get_constants(memory, at)


def get_constants(memory: Memory, at: int) -> Constants:
    """The same of a record that is known to be whole."""
    *fields, length, encoded = _CONSTANTS.unpack_from(memory, at + _CONSTANTS_AT)
    hostname = None if length == _NO_HOSTNAME else encoded[:length].decode("ascii", "replace")
    return Constants._make((*fields, hostname))


def _checksum(memory: Memory, at: int) -> int:
    before = zlib.crc32(memory[at + _CONSTANTS_AT : at + _SIZES_AT], VERSION)
    return zlib.crc32(memory[at + _SIZES_END : at + _CONSTANTS_END], before)


class Page:
    """Memory for 4,096 records. `is_kept` says whether it outlives the process."""

    __slots__ = ("_free", "_unused", "has_room", "is_kept", "memory")

    def __init__(self, memory: Memory, *, is_kept: bool) -> None:
        if len(memory) != PAGE_BYTES:
            raise ValueError(f"a page has {PAGE_BYTES} bytes, not {len(memory)}")
        self.memory = memory
        self.is_kept = is_kept
        self.has_room = True  # as far as its owner knows
        self._free: list[int] = []
        self._unused = iter(_PLACES)
        used = self.occupied()
        if used:
            taken = set(used)
            self._free = [at for at in reversed(_PLACES) if at not in taken]
            self._unused = iter(())

    def occupied(self) -> list[int]:
        """Where the records lie whose state is not 0."""
        states = self.memory[_STATE_AT::RECORD_BYTES]
        return [_PLACES[index] for index, state in enumerate(states) if state != _FREE]

    def take(self) -> int | None:
        """The place of a free record, which is the caller's from now on; None where there is none."""
        return self._free.pop() if self._free else next(self._unused, None)

    def release(self, at: int) -> None:
        """Erase the record at `at` and have it free again."""
        self.memory[at + _STATE_AT] = _FREE
        self._free.append(at)


class Place(NamedTuple):
    """Where one record lies."""

    page: Page
    at: int


class Records:
    """Places for the records of spliced flows, in pages of memory.

    `pages` may hold records of an earlier process. `grow` gives one more page of zeros that outlives the process, or None where
    there is none to be had: then records go to memory that does not, and `unkept` counts them.
    """

    def __init__(self, pages: Iterable[Memory] = (), grow: Callable[[], Memory | None] | None = None) -> None:
        self._pages = [Page(memory, is_kept=True) for memory in pages]
        # Of these the last one is taken from; what outlives the process is at the end.
        self._roomy = self._pages.copy()
        self._grow = grow
        self.unkept = 0

    def take(self) -> Place:
        """A place that is the caller's from now on; there always is one."""
        while True:
            page = self._page()
            at = page.take()
            if at is not None:
                self.unkept += not page.is_kept
                return Place(page, at)
            page.has_room = False
            self._roomy.pop()

    def release(self, page: Page, at: int) -> None:
        """Erase what lies at that place and have it free again."""
        page.release(at)
        self.unkept -= not page.is_kept
        if not page.has_room:
            page.has_room = True
            self._roomy.insert(len(self._roomy) if page.is_kept else 0, page)

    def occupied(self) -> Iterator[Place]:
        """Every place that holds something, whoever wrote it; what is there may be released meanwhile."""
        for page in self._pages:
            for at in page.occupied():
                yield Place(page, at)

    def _page(self) -> Page:
        """Where the next place is to be had: in what outlives the process, as soon as there is some again."""
        if self._roomy and self._roomy[-1].is_kept:
            return self._roomy[-1]
        memory = None if self._grow is None else self._grow()
        if memory is None and self._roomy:
            return self._roomy[-1]
        page = Page(bytearray(PAGE_BYTES) if memory is None else memory, is_kept=memory is not None)
        self._pages.append(page)
        self._roomy.append(page)
        return page
