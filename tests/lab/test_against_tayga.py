"""What Kracauer makes of packets is what another translator makes of them, field by field, but for differences that are listed.

TAYGA translates addresses alone, so the flow is one whose numbers and ports stay as they are: its backend happens to have the
sequence number that the client was shown. Random packets go through both, and whatever differs has to be explained.
"""

import dataclasses
import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Final

import pytest
import tayga
from dissection import Fields, dissect
from openings import PLAIN_SPLICED
from packets import Packet, build, sum_words
from raw_packets import cut_v4, cut_v6, datagram, edit_v4, extend_v6, icmp, icmp_v6, join_v4, join_v6
from script import Conversation, Side, backend_side, client_side, config
from tayga import Tayga

from kracauer.lab.topology import Lab

pytestmark = pytest.mark.lab

Find = Callable[[str], str]
COUNT: Final = 1500  # of each kind
CLIENT, BACKEND = client_side(), backend_side()
MAPPED_PREFIX: Final = tayga.PREFIX.packed[:12]
SAME_NUMBERS: Final = PLAIN_SPLICED.replace("SA b", "SA s").replace("ack=b+1", "ack=s+1")
SIZES: Final = (0, 1, 2, 100, 536, 1180, 1199, 1200, 1201, 1219, 1220, 1221, 1240, 1300, 1399, 1400, 1440)
ERRORS_V4, ERRORS_V6 = (3, 11, 12), (1, 2, 3, 4)


def spliced() -> Conversation:
    settings = config()
    network = dataclasses.replace(settings.network, router_sources=(IPv4Address(tayga.OWN_V4),))
    talk = Conversation(dataclasses.replace(settings, network=network)).play(SAME_NUMBERS)
    talk.take_sent()
    return talk


@pytest.fixture
def other(program: Find) -> Iterator[Tayga]:
    """A new one for each test: after some errors it takes to clearing DF in all that it translates."""
    path = program("tayga")
    with Lab() as lab, tayga.running(lab, path) as running:
        yield running


def mended(packet: bytes) -> bytes:
    """The TCP packet, without IPv4 options, with the checksum that it should have."""
    start, addresses = (20, packet[12:20]) if packet[0] >> 4 == 4 else (40, packet[8:40])
    segment = packet[start : start + 16] + bytes(2) + packet[start + 18 :]
    value = 0xFFFF - sum_words(addresses + struct.pack("!II", len(segment), 6) + segment)
    return packet[: start + 16] + value.to_bytes(2, "big") + packet[start + 18 :]


class Generator:
    """Random packets about one flow, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def segment(self, side: Side) -> bytes:
        """Any segment but one with SYN, with options that may be nonsense; half of them plain as most are."""
        chance = self._random
        options = chance.randbytes(4 * chance.choice((0, 0, 0, 3, 10)))
        flags = chance.getrandbits(12) & ~0x002
        packet = Packet(
            side.src,
            side.dst,
            side.src_port,
            side.dst_port,
            0x010 | flags & 0x0C8 if chance.random() < 0.5 else flags,
            seq=chance.getrandbits(32),
            ack=chance.getrandbits(32),
            window=chance.getrandbits(16),
            payload=options + chance.randbytes(min(chance.choice(SIZES), 1440 - len(options))),
            urgent=chance.getrandbits(16),
            tos=chance.getrandbits(8),
            ttl=chance.choice((1, 2, 3, 57, 64, 255)),
        )
        data = bytearray(build(packet)[1])
        at = (20 if len(side.src) == 4 else 40) + 12
        data[at] = (5 + len(options) // 4) << 4 | data[at] & 0x0F
        return mended(bytes(data))

    def from_client(self) -> bytes:
        chance = self._random
        packet = self.segment(CLIENT)
        options = chance.choice((b"", b"", b"\1\1\1\0", b"\7\7\4\0\0\0\0", b"\x94\4\0\0"))
        if packet[8] == 1:  # what is answered quotes them: see the test of that
            options = b""
        is_df = chance.random() < 0.6
        return edit_v4(packet, options=options, dont_fragment=is_df, identification=chance.getrandbits(16))

    def from_backend(self) -> bytes:
        chance = self._random
        packet = bytearray(self.segment(BACKEND))
        packet[1:4] = (int.from_bytes(packet[1:4], "big") | chance.getrandbits(20)).to_bytes(3, "big")
        kind = chance.choice((0, 0, 0, 0, 43, 44, 60)) if packet[7] > 1 and len(packet) <= 1460 else 0
        match kind:
            case 43:
                return extend_v6(bytes(packet), 43, b"\6\0\0\0\0\0\0\0")
            case 44:
                return extend_v6(bytes(packet), 44, b"\6\0\0\0" + chance.randbytes(4))
            case 60:
                return extend_v6(bytes(packet), 0, b"\x3c\0\1\4\0\0\0\0" + b"\6\0\1\4\0\0\0\0")
        return bytes(packet)

    def error_v4(self) -> bytes:
        """An ICMP message from a router or the client, mostly an error about a segment to the client."""
        chance = self._random
        quoted = self.segment(Side(CLIENT.dst, CLIENT.dst_port, CLIENT.src, CLIENT.src_port))
        options = chance.choice((b"", b"", b"\1\1\1\0"))
        quoted = edit_v4(quoted, options=options, dont_fragment=chance.random() < 0.7, identification=chance.getrandbits(16))
        kind = chance.choice((3, 3, 3, 11, 12, 0, 4, 5, 13, 99))
        code = chance.randrange(17) if kind == 3 else chance.randrange(3)
        rest = chance.choice((0, chance.randrange(20) << 24))
        if chance.random() < 0.3:
            kind, code, rest = 3, 4, chance.choice((0, 68, 552, 1000, 1260, 1261, 1300, 1480, 1500, 65535))
        quoted = quoted[: chance.choice((28 + len(options), 40, 41, 60, 200, 548, 1000, 1400))]
        sender = chance.choice((CLIENT.src, bytes((203, 0, 113, chance.randrange(1, 250)))))
        packet = datagram(Side(sender, 0, CLIENT.dst, 0), 1, icmp(kind, code, rest, quoted), ttl=chance.choice((1, 2, 57)))
        return edit_v4(packet[:1] + chance.randbytes(1) + packet[2:], dont_fragment=True)

    def error_v6(self) -> bytes:
        """Likewise from a router of IPv6 or the backend."""
        chance = self._random
        quoted = self.segment(Side(BACKEND.dst, BACKEND.dst_port, BACKEND.src, BACKEND.src_port))
        kind = chance.choice((1, 1, 2, 2, 3, 4, 4, 5, 127, 130))
        code = chance.randrange(8) if kind == 1 else chance.randrange(3)
        rest = {
            2: chance.choice((0, 500, 1280, 1281, 1400, 1500, 9000, 1 << 20)),
            4: chance.choice((0, chance.randrange(44))),
        }.get(kind, 0)
        router = tayga.OWN_V6[:15] + bytes((chance.randrange(9, 200),))
        sender = Side(chance.choice((BACKEND.src, router)), 0, BACKEND.dst, 0)
        quoted = quoted[: chance.choice((48, 60, 61, 80, 200, 1232))]
        packet = icmp_v6(sender, kind, code, rest, quoted, hop_limit=chance.choice((1, 2, 57)))
        return bytes((0x60 | chance.getrandbits(4),)) + packet[1:]


@dataclasses.dataclass(frozen=True)
class Case:
    """What was sent to both, what came of it, and the names of the fields in which that differs ("count": in number)."""

    sent: Fields
    ours: list[Fields]
    theirs: list[Fields]
    reasons: list[object]
    differing: set[str]

    @property
    def is_v6(self) -> bool:
        return "flow_label" in self.sent

    @property
    def is_error(self) -> bool:
        return self.sent.get("type") in (ERRORS_V6 if self.is_v6 else ERRORS_V4)

    @property
    def is_answer(self) -> bool:
        """Whether both went back to the sender."""
        return bool(self.ours) and all(("flow_label" in result) is self.is_v6 for result in self.ours + self.theirs)

    @property
    def is_dropped_there_only(self) -> bool:
        return len(self.ours) > len(self.theirs) == 0


def compare(talk: Conversation, other: Tayga, packet: bytes) -> Case:
    """Give a packet to both."""
    known = len(talk.events)
    ours = [dissect(result) for result in talk.exchange_plain(packet)]
    theirs = [dissect(result) for result in other.exchange(packet)]
    differing = {"count"}
    if len(ours) == len(theirs):
        differing = {
            key
            for mine, their in zip(ours, theirs, strict=True)
            for key in mine.keys() | their.keys()
            if mine.get(key) != their.get(key)
        }
    reasons = [event.fields().get("reason") for event in talk.events[known:]]
    return Case(dissect(packet), ours, theirs, reasons, differing)


def number(fields: Fields, key: str) -> int:
    value = fields[key]
    assert isinstance(value, int)
    return value


def has_no_df(case: Case) -> bool:
    """RFC 7915 §5.1: DF is clear, and so the identification set, up to 1260 bytes; TAYGA always sets DF."""
    [ours], [theirs] = case.ours, case.theirs
    is_short = number(ours, "length") <= 1240
    told = [(result["dont_fragment"], result["identification"] != 0) for result in (ours, theirs)]
    return case.is_v6 and not case.is_answer and is_short and told == [(0, True), (1, False)]


def quotes_no_df(case: Case) -> bool:
    """The same rule for the packet in an error (RFC 7915 §5.3)."""
    [ours], [theirs] = case.ours, case.theirs
    told = (ours["inner_dont_fragment"], theirs["inner_dont_fragment"])
    return case.is_v6 and case.is_error and number(ours, "inner_length") <= 1240 and told == (0, 1)


def answers_as_the_service(case: Case) -> bool:
    """RFC 1812 §4.3.2.5 asks for internetwork control in our own errors; who sends them differs."""
    [ours], [theirs] = case.ours, case.theirs
    service = (MAPPED_PREFIX + tayga.SERVICE) if case.is_v6 else tayga.SERVICE
    own = tayga.OWN_V6 if case.is_v6 else tayga.OWN_V4
    toses = (ours["tos"], theirs["tos"]) == ((0, 0) if case.is_v6 else (0xC0, 0))
    return case.is_answer and toses and (ours["src"], theirs["src"]) == (service.hex(), own.hex())


def knows_the_ipv6_minimum(case: Case) -> bool:
    """RFC 8201 §4: less than 1280 is not believed."""
    [ours], [theirs] = case.ours, case.theirs
    is_low = case.is_v6 and case.sent.get("type") == 2 and number(case.sent, "rest") < 1280
    return is_low and (ours["rest"], theirs["rest"]) == (1260, number(case.sent, "rest") - 20)


def translates_a_packet_too_big_of_no_size(case: Case) -> bool:
    """Likewise for less than 68, which TAYGA drops."""
    is_low = case.is_v6 and case.sent.get("type") == 2 and number(case.sent, "rest") < 68
    return is_low and case.is_dropped_there_only and case.ours[0]["rest"] == 1260


def translates_parameter_problems(case: Case) -> bool:
    """RFC 7915 §4.2 and §5.2 have tables for pointers; TAYGA drops these errors."""
    is_one = case.sent.get("type") == (4 if case.is_v6 else 12)
    return is_one and case.sent["code"] != (1 if case.is_v6 else None) and case.is_dropped_there_only


def translates_an_unreachable_address(case: Case) -> bool:
    """RFC 7915 §5.2: code 3 is Host Unreachable; TAYGA drops it."""
    return case.is_v6 and (case.sent.get("type"), case.sent.get("code")) == (1, 3) and case.is_dropped_there_only


def has_an_address_for_any_router(case: Case) -> bool:
    """RFC 6791: TAYGA has one for routers without an IPv4 address in two kinds of errors only."""
    is_foreign = case.is_v6 and case.sent["src"] != tayga.BACKEND.hex()
    is_theirs = case.sent.get("type") == 2 or (case.sent.get("type"), case.sent.get("code")) == (1, 0)
    return is_foreign and case.is_error and not is_theirs and case.is_dropped_there_only


def needs_but_eight_bytes(case: Case) -> bool:
    """RFC 792: an error may quote as little of the segment; TAYGA wants a whole TCP header."""
    header = 40 if case.is_v6 else 20 + len(str(case.sent.get("inner_options", ""))) // 2
    return case.is_error and number(case.sent, "quoted") - header < 20 and case.is_dropped_there_only


def translates_no_echo(case: Case) -> bool:
    """A splice of TCP has nobody to whom an echo reply could be carried."""
    return not case.is_v6 and case.sent.get("type") == 0 and not case.ours and bool(case.theirs)


def measures_the_result(case: Case) -> bool:
    """RFC 7915 §4: what counts is whether the result fits; TAYGA counts IPv4 options in, which are not translated."""
    [ours], [theirs] = case.ours, case.theirs
    is_refused = (theirs.get("type"), theirs.get("code")) == (3, 4)
    return bool(case.sent.get("options")) and is_refused and "flow_label" in ours and number(ours, "length") <= 1460


# Which fields each explains: for those that nothing explains the test fails, and so it does for what explains nothing
ONE_RESULT: Final = {
    has_no_df: {"dont_fragment", "identification"},
    quotes_no_df: {"inner_dont_fragment"},
    answers_as_the_service: {"src", "tos", "identification"},
    knows_the_ipv6_minimum: {"rest"},
}
NUMBERS: Final = (
    translates_a_packet_too_big_of_no_size,
    translates_parameter_problems,
    translates_an_unreachable_address,
    has_an_address_for_any_router,
    needs_but_eight_bytes,
    translates_no_echo,
)


def explain(case: Case) -> set[str]:
    """The names of the known differences that account for all that differs."""
    if not case.differing:
        return set()
    if case.differing == {"count"}:
        names = {known.__name__ for known in NUMBERS if known(case)}
        assert names, f"{case.sent}: {len(case.ours)} and {len(case.theirs)}, {case.reasons}"
        return names
    if measures_the_result(case):
        return {measures_the_result.__name__}
    left, names = set(case.differing), set()
    for known, fields in ONE_RESULT.items():
        if left & fields and len(case.ours) == 1 and known(case):
            left -= fields
            names.add(known.__name__)
    assert not left, f"{left} of {case}"
    return names


KINDS: Final = {
    "from_client": (Generator.from_client, {"answers_as_the_service", "measures_the_result"}),
    "from_backend": (Generator.from_backend, {"has_no_df", "answers_as_the_service"}),
    "error_v4": (Generator.error_v4, {"translates_parameter_problems", "needs_but_eight_bytes", "translates_no_echo"}),
    "error_v6": (
        Generator.error_v6,
        {
            "has_no_df",
            "quotes_no_df",
            "knows_the_ipv6_minimum",
            "translates_a_packet_too_big_of_no_size",
            "translates_parameter_problems",
            "translates_an_unreachable_address",
            "has_an_address_for_any_router",
            "needs_but_eight_bytes",
        },
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_random_packets_become_the_same_in_both_but_for_what_is_known(other: Tayga, kind: str) -> None:
    generate, expected = KINDS[kind]
    generator, found, same, translated = Generator(7915), Counter[str](), 0, 0
    talk = spliced()
    for _ in range(COUNT):
        case = compare(talk, other, generate(generator))
        names = explain(case)
        found.update(names)
        same += not names
        translated += bool(case.ours)
        # A RST or FIN moves the flow on, and errors are limited: the next packet finds all as it was
        talk = spliced() if kind.startswith("from") else talk
        talk.now += 0.01
    assert set(found) == expected
    assert same > COUNT / 4
    assert translated > COUNT / 4


CUTS: Final = [(24,), (200,), (1200,), (40, 80), (400, 800), (1000, 1200)]
PAYLOAD: Final = bytes(range(250)) * 5


def plain(side: Side, size: int = len(PAYLOAD)) -> bytes:
    return build(Packet(side.src, side.dst, side.src_port, side.dst_port, 0x018, 7, 8, payload=PAYLOAD[:size]))[1]


def whole_v6(packets: list[bytes]) -> bytes:
    return join_v6(packets)[0] if packets[0][6] == 44 else packets[0]


def whole_v4(packets: list[bytes]) -> Fields:
    whole = packets[0] if len(packets) == 1 else join_v4(packets)
    return {key: value for key, value in dissect(whole).items() if key != "flags"}


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_a_clients_fragments_make_up_the_same_segment_behind_both(other: Tayga, cuts: tuple[int, ...]) -> None:
    talk = spliced()
    fragments = cut_v4(plain(CLIENT), *cuts)
    ours = [result for fragment in fragments for result in talk.exchange_plain(fragment)]
    assert whole_v6(ours) == whole_v6(other.exchange(*fragments))


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_a_backends_fragments_make_up_the_same_segment_behind_both(other: Tayga, cuts: tuple[int, ...]) -> None:
    talk = spliced()
    fragments = cut_v6(plain(BACKEND), *cuts)
    ours = [result for fragment in fragments for result in talk.exchange_plain(fragment)]
    assert whole_v4(ours) == whole_v4(other.exchange(*fragments))


def kinds(packets: list[bytes]) -> list[tuple[object, object]]:
    """Type and code of ICMP messages; None for segments."""
    return [(fields.get("type"), fields.get("code")) for fields in map(dissect, packets)]


def test_a_source_route_not_yet_walked_is_refused_here_and_followed_there(other: Tayga) -> None:
    """RFC 7915 §4.1."""
    packet = edit_v4(plain(CLIENT, 10), options=b"\x83\7\4\1\2\3\4\0")
    assert kinds(spliced().exchange_plain(packet)) == [(3, 5)]
    assert kinds(other.exchange(packet)) == [(None, None)]


def test_a_routing_header_with_segments_left_is_refused_here_and_ignored_there(other: Tayga) -> None:
    """RFC 7915 §5.1."""
    packet = extend_v6(plain(BACKEND, 10), 43, b"\6\0\0\1\0\0\0\0")
    assert kinds(spliced().exchange_plain(packet)) == [(4, 0)]
    assert kinds(other.exchange(packet)) == [(None, None)]


def test_an_old_routers_fragmentation_needed_names_the_plateau_below_the_packet_in_both(other: Tayga) -> None:
    """RFC 1191 §7.1: below 1480 bytes that are 1006, so that 1280 is what IPv6 is told; below 1500 they are 1492."""
    quoted = bytearray(plain(Side(CLIENT.dst, CLIENT.dst_port, CLIENT.src, CLIENT.src_port)))
    told = {}
    for length in (1480, 1500):
        quoted[2:4] = length.to_bytes(2, "big")
        packet = datagram(Side(CLIENT.src, 0, CLIENT.dst, 0), 1, icmp(3, 4, 0, bytes(quoted)))
        told[length] = [dissect(result)["rest"] for result in spliced().exchange_plain(packet) + other.exchange(packet)]
    assert told == {1480: [1280, 1280], 1500: [1500, 1500]}


def test_the_length_of_an_extended_error_is_kept_here_and_lost_there(other: Tayga) -> None:
    """RFC 4884 §4: IPv4 counts words of four bytes, IPv6 of eight."""
    quoted = plain(Side(BACKEND.dst, BACKEND.dst_port, BACKEND.src, BACKEND.src_port), 100)
    extension = bytes.fromhex("2000dfff" + "0008010112345678")
    extension = (
        extension[:2] + (0xFFFF - sum_words(extension[:2] + bytes(2) + extension[4:])).to_bytes(2, "big") + extension[4:]
    )
    packet = icmp_v6(BACKEND, 1, 4, len(quoted) // 8 << 24, quoted + extension)
    [ours], [theirs] = spliced().exchange_plain(packet), other.exchange(packet)
    length = int.from_bytes(ours[20 + 5 : 20 + 6], "big") * 4
    assert length >= 128
    assert ours[28 + length :] == extension
    assert theirs[25] * 4 != len(theirs) - 28 - len(extension)


@pytest.mark.parametrize("side", [CLIENT, BACKEND], ids=["client", "backend"])
def test_a_wrong_checksum_is_as_wrong_behind_both(other: Tayga, side: Side) -> None:
    packet = plain(side)[:-1] + b"!"
    case = compare(spliced(), other, packet)
    assert explain(case) <= {"has_no_df"}
    assert case.ours[0]["checksum"] != 0


@pytest.mark.parametrize(
    "packet",
    [
        edit_v4(plain(CLIENT, 10), options=b"\7\7\4\0\0\0\0", ttl=1),
        extend_v6(plain(BACKEND, 10), 60, b"\6\0\1\4\0\0\0\0", hop_limit=1),
    ],
    ids=["IPv4 options", "IPv6 extension headers"],
)
def test_an_error_of_our_own_quotes_the_packet_as_it_came(other: Tayga, packet: bytes) -> None:
    """RFC 1812 §4.3.2.3, RFC 4443 §3.3."""
    start = 28 if packet[0] >> 4 == 4 else 48
    [ours], [theirs] = spliced().exchange_plain(packet), other.exchange(packet)
    assert theirs[start:] == packet
    assert ours[start:] == packet
