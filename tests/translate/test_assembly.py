import pytest
from icmp_quotes import BACKEND6, CLIENT4, MAPPED6, SERVICE4
from scapy_oracle import (
    IP,
    TCP,
    IPOption_NOP,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
)

from kracauer.errors import Dropped, DropReason, ParseError
from kracauer.translate.assembly import MAX_PIECES, Assembly, Piece, parse_piece_v4, parse_piece_v6


def fragment_v4(offset: int, data: bytes, *, more: bool, proto: int = 17, df: bool = False, **header: object) -> bytes:
    flags = "+".join(["MF"] * more + ["DF"] * df)
    return bytes(IP(src=CLIENT4, dst=SERVICE4, id=7, frag=offset // 8, flags=flags, proto=proto, **header) / Raw(data))


def fragment_v6(offset: int, data: bytes, *, more: bool, nh: int = 17, **header: object) -> bytes:
    fragment = IPv6ExtHdrFragment(offset=offset // 8, m=int(more), id=0x1234567, nh=nh)
    return bytes(IPv6(src=BACKEND6, dst=MAPPED6, **header) / fragment / Raw(data))


def piece_v4(offset: int, data: bytes, *, more: bool, **header: object) -> Piece:
    piece = parse_piece_v4(fragment_v4(offset, data, more=more, **header))  # type: ignore[arg-type]
    assert piece is not None
    return piece


def piece_v6(offset: int, data: bytes, *, more: bool, **header: object) -> Piece:
    piece = parse_piece_v6(fragment_v6(offset, data, more=more, **header))  # type: ignore[arg-type]
    assert piece is not None
    return piece


def assemble(*pieces: Piece) -> Assembly:
    assembly = Assembly()
    for piece in pieces:
        assert assembly.add(piece)
    return assembly


def reason_to_drop(assembly: Assembly, piece: Piece) -> DropReason:
    with pytest.raises(Dropped) as dropped:
        assembly.add(piece)
    return dropped.value.reason


FIRST = b"first..." * 4
SECOND = b"second.." * 3
LAST = b"last"


# Reading a fragment.


def test_a_whole_packet_is_no_piece() -> None:
    assert parse_piece_v4(bytes(IP(src=CLIENT4, dst=SERVICE4, flags="DF") / TCP())) is None
    assert parse_piece_v6(bytes(IPv6(src=BACKEND6, dst=MAPPED6) / TCP())) is None


def test_a_packet_that_is_its_own_only_fragment_is_no_piece() -> None:
    assert parse_piece_v6(fragment_v6(0, FIRST, more=False)) is None


def test_an_ipv4_fragment_says_where_it_belongs() -> None:
    piece = piece_v4(64, SECOND, more=True)
    assert (piece.start, piece.end, piece.is_last, piece.data) == (64, 88, False, SECOND)
    assert (piece.protocol, piece.identification) == (17, 7)


def test_an_ipv6_fragment_says_where_it_belongs() -> None:
    piece = piece_v6(64, LAST, more=False)
    assert (piece.start, piece.end, piece.is_last, piece.data) == (64, 68, True, LAST)
    assert (piece.protocol, piece.identification) == (17, 0x1234567)


@pytest.mark.parametrize("change", [{"src": SERVICE4}, {"dst": CLIENT4}, {"id": 8}, {"proto": 47}])
def test_each_part_of_the_key_tells_ipv4_datagrams_apart(change: dict[str, object]) -> None:
    layers = IP(fragment_v4(0, FIRST, more=True))
    for name, value in change.items():
        setattr(layers, name, value)
    del layers.chksum
    other = parse_piece_v4(bytes(layers))
    assert other is not None
    assert other.key != piece_v4(0, FIRST, more=True).key


def test_addresses_and_identification_tell_ipv6_datagrams_apart_and_the_next_header_does_not() -> None:
    piece = piece_v6(0, FIRST, more=True)
    assert piece_v6(0, FIRST, more=True, nh=47).key == piece.key
    for src, dst, identification in ((MAPPED6, MAPPED6, 0x1234567), (BACKEND6, BACKEND6, 0x1234567), (BACKEND6, MAPPED6, 1)):
        fragment = IPv6ExtHdrFragment(m=1, id=identification, nh=17)
        other = parse_piece_v6(bytes(IPv6(src=src, dst=dst) / fragment / Raw(FIRST)))
        assert other is not None
        assert other.key != piece.key


@pytest.mark.parametrize("data", [b"", b"1234567", b"123456789"])
def test_only_the_last_fragment_may_end_between_eight_bytes(data: bytes) -> None:
    with pytest.raises(ParseError, match="not the last"):
        parse_piece_v4(fragment_v4(0, data, more=True))
    with pytest.raises(ParseError, match="not the last"):
        parse_piece_v6(fragment_v6(0, data, more=True))


def test_a_last_fragment_without_data_is_refused() -> None:
    with pytest.raises(ParseError, match="0 bytes"):
        parse_piece_v4(fragment_v4(64, b"", more=False))


@pytest.mark.parametrize(("length", "fits"), [(65535 - 20 - 65504, True), (65535 - 20 - 65504 + 1, False)])
def test_no_ipv4_datagram_is_longer_than_its_header_can_say(length: int, fits: bool) -> None:
    packet = fragment_v4(65504, bytes(length), more=False)
    if fits:
        assert parse_piece_v4(packet) is not None
        return
    with pytest.raises(ParseError, match="ends at byte 65516"):
        parse_piece_v4(packet)


@pytest.mark.parametrize(("length", "fits"), [(31, True), (32, False)])
def test_no_ipv6_datagram_is_longer_than_its_header_can_say(length: int, fits: bool) -> None:
    packet = fragment_v6(65504, bytes(length), more=False)
    if fits:
        assert parse_piece_v6(packet) is not None
        return
    with pytest.raises(ParseError, match="ends at byte 65536"):
        parse_piece_v6(packet)


def test_a_first_fragment_without_the_whole_fixed_tcp_header_is_tiny() -> None:
    for parse, packet in (
        (parse_piece_v4, fragment_v4(0, bytes(16), more=True, proto=6)),
        (parse_piece_v6, fragment_v6(0, bytes(16), more=True, nh=6)),
    ):
        with pytest.raises(Dropped) as dropped:
            parse(packet)
        assert dropped.value.reason is DropReason.FRAGMENT_TINY


def test_a_first_fragment_with_the_fixed_tcp_header_is_not_tiny() -> None:
    assert parse_piece_v4(fragment_v4(0, bytes(24), more=True, proto=6)) is not None
    assert parse_piece_v6(fragment_v6(0, bytes(24), more=True, nh=6)) is not None


@pytest.mark.parametrize("offset", [8, 16])
def test_a_later_fragment_with_part_of_the_tcp_header_is_tiny(offset: int) -> None:
    for parse, packet in (
        (parse_piece_v4, fragment_v4(offset, bytes(64), more=True, proto=6)),
        (parse_piece_v6, fragment_v6(offset, bytes(64), more=True, nh=6)),
    ):
        with pytest.raises(Dropped) as dropped:
            parse(packet)
        assert dropped.value.reason is DropReason.FRAGMENT_TINY


def test_a_first_ipv6_fragment_whose_tcp_header_comes_behind_options_can_be_tiny_too() -> None:
    tiny = bytes(IPv6ExtHdrDestOpt(nh=6)) + bytes(16)
    with pytest.raises(Dropped) as dropped:
        parse_piece_v6(fragment_v6(0, tiny, more=True, nh=60))
    assert dropped.value.reason is DropReason.FRAGMENT_TINY


def test_a_first_ipv6_fragment_that_breaks_off_within_extension_headers_is_refused() -> None:
    options = bytes(IPv6ExtHdrDestOpt(nh=6, len=3))[:8]
    with pytest.raises(ParseError, match="runs out"):
        parse_piece_v6(fragment_v6(0, options, more=True, nh=60))


# Putting together.


def test_pieces_make_the_ipv4_datagram_that_was_cut() -> None:
    datagram = assemble(piece_v4(0, FIRST, more=True), piece_v4(32, LAST, more=False)).build()
    assert datagram.packet == bytes(IP(src=CLIENT4, dst=SERVICE4, id=7, proto=17) / Raw(FIRST + LAST))
    assert (datagram.identification, datagram.largest_fragment, datagram.dont_fragment) == (7, 52, False)


def test_pieces_make_the_ipv6_datagram_that_was_cut() -> None:
    datagram = assemble(piece_v6(0, FIRST, more=True), piece_v6(32, LAST, more=False)).build()
    assert datagram.packet == bytes(IPv6(src=BACKEND6, dst=MAPPED6, nh=17) / Raw(FIRST + LAST))
    assert (datagram.identification, datagram.largest_fragment, datagram.dont_fragment) == (0x1234567, 80, False)


def test_options_of_the_first_ipv4_fragment_are_the_datagrams() -> None:
    first = piece_v4(0, FIRST, more=True, options=[IPOption_NOP()] * 4)
    datagram = assemble(piece_v4(32, LAST, more=False), first).build()
    expected = IP(src=CLIENT4, dst=SERVICE4, id=7, proto=17, options=[IPOption_NOP()] * 4) / Raw(FIRST + LAST)
    assert datagram.packet == bytes(expected)


def test_extension_headers_before_the_fragment_header_stay() -> None:
    fragment = IPv6ExtHdrFragment(m=1, id=0x1234567, nh=17)
    before = IPv6(src=BACKEND6, dst=MAPPED6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(segleft=0)
    first = parse_piece_v6(bytes(before / fragment / Raw(FIRST)))
    assert first is not None
    datagram = assemble(first, piece_v6(32, LAST, more=False)).build()
    hop_by_hop, routing = IPv6ExtHdrHopByHop(), IPv6ExtHdrRouting(segleft=0, nh=17)
    assert datagram.packet == bytes(IPv6(src=BACKEND6, dst=MAPPED6) / hop_by_hop / routing / Raw(FIRST + LAST))


def test_the_next_header_of_the_first_fragment_is_the_datagrams() -> None:
    datagram = assemble(piece_v6(32, LAST, more=False, nh=47), piece_v6(0, FIRST, more=True)).build()
    assert datagram.packet[6] == 17


def test_df_on_any_fragment_is_told() -> None:
    assembly = assemble(piece_v4(0, FIRST, more=True), piece_v4(32, LAST, more=False, df=True))
    assert assembly.build().dont_fragment


def test_what_is_missing_is_waited_for() -> None:
    assembly = assemble(piece_v4(0, FIRST, more=True), piece_v4(56, LAST, more=False))
    assert not assembly.is_complete
    with pytest.raises(ValueError, match="missing"):
        assembly.build()
    assert assembly.add(piece_v4(32, SECOND, more=True))
    assert assembly.is_complete


def test_without_a_last_fragment_nothing_is_complete() -> None:
    assert not assemble(piece_v4(0, FIRST, more=True)).is_complete
    assert not Assembly().is_complete


@pytest.mark.parametrize(
    "pieces",
    [
        (piece_v4(0, FIRST, more=True), piece_v4(32, LAST, more=False)),
        (piece_v6(0, FIRST, more=True), piece_v6(32, LAST, more=False)),
    ],
)
def test_an_exact_duplicate_passes(pieces: tuple[Piece, Piece]) -> None:
    assembly = assemble(pieces[0])
    assert not assembly.add(pieces[0])
    assert assembly.add(pieces[1])
    assert not assembly.add(pieces[1])
    assert assembly.build().packet.endswith(FIRST + LAST)


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (0, FIRST[:24]),  # the beginning of another
        (0, FIRST + SECOND),  # all of another and more
        (0, b"x" * 32),  # another's bytes, changed
        (24, SECOND),  # the end of another
        (8, FIRST[:8]),  # the middle of another
    ],
)
def test_overlapping_fragments_end_the_datagram(offset: int, data: bytes) -> None:
    assert reason_to_drop(assemble(piece_v4(0, FIRST, more=True)), piece_v4(offset, data, more=True)) is (
        DropReason.FRAGMENT_OVERLAP
    )
    assert reason_to_drop(assemble(piece_v6(0, FIRST, more=True)), piece_v6(offset, data, more=True)) is (
        DropReason.FRAGMENT_OVERLAP
    )


def test_a_fragment_that_runs_into_the_next_one_overlaps() -> None:
    assembly = assemble(piece_v4(32, SECOND, more=True))
    assert reason_to_drop(assembly, piece_v4(0, FIRST + b"8 more..", more=True)) is DropReason.FRAGMENT_OVERLAP


@pytest.mark.parametrize("more", [True, False])
def test_nothing_lies_behind_the_last_fragment(*, more: bool) -> None:
    assembly = assemble(piece_v4(0, FIRST[:16], more=True), piece_v4(40, LAST, more=False))
    assert reason_to_drop(assembly, piece_v4(64, SECOND, more=more)) is DropReason.FRAGMENT_INCONSISTENT


def test_no_fragment_that_ends_where_the_datagram_does_has_more_to_come() -> None:
    assembly = assemble(piece_v4(32, b"8 bytes.", more=False))
    assert reason_to_drop(assembly, piece_v4(40, b"8 bytes.", more=True)) is DropReason.FRAGMENT_INCONSISTENT


def test_the_last_fragment_lies_behind_all_others() -> None:
    assembly = assemble(piece_v4(64, SECOND, more=True))
    assert reason_to_drop(assembly, piece_v4(32, LAST, more=False)) is DropReason.FRAGMENT_INCONSISTENT


@pytest.mark.parametrize("more", [True, False])
def test_the_same_fragment_is_not_both_the_last_and_not(*, more: bool) -> None:
    assembly = assemble(piece_v4(32, SECOND, more=not more))
    assert reason_to_drop(assembly, piece_v4(32, SECOND, more=more)) is DropReason.FRAGMENT_INCONSISTENT


def test_a_datagram_comes_in_so_many_pieces_and_no_more() -> None:
    assembly = assemble(*(piece_v4(8 * index, FIRST[:8], more=True) for index in range(MAX_PIECES)))
    assert reason_to_drop(assembly, piece_v4(8 * MAX_PIECES, LAST, more=False)) is DropReason.FRAGMENTS_FULL


def test_headers_that_grow_a_datagram_past_its_own_length_field_end_it() -> None:
    first = piece_v4(0, FIRST, more=True, options=[IPOption_NOP()] * 40)
    middle = piece_v4(32, bytes(65440), more=True)
    assembly = assemble(first, middle, piece_v4(65472, bytes(43), more=False))
    with pytest.raises(Dropped) as dropped:
        assembly.build()
    assert dropped.value.reason is DropReason.FRAGMENT_INCONSISTENT


@pytest.mark.parametrize(("length", "fits"), [(63, True), (64, False)])
def test_extension_headers_can_grow_a_datagram_past_its_own_length_field_too(length: int, fits: bool) -> None:
    fragment = IPv6ExtHdrFragment(m=1, id=0x1234567, nh=17)
    first = parse_piece_v6(bytes(IPv6(src=BACKEND6, dst=MAPPED6) / IPv6ExtHdrHopByHop() / fragment / Raw(FIRST)))
    assert first is not None
    middle = piece_v6(32, bytes(65432), more=True)
    assembly = assemble(first, middle, piece_v6(65464, bytes(length), more=False))
    if fits:
        assert IPv6(assembly.build().packet).plen == 65535
        return
    with pytest.raises(Dropped) as dropped:
        assembly.build()
    assert dropped.value.reason is DropReason.FRAGMENT_INCONSISTENT


# Congestion.


@pytest.mark.parametrize(("first", "last", "expected"), [(2, 3, 3), (3, 2, 3), (1, 3, 3), (2, 2, 2), (0, 0, 0), (1, 2, 1)])
def test_congestion_that_one_fragment_experienced_is_the_datagrams(first: int, last: int, expected: int) -> None:
    v4 = assemble(piece_v4(0, FIRST, more=True, tos=0x28 | first), piece_v4(32, LAST, more=False, tos=0x28 | last))
    assert IP(v4.build().packet).tos == 0x28 | expected
    v6 = assemble(piece_v6(0, FIRST, more=True, tc=0x28 | first), piece_v6(32, LAST, more=False, tc=0x28 | last))
    assert IPv6(v6.build().packet).tc == 0x28 | expected


@pytest.mark.parametrize(("first", "last"), [(0, 3), (3, 0)])
def test_congestion_on_a_fragment_of_what_does_not_speak_ecn_ends_the_datagram(first: int, last: int) -> None:
    assembly = assemble(piece_v4(0, FIRST, more=True, tos=first), piece_v4(32, LAST, more=False, tos=last))
    with pytest.raises(Dropped) as dropped:
        assembly.build()
    assert dropped.value.reason is DropReason.FRAGMENT_INCONSISTENT
