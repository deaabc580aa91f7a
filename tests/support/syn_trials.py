"""SYNs of all kinds, and what the gate answers them with: what every fast path's answer is held to."""

import hashlib
from dataclasses import dataclass, field

from hypothesis import strategies as st
from packets import Packet, build, parse_flags, sum_words
from raw_packets import edit_v4
from script import EPOCH, SECRET

from kracauer.config import parse_config
from kracauer.engine.context import Context
from kracauer.engine.gate import Gate
from kracauer.fast_path import Promise, Promises
from kracauer.tcp.record import Records
from kracauer.tcp.terms import Offer
from kracauer.wire.buffer import PACKET_START, Frame
from kracauer.wire.vnet_hdr import LENGTH as VNET_LENGTH

SERVICE, OTHER_SERVICE = bytes((198, 51, 100, 1)), bytes((198, 51, 100, 2))
CLIENT = bytes((192, 0, 2, 7))
PORT = 443
CONFIG = parse_config("""
prefix = "2001:db8:46::/96"
[[listen]]
address = "198.51.100.1"
port = 443
[[listen]]
address = "198.51.100.2"
port = 443
deny = ["203.0.113.0/24"]
[hosts]
"www.example.com" = "2001:db8:1::2"
""")

# By who sends them.
LAYOUTS = {
    "Linux": ("mss=1460", "sackOK", "ts=5000:0", "ws=7"),
    "Linux without timestamps": ("mss=1460", "opt=01010402", "ws=7"),
    "Linux without SACK": ("mss=1460", "ts=77:0", "ws=9"),
    "Windows": ("mss=1460", "ws=8", "opt=01010402"),
    "macOS": ("mss=1460", "ws=6", "opt=0101080a" + "0000abcd" + "00000000", "opt=04020000"),
    "FreeBSD": ("mss=1460", "ws=6", "opt=0402080a" + "12345678" + "00000000"),
    "OpenBSD": ("mss=1460", "opt=01010402", "ws=6", "opt=0101080a" + "87654321" + "00000000"),
    "NetBSD": ("mss=1460", "ws=3", "opt=04020101", "opt=0101080a" + "00000001" + "00000000"),
    "a scanner": ("mss=1460",),
    "a flooder": (),
}

offers = st.builds(
    Offer,
    mss=st.sampled_from([1440, 1220, 536, 65535]),
    window_scale=st.none() | st.integers(0, 14),
    sack=st.booleans(),
    timestamps=st.booleans(),
    ecn=st.booleans(),
    window=st.sampled_from([65535, 64240, 0]),
)
promises = st.builds(lambda offer, cut: Promise(offer, min(offer.mss, cut)), offers, st.sampled_from([1220, 1500]))
_words = st.sampled_from(
    [
        *(b"\x02\x04\x05\xb4", b"\x02\x04\x00\x00", b"\x02\x04\x22\xc4", b"\x02\x04\x02\x17", b"\x02\x04\xff\xff"),
        *(b"\x01\x03\x03\x00", b"\x01\x03\x03\x07", b"\x01\x03\x03\x0e", b"\x01\x03\x03\x0f", b"\x01\x03\x03\xff"),
        *(
            b"\x01\x01\x04\x02",
            b"\x04\x02\x01\x01",
            b"\x04\x02\x00\x00",
            b"\x01\x01\x01\x01",
            b"\x00\x00\x00\x00",
            b"\x00\x02\x04\x05",
        ),
        *(
            b"\x01\x01\x08\x0a",
            b"\x04\x02\x08\x0a",
            b"\x1e\x04\x01\x81",
            b"\x13\x12\x00\x00",
            b"\x03\x03\x07\x01",
            b"\x08\x0a\x01\x01",
        ),
    ]
)
options = st.one_of(
    st.lists(_words, max_size=10).map(b"".join),
    st.lists(_words | st.binary(min_size=4, max_size=4), max_size=10).map(b"".join),
)
FLAGS = ["S", "S", "S", "SEW", "SEW", "SE", "SW", "SP", "SU", "SN", "SA", "SF", "SR", "A", "."]
syns = st.builds(
    Packet,
    src=st.just(CLIENT) | st.binary(min_size=4, max_size=4),
    dst=st.just(SERVICE),
    src_port=st.sampled_from([40000, 1, 65535]) | st.integers(0, 65535),
    dst_port=st.just(PORT),
    flags=st.sampled_from(FLAGS).map(parse_flags),
    seq=st.sampled_from([0, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF),
    ack=st.sampled_from([0, 77]),
    window=st.integers(0, 65535),
    options=options.map(lambda raw: (f"opt={raw.hex()}",) if raw else ()),
    payload=st.sampled_from([b"", b"", b"", b"x"]),
    urgent=st.sampled_from([0, 3]),
    tos=st.sampled_from([0, 2, 255]),
    ttl=st.sampled_from([64, 1, 0]),
)


def syn(layout: str = "Linux", **changes: object) -> Packet:
    """A SYN as such a stack sends it."""
    fields = {"src": CLIENT, "dst": SERVICE, "src_port": 40000, "dst_port": PORT, "flags": parse_flags("S"), "seq": 1000}
    return Packet(**{**fields, "options": LAYOUTS[layout], **changes})  # type: ignore[arg-type]


def data_of(packet: Packet, *, dont_fragment: bool = True) -> bytes:
    """Its bytes, with or without DF."""
    return edit_v4(build(packet)[1], dont_fragment=dont_fragment)


def flip(data: bytes, at: int, bits: int) -> bytes:
    """The packet with these bits of one byte changed, and no checksum with them."""
    return data[:at] + bytes((data[at] ^ bits,)) + data[at + 1 :]


def to_complete(data: bytes) -> bytes:
    """The packet with the sum that a checksum begins with which the hardware is to complete (linux/skbuff.h)."""
    total = sum_words(data[12:20] + (6).to_bytes(2, "big") + (len(data) - 20).to_bytes(2, "big"))
    return data[:36] + total.to_bytes(2, "big") + data[38:]


def promised(promise: Promise, secret: bytes = SECRET) -> Promises:
    """What a fast path is told: everybody may use this one listener, and there is another address."""
    return Promises(secret, {(SERVICE, PORT): promise}, frozenset({SERVICE, OTHER_SERVICE}))


@dataclass
class Porter:
    """The gate of an engine that offers what is `promise`d."""

    promise: Promise
    secret: bytes = SECRET
    context: Context = field(init=False)

    def __post_init__(self) -> None:
        self.context = Context(CONFIG, self.secret, EPOCH, Records())
        self.context.cut_mtu = self.promise.cut_mss + 60
        self.context.listeners[SERVICE, PORT].offers.replace(self.promise.offer, EPOCH)
        self._gate, self._frame = Gate(self.context), Frame()

    def answer(self, data: bytes, now: float, vnet: bytes = bytes(10)) -> bytes | None:
        """What it sends in answer; None for nothing."""
        self._frame.load(data, vnet)
        key = bytes(self._frame.buffer[PACKET_START + 12 : PACKET_START + 24])
        answer = self._gate.receive(self._frame, key, now)
        return bytes(answer[0][VNET_LENGTH:]) if isinstance(answer, tuple | list) and answer else None


def digest(data: bytes) -> bytes:
    """32 bytes that depend on all of `data`: a secret that is another one each time."""
    return hashlib.sha256(data).digest()
