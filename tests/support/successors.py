"""Engines that die in mid-sentence, and those that come after them with nothing but a copy of their pages of memory."""

import functools
from dataclasses import dataclass, field

from engines import collect, make_engine
from packets import sum_words
from script import EPOCH, SECRET, Conversation, Side, config

from kracauer.config import Config
from kracauer.tcp.record import PAGE_BYTES, RECORD_BYTES, Records

_SYN, _ACK = 0x02, 0x10
_parsed = functools.cache(config)


@dataclass
class Life:
    """A conversation with an engine whose records lie in `pages`; `adopted` and `discarded` are what it began with."""

    talk: Conversation
    pages: list[bytearray] = field(default_factory=list)
    adopted: int = 0
    discarded: int = 0

    @property
    def places(self) -> int:
        """How many records are in use."""
        return sum(map(bool, b"".join(page[::RECORD_BYTES] for page in self.pages)))

    def play(self, script: str) -> "Life":
        self.talk.play(script)
        return self

    def state(self) -> str:
        """The states of all flows, in order."""
        return ",".join(sorted(str(flow.state) for flow in self.talk.engine.flows))


def first_life(settings: Config | str = "", *, sides: dict[str, Side] | None = None, **symbols: int | bytes) -> Life:
    """An engine that nobody was before."""
    pages: list[bytearray] = []
    settings = _parsed(settings) if isinstance(settings, str) else settings
    engine = make_engine(settings, secret=SECRET, now=EPOCH, records=_records(pages))
    talk = Conversation(engine=engine, sides=sides)
    talk.symbols |= symbols
    return Life(talk, pages)


def next_life(life: Life, settings: Config | str = "", *, after_s: float = 0.0, pages: list[bytearray] | None = None) -> Life:
    """Another engine, `after_s` after the death of `life`, with a copy of its pages or with `pages`; nothing else is left.

    The peers, who have died of nothing, go on with the numbers they know.
    """
    collect(life.talk.engine)
    copies = [bytearray(page) for page in (life.pages if pages is None else pages)]
    heir = Life(Conversation(engine=life.talk.engine, now=life.talk.start, sides=life.talk.sides), copies)
    heir.talk.symbols = dict(life.talk.symbols)
    heir.talk.now = life.talk.now + after_s
    take_over(heir, settings)
    return heir


def take_over(life: Life, settings: Config | str = "") -> None:
    """Put another engine over the pages of `life`, and have it adopt what they hold."""
    settings = _parsed(settings) if isinstance(settings, str) else settings
    life.talk.engine = make_engine(settings, secret=SECRET, now=life.talk.now, records=_records(life.pages))
    life.adopted, life.discarded = life.talk.engine.adopt(life.talk.now)


def _records(pages: list[bytearray]) -> Records:
    def grow() -> bytearray:
        pages.append(bytearray(PAGE_BYTES))
        return pages[-1]

    return Records(pages.copy(), grow)


def comparable(data: bytes) -> bytes:
    """A packet that an engine sent, behind its vnet header, less what two engines may differ in.

    That is the identification of an IPv4 packet, with the header checksum that follows from it; and of an answer to a SYN all
    that tells of the offer, which goes by what an engine has learnt of its backends in its own life.
    """
    packet = bytearray(data[10:])
    if packet[0] >> 4 == 4:
        assert sum_words(bytes(packet[:20])) == 0xFFFF
        packet[4:6] = packet[10:12] = bytes(2)
        if packet[9] == 6 and len(packet) >= 40 and not packet[7] and packet[33] & (_SYN | _ACK) == _SYN | _ACK:
            return bytes(packet[12:24])
    return data[:10] + bytes(packet)


def fire(talk: Conversation, until: float) -> list[tuple[float, bytes]]:
    """Fire every timer up to the moment `until`; returns what that sent, and when."""
    sent = []
    while (deadline := talk.engine.next_deadline()) is not None and deadline <= until:
        talk.now = max(talk.now, deadline)
        sent += [(talk.now, comparable(bytes(data))) for data in talk.engine.handle_timer(talk.now)]
    talk.now = max(talk.now, until)
    return sent


def take_events(talk: Conversation) -> list[tuple[str, dict[str, object]]]:
    """What the engine has told since it was last asked."""
    told = [(event.event, event.fields()) for event in talk.events]
    talk.events.clear()
    while (event := talk.engine.next_event()) is not None:
        told.append((event.event, event.fields()))
    return told
