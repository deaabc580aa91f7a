"""Conversations with the engine as readable scripts: packets in, exact packets out, at given times (after packetdrill).

    0.00  C> S  c        win=64240 mss=1460 sackOK ws=7      a packet goes in: time in seconds, side, flags, seq, the rest
          C< SA s        ack=c+1 win=65535 mss=1440 sackOK   a packet comes out: all of it has to be as it stands here
    0.02  C> A  c+1      ack=s+1
          C> PA c+1      ack=s+1 data=hello[:100]
          !! drop bad_cookie                                 an event; every dropped packet has to be told
          ?? flows=1 state=dialing                           what the engine's table holds now
          ** abort                                           the service stops for good
          -- words                                           a remark

Numbers are Python expressions of the symbols that `Conversation` is given: c, b, ... for sequence numbers, any for payloads. A
bare name not yet known is bound by the first packet out that shows it (s, above); `*` takes anything. What a line leaves out is
`win=1000` (0 for a RST), no options, no payload, `urg=0 tos=0 gso=0`. A packet out that no line expects fails the script, and
so does a line whose packet does not come. Before a line's time comes, every timer up to then has fired.
"""

from collections import deque
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from engines import make_engine
from hellos import bulk, client_hello
from packets import Packet, build, flag_letters, parse, parse_flags

from kracauer.config import Config, parse_config
from kracauer.engine import Engine
from kracauer.events import Event, PacketDropped
from kracauer.wire.buffer import Frame

CONFIG: Final = """
prefix = "2001:db8:46::/96"
probes.enabled = false
[[listen]]
address = "198.51.100.1"
port = 443
protocol = "tls"
[[listen]]
address = "198.51.100.1"
port = 80
protocol = "http"
[hosts]
"www.example.com" = "2001:db8:1::2"
"two.example.com" = ["2001:db8:1::2", "2001:db8:1::3"]
"""
SECRET: Final = bytes(range(32))
# A whole minute, so that a script sees when the cookies' counter steps.
EPOCH: Final = 60_000.0
TICK_S: Final = 0.05
OPTION_NAMES: Final = ("mss", "ws", "sackOK", "ts", "sack", "opt")
DEFAULTS: Final = {"ack": "0", "urg": "0", "tos": "0", "gso": "0"}


_HELLO: Final[dict[str, Any]] = {"hello": client_hello("www.example.com"), "H": len(client_hello("www.example.com"))}


class ScriptError(AssertionError):
    """A packet or event that the script does not have, or one that it has and did not come."""


@dataclass(frozen=True, slots=True)
class Side:
    """A peer of the engine: where its packets come from and what it addresses."""

    src: bytes
    src_port: int
    dst: bytes
    dst_port: int

    @property
    def reversed(self) -> "Side":
        return Side(self.dst, self.dst_port, self.src, self.src_port)


def client_side(service: str = "198.51.100.1", service_port: int = 443, address: str = "192.0.2.7", port: int = 40000) -> Side:
    return Side(IPv4Address(address).packed, port, IPv4Address(service).packed, service_port)


def backend_side(address: str = "2001:db8:1::2", port: int = 443, client: str = "192.0.2.7", client_port: int = 40000) -> Side:
    mapped = IPv6Address("2001:db8:46::").packed[:12] + IPv4Address(client).packed
    return Side(IPv6Address(address).packed, port, mapped, client_port)


def config(extra: str = "", base: str = CONFIG) -> Config:
    return parse_config(base + extra)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a script that is a packet, its fields still as written."""

    side: str
    flags: str
    seq: str
    fields: dict[str, str]
    options: tuple[str, ...]
    text: str


class Conversation:
    """An engine, its clock, and everything that has been said; `play` a script, as often as it takes."""

    def __init__(
        self,
        settings: Config | str = "",
        *,
        engine: Engine | None = None,
        sides: dict[str, Side] | None = None,
        now: float = EPOCH,
        **symbols: int | bytes,
    ) -> None:
        self.start = self.now = now
        settings = config(settings) if isinstance(settings, str) else settings
        self.engine = make_engine(settings, secret=SECRET, now=now) if engine is None else engine
        self.sides = {
            "C": client_side(),
            "B": backend_side(),
            "B2": backend_side("2001:db8:1::3"),
            "H": client_side(service_port=80),
            "HB": backend_side(port=80),
        } | (sides or {})
        self.symbols: dict[str, Any] = {"c": 0x1000_0000, "b": 0xB000_0000, **_HELLO} | symbols
        self.events: list[Event] = []
        self._frame = Frame()
        self._untold: deque[Event] = deque()
        self._sent: deque[tuple[float, Packet]] = deque()
        self._transcript: list[str] = []

    def play(self, script: str) -> "Conversation":
        """Run `script` from where the last one ended; times go on counting from the conversation's start."""
        time = self.now
        for line in script.splitlines():
            first, _, rest = line.strip().partition(" ")
            is_timed = first.replace(".", "").isdigit()
            if is_timed:
                time = self.start + float(first)
            text = rest.strip() if is_timed else line.strip()
            if text and not text.startswith("--"):
                self._play_line(text, time)
        self._expect_silence("at the end")
        return self

    def inject(self, packet: bytes, vnet: bytes = bytes(10)) -> None:
        """Have the engine receive these very bytes now."""
        self._frame.load(packet, vnet)
        self._collect(self.engine.receive(self._frame, self.now))

    def send(self, packet: Packet) -> None:
        """Have the engine receive `packet` now."""
        vnet, data = build(packet)
        self._transcript.append(f"{self.now - self.start:9.3f}  in   {self.render(packet)}")
        self.inject(data, vnet)

    def exchange(self, packet: bytes, vnet: bytes = bytes(10)) -> list[bytes]:
        """Have the engine receive these very bytes now; returns what it sends, vnet headers and all, whatever that is."""
        self._frame.load(packet, vnet)
        sent = [bytes(data) for data in self.engine.receive(self._frame, self.now)]
        self._collect(())
        return sent

    def exchange_plain(self, packet: bytes) -> list[bytes]:
        """As `exchange`, for answers that need nothing of the kernel: returns them without their vnet headers."""
        sent = self.exchange(packet)
        assert all(data[:10] == bytes(10) for data in sent)
        return [data[10:] for data in sent]

    def fire(self, seconds: float) -> list[bytes]:
        """Fire the timers up to `seconds` from the start one by one; returns what that sent, as `exchange_plain`."""
        sent = []
        while (deadline := self.engine.next_deadline()) is not None and deadline <= self.start + seconds:
            self.now = max(self.now, deadline)
            sent += [bytes(data)[10:] for data in self.engine.handle_timer(self.now)]
            self._collect(())
        self.now = max(self.now, self.start + seconds)
        return sent

    def bytes_of(self, line: str) -> bytes:
        """The packet that a script's line `C> ...` would send, as it stands on the wire."""
        return build(self._incoming(_parse_line(line)))[1]

    def note_addresses(self, name: str, *addresses: str | None) -> None:
        """Tell the engine now what `name` has: these addresses, or with a single None that nothing is known."""
        known = None if addresses == (None,) else [IPv6Address(address) for address in addresses if address is not None]
        self._collect(self.engine.note_addresses(name, known, self.now))

    def take_sent(self) -> list[Packet]:
        """What came out and no script has asked for yet; for tests that look at packets themselves."""
        taken = [packet for _, packet in self._sent]
        self._sent.clear()
        return taken

    def run_until(self, seconds: float) -> None:
        """Fire every timer up to `seconds` from the start."""
        self._advance(self.start + seconds)

    def render(self, packet: Packet) -> str:
        """`packet` as a script's line."""
        return f"{self._side_of(packet)} " + " ".join(self._shown(packet).values())

    def _play_line(self, text: str, time: float) -> None:
        head, _, rest = text.partition(" ")
        match head:
            case "!!":
                self._expect_event(rest, time)
            case "**":
                self._advance(time)
                self._collect(self.engine.abort(self.now))
            case "??":
                self._advance(time)
                self._expect_state(rest)
            case _ if head.endswith(">"):
                self._expect_silence(f"before: {text}")
                self._advance(time)
                self._expect_silence(f"before: {text}")
                self._expect_no_drop(f"before: {text}")
                self.send(self._incoming(_parse_line(text)))
            case _ if head.endswith("<"):
                self._expect_packet(_parse_line(text), time)
            case _:
                raise ValueError(f"cannot read: {text}")

    def _advance(self, time: float, *, until_sent: bool = False) -> None:
        for _ in range(10_000):
            deadline = self.engine.next_deadline()
            if deadline is None or deadline > time or (until_sent and self._sent):
                break
            self.now = max(self.now, deadline)
            self._collect(self.engine.handle_timer(self.now))
        else:
            raise ScriptError(f"timers make no progress at {self.now - self.start}")
        if not until_sent:
            self.now = max(self.now, time)

    def _collect(self, sent: Any) -> None:
        for data in sent:
            try:
                packet = parse(bytes(data))
            except AssertionError as error:
                raise self._failure(f"an ill-formed packet was sent: {error}\n  {bytes(data).hex()}") from None
            self._transcript.append(f"{self.now - self.start:9.3f}  out  {self.render(packet)}")
            self._sent.append((self.now, packet))
        while (event := self.engine.next_event()) is not None:
            self._transcript.append(f"{self.now - self.start:9.3f}  !!   {event.event} {event.fields()}")
            self.events.append(event)
            self._untold.append(event)

    def _number(self, expression: str) -> int:
        value = self._value(expression)
        assert isinstance(value, int)
        return value % 2**32

    def _value(self, expression: str) -> Any:
        return eval(expression, {"__builtins__": {"len": len, "bytes": bytes, "bulk": bulk}}, self.symbols)

    def _incoming(self, line: Line) -> Packet:
        side, fields = self.sides[line.side], line.fields
        return Packet(
            src=side.src,
            dst=side.dst,
            src_port=side.src_port,
            dst_port=side.dst_port,
            flags=parse_flags(line.flags),
            seq=self._number(line.seq),
            ack=self._number(fields["ack"]),
            window=self._number(fields["win"]),
            options=tuple(self._option(token) for token in line.options),
            payload=self._value(fields["data"]) if "data" in fields else b"",
            urgent=self._number(fields["urg"]),
            tos=self._number(fields["tos"]),
            ttl=self._number(fields.get("ttl", "57")),
            gso_size=self._number(fields["gso"]),
        )

    def _option(self, token: str) -> str:
        name, _, value = token.partition("=")
        if name not in ("mss", "ws", "ts", "sack"):
            return token
        blocks = (":" if name == "ts" else "-").join
        return f"{name}=" + ",".join(
            blocks(str(self._number(part)) for part in block.split(":" if name == "ts" else "~")) for block in value.split(",")
        )

    def _expect_packet(self, line: Line, time: float) -> None:
        self._advance(time + TICK_S * 1.01, until_sent=True)
        if not self._sent:
            raise self._failure(f"missing packet:\n  expected  {line.text}")
        sent_at, packet = self._sent.popleft()
        if not time - 1e-3 <= sent_at <= time + TICK_S * 1.01:
            raise self._failure(f"at {sent_at - self.start:.3f} instead of {time - self.start:.3f}: {line.text}")
        expected = self._expected(line, packet)
        actual = {"side": self._side_of(packet)} | self._shown(packet)
        if expected != actual:
            different = [key for key in expected if expected[key] != actual[key]]
            lines = [
                f"  {key:8} expected {expected[key] or '(none)'}\n           was      {actual[key] or '(none)'}"
                for key in different
            ]
            raise self._failure("another packet than expected:\n  line      " + line.text + "\n" + "\n".join(lines))
        if "ttl" in line.fields and packet.ttl != self._number(line.fields["ttl"]):
            raise self._failure(f"TTL {packet.ttl}: {line.text}")

    def _expected(self, line: Line, packet: Packet) -> dict[str, str]:
        """What `line` wants shown, with its wildcards and new symbols taken from `packet`."""
        fields = line.fields
        seen = {"seq": packet.seq, "ack": packet.ack, "win": packet.window, "urg": packet.urgent, "tos": packet.tos}
        seen["gso"] = packet.gso_size
        numbers = {key: self._bind(fields.get(key, line.seq), value) for key, value in seen.items()}
        wanted = Packet(
            src=packet.src,
            dst=packet.dst,
            src_port=packet.src_port,
            dst_port=packet.dst_port,
            flags=parse_flags(line.flags),
            seq=numbers["seq"],
            ack=numbers["ack"],
            window=numbers["win"],
            options=tuple(self._expected_option(token, packet) for token in line.options),
            payload=self._value(fields["data"]) if "data" in fields else b"",
            urgent=numbers["urg"],
            tos=numbers["tos"],
            gso_size=numbers["gso"],
        )
        return {"side": f"{line.side}<"} | self._shown(wanted)

    def _bind(self, expression: str, seen: int) -> int:
        if expression == "*":
            return seen
        if expression.isidentifier() and expression not in self.symbols:
            self.symbols[expression] = seen
        return self._number(expression)

    def _expected_option(self, token: str, packet: Packet) -> str:
        if not token.startswith("ts="):
            return self._option(token)
        seen = next((option for option in packet.options if option.startswith("ts=")), "ts=0:0")
        pairs = zip(token[3:].split(":"), seen[3:].split(":"), strict=True)
        return "ts=" + ":".join(str(self._bind(wanted, int(value))) for wanted, value in pairs)

    def _expect_event(self, text: str, time: float) -> None:
        self._advance(time)
        name, *wanted = text.split()
        if name == "drop":
            name, wanted = "packet_dropped", [f"reason={wanted[0]}"]
        while self._untold:
            event = self._untold.popleft()
            shown = {key: str(value) for key, value in event.fields().items()}
            if event.event == name and all(
                shown.get(key) == value for key, _, value in (item.partition("=") for item in wanted)
            ):
                return
            if isinstance(event, PacketDropped) or event.event == name:
                raise self._failure(f"another event than expected:\n  expected  {text}\n  was       {event.event} {shown}")
        raise self._failure(f"missing event: {text}")

    def _expect_state(self, text: str) -> None:
        for item in text.split():
            key, _, value = item.partition("=")
            match key:
                case "flows":
                    actual = str(len(self.engine.flows))
                case "state":
                    actual = ",".join(sorted(str(flow.state) for flow in self.engine.flows))
                case _:
                    raise ValueError(f"cannot tell {key}")
            if actual != value:
                raise self._failure(f"{key} is {actual} where {value} was expected")

    def _expect_silence(self, when: str) -> None:
        if self._sent:
            lines = "\n".join(f"  {self.render(packet)}" for _, packet in self._sent)
            raise self._failure(f"unexpected packet, {when}\n{lines}")
        if when == "at the end":
            self._expect_no_drop(when)

    def _expect_no_drop(self, when: str) -> None:
        for event in self._untold:
            if isinstance(event, PacketDropped):
                raise self._failure(f"unexpected drop, {when}\n  {event.fields()}")

    def _side_of(self, packet: Packet) -> str:
        for name, side in self.sides.items():
            if _ends(packet) == side:
                return f"{name}>"
            if _ends(packet) == side.reversed:
                return f"{name}<"
        return f"[{packet.src.hex()}]:{packet.src_port} to [{packet.dst.hex()}]:{packet.dst_port}"

    def _shown(self, packet: Packet) -> dict[str, str]:
        """The packet's fields as a script would write them; only what is not as ever."""
        payload = packet.payload
        known = [name for name, value in self.symbols.items() if isinstance(value, bytes) and value == payload]
        if not payload:
            data = ""
        elif known:
            data = f"data={known[0]}"
        else:
            data = f"data={len(payload)} bytes {payload[:24].hex()}..{payload[-8:].hex()}#{hash(payload) & 0xFFFF:04x}"
        return {
            "flags": flag_letters(packet.flags),
            "seq": self._relative(packet.seq),
            "ack": f"ack={self._relative(packet.ack)}" if packet.is_ack or packet.ack else "",
            "win": f"win={packet.window}",
            "options": " ".join(sorted(packet.options, key=lambda token: OPTION_NAMES.index(token.partition("=")[0]))),
            "urg": f"urg={packet.urgent}" if packet.urgent else "",
            "tos": f"tos={packet.tos}" if packet.tos else "",
            "gso": f"gso={packet.gso_size}" if packet.gso_size else "",
            "data": data,
        }

    def _relative(self, number: int) -> str:
        for name, value in self.symbols.items():
            if isinstance(value, int) and len(name) <= 2 and 0 <= (number - value) % 2**32 < 1 << 20:
                distance = (number - value) % 2**32
                return f"{name}+{distance}" if distance else name
        return f"{number:#010x}"

    def _failure(self, message: str) -> ScriptError:
        return ScriptError(message + "\n\nWhat was said:\n" + "\n".join(self._transcript[-60:]))


def _parse_line(text: str) -> Line:
    side, flags, seq, *rest = text.split()
    fields = DEFAULTS | {"win": "0" if "R" in flags else "1000"}
    options = []
    for token in rest:
        name, _, value = token.partition("=")
        if name in OPTION_NAMES:
            options.append(token)
        elif name in (*DEFAULTS, "win", "data", "ttl"):
            fields[name] = value
        else:
            raise ValueError(f"cannot read {token} in: {text}")
    return Line(side[:-1], flags, seq, fields, tuple(options), text)


def _ends(packet: Packet) -> Side:
    return Side(packet.src, packet.src_port, packet.dst, packet.dst_port)
