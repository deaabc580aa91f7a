"""The whole engine, played to by bytes: a sequence of packets from both sides, of time, of reloads and of restarts.

The invariant, whatever the bytes say:

- nothing is raised, and what is said as an event can be rendered;
- every packet sent is well-formed, with right lengths, addresses and checksums; one that came with a wrong sum may keep it;
- a spliced flow that no packet addresses stays as it was, byte for byte, and still translates as before;
- what is held, and how many flows without a backend each client has, is what a recount says; the table's two indexes agree;
- timers make progress, and once enough time has passed the table is empty;
- behind a fast path the engine does what it does alone, packet for packet, but for what packets are identified with.

An input is a byte for the configuration, and whether there is a fast path, and then steps: a byte for what to do, and as many
as that takes. `play` returns how many times the engine was called: packets taken in, and timers fired. Handshakes are valid
where the bytes want them to be, for our numbers are taken from the engine's own answers.
"""

import contextlib
import struct
from collections.abc import Iterable
from typing import Any, Final

from engine_checks import check_packets
from engine_packets import (
    ACK,
    FIN,
    FLAGS,
    MODULUS,
    PLAIN,
    PREFIX,
    PSH,
    ROUTER_V4,
    ROUTER_V6,
    SYN,
    Slot,
    build_icmp,
    build_ip,
    build_tcp,
    cut,
    make_bystander,
    make_slots,
    repair,
    residue,
    word_sum,
)
from engines import EngineBehind, collect

from kracauer.config import parse_config
from kracauer.engine import Engine
from kracauer.flows import SharedSplice
from kracauer.tcp.record import PAGE_BYTES, RECORD_BYTES, Records
from kracauer.wire.buffer import Buffer, Frame

SECRET: Final = bytes(range(32))
EPOCH: Final = 60_000.0
HOSTS: Final = """
prefix = "2001:db8:46::/96"
probes.enabled = false
[[listen]]
address = "198.51.100.1"
port = 443
protocol = "tls"
[[listen]]
address = "198.51.100.1"
port = 80
protocol = "auto"
[[listen]]
address = "198.51.100.2"
port = 443
protocol = "tls"
[hosts]
"www.example.com" = "2001:db8:1::2"
"two.example.com" = ["2001:db8:1::2", "2001:db8:1::3"]
"bystander.example.com" = "2001:db8:1::b"
"""
TIMEOUTS: Final = "[timeouts]\nbelow_rfc_floors = true\nestablished_idle_s = 4000\ntransitory_s = 5\npeek_s = 4\n"
# One is chosen by the input; a reload takes the other one of a pair, which differ in nothing that takes a restart.
LESS: Final = """
prefix = "2001:db8:46::/96"
probes.enabled = false
[[listen]]
address = "198.51.100.1"
port = 443
protocol = "tls"
deny = ["192.0.2.9"]
[hosts]
"www.example.com" = "2001:db8:1::3"
"two.example.com" = { backends = "2001:db8:1::3", allow = ["192.0.2.9"] }
"""
NARROW: Final = "[network]\nipv4_mtu = 576\nipv6_mtu = 1280\n"
PAIRS: Final = (
    ("", "[limits]\nflows = 5\nunproven_per_client = 2\nheld_bytes = 65536\npeek_bytes = 1024\n"),
    ("[limits]\nunproven = 4\nclient_prefix_length = 24\nheld_bytes = 400000\n", "[access]\ndeny = ['192.0.2.8']\n"),
    (
        "[backend_profile]\ntimestamps = false\nsack = false\nwindow_scale = false\n" + TIMEOUTS,
        "[backend_profile]\necn = true\nwindow = 4000\n[backend_profile.'2001:db8:1::3']\nmss = 536\n" + TIMEOUTS,
    ),
    (
        NARROW + "router_sources = ['198.51.100.250', '198.51.100.251']\n",
        NARROW + "[limits]\nflows = 3\nflows_per_client = 1\nnew_per_second_per_client = 0.1\n",
    ),
    ("[network]\nlowest_ipv6_mtu = 1400\n", None),
)
CONFIGS: Final = tuple(
    parse_config(HOSTS + extra if extra is not None else LESS + "[network]\nlowest_ipv6_mtu = 1400\n")
    for pair in PAIRS
    for extra in pair
)
_STARTS: Final = len(CONFIGS) - 1  # the last one is without the bystander's name
DELAYS_S: Final = (0.0, 0.001, 0.01, 0.06, 0.3, 1.0, 2.5, 9.0, 31.0, 61.0, 125.0, 245.0, 600.0, 1800.0, 4100.0, 9000.0)
# The bystander's first timer is due this long after its last packet.
PATIENCE_S: Final = 3900.0
SIZES: Final = (0, 1, 9, 50, 200, 536, 1220, 1440)
WINDOWS: Final = (64240, 0, 1, 500)
MAX_STEPS: Final = 3000
_DATA_VALID: Final = b"\x02" + bytes(9)
_FRAGMENT: Final = 44
_SOUND: Final = frozenset((0,))


def play(data: bytes) -> int:
    """Play one input and hold the engine to the invariant; AssertionError, or what was raised, is a finding."""
    played = Play(data)
    calls = played.run()
    if has_fast_path(data):
        behind = Play(data, is_behind=True)
        calls += behind.run()
        for number, (one, other) in enumerate(zip(played.said, behind.said, strict=False)):
            assert one == other, (
                f"behind a fast path {other!s:.300} instead of {one!s:.300}: number {number} of all that was said"
            )
        assert len(played.said) == len(behind.said), "behind a fast path more is said, or less"
    return calls


def has_fast_path(data: bytes) -> bool:
    """Whether this input is played behind a fast path, too."""
    return bool(data and data[0] // _STARTS & 1)


class Play:
    """One engine and one input."""

    def __init__(self, data: bytes, *, is_behind: bool = False) -> None:
        self._is_behind = is_behind
        self.said: list[Any] = []  # all that the engine has said, and when: packets without their identification, and events
        self._data, self._at, self._end = data, 1, len(data)
        self._config = (data[0] if data else 0) % _STARTS
        self._frame = Frame()
        self.now = EPOCH
        self.calls = 0
        self.slots = make_slots()
        self._bystander = make_bystander()
        self._bystander_since = self.now
        self._has_bystander = True
        self._has_restarted = False
        self.log: list[str] | None = None
        self._by_client = {
            (slot.to_service.src, slot.to_service.src_port, slot.to_service.dst): slot
            for slot in (*self.slots, self._bystander)
        }
        self._last = build_tcp(self.slots[0].to_service, 1, 0, SYN, 1000, b"", b"")
        self._sent: list[bytes] = []
        self._ops = (
            *(self._client_segment, self._client_segment, self._client_segment),
            *(self._backend_segment, self._backend_segment, self._backend_segment),
            *(self._open, self._wait, self._icmp, self._fragments, self._mutate, self._raw),
            *(self._replay, self._super_packet, self._turn_over, self._oddity),
        )
        self._pages: list[bytearray] = []
        self.engine = self._make_engine()

    def run(self) -> int:
        """Take every step, then let time pass until nothing is left."""
        self._open_bystander()
        for _ in range(MAX_STEPS):
            if self._at >= self._end:
                break
            op = self._byte()
            self._ops[op & 15](op >> 4)
            self._check_counts()
        self._check_bystander()
        self._fire(self.now + 100_000.0)
        flows = self.engine.flows
        assert len(flows) == 0, f"{len(flows)} flows at the end"
        assert not flows.by_backend, "backend keys at the end"
        self._check_counts()
        return self.calls

    # ------------------------------------------------------------------------------------------------ what bytes become

    def _byte(self) -> int:
        at = self._at
        if at >= self._end:
            return 0
        self._at = at + 1
        return self._data[at]

    def _bytes(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def _number(self, anchors: tuple[int, ...], choice: int) -> int:
        """A sequence number: one of `anchors`, something near the first one, or any."""
        if choice < len(anchors):
            return anchors[choice]
        if choice == 7:
            return int.from_bytes(self._bytes(4), "big")
        return anchors[0] + self._byte() - 128

    def _options(self, slot: Slot, choice: int, flags: int, *, is_client: bool) -> bytes:
        ts = struct.pack("!BBBBII", 1, 1, 8, 10, 500 + int(self.now) & 0xFFFF_FFFF, slot.tsval if is_client else 502)
        match choice:
            case 0:
                return b""
            case 1 if flags & SYN:
                return b"\x02\x04\x05\xb4\x04\x02" + ts[2:] + b"\x01\x03\x03\x07"
            case 1:
                return ts
            case 2 if flags & SYN:
                return b"\x02\x04\x05\xa0\x01\x03\x03\x02"
            case 2:
                base = slot.s if is_client else slot.c
                return b"\x01\x01\x05\x0a" + struct.pack(
                    "!II", base + 100 & 0xFFFF_FFFF, base + 100 + self._byte() & 0xFFFF_FFFF
                )
        junk = self._bytes(self._byte() % 37)
        return junk + bytes(-len(junk) % 4)

    def _payload(self, stream: bytes, offset: int, choice: int) -> bytes:
        """The bytes that belong at `offset`, if any do; else others of that size."""
        size = SIZES[choice & 7]
        if 0 <= offset < len(stream):
            return stream[offset : offset + size]
        return bytes(size)

    def _client_packet(self, slot: Slot, param: int, *, gso_size: int = 0) -> bytes:
        fields, sizes = self._byte(), self._byte()
        flags = FLAGS[param]
        anchors = (slot.c + 1 + slot.client_sent, slot.c + 1, slot.c, slot.c + 1 + slot.hello_bytes, slot.s + 1)
        seq = self._number(anchors, fields & 7) & 0xFFFF_FFFF
        ack = self._number((slot.s + 1 + slot.backend_sent, slot.s + 1, 0), fields >> 3 & 7) if flags & ACK else 0
        options = self._options(slot, fields >> 6, flags, is_client=True)
        payload = b"" if flags & SYN else self._payload(slot.stream, (seq - slot.c - 1) & 0xFFFF_FFFF, sizes)
        if gso_size:
            payload = (payload or bytes(100)) * 8
        if (seq - slot.c - 1) & 0xFFFF_FFFF == slot.client_sent:
            slot.client_sent += len(payload) + bool(flags & FIN)
        fragment = 0 if sizes & 0x20 else 0x4000
        return build_tcp(
            slot.to_service, seq, ack, flags, WINDOWS[sizes >> 3 & 3], options, payload,
            urgent=7, ttl=sizes >> 6 or 57, tos=sizes & 3, gso_size=gso_size, fragment=fragment,
        )  # fmt: skip

    def _backend_packet(self, slot: Slot, param: int, *, gso_size: int = 0) -> bytes:
        fields, sizes = self._byte(), self._byte()
        flags = FLAGS[param]
        seq = self._number((slot.b + 1 + slot.backend_sent, slot.b, slot.b + 1), fields & 7) & 0xFFFF_FFFF
        anchors = (slot.c + 1 + slot.client_sent, slot.c + 1, slot.c + 1 + slot.hello_bytes, slot.c)
        ack = self._number(anchors, fields >> 3 & 7) if flags & ACK else 0
        options = self._options(slot, fields >> 6, flags, is_client=False)
        payload = b"" if flags & SYN else self._payload(slot.stream, (seq - slot.b - 1) & 0xFFFF_FFFF, sizes)
        if gso_size:
            payload = (payload or bytes(100)) * 8
        if (seq - slot.b - 1) & 0xFFFF_FFFF == slot.backend_sent:
            slot.backend_sent += len(payload) + bool(flags & FIN)
        return build_tcp(
            slot.to_client, seq, ack, flags, WINDOWS[sizes >> 3 & 3], options, payload,
            urgent=7, ttl=sizes >> 6 or 57, tos=sizes & 3, gso_size=gso_size,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------- the steps

    def _slot(self) -> Slot:
        return self.slots[self._byte() & 7]

    def _client_segment(self, param: int) -> None:
        self._receive(self._client_packet(self._slot(), param))

    def _backend_segment(self, param: int) -> None:
        self._receive(self._backend_packet(self._slot(), param))

    def _open(self, param: int) -> None:
        """Take a connection as far as `param` says, as its ends would do it."""
        choice = self._byte()
        slot, has_timestamps = self.slots[choice & 7], bool(choice & 8)
        if choice & 16:
            slot.renew()
        self.converse(
            slot,
            param & 3,
            has_timestamps=has_timestamps,
            has_scale=not choice & 32,
            window=65535 if param & 4 else 50,
            backend_lacks=bool(choice & 64),
            is_relieved=bool(param & 8),
        )

    def _wait(self, param: int) -> None:
        delay = DELAYS_S[param]
        if self.now + delay > self._bystander_since + PATIENCE_S:
            self._check_bystander()
            self._has_bystander &= delay < PATIENCE_S
        self._fire(self.now + delay)

    def _icmp(self, param: int) -> None:
        """An error about something that the engine has sent lately, as a router or the receiver would report it."""
        choice, kind, code = self._byte(), self._byte(), self._byte()
        if not self._sent:
            return
        quoted = self._sent[choice % len(self._sent)][10:]
        quoted = quoted[: (len(quoted), 28, 48, 68)[param & 3]]
        rest = (0, kind << 8 | code, 1280, 576)[param >> 2]
        if quoted[0] >> 4 == 4:
            kind = (3, 3, 11, 12, kind)[kind % 5]
            code = (4, 0, 1, 3, code)[code % 5]
            src, dst = (ROUTER_V4 if choice & 64 else quoted[16:20]), quoted[12:16]
        else:
            kind = (1, 2, 3, 4, kind)[kind % 5]
            code = (0, 1, 3, 4, code)[code % 5]
            src, dst = (ROUTER_V6 if choice & 64 else quoted[24:40]), quoted[8:24]
        self._receive(build_icmp(src, dst, kind, code, rest, quoted))

    def _fragments(self, param: int) -> None:
        slot, size, order = self._slot(), self._byte(), self._byte()
        packet = self._client_packet(slot, param & 7) if param & 8 else self._backend_packet(slot, param & 7)
        pieces = cut(packet, 8 + size * 4)[:12]
        if order & 1:
            pieces.reverse()
        if order & 2:
            del pieces[order >> 4 & 3 :: 5]
        if order & 4:
            pieces.append(pieces[0] if pieces else packet)
        for piece in pieces:
            self._receive(piece)

    def _mutate(self, param: int) -> None:
        """The last packet once more, a few of its bytes changed; with its sums made right, or not."""
        packet = bytearray(self._last)
        for _ in range((param & 3) + 1):
            position, value = self._byte(), self._byte()
            packet[position % len(packet)] = value
        if param & 4:
            del packet[10 + self._byte() :]
        self._receive(repair(bytes(packet)) if param & 8 else bytes(packet), is_sound=False)

    def _raw(self, param: int) -> None:
        vnet = self._bytes(10) if param & 1 else PLAIN
        self._receive((vnet + bytes(10))[:10] + self._bytes(self._byte() & 0x7F), is_sound=False)

    def _replay(self, param: int) -> None:
        """A packet of the engine's own comes back, or the last one comes again, perhaps with another vnet header."""
        if param & 1 and self._sent:
            self._receive(self._sent[self._byte() % len(self._sent)], is_sound=False)
        elif param & 2:
            self._receive(_DATA_VALID + self._last[10:], is_sound=False)
        else:
            self._receive(self._last, is_sound=False)

    def _super_packet(self, param: int) -> None:
        slot, gso_size = self._slot(), (self._byte() & 0x7F) * 16 + 1
        build = self._client_packet if param & 8 else self._backend_packet
        self._receive(build(slot, param & 7, gso_size=gso_size))

    def _turn_over(self, param: int) -> None:
        """A timer that was not due, a reload, a restart."""
        if param < 8:
            self._fire_once()
        elif param < 12:
            self._reload()
        else:
            self._restart(param)

    def _oddity(self, param: int) -> None:
        """What is no TCP segment of a connection: echoes, other protocols, options and extension headers."""
        slot, value = self._slot(), self._byte()
        client, backend = slot.to_service, slot.to_client
        body = bytes(value * 8)
        match param:
            case 0:
                self._receive(build_icmp(client.src, client.dst, 8, 0, value, body))
            case 1:
                self._receive(build_icmp(backend.src, PREFIX + client.dst, 128, 0, value, body))
            case 2:
                self._receive(PLAIN + build_ip(client.src, client.dst, value, body), is_sound=False)
            case 3:
                self._receive(PLAIN + build_ip(backend.src, backend.dst, value, body), is_sound=False)
            case 4 | 5 | 6:
                packet = self._client_packet(slot, param)
                options = (self._bytes(value % 40) + bytes(40))[: (value % 10 + 1) * 4]
                ip = packet[10:30] + options + packet[30:]
                head = bytes((0x45 + len(options) // 4,)) + ip[1:]
                self._receive(repair(packet[:10] + head))
            case _:
                packet = self._backend_packet(slot, param)
                kind = (0, 60, 43, 44)[value & 3]
                extension = bytes((6, 0, *(self._bytes(6) + bytes(6))[:6]))
                ip = (
                    packet[10:14]
                    + (len(packet) - 42).to_bytes(2, "big")
                    + bytes((kind,))
                    + packet[17:50]
                    + extension
                    + packet[50:]
                )
                self._receive(packet[:10] + ip)

    # -------------------------------------------------------------------------------------------------- the engine called

    def converse(
        self,
        slot: Slot,
        stage: int,
        *,
        has_timestamps: bool,
        has_scale: bool = True,
        window: int = 65535,
        backend_lacks: bool = False,
        is_relieved: bool = False,
    ) -> None:
        """SYN; the client's ACK with its first message; the backend's SYN-ACK; and a segment of each: up to `stage`.

        `backend_lacks` leaves the client's options out of the backend's answer. A client that `is_relieved` sends a part of its
        message twice, so that it is acknowledged before there is a backend.
        """
        syn_options = b"\x02\x04\x05\xb4" + (b"\x01\x03\x03\x07" if has_scale else b"") + b"\x01\x01\x04\x02"
        ts = struct.pack("!BBBBII", 1, 1, 8, 10, 501, 0) if has_timestamps else b""
        self._feed(build_tcp(slot.to_service, slot.c, 0, SYN, 64240, syn_options + ts, b""), _SOUND)
        if stage < 1:
            return
        ts = ts[:8] + struct.pack("!I", slot.tsval) if has_timestamps else b""
        hello = slot.stream[: slot.hello_bytes]
        pieces = [(at, hello[at : at + 1440]) for at in range(0, len(hello), 1440)]
        for at, piece in [(0, hello[:12]), (0, hello[:12]), *pieces] if is_relieved else pieces:
            self._feed(build_tcp(slot.to_service, slot.c + 1 + at, slot.s + 1, PSH | ACK, window, ts, piece), _SOUND)
        slot.client_sent, slot.backend_sent = len(hello), 0
        if stage < 2:
            return
        ts = struct.pack("!BBBBII", 1, 1, 8, 10, 9000, 501) if has_timestamps and not backend_lacks else b""
        answered = b"" if backend_lacks else syn_options
        self._feed(build_tcp(slot.to_client, slot.b, slot.c + 1, SYN | ACK, window, answered + ts, b""), _SOUND)
        if stage < 3:
            return
        end = slot.c + 1 + slot.client_sent
        self._feed(build_tcp(slot.to_client, slot.b + 1, end, PSH | ACK, 500, ts, slot.stream[:300]), _SOUND)
        slot.backend_sent = 300
        ts = struct.pack("!BBBBII", 1, 1, 8, 10, 502, slot.tsval) if has_timestamps else b""
        self._feed(build_tcp(slot.to_service, end, slot.s + 301, ACK, 500, ts, b""), _SOUND)

    def _receive(self, packet: bytes, *, is_sound: bool = True) -> None:
        """Give the engine `packet`, which begins with its vnet header; one that would reach the bystander is left out."""
        ip = packet[10:]
        if self._bystander.to_service.src in ip or len(ip) > 65_000:
            return
        self._last = packet
        self._feed(packet, _SOUND if is_sound else frozenset((0, residue(packet))))

    def _feed(self, packet: bytes, errors: frozenset[int]) -> list[bytes]:
        if self.log is not None:
            self.log.append(f"{self.now - EPOCH:10.3f}  in   {packet.hex()}")
        self._frame.load(packet[10:], packet[:10])
        self.calls += 1
        sent = self._take(self.engine.receive(self._frame, self.now), errors)
        self._drain()
        return sent

    def _take(self, sent: Iterable[Buffer], errors: frozenset[int]) -> list[bytes]:
        packets = [bytes(packet) for packet in sent]
        if not packets:
            return packets
        self.said += [(self.now, _unidentified(packet)) for packet in packets]
        if self.log is not None:
            self.log += [f"{self.now - EPOCH:10.3f}  out  {packet.hex()}" for packet in packets]
        check_packets(packets, errors)
        for packet in packets:
            self._learn(packet)
        self._sent = (self._sent + [_unidentified(packet) for packet in packets])[-8:]
        return packets

    def _learn(self, packet: bytes) -> None:
        """Take our own numbers from a SYN-ACK, and the backend that is dialled from a SYN."""
        if packet[10] == 0x45 and packet[19] == 6 and len(packet) >= 50:
            if packet[43] & (SYN | ACK) == SYN | ACK:
                slot = self._by_client.get((packet[26:30], int.from_bytes(packet[32:34], "big"), packet[22:26]))
                if slot is not None:
                    slot.s = int.from_bytes(packet[34:38], "big")
                    slot.tsval = _tsval(packet[50 : 30 + (packet[42] >> 2)])
        elif packet[10] >> 4 == 6 and packet[16] == 6 and len(packet) >= 70 and packet[63] & (SYN | ACK) == SYN:
            port = int.from_bytes(packet[50:52], "big")
            for slot in (*self.slots, self._bystander):
                ends = slot.to_client
                if ends.dst == packet[18:34] and ends.dst_port == port and slot.c == int.from_bytes(packet[54:58], "big"):
                    slot.to_client = ends._replace(src=packet[34:50], src_port=int.from_bytes(packet[52:54], "big"))

    def _drain(self) -> None:
        next_event = self.engine.next_event
        while (event := next_event()) is not None:
            fields = event.fields()
            self.said.append((self.now, event.event, fields))
            if self.log is not None:
                self.log.append(f"{self.now - EPOCH:10.3f}  !!   {event.event} {fields}")

    def _fire_once(self) -> None:
        self.calls += 1
        self._take(self.engine.handle_timer(self.now), _SOUND)
        self._drain()

    def _fire(self, until: float) -> None:
        """Fire every timer up to `until`: each call must take the deadlines on."""
        for _ in range(2000):
            deadline = self.engine.next_deadline()
            if deadline is None or deadline > until:
                break
            self.now = max(self.now, deadline)
            self._fire_once()
            following = self.engine.next_deadline()
            assert following is None or following > self.now, "a timer is still due"
        else:
            raise AssertionError("timers without end")
        self.now = max(self.now, until) if until < self.now + 50_000 else self.now

    # ------------------------------------------------------------------------------------------- reloads and restarts

    def _make_engine(self) -> Engine:
        records = Records(self._pages, self._grow)
        kind = EngineBehind if self._is_behind else Engine
        engine = kind(CONFIGS[self._config], secret=SECRET, now=self.now, records=records)
        # Flows whose time comes at once have theirs in any order, which is not to be another one for each engine.
        timers = engine._context.timers
        pop_due = timers.pop_due
        timers.pop_due = lambda now: sorted(pop_due(now), key=lambda flow: flow.client_key)  # type: ignore[method-assign]
        return engine

    def _grow(self) -> bytearray:
        self._pages.append(bytearray(PAGE_BYTES))
        return self._pages[-1]

    def _reload(self) -> None:
        """Take the other configuration of the pair."""
        self._config ^= 1
        self.engine.reconfigure(CONFIGS[self._config], self.now)

    def _restart(self, param: int) -> None:
        """A new engine finds the spliced flows of the old one, perhaps a record of them damaged."""
        before = sum(flow.splice is not None for flow in self.engine.flows)
        collect(self.engine)
        if param == 15:
            self._pages[0][self._byte() << 8 | self._byte()] ^= self._byte() | 1
            self._has_bystander = False
        self._has_restarted = True
        self.engine = self._make_engine()
        adoption = self.engine.adopt(self.now)
        self._drain()
        self._fire(self.now)  # what there is to say of flows that cannot go on
        assert param == 15 or adoption == (before, 0), f"{adoption} of {before}"
        if self._has_bystander:
            self._check_bystander()

    # ------------------------------------------------------------------------------------------------------ the invariant

    def _check_counts(self) -> None:
        flows = self.engine.flows
        shares = self.engine._context.shares
        shift = 32 - CONFIGS[self._config].limits.client_prefix_length
        counted: dict[int, list[int]] = {}
        bound = 0
        for key, flow in flows.by_client.items():
            ends = flow.from_client
            assert key == _key(ends), "a flow under another's key"
            count = counted.setdefault(int.from_bytes(ends.src, "big") >> shift, [0, 0, 0])
            count[0] += not flows.is_retired(flow)
            count[1] += flow.splice is None
            count[2] += 0 if flow.handshake is None else flow.handshake.held.held_bytes
            if flow.from_backend is not None:
                bound += 1
                assert flows.by_backend.get(_key(flow.from_backend)) is flow, "a backend key that leads elsewhere"
        if isinstance(self.engine, EngineBehind):
            shared = [flow.splice for flow in flows if isinstance(flow.fast, SharedSplice)]
            assert len(shared) == len(self.engine.path), f"{len(self.engine.path)} on the fast path, not {len(shared)}"
            assert all(splice in self.engine.path for splice in shared if splice), "a flow that is not on the fast path"
        assert bound == len(flows.by_backend), f"{len(flows.by_backend)} backend keys of {bound} flows"
        total = [shares.flows, shares.unproven, shares.held_bytes]
        assert total == [sum(column) for column in zip(*counted.values(), strict=True)] or not counted, f"{total} of {counted}"
        assert counted or total == [0, 0, 0], f"{total} of nothing"
        for client, wanted in counted.items():
            share = shares.share_of((client << shift).to_bytes(4, "big"))
            assert [share.flows, share.unproven, share.held_bytes] == wanted, f"{client << shift:08x} holds {wanted}"

    def _open_bystander(self) -> None:
        """Splice the flow that nothing addresses, and note what it makes of a segment of each side."""
        slot = self._bystander
        self.converse(slot, 3, has_timestamps=True)
        end = slot.c + 1 + slot.client_sent
        ts = struct.pack("!BBBBII", 1, 1, 8, 10, 503, slot.tsval)
        up = build_tcp(slot.to_service, end, slot.s + 301, PSH | ACK, 500, ts, bytes(range(100)))
        ts = struct.pack("!BBBBII", 1, 1, 8, 10, 9001, 503)
        down = build_tcp(slot.to_client, slot.b + 301, end + 100, PSH | ACK, 500, ts, bytes(range(200)))
        self._probes = (up, down)
        self._answers = self._probe_bystander()
        assert [len(answer) for answer in self._answers] == [1, 1], "the bystander is not spliced"
        self._image = self._take_image()

    def _probe_bystander(self) -> list[list[bytes]]:
        """What the bystander makes of its segments now, but for what packets are identified with."""
        self._bystander_since = self.now
        answers = [self._feed(probe, _SOUND) for probe in self._probes]
        return [[_unidentified(packet) for packet in sent] for sent in answers]

    def _check_bystander(self) -> None:
        """Hold the bystander to what it was and did; from here its idle time counts anew."""
        if not self._has_bystander:
            return
        assert self._take_image() == self._image, "the bystander has changed"
        assert self._probe_bystander() == self._answers, "the bystander does something else"
        self._image = self._take_image()

    def _take_image(self) -> tuple[Any, ...]:
        ends = self._bystander.to_service
        flow = self.engine.flows.by_client[_key(ends)]
        splice = flow.splice
        assert splice is not None, "the bystander has no splice"
        collect(self.engine)
        is_fast = splice in self.engine.path if isinstance(self.engine, EngineBehind) else flow.fast is splice
        assert is_fast or self._has_restarted, "the bystander is off the fast path"
        return flow.state, bytes(splice.memory[splice.at : splice.at + RECORD_BYTES])


def _key(ends: Any) -> bytes:
    key: bytes = ends.src + ends.dst + struct.pack("!HH", ends.src_port, ends.dst_port)
    return key


def _unidentified(packet: bytes) -> bytes:
    """The same packet with another identification, if it has one: none."""
    if packet[10] >> 4 == 6 and packet[16] == _FRAGMENT:
        return packet[:54] + bytes(4) + packet[58:]
    if packet[10] != 0x45:
        return packet
    head = packet[10:14] + bytes(2) + packet[16:20] + bytes(2) + packet[22:30]
    return packet[:10] + head[:10] + (-word_sum(head) % MODULUS).to_bytes(2, "big") + head[12:] + packet[30:]


def _tsval(options: bytes) -> int:
    at = 0
    with contextlib.suppress(IndexError):
        while at < len(options) and options[at]:
            if options[at] == 1:
                at += 1
                continue
            if options[at] == 8:
                return int.from_bytes(options[at + 2 : at + 6], "big")
            at += options[at + 1]
    return 0


def explain(data: bytes) -> list[str]:
    """Play one input and return every packet and event, up to what went wrong; behind a fast path where it is played so."""
    played = Play(data, is_behind=has_fast_path(data))
    played.log = []
    try:
        played.run()
    except Exception as error:
        played.log.append(repr(error))
    return played.log


def seeds() -> list[bytes]:
    """Connections of every kind, opened, spoken through and closed, under each configuration, with some trouble on the way."""
    talk = bytes((0x10, 0, 0x40, 4, 0x13, 0, 0x40, 7, 0x00, 0, 0x40, 0, 0x1D, 0, 20))  # data both ways, an ACK, a super-packet
    close = bytes((0x40, 0, 0x40, 0, 0x43, 0, 0x40, 0, 0x00, 0, 0x40, 0, 0x77, 0x03, 0, 0x40, 0))
    reset = bytes((0x60, 0, 0, 0, 0x63, 0, 0, 0))
    icmp = bytes((0x08, 0, 0, 0, 0x08, 1, 1, 1, 0x98, 2, 1, 0))
    found = []
    for config in range(2 * _STARTS):
        for slot in range(8):
            opened = bytes((0x36, slot | 8, 0x76, slot | 32))
            ours = bytes(slot if number == 1 else value for number, value in enumerate(talk[:4])) + talk[4:]
            found.append(bytes((config,)) + opened + ours + icmp + (close if slot & 1 else reset) + bytes((0xB7, 0x57)))
            lacking = bytes(
                (0x36, slot | 8 | 64, *talk[:4], 0x08, 0, 2, 0, 0x98, 1, 0, 0, 0xB6, slot | 16, *talk[4:], 0xCE, 0x77)
            )
            found.append(bytes((config,)) + lacking + icmp + close)
        peeking = bytes((0x16, 5, 0x10, 5, 0x41, 3, 0x10, 5, 0x41, 3, 0x47, 0x57, 0x26, 2, 0x67, 0x77, 0x87))
        pieces = bytes((0x39, 0, 4, 0, 0x89, 5, 30, 5, 0x8A, 40, 7, 0xCA, 9, 9, 0x1B, *range(12)))
        turns = bytes((0x36, 0, 0x8E, 0x36, 1, 0xCE, *talk, 0x8E, 0x77, 0xFE, 0, 3, 1, *close))
        oddities = b"".join(bytes((number << 4 | 15, 1, 9, 3, 4, 5, 6, 7)) for number in range(16))
        # On the same ports, once the first one is forgotten.
        again = bytes((0x36, 8, *talk[:12], *close[:12], 0xC7, 0x36, 8 | 16, *talk))
        found.append(bytes((config,)) + again)
        found += [bytes((config,)) + part for part in (peeking, pieces, turns, oddities, peeking + turns + oddities)]
    return found
