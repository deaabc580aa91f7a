"""The bpf(2) system call by ctypes: maps, programs, links, pins (Linux's include/uapi/linux/bpf.h).

Numbers are in the machine's own byte order; every attribute ends where its command's does, for the kernel refuses what lies
behind. Raises OSError as the kernel says it, unless told otherwise.
"""

import ctypes
import errno
import mmap
import os
import platform
import struct
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple, Self

from kracauer.errors import RemediableError

MAP_HASH: Final = 1
MAP_ARRAY: Final = 2
ANY: Final = 0
NOEXIST: Final = 1
EXIST: Final = 2
F_NO_PREALLOC: Final = 1
F_MMAPABLE: Final = 1 << 10

PROGRAM_SCHED_CLS: Final = 3
ATTACH_TCX_EGRESS: Final = 47

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY, _PROG_LOAD, _OBJ_PIN, _OBJ_GET = range(8)
_PROG_QUERY: Final = 16
_OBJ_GET_INFO: Final = 15
_MAP_LOOKUP_BATCH: Final = 24
_MAP_DELETE_BATCH: Final = 27
_LINK_CREATE: Final = 28
_LINK_UPDATE: Final = 29
_LINK_DETACH: Final = 34

# By machine and bits of a pointer.
_SYSCALLS: Final = {
    ("x86_64", 64): 321,
    ("x86_64", 32): 357,
    ("i386", 32): 357,
    ("i686", 32): 357,
    ("aarch64", 64): 280,
    ("aarch64", 32): 386,
    ("armv7l", 32): 386,
    ("armv6l", 32): 386,
    ("riscv64", 64): 280,
    ("loongarch64", 64): 280,
    ("ppc64le", 64): 361,
    ("ppc64", 64): 361,
    ("s390x", 64): 351,
}
_NAME_BYTES: Final = 16
_PSEUDO_MAP: Final = 1
_LOG_BYTES: Final = 1 << 20
_LOG_LINES: Final = 12
_INSTRUCTION_BYTES: Final = 8
_ELEMENT_FLAGS: Final = struct.Struct("=Q")
_ELEMENT_FLAGS_AT: Final = 24
_DEFERRED: Final = 524  # the kernel's ENOTSUPP
_LINK_TYPE_TCX: Final = 11
_MOST_LINKS: Final = 64  # on one hook, of the kernel's own making
_BPFFS_MAGIC: Final = 0xCAFE4A11
_STATFS_ROOM: Final = 256

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = [ctypes.c_long] * 4
_syscall.restype = ctypes.c_long


class OffloadError(RemediableError):
    """The kernel does not take the fast path; flows go through userspace."""


class MapInfo(NamedTuple):
    """What the kernel says of a map."""

    type: int
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int


@cache
def syscall_number() -> int:
    """The number of bpf(2) on this machine; raises OffloadError where it is not known."""
    machine, bits = platform.machine(), struct.calcsize("P") * 8
    number = _SYSCALLS.get((machine, bits))
    if number is None:
        raise OffloadError(f"the number of bpf(2) on {machine} ({bits} bits) is not known", 'set network.offload = "off"')
    return number


def _call(command: int, attribute: bytes) -> int:
    return call_into(command, ctypes.create_string_buffer(attribute, len(attribute)))


def call_into(command: int, attribute: "ctypes.Array[ctypes.c_char]") -> int:
    """The call whose answer the kernel writes into the attribute itself."""
    return _call_at(command, _pointer(attribute), len(attribute))


def _call_at(command: int, address: int, length: int) -> int:
    """The call, the attribute being whatever lies there."""
    result: int = _syscall(syscall_number(), command, address, length)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _name(name: str) -> bytes:
    return name.encode("ascii")[: _NAME_BYTES - 1]


def _pointer(buffer: "ctypes.Array[ctypes.c_char]") -> int:
    return ctypes.addressof(buffer)


class Map:
    """A map of the kernel's, by a descriptor that is its own. Keys and values are bytes of the map's sizes."""

    def __init__(self, fd: int, key_bytes: int, value_bytes: int, max_entries: int) -> None:
        self.fd = fd
        self.key_bytes = key_bytes
        self.value_bytes = value_bytes
        self.max_entries = max_entries
        self._key = ctypes.create_string_buffer(key_bytes)
        self._value = ctypes.create_string_buffer(value_bytes)
        # A key and a value stand where they are for as long as the map is open: each call differs in what they hold.
        element = struct.pack("=I4xQQ", fd, _pointer(self._key), _pointer(self._value))
        self._element = ctypes.create_string_buffer(element + bytes(8), 32)
        self._element_at = _pointer(self._element)
        self._deletion = ctypes.create_string_buffer(element[:16], 16)
        self._deletion_at = _pointer(self._deletion)

    @classmethod
    def create(cls, kind: int, key_bytes: int, value_bytes: int, max_entries: int, *, flags: int = 0, name: str = "") -> Self:
        """Make a map with room for `max_entries`."""
        attribute = struct.pack("=IIIIIII16s", kind, key_bytes, value_bytes, max_entries, flags, 0, 0, _name(name))
        return cls(_call(_MAP_CREATE, attribute), key_bytes, value_bytes, max_entries)

    @classmethod
    def from_descriptor(cls, fd: int) -> Self:
        """The map behind `fd`, which is its own from then on, and closed if the kernel says nothing of it."""
        try:
            info = map_info(fd)
        except OSError:
            os.close(fd)
            raise
        return cls(fd, info.key_bytes, info.value_bytes, info.max_entries)

    def duplicate(self) -> Self:
        """The same map, by a descriptor of its own."""
        return type(self)(os.dup(self.fd), self.key_bytes, self.value_bytes, self.max_entries)

    def lookup(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        self._set_key(key)
        try:
            _ELEMENT_FLAGS.pack_into(self._element, _ELEMENT_FLAGS_AT, 0)
            _call_at(_MAP_LOOKUP, self._element_at, 32)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return self._value.raw

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Set the value of `key`; NOEXIST has it be an error (EEXIST) that there is one, EXIST that there is none (ENOENT)."""
        self._set_key(key)
        if len(value) != self.value_bytes:
            raise ValueError(f"a value has {self.value_bytes} bytes, not {len(value)}")
        self._value.raw = value
        _ELEMENT_FLAGS.pack_into(self._element, _ELEMENT_FLAGS_AT, flags)
        _call_at(_MAP_UPDATE, self._element_at, 32)

    def delete(self, key: bytes) -> bool:
        """Remove `key`; returns whether it was there."""
        self._set_key(key)
        try:
            _call_at(_MAP_DELETE, self._deletion_at, 16)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def delete_all(self, keys: Sequence[bytes]) -> None:
        """Remove many keys in one call; those that are not there are no error."""
        while keys:
            key_buffer = ctypes.create_string_buffer(b"".join(keys), len(keys) * self.key_bytes)
            fields = struct.pack("=QQQQIIQQ", 0, 0, _pointer(key_buffer), 0, len(keys), self.fd, 0, 0)
            attribute = ctypes.create_string_buffer(fields, len(fields))
            try:
                call_into(_MAP_DELETE_BATCH, attribute)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                # It ends at a key that is not there, and says how many came before.
                keys = keys[struct.unpack_from("=I", attribute.raw, 32)[0] + 1 :]
            else:
                return

    def items(self) -> list[tuple[bytes, bytes]]:
        """All keys and values; what changes meanwhile may be among them or not."""
        count = max(self.max_entries, 1)
        keys, values = (
            ctypes.create_string_buffer(count * self.key_bytes),
            ctypes.create_string_buffer(count * self.value_bytes),
        )
        # A hash map's place to go on from is a number, an array's an index: four bytes; room for more does no harm.
        position = ctypes.create_string_buffer(max(self.key_bytes, 8))
        pointers = struct.pack("=QQQQ", 0, _pointer(position), _pointer(keys), _pointer(values))
        attribute = ctypes.create_string_buffer(pointers + struct.pack("=IIQQ", count, self.fd, 0, 0), 56)
        try:
            call_into(_MAP_LOOKUP_BATCH, attribute)
        except OSError as error:
            if error.errno != errno.ENOENT:  # it says that this was the last of them
                raise
        found = struct.unpack_from("=I", attribute.raw, 32)[0]
        parts = zip(_parts(keys.raw, self.key_bytes, found), _parts(values.raw, self.value_bytes, found), strict=True)
        return list(parts)

    def map_memory(self) -> mmap.mmap:
        """The values of an array that was made with F_MMAPABLE, one behind the other, each at a multiple of eight bytes."""
        return mmap.mmap(self.fd, self.max_entries * (self.value_bytes + 7 & ~7), mmap.MAP_SHARED)

    def close(self) -> None:
        """Close the descriptor; the map goes with the last one, and the last pin, and the last program that uses it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _set_key(self, key: bytes) -> None:
        if len(key) != self.key_bytes:
            raise ValueError(f"a key has {self.key_bytes} bytes, not {len(key)}")
        self._key.raw = key


def _parts(data: bytes, size: int, count: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, count * size, size))


def map_info(fd: int) -> MapInfo:
    """What the kernel says of the map behind `fd`."""
    info = ctypes.create_string_buffer(24)  # type, id, and the rest of `MapInfo`: how struct bpf_map_info begins
    _call(_OBJ_GET_INFO, struct.pack("=IIQ", fd, len(info), _pointer(info)))
    kind, _, key_bytes, value_bytes, max_entries, flags = struct.unpack("=IIIIII", info.raw)
    return MapInfo(kind, key_bytes, value_bytes, max_entries, flags)


def identify(fd: int) -> tuple[int, int]:
    """Type and number of the map or link behind `fd`: what tells one from all others.

    The kernel numbers the maps in the order in which they are made, and so the links.
    """
    info = ctypes.create_string_buffer(8)  # how what it says of either begins
    _call(_OBJ_GET_INFO, struct.pack("=IIQ", fd, len(info), _pointer(info)))
    kind, number = struct.unpack("=II", info.raw)
    return kind, number


def link(instructions: bytes, relocations: dict[int, str], maps: dict[str, int], constants: dict[str, int]) -> bytes:
    """Put descriptors of maps and values of constants into the instructions that refer to them by name."""
    linked = bytearray(instructions)
    for index, name in relocations.items():
        at = index * _INSTRUCTION_BYTES
        if name in maps:
            # The source register of a 64-bit load says that its number stands for a map; it is one half of this byte.
            linked[at + 1] |= _PSEUDO_MAP << 4 if sys.byteorder == "little" else _PSEUDO_MAP
        struct.pack_into("=i", linked, at + 4, maps[name] if name in maps else constants[name])
    return bytes(linked)


def load_program(kind: int, instructions: bytes, *, licence: str, name: str = "") -> int:
    """Have the kernel verify and take a program; returns its descriptor. Raises OffloadError with the verifier's last words."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence_text = ctypes.create_string_buffer(licence.encode("ascii"))
    count = len(instructions) // _INSTRUCTION_BYTES
    beginning = struct.pack("=IIQQ", kind, count, _pointer(code), _pointer(licence_text))
    quiet = struct.pack("=IIQII16s", 0, 0, 0, 0, 0, _name(name))
    try:
        return _call(_PROG_LOAD, beginning + quiet)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise explain(error, "load the program") from error
    # Once more, for the reason: a log that is asked for makes verifying slower, and may not be had at all.
    log = ctypes.create_string_buffer(_LOG_BYTES)
    talkative = struct.pack("=IIQII16s", 1, len(log), _pointer(log), 0, 0, _name(name))
    try:
        return _call(_PROG_LOAD, beginning + talkative)
    except OSError as error:
        lines = log.value.decode("utf-8", "replace").strip().splitlines()
        raise explain(error, "load the program", lines[-_LOG_LINES:]) from error


def explain(error: OSError, attempt: str, log: Sequence[str] = ()) -> OffloadError:
    """Why the kernel did not let us do what was attempted, and what mends it."""
    off = 'or set network.offload = "off"'
    match error.errno:
        case errno.EPERM | errno.EACCES if not log:
            return OffloadError(
                f"the kernel does not let this process {attempt} ({error.strerror})",
                f"give it CAP_BPF and CAP_NET_ADMIN (in a user namespace they do not help), {off}",
            )
        case errno.ENOSYS:
            return OffloadError(f"this kernel has no bpf(2), so it cannot {attempt}", f"use one with CONFIG_BPF_SYSCALL, {off}")
        case errno.ENOMEM | errno.E2BIG if not log:
            return OffloadError(f"the kernel has no memory to {attempt} ({error.strerror})", f"have fewer flows, {off}")
    words = f": {' / '.join(line.strip() for line in log)}" if log else ""
    why = "not supported" if error.errno == _DEFERRED else error.strerror
    return OffloadError(f"the kernel refuses to {attempt} ({why}{words})", f"use Linux 5.15 or newer, {off}")


def pin(fd: int, path: Path) -> None:
    """Have the object behind `fd` outlive the process, at `path` in a bpffs."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _call(_OBJ_PIN, struct.pack("=QI", _pointer(name), fd) + bytes(4))


def open_pin(path: Path) -> int:
    """A descriptor of what is pinned at `path`."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _call(_OBJ_GET, struct.pack("=QII", _pointer(name), 0, 0))


def attach_link(program: int, interface_index: int, attach_type: int = ATTACH_TCX_EGRESS) -> int:
    """Attach the program to a device of the caller's network namespace; it is detached with the last descriptor or pin."""
    return _call(_LINK_CREATE, struct.pack("=IIII16x", program, interface_index, attach_type, 0))


def replace_link(fd: int, program: int) -> None:
    """Have another program in the old one's place, between two packets."""
    _call(_LINK_UPDATE, struct.pack("=IIII", fd, program, 0, 0))


class LinkInfo(NamedTuple):
    """What the kernel says of a tcx link; `interface_index` is 0 once its device has gone."""

    id: int
    interface_index: int


def link_info(fd: int) -> LinkInfo:
    """What the kernel says of the link behind `fd`, which is a tcx one."""
    info = ctypes.create_string_buffer(24)  # type, id, program's id, padding, index, attach type
    _call(_OBJ_GET_INFO, struct.pack("=IIQ", fd, len(info), _pointer(info)))
    kind, number, _, index, _ = struct.unpack("=III4xII", info.raw)
    if kind != _LINK_TYPE_TCX:
        raise OSError(errno.EINVAL, "no tcx link")
    return LinkInfo(number, index)


def links_of(interface_index: int, attach_type: int = ATTACH_TCX_EGRESS) -> set[int]:
    """The ids of the links on a device of the caller's network namespace."""
    programs, links = (ctypes.create_string_buffer(4 * _MOST_LINKS) for _ in range(2))
    query = struct.pack("=IIIIQI4x", interface_index, attach_type, 0, 0, _pointer(programs), _MOST_LINKS)
    attribute = ctypes.create_string_buffer(query + struct.pack("=QQQQ", 0, _pointer(links), 0, 0), 64)
    try:
        call_into(_PROG_QUERY, attribute)
    except OSError as error:
        if error.errno == errno.ENOENT:  # there never was one
            return set()
        raise
    count = struct.unpack_from("=I", attribute.raw, 24)[0]
    return {number for number in struct.unpack_from(f"={count}I", links.raw) if number}


def detach_link(fd: int) -> None:
    """Take the link's program off its device, at once and for good, whoever else has the link."""
    _call(_LINK_DETACH, struct.pack("=I", fd))


def is_bpffs(path: Path) -> bool:
    """Whether `path` lies in a bpffs, where things can be pinned (statfs(2))."""
    buffer = ctypes.create_string_buffer(_STATFS_ROOM)
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    # A long, or on some machines an int; the number fits in either.
    return _BPFFS_MAGIC in (*struct.unpack_from("=I", buffer), *struct.unpack_from("@L", buffer))
