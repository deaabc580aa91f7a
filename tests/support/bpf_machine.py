"""A machine that runs the program of splice.bpf.c, of either byte order, one instruction after the other (RFC 9669).

It has what the program uses: a stack, the context of a packet, the values of maps, and eight helpers that do to the packet what
the kernel's do. Nothing is checked as the verifier checks it; an address outside of any memory is an error.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from kracauer.offload import bytecode
from kracauer.offload.answering import ANSWERED, ANSWERING, KNOWN_BYTES, LISTENER, OFFER
from kracauer.offload.layout import CARRIED, CONTROL, TRAFFIC_BYTES, Entries

Order = Literal["little", "big"]

WORD, LONG = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_CONTEXT, _STACK = 1, 2  # the stacks of functions that it calls come behind the program's own
_MAPS = {name: 16 + number for number, name in enumerate(sorted(bytecode.MAPS))}
_KEY_BYTES = {"client_flows": 12, "backend_flows": 36, "listeners": 8}
_FIRST_VALUE = 32
_CALL_FUNCTION = 1
_PSEUDO_HDR = 16
_MOST_STEPS = 20_000
_INTO_RECEIVING = 7
_DROP = 2


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _folded(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass
class Packet:
    """What the kernel has of a packet: its bytes, its family, and how far its checksum and its segments have come."""

    data: bytearray
    gso_size: int = 0
    is_partial: bool = False
    is_v6: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_v6 = self.data[0] >> 4 == 6


@dataclass(frozen=True)
class Answering:
    """What SYNs are answered by: the maps as this machine's Python fills them, `until` when, and the counters of flows."""

    listeners: dict[bytes, bytes]
    answering: bytes
    known: bytes
    until: int


NO_ANSWERS = Answering({}, bytes(ANSWERING.size), bytes(KNOWN_BYTES), 0)


class Machine:
    """One flow's entries in the maps, its traffic, and a program that is run on packets. `now` is in nanoseconds.

    Of `workers` only number `worker` has anything there by which SYNs are answered. `spare` guesses are let through.
    """

    def __init__(
        self,
        order: Order,
        entries: Entries,
        *,
        identification: int = 0,
        lease_until: int = 1,
        now: int = 0,
        answering: Answering = NO_ANSWERS,
        workers: int = 1,
        worker: int = 0,
        spare: int = 1 << 32,
    ) -> None:
        self.order: Order = order
        self._now = now
        self._program = bytecode.INSTRUCTIONS[order]
        self._relocations = bytecode.RELOCATIONS[order]
        self.traffic = bytearray(TRAFFIC_BYTES)
        self._workers, self._worker = workers, worker
        self.answered = bytearray(self.in_order(ANSWERED.pack(answering.until, 0, spare, 0), ANSWERED.format))
        self._hashes = {
            "client_flows": {entries.client_key: bytearray(self.in_order(entries.to_backend, "=2s2sHbxIIIIIH2x32s"))},
            "backend_flows": {entries.backend_key: bytearray(self.in_order(entries.to_client, "=2s2sHbxIIIIII8s"))},
            "listeners": {
                self.in_order(key, LISTENER.format): bytearray(self.in_order(value, OFFER.format))
                for key, value in answering.listeners.items()
            },
        }
        self._known = answering.known
        control = self.in_order(CONTROL.pack(lease_until), CONTROL.format)
        self._single = {
            "traffic": self.traffic,
            "identifications": bytearray(identification.to_bytes(4, order)),
            "control": bytearray(control),
            "answering": bytearray(self.in_order(answering.answering, ANSWERING.format)),
            "answered": self.answered,
        }
        self._memory: dict[int, bytearray] = {}
        self._registers = [0] * 11
        self._packet = Packet(bytearray(b"\x45"))
        self.has_dropped = False

    def in_order(self, data: bytes, layout: str) -> bytes:
        """A value of a map as a machine of this byte order has it."""
        prefix = "<" if self.order == "little" else ">"
        return struct.pack(prefix + layout[1:], *struct.unpack(layout, data))

    def carried(self, direction: int) -> tuple[int, ...]:
        """Packets, bytes, last_seen, acked of one direction: 0 to the backend, 1 to the client."""
        layout = ("<" if self.order == "little" else ">") + CARRIED.format[1:]
        return struct.unpack_from(layout, self.traffic, direction * CARRIED.size)[:4]

    def fin_seen(self, direction: int) -> int:
        """When a FIN of that direction was first seen, likewise; 0 where there was none."""
        layout = ("<" if self.order == "little" else ">") + CARRIED.format[1:]
        seen: int = struct.unpack_from(layout, self.traffic, direction * CARRIED.size)[-1]
        return seen

    def set_acked(self, direction: int, acked: int) -> None:
        """Have the last acknowledgment of that direction be this one."""
        at = direction * CARRIED.size + 24
        self.traffic[at : at + 4] = acked.to_bytes(4, self.order)

    @property
    def syns(self) -> int:
        """How many SYNs it has answered."""
        return int.from_bytes(self.answered[8:16], self.order)

    def run(self, packet: Packet) -> bool:
        """Whether the program has translated or answered the packet; else it is as it was."""
        self._packet = packet
        protocol = b"\x86\xdd" if packet.is_v6 else b"\x08\x00"
        context = bytearray(192)
        for at, value in ((0, len(packet.data)), (16, int.from_bytes(protocol, self.order)), (40, 3), (176, packet.gso_size)):
            context[at : at + 4] = value.to_bytes(4, self.order)
        self._memory = {_STACK: bytearray(512), _CONTEXT: context}
        self._registers = [0, _CONTEXT << 32, *[0] * 8, (_STACK << 32) + 512]
        verdict = self._execute()
        assert verdict in (-1, _INTO_RECEIVING, _DROP), verdict
        self.has_dropped = verdict == _DROP
        return verdict == _INTO_RECEIVING

    def _execute(self) -> int:
        at = 0
        calls: list[tuple[int, list[int]]] = []
        for _ in range(_MOST_STEPS):
            code, registers, offset, number = self._decode(at)
            kind = code & 7
            if code == 0x95:
                if not calls:
                    return _signed(self._registers[0], 32)
                at, self._registers[6:] = calls.pop()
            elif code == 0x85 and registers[1] == _CALL_FUNCTION:
                calls.append((at, self._registers[6:]))
                at += number
                self._memory[_STACK + len(calls)] = bytearray(512)
                self._registers[10] = (_STACK + len(calls) << 32) + 512
            elif code == 0x85:
                self._registers[0] = _HELPERS[number](self, *self._registers[1:6]) & LONG
            elif code == 0x18:
                self._registers[registers[0]] = self._immediate(at, number)
                at += 1
            elif kind in (5, 6):
                at += offset if self._is_taken(code, registers, number) else 0
            elif kind in (4, 7):
                self._calculate(code, registers, number)
            else:
                self._access(code, registers, offset, number)
            at += 1
        raise AssertionError("the program does not end")

    def _decode(self, at: int) -> tuple[int, tuple[int, int], int, int]:
        code, halves, offset, number = struct.unpack_from(
            ("<" if self.order == "little" else ">") + "BBhi", self._program, 8 * at
        )
        low, high = halves & 15, halves >> 4
        return code, (low, high) if self.order == "little" else (high, low), offset, number

    def _immediate(self, at: int, number: int) -> int:
        name = self._relocations.get(at)
        if name is None:
            return (number & WORD) | (self._decode(at + 1)[3] & WORD) << 32
        if name == "workers":
            return self._workers
        return _MAPS[name] << 32 if name in _MAPS else 0  # there is no link header on the device

    def _is_taken(self, code: int, registers: tuple[int, int], number: int) -> bool:
        bits = 64 if code & 7 == 5 else 32
        mask = (1 << bits) - 1
        left = self._registers[registers[0]] & mask
        right = (self._registers[registers[1]] if code & 8 else number) & mask
        signed_left, signed_right = _signed(left, bits), _signed(right, bits)
        comparisons = {
            0x00: True,
            0x10: left == right,
            0x20: left > right,
            0x30: left >= right,
            0x40: bool(left & right),
            0x50: left != right,
            0x60: signed_left > signed_right,
            0x70: signed_left >= signed_right,
            0xA0: left < right,
            0xB0: left <= right,
            0xC0: signed_left < signed_right,
            0xD0: signed_left <= signed_right,
        }
        return comparisons[code & 0xF0]

    def _calculate(self, code: int, registers: tuple[int, int], number: int) -> None:
        target = registers[0]
        value = self._registers[target]
        if code & 0xF0 == 0xD0:  # to little-endian, or with 8 to big-endian, in so many bits
            wanted: Order = "big" if code & 8 else "little"
            part = (value & ((1 << number) - 1)).to_bytes(number // 8, self.order)
            self._registers[target] = int.from_bytes(part, wanted)
            return
        bits = 64 if code & 7 == 7 else 32
        mask = (1 << bits) - 1
        left, right = value & mask, (self._registers[registers[1]] if code & 8 else number) & mask
        calculations: dict[int, Callable[[], int]] = {
            0x00: lambda: left + right,
            0x10: lambda: left - right,
            0x20: lambda: left * right,
            0x30: lambda: left // right if right else 0,
            0x40: lambda: left | right,
            0x50: lambda: left & right,
            0x60: lambda: left << (right & bits - 1),
            0x70: lambda: left >> (right & bits - 1),
            0x80: lambda: -left,
            0xA0: lambda: left ^ right,
            0xB0: lambda: right,
            0xC0: lambda: _signed(left, bits) >> (right & bits - 1),
        }
        self._registers[target] = calculations[code & 0xF0]() & mask

    def _access(self, code: int, registers: tuple[int, int], offset: int, number: int) -> None:
        size, kind = _SIZES[code & 0x18], code & 7
        target, source = registers
        if kind == 1:
            memory, at = self._place(self._registers[source] + offset, size)
            self._registers[target] = int.from_bytes(memory[at : at + size], self.order)
            return
        memory, at = self._place(self._registers[target] + offset, size)
        value = (number if kind == 2 else self._registers[source]) & (1 << 8 * size) - 1
        if code & 0xE0 == 0xC0:  # atomic: an addition, which may return what was there before
            assert number in (0, 1), number
            before = int.from_bytes(memory[at : at + size], self.order)
            value = (before + value) & (1 << 8 * size) - 1
            if number:
                self._registers[source] = before
        memory[at : at + size] = value.to_bytes(size, self.order)

    def _place(self, address: int, size: int) -> tuple[bytearray, int]:
        memory, at = self._memory[(address & LONG) >> 32], address & WORD
        assert at + size <= len(memory), "outside of what is there"
        return memory, at

    def _read(self, address: int, size: int) -> bytes:
        memory, at = self._place(address, size)
        return bytes(memory[at : at + size])

    def _lookup(self, table: int, key: int, *_: int) -> int:
        name = next(name for name, number in _MAPS.items() if number == table >> 32)
        value: bytearray | None
        if name in self._hashes:
            value = self._hashes[name].get(self._read(key, _KEY_BYTES[name]))
        elif name == "known_flows":
            at = int.from_bytes(self._read(key, 4), self.order) * KNOWN_BYTES - self._worker * len(self._known)
            value = bytearray(self._known[at : at + KNOWN_BYTES]) if at >= 0 else None
            value = value or None
        else:
            index = int.from_bytes(self._read(key, 4), self.order)
            is_there = index == (self._worker if name in ("answering", "answered") else 0)
            value = self._single[name] if is_there or name == "identifications" else None
        if value is None:
            return 0
        number = _FIRST_VALUE + len(self._memory)
        self._memory[number] = value
        return number << 32

    def _load_bytes(self, _: int, offset: int, target: int, size: int, *__: int) -> int:
        if offset + size > len(self._packet.data):
            return -14
        memory, at = self._place(target, size)
        memory[at : at + size] = self._packet.data[offset : offset + size]
        return 0

    def _store_bytes(self, _: int, offset: int, source: int, size: int, *__: int) -> int:
        assert offset + size <= len(self._packet.data)
        self._packet.data[offset : offset + size] = self._read(source, size)
        return 0

    def _change_protocol(self, _: int, protocol: int, *__: int) -> int:
        packet = self._packet
        packet.is_v6 = (protocol & 0xFFFF).to_bytes(2, self.order) == b"\x86\xdd"
        packet.data[:20] = bytes(40) if packet.is_v6 else b""
        return 0

    def _change_tail(self, _: int, length: int, *__: int) -> int:
        data = self._packet.data
        data[:] = data[:length].ljust(length, b"\0")
        return 0

    def _replace_checksum(self, _: int, offset: int, before: int, difference: int, flags: int) -> int:
        assert not before
        assert difference <= WORD
        data = self._packet.data
        old = int.from_bytes(data[offset : offset + 2], self.order)
        if self._packet.is_partial:
            new = _folded(difference + old) if flags & _PSEUDO_HDR else old
        else:
            new = _folded(difference + (~old & 0xFFFF)) ^ 0xFFFF
        data[offset : offset + 2] = new.to_bytes(2, self.order)
        return 0

    def _redirect(self, interface: int, flags: int, *_: int) -> int:
        assert (interface, flags) == (3, 1)
        return _INTO_RECEIVING

    def _time(self, *_: int) -> int:
        return self._now


_HELPERS: dict[int, Callable[..., int]] = {
    1: Machine._lookup,
    9: Machine._store_bytes,
    11: Machine._replace_checksum,
    23: Machine._redirect,
    26: Machine._load_bytes,
    31: Machine._change_protocol,
    38: Machine._change_tail,
    160: Machine._time,
}
