"""Spliced flows of every kind in every state, and whatever may come to one of them next."""

from typing import Final, TypeAlias

from hypothesis import strategies as st
from openings import HANDSHAKE, HELLO, PLAIN_HANDSHAKE, PLAIN_HELLO, PLAIN_SPLICED, SPLICED
from packets import FLAGS, Packet, build
from raw_packets import cut_v4, cut_v6, datagram, edit_v4, extend_v6, icmp, icmp_v6
from script import Conversation, Side
from successors import Life, first_life

Step: TypeAlias = float | list[tuple[bytes, bytes]]

_SCALED: Final = """
    0.03  B> SA b    ack=c+1 win=65535 mss=1440 sackOK ws={}
          B< PA c+1  ack=b+1 win=* data=hello
"""
# How two ends were joined; nothing is learnt of the backend but where it says less than was promised.
KINDS: Final = {
    "timestamps": SPLICED,
    "plain": PLAIN_SPLICED,
    "made-up timestamps": HANDSHAKE
    + HELLO
    + """
    0.03  B> SA b    ack=c+1 win=65535 mss=1440 sackOK ws=7
          B< PA c+1  ack=b+1 data=hello
    """,
    "smaller scale": PLAIN_HANDSHAKE + PLAIN_HELLO + _SCALED.format(2),
    "larger scale": PLAIN_HANDSHAKE + PLAIN_HELLO + _SCALED.format(9),
    "no scale": PLAIN_HANDSHAKE + PLAIN_HELLO + _SCALED.replace("ws={}", ""),
}
_TALK: Final = ("0.05 B> PA b+1 ack=c+1+H data=bulk(300)", "0.06 C> A c+1+H ack=s+301")
STATES: Final = {
    "established": _TALK,
    "client_fin": (*_TALK, "0.10 C> FA c+1+H ack=s+301"),
    "backend_fin": (*_TALK, "0.10 B> FA b+301 ack=c+1+H"),
    "both_fin": (*_TALK, "0.10 C> FA c+1+H ack=s+301", "0.20 B> FA b+301 ack=c+2+H"),
    "transitory": (*_TALK, "0.10 C> R c+1+H"),
    "transitory by backend": (*_TALK, "0.10 B> R b+301"),
    "probing": (*_TALK, "7440.2"),
    "probing, half answered": (*_TALK, "7440.2", "7441 C> A c+1+H ack=s+301"),
}


def life_of(kind: str, state: str, settings: str = "", *, sides: dict[str, Side] | None = None) -> Life:
    """An engine with one flow of this kind in this state, whatever it had to send for that."""
    life = first_life(settings, sides=sides).play(KINDS[kind])
    talk = life.talk
    for step in STATES[state]:
        time, _, line = step.partition(" ")
        talk.fire(float(time))
        if line:
            talk.exchange(talk.bytes_of(line))
    assert life.state() == state.partition(" ")[0].rstrip(",")
    talk.events.clear()
    return life


_SPREAD = st.integers(-3, 400) | st.integers(-(2**25), 2**25)
_OPTIONS = (
    (),
    ("ts=600:9500",),
    ("sack=2952790317-2952790417",),
    ("ts=700:1", "sack=5-9,20-30"),
    ("opt=1e04dead",),
    ("opt=08030101",),
)


@st.composite
def packets(draw: st.DrawFn, talk: Conversation) -> list[tuple[bytes, bytes]]:
    """Vnet headers and packets: one segment of either end, near its numbers or anywhere, whole or in pieces; or an error."""
    name = draw(st.sampled_from("CB"))
    side, symbols = talk.sides[name], talk.symbols
    starts = {"C": (symbols["c"], symbols["s"]), "B": (symbols["b"], symbols["c"])}[name]
    seq, ack = (start + draw(_SPREAD) for start in starts)
    payload = bytes(draw(st.sampled_from((0, 0, 1, 60, 1240, 1460, 1480, 4000))))
    flags = draw(st.sampled_from(("A", "A", "PA", "PA", "FA", "R", "RA", "S", "SA", "")) | st.text("FSRPAUEWN", max_size=4))
    packet = Packet(
        src=side.src,
        dst=side.dst,
        src_port=side.src_port,
        dst_port=side.dst_port,
        flags=sum(FLAGS[letter] for letter in set(flags)),
        seq=seq % 2**32,
        ack=ack % 2**32,
        window=draw(st.integers(0, 65535)),
        options=draw(st.sampled_from(_OPTIONS)),
        payload=payload,
        urgent=draw(st.sampled_from((0, 5))),
        tos=draw(st.integers(0, 255)),
        ttl=draw(st.sampled_from((64, 57, 2, 1, 0))),
        gso_size=draw(st.sampled_from((1200, 1440))) if len(payload) > 1480 or (payload and draw(st.booleans())) else 0,
    )
    vnet, data = build(packet)
    return _shaped(data, vnet, draw(st.sampled_from(_SHAPES)), side)


# None with a wrong checksum: the fast path lets its end find that out, whoever looks closer drops it.
_SHAPES = ("whole", "whole", "whole", "may fragment", "fragments", "extended", "reported")


def _shaped(data: bytes, vnet: bytes, shape: str, side: Side) -> list[tuple[bytes, bytes]]:
    is_v4 = len(side.src) == 4
    if shape == "whole" or vnet != bytes(10):
        return [(vnet, data)]
    match shape:
        case "may fragment" if is_v4:
            return [(vnet, edit_v4(data, dont_fragment=False, identification=77))]
        case "fragments":
            cut = cut_v4 if is_v4 else cut_v6
            return [(vnet, piece) for piece in cut(data, 64)] if len(data) > 110 else [(vnet, data)]
        case "extended":
            return [(vnet, edit_v4(data, options=b"\x94\x04\0\0") if is_v4 else extend_v6(data, 60, b"\x06\0\x01\x04\0\0\0\0"))]
        case "reported":
            # The other end's router reports a segment of this one's as too big, in numbers that the other end's side knows.
            quoted = _addressed(data, side.dst, side.src)
            error = datagram(side, 1, icmp(3, 4, 1300, quoted)) if is_v4 else icmp_v6(side, 2, 0, 1300, quoted)
            return [(vnet, error)]
        case _:
            return [(vnet, data)]


def _addressed(data: bytes, src: bytes, dst: bytes) -> bytes:
    """`data` the other way round, ports and all."""
    at = 12 if len(src) == 4 else 8
    ports = at + 2 * len(src)
    return data[:at] + src + dst + data[ports + 2 : ports + 4] + data[ports : ports + 2] + data[ports + 4 :]


def steps(talk: Conversation) -> st.SearchStrategy[list[Step]]:
    """What happens next: packets, and seconds that pass."""
    passing = st.sampled_from((0.05, 0.3, 1.0, 100.0, 130.0, 240.2, 4000.0, 7440.1))
    return st.lists(packets(talk) | packets(talk) | packets(talk) | passing, min_size=1, max_size=10)
