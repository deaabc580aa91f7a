"""A fast path in memory: what the kernel's does to packets on the device, it does to the frames that it is given."""

from collections.abc import Sequence
from typing import Final

from kracauer.fast_path import Carried, Promises, Standing
from kracauer.offload.answering import STEPS_BYTES, KnownFlows
from kracauer.offload.collecting import LEASE_S, Gain, add_fins, add_to_backend, add_to_client, in_order, is_suited
from kracauer.offload.layout import build_entries
from kracauer.offload.options import is_walked
from kracauer.offload.syns import SynAnswers
from kracauer.tcp import sequence
from kracauer.tcp.record import RECORD_BYTES, Records
from kracauer.tcp.splice import BELIEVABLE_WINDOW, Splice
from kracauer.translate.identification import Identifications
from kracauer.wire import ipv4, ipv6, tcp
from kracauer.wire.buffer import PACKET_START, Frame

_V4_KEY: Final = slice(PACKET_START + 12, PACKET_START + 24)
_V6_KEY: Final = slice(PACKET_START + 8, PACKET_START + 44)
_KERNELS_HALF: Final = 0x8000
# Offsets in a TCP header.
_SEQ_AT, _FLAGS_AT = 4, 13
_COUNTERS: Final = 1 << 16  # of flows, whatever the capacity


class _KernelIdentifications(Identifications):
    """Numbers with the highest bit set, which the engine's are not to have."""

    __slots__ = ()

    def take(self, count: int = 1) -> int:
        return _KERNELS_HALF | super().take(count)


class _Held:
    """A flow, and the copy of its record that packets are translated by meanwhile."""

    def __init__(self, splice: Splice, copy: Splice, carried: Carried) -> None:
        constants = splice.constants
        self._carried = carried
        self.splice = splice
        self.copy = copy
        entries = build_entries(constants, 0)
        self.client_key, self.backend_key = entries.client_key, entries.backend_key
        self._seen_to_backend = copy.packets_to_backend, copy.bytes_to_backend
        self._seen_to_client = copy.packets_to_client, copy.bytes_to_client
        self.last_to_backend = self.last_to_client = 0.0
        self.client_fin_seen = self.backend_fin_seen = 0.0
        self.leaves_fins = False

    def to_backend(self, frame: Frame, start: int, now: float) -> memoryview | None:
        """What becomes of the client's packet, whose TCP header begins at `start`."""
        fin = self._take_fin(frame, start, self.copy.client_acked)
        packet = None if fin is None else self.copy.to_backend(frame, now)
        frame.buffer[start + _FLAGS_AT] |= fin or 0
        if packet is not None:
            self.last_to_backend = now
            if fin and not self.client_fin_seen:
                self.client_fin_seen = now
        return packet

    def to_client(self, frame: Frame, start: int, now: float) -> memoryview | None:
        """What becomes of the backend's packet, likewise."""
        fin = self._take_fin(frame, start, self.copy.backend_acked)
        packet = None if fin is None else self.copy.to_client(frame, now)
        frame.buffer[start + _FLAGS_AT] |= fin or 0
        if packet is not None:
            self.last_to_client = now
            if fin and not self.backend_fin_seen:
                self.backend_fin_seen = now
        return packet

    def _take_fin(self, frame: Frame, start: int, acked: int) -> int | None:
        """Take the FIN out of the flags, where it stays while the rest is translated; returns it, 0 where there is none.

        None, with nothing taken, where it is the engine's to judge. No checksum changes with it: the header is put back.
        """
        buffer = frame.buffer
        fin = buffer[start + _FLAGS_AT] & tcp.FIN
        seq = int.from_bytes(buffer[start + _SEQ_AT : start + _SEQ_AT + 4], "big")
        if fin and (self.leaves_fins or not 0 <= sequence.distance(acked, seq) <= BELIEVABLE_WINDOW):
            return None
        buffer[start + _FLAGS_AT] &= ~tcp.FIN
        return fin

    def collect(self) -> bool:
        """Carry over what has passed; returns whether the flow is in another state by that."""
        copy, splice = self.copy, self.splice
        to_backend = copy.packets_to_backend, copy.bytes_to_backend
        to_client = copy.packets_to_client, copy.bytes_to_client
        (packets, size), (packets_back, size_back) = self._seen_to_backend, self._seen_to_client
        self._seen_to_backend, self._seen_to_client = to_backend, to_client
        if to_backend[0] != packets:
            gain = Gain(to_backend[0] - packets, to_backend[1] - size, copy.backend_acked, self.last_to_backend)
            add_to_backend(splice, gain)
            self._carried.add(gain.packets, gain.bytes)
        if to_client[0] != packets_back:
            gain = Gain(to_client[0] - packets_back, to_client[1] - size_back, copy.client_acked, self.last_to_client)
            add_to_client(splice, gain)
            self._carried.add(gain.packets, gain.bytes)
        return add_fins(splice, self.client_fin_seen, self.backend_fin_seen)


class MemoryPath:
    """Has `receive` where the other has a device."""

    def __init__(self, capacity: int = 64) -> None:
        self.refused: dict[str, int] = {}
        self.carried = Carried()
        self.standing = Standing(hook="memory")
        self._capacity = capacity
        self._records = Records()
        self._identifications = _KernelIdentifications(0)
        self._installed: dict[Splice, _Held] = {}
        self._by_client: dict[bytes, _Held] = {}
        self._by_backend: dict[bytes, _Held] = {}
        self._leased_until = 0.0
        self._moved: list[Splice] = []
        # The hash need not be secret here, and which flows share a counter is always the same.
        self._known = KnownFlows(bytearray(_COUNTERS), bytes(range(1, STEPS_BYTES + 1)))
        self._answers = SynAnswers(self._known)

    def __len__(self) -> int:
        return len(self._installed)

    def __contains__(self, splice: Splice) -> bool:
        return splice in self._installed

    def receive(self, frame: Frame, now: float) -> memoryview | None:
        """What becomes of the packet in `frame`; None, with the frame untouched, where it is the engine's."""
        answer = self._answers.receive(frame, now)
        if answer is not None:
            self.carried.syns += 1
            return answer
        if now >= self._leased_until:
            return None
        buffer, end = frame.buffer, frame.end
        if buffer[PACKET_START] == 0x45 and end >= PACKET_START + ipv4.MIN_LENGTH + tcp.MIN_LENGTH:
            held = self._by_client.get(bytes(buffer[_V4_KEY]))
            start = PACKET_START + ipv4.MIN_LENGTH
            return held.to_backend(frame, start, now) if held and self._has_known_options(frame, start) else None
        if buffer[PACKET_START] >> 4 == 6 and end >= PACKET_START + ipv6.LENGTH + tcp.MIN_LENGTH:
            held = self._by_backend.get(bytes(buffer[_V6_KEY]))
            start = PACKET_START + ipv6.LENGTH
            return held.to_client(frame, start, now) if held and self._has_known_options(frame, start) else None
        return None

    @staticmethod
    def _has_known_options(frame: Frame, start: int) -> bool:
        options_end = start + (frame.buffer[start + 12] >> 2 & 0x3C)
        return options_end <= frame.end and is_walked(bytes(frame.buffer[start + tcp.MIN_LENGTH : options_end]))

    def inherits(self, _splice: Splice) -> bool:
        """As the contract has it: memory goes with its process."""
        return False

    def install(self, splice: Splice) -> bool:
        """As the contract has it."""
        if splice in self._installed:
            return True
        if not is_suited(splice):
            return False
        if len(self._installed) >= self._capacity:
            self.refused["ENOSPC"] = self.refused.get("ENOSPC", 0) + 1
            return False
        place = self._records.take()
        record = splice.memory[splice.at : splice.at + RECORD_BYTES]
        memoryview(place.page.memory)[place.at : place.at + RECORD_BYTES] = record
        held = _Held(splice, Splice(place, self._identifications), self.carried)
        held.leaves_fins = self.inherits(splice)
        self._installed[splice] = held
        self._by_client[held.client_key] = self._by_backend[held.backend_key] = held
        return True

    def remove(self, splice: Splice) -> None:
        """As the contract has it."""
        held = self._installed.pop(splice, None)
        if held is None:
            return
        self._by_client.pop(held.client_key, None)
        self._by_backend.pop(held.backend_key, None)
        self._collect(held)
        self._records.release(held.copy.page, held.copy.at)

    def remove_all(self, splices: Sequence[Splice]) -> None:
        """As the contract has it."""
        for splice in splices:
            self.remove(splice)

    def refresh(self, splice: Splice) -> None:
        """As the contract has it."""
        held = self._installed.get(splice)
        if held is not None:
            held.leaves_fins = True
            self._collect(held)

    def promise(self, promises: Promises) -> None:
        """As the contract has it."""
        self._answers.promise(promises)

    def note_flow(self, key: bytes) -> None:
        """As the contract has it."""
        self._known.add(key)

    def forget_flow(self, key: bytes) -> None:
        """As the contract has it."""
        self._known.discard(key)

    def sweep(self, now: float) -> Sequence[Splice]:
        """As the contract has it."""
        self._answers.sweep(now)
        self._leased_until = now + LEASE_S
        for held in self._installed.values():
            self._collect(held)
        moved, self._moved = in_order(self._moved), []
        return moved

    def _collect(self, held: _Held) -> None:
        if held.collect():
            self._moved.append(held.splice)

    def close(self) -> None:
        """As the contract has it."""
        for splice in list(self._installed):
            self.remove(splice)
        self._leased_until = 0.0
        self._answers.close()
